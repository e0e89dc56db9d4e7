"""Where results go, tidy tables with provenance, and what importing the package costs."""

import json
import subprocess
import sys
from functools import partial

import pandas as pd
import pytest

import igconv
from igconv import InputError
from igconv.study import results


def test_paths_follow_the_design(results_root, monkeypatch):
    """results/<profile>/{runs/<run>, rows/<run>.csv, analysis/<topic>/<name>.csv}, or below IGCONV_RESULTS."""
    assert results.run_folder("sample", "a") == results_root / "sample" / "runs" / "a"
    assert results.rows_file("sample", "a") == results_root / "sample" / "rows" / "a.csv"
    assert results.analysis_file("sample", "cka", "b") == results_root / "sample" / "analysis" / "cka" / "b.csv"
    monkeypatch.delenv("IGCONV_RESULTS")
    assert results.root("sample") == results.PROJECT / "results" / "sample"


def test_table_and_provenance_round_trip(tmp_path):
    """Columns, order and text survive; the provenance has commit, versions, time and the facts."""
    table = pd.DataFrame({"name": ["a", "NA"], "psnr_y_db": [30.25, float("nan")], "steps": [1, 2]})
    results.write_table(table, tmp_path / "x" / "t.csv", seed=7)
    pd.testing.assert_frame_equal(results.read_table(tmp_path / "x" / "t.csv"), table)
    facts = json.loads((tmp_path / "x" / "t.provenance.json").read_text())
    assert facts["seed"] == 7
    assert {"git_commit", "written", "python", "versions"} <= facts.keys()
    assert facts["versions"]["torch"][0].isdigit()
    assert len(list((tmp_path / "x").iterdir())) == 2


def test_missing_table_is_named(tmp_path):
    """And what to run."""
    with pytest.raises(InputError, match=r"none\.csv is missing.*run_all"):
        results.read_table(tmp_path / "none.csv")


def test_commit_is_unknown_outside_git(monkeypatch, tmp_path):
    """No git, no crash."""
    results.git_commit.cache_clear()
    monkeypatch.setattr(results, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.git_commit() == "unknown"
    results.git_commit.cache_clear()


def test_changes_are_those_of_the_code(monkeypatch, tmp_path):
    """Of tracked files and new ones, but not of what the study itself writes into results/."""
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    for name in ("code.py", "results/old.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    run(["git", "init", "-q"])
    run(["git", "add", "."])
    run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=none", "commit", "-qm", "first"])
    monkeypatch.setattr(results, "PROJECT", tmp_path)

    def commit() -> str:
        results.git_commit.cache_clear()
        return results.git_commit()

    clean = commit()
    assert len(clean) == 12
    (tmp_path / "results" / "old.csv").write_text("2\n")
    (tmp_path / "results" / "new.csv").write_text("2\n")
    assert commit() == clean
    (tmp_path / "new.py").write_text("2\n")
    assert commit() == f"{clean}+changes"
    (tmp_path / "new.py").unlink()
    (tmp_path / "code.py").write_text("2\n")
    assert commit() == f"{clean}+changes"
    results.git_commit.cache_clear()


def test_a_packed_tree_names_its_commit(tmp_path, monkeypatch):
    """Also where it lies inside another project's git."""
    monkeypatch.setattr(results, "PROJECT", tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "COMMIT").write_text("0123456789ab\n")
    results.git_commit.cache_clear()
    try:
        assert results.git_commit() == "0123456789ab"
    finally:
        results.git_commit.cache_clear()


def test_device_name_is_for_people():
    """One line, not empty."""
    name = results.device_name("cpu")
    assert name
    assert "\n" not in name


def test_import_is_light():
    """`import igconv` and its errors load none of the heavy packages; nor does the table of runs load torch."""
    heavy = {"torch", "torchvision", "matplotlib", "lightning_fabric", "lightning", "skimage", "pandas", "spandrel"}
    code = "import sys, igconv, igconv.errors; igconv.InputError, dir(igconv); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)
    code = "import sys, igconv.study.runs; igconv.study.runs.runs_of('sample'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)


def test_importing_the_trainer_does_not_load_fabric_or_matplotlib():
    """They take seconds and are imported where used."""
    code = "import sys, igconv.training.loop, igconv.evaluation.benchmark, igconv.models.official; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"lightning_fabric", "lightning", "matplotlib"} & set(loaded)


def test_public_names_exist():
    """Every name of the design, and `dir` lists them; others are attribute errors."""
    for name in ("build_model", "SuperResolver", "load_official", "save", "load", "IGConv", "IGSample", "SPConv"):
        assert getattr(igconv, name).__name__ == name
        assert name in dir(igconv)
    assert igconv.data.resize.imresize
    assert igconv.evaluation.metrics.psnr_y
    assert igconv.training.losses.frequency_l1
    with pytest.raises(AttributeError, match="nothing"):
        igconv.nothing  # noqa: B018


def test_messages_name_files_from_the_results_folder_on(tmp_path, monkeypatch):
    """What notebooks print is committed; other folders are named in full."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "elsewhere"))
    path = results.analysis_file("sample", "spectrum", "bands")
    assert results.shown(path) == "results/sample/analysis/spectrum/bands.csv"
    with pytest.raises(InputError, match=r"^results/sample/analysis/spectrum/bands\.csv is missing"):
        results.read_table(path)
    assert results.shown(tmp_path / "other.csv") == str(tmp_path / "other.csv")
