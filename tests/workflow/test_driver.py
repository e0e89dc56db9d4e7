"""run_all.sh and what it starts: the smoke study end to end, once, and what happens around kills and bad words."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from igconv import build_model, save
from igconv.evaluation.benchmark import ROW
from igconv.study import results
from igconv.study.results import PROJECT
from igconv.study.runs import get_run, runs_of
from igconv.workflow import driver
from igconv.workflow.notebooks import execute


def call(*words: str, results_folder: Path, **environment) -> subprocess.CompletedProcess:
    """The driver in a process of its own, as run_all.sh starts it."""
    return subprocess.run(
        [sys.executable, "-m", "igconv.workflow.driver", *words], cwd=PROJECT, capture_output=True, text=True,
        env={**os.environ, "IGCONV_RESULTS": str(results_folder), **environment},
    )  # fmt: skip


def processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tables_of(root: Path) -> dict[str, str]:
    """Contents of the tables that do not hold times."""
    return {p.name: p.read_text() for p in root.glob("tables/*.csv") if p.stem in ("main", "effects", "fixed_vs_multi")}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Results of the smoke study: killed in the middle, then called again until it is finished."""
    folder = tmp_path_factory.mktemp("results")
    environment = {**os.environ, "IGCONV_RESULTS": str(folder)}
    with open(folder / "first.log", "w") as log:
        first = subprocess.Popen([sys.executable, "-m", "igconv.workflow.driver", "smoke"], cwd=PROJECT,
                                 env=environment, stdout=log, stderr=log, start_new_session=True)  # fmt: skip
        deadline = time.monotonic() + 300
        while not list((folder / "smoke" / "runs").glob("*/model.safetensors")) and time.monotonic() < deadline:
            assert first.poll() is None, (folder / "first.log").read_text()
            time.sleep(0.5)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    runs = folder / "smoke" / "runs"
    before = {p.parent.name: (p.parent / "record.csv").read_text() for p in runs.glob("*/model.safetensors")}
    second = call("smoke", results_folder=folder)
    assert second.returncode == 0, second.stdout + second.stderr
    return folder / "smoke", before, second.stdout


def test_continues_after_sigkill_without_repeating_finished_runs(smoke):
    """The record of a run holds its times: trained again, it would differ."""
    root, before, _ = smoke
    assert before
    for run, record in before.items():
        assert (root / "runs" / run / "record.csv").read_text() == record


def test_trainings_start_in_the_order_of_the_table(smoke):
    """What says most comes first, so that an interrupted study has lost its end only."""
    root = smoke[0]
    log = (root.parent / "first.log").read_text() + smoke[2]
    started = re.findall(r"> 01_train (\S+)", log)
    order = list(runs_of("smoke"))
    assert sorted(dict.fromkeys(started)) == sorted(order)
    # Two start at once, and either may print first.
    assert max(abs(order.index(name) - place) for place, name in enumerate(dict.fromkeys(started))) <= 1


def test_shows_steps_and_ends_with_the_table_and_the_report(smoke):
    root, _, output = smoke
    assert re.search(r"^\[\d+/\d+\] < 10_tables: \d+ s$", output, re.MULTILINE)
    assert re.search(r"^(\[\d+/\d+\] )?edsr_tiny-igconv\S*: step \d+/6, loss", output, re.MULTILINE)
    assert "| bicubic" in output
    assert output.strip().splitlines()[-1].startswith(f"report: {root}/report/index.html")


def test_leaves_the_files_of_the_schema(smoke):
    root = smoke[0]
    for name in runs_of("smoke"):
        folder = root / "runs" / name
        assert {p.name for p in folder.iterdir()} >= {
            "config.json",
            "provenance.json",
            "record.csv",
            "bands.csv",
            "model.safetensors",
        }
        assert tuple(pd.read_csv(root / "rows" / f"{name}.csv").columns) == ROW
        provenance = json.loads((folder / "provenance.json").read_text())
        assert {"git_commit", "config_hash", "data_hash", "seed", "versions", "device"} <= provenance.keys()
    for path in root.glob("**/*.csv"):
        if path.parent.parent.name != "runs":  # a run has one provenance for all its files
            assert path.with_suffix(".provenance.json").is_file(), path
    executed = {p.stem for p in (root / "notebooks").glob("*.ipynb")}
    assert {"00_data", "02_evaluate", "10_tables", "11_figures"} <= executed
    assert len([name for name in executed if name.startswith("01_train-")]) == len(runs_of("smoke"))
    assert all(p.stat().st_size < 3e6 for p in (root / "notebooks").glob("*.ipynb"))
    assert {p.stem for p in (root / "figures").glob("*.png")} == {p.stem for p in (root / "figures").glob("*.pdf")}
    assert len(list((root / "figures").glob("*.png"))) >= 8


def test_report_opens_offline(smoke):
    """No page loads a script, a style or a picture from elsewhere, and every link leads to a file."""
    folder = smoke[0] / "report"
    index = (folder / "index.html").read_text()
    for link in re.findall(r'href="([^"#]+\.html)"', index):
        assert (folder / link).is_file()
    for page in folder.glob("*.html"):
        text = page.read_text()
        assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']https?:", text, re.IGNORECASE), (
            page
        )
        assert "@import url(http" not in text
    assert "not run" not in index
    for name in ("psnr_gain", "cka_maps", "kernel_patterns", "band_errors", "efficiency_bars"):
        assert f'id="{name}"' in index


def test_called_again_does_nothing(smoke):
    """In some seconds of processor time: how long that takes depends on what else the machine does."""
    root = smoke[0]
    tables, spent = tables_of(root), processor_seconds()
    again = call("smoke", results_folder=root.parent)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert processor_seconds() - spent < 30
    assert tables_of(root) == tables


def test_an_evaluation_keeps_the_rows_that_are_still_valid(smoke, monkeypatch):
    """Lost rows are measured again; the time in each row of the others says that they were not."""
    root = smoke[0]
    lost, *others = (root / "rows" / f"{name}.csv" for name in runs_of("smoke"))
    before = {path: path.read_bytes() for path in others}
    lost.unlink()
    monkeypatch.setenv("IGCONV_RESULTS", str(root.parent))  # the command names the folder, and its jobs look for it
    again = driver.snakemake("smoke", 2, "--until", "evaluate", "--forcerun", "evaluate")
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert lost.is_file()
    assert {path: path.read_bytes() for path in others} == before


def test_waits_for_a_living_holder_and_clears_a_dead_ones_lock(tmp_path):
    """The lock file of a dead process means nothing; while its holder lives, the next call says that it waits."""
    folder = tmp_path / "smoke"
    folder.mkdir()
    (folder / ".lock").write_text("999999")
    hold = f"""
import time
from igconv.files import exclusive
with exclusive({str(folder / ".lock")!r}, wait=False, who="x"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    waiting = subprocess.Popen([sys.executable, "-m", "igconv.workflow.driver", "smoke"], cwd=PROJECT,
                               env={**os.environ, "IGCONV_RESULTS": str(tmp_path)}, stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    try:
        assert f"in use by process {holder.pid}; waiting" in waiting.stdout.readline()
    finally:
        waiting.kill()
        holder.kill()
        waiting.wait()
        holder.wait()


def test_dry_run_lists_every_run_with_its_budget(tmp_path):
    for profile in ("sample", "cpu", "benchmark", "paper"):
        done = call(profile, "--dry-run", results_folder=tmp_path)
        assert done.returncode == 0
        for name, run in runs_of(profile).items():
            line = next(line for line in done.stdout.splitlines() if line.strip().startswith(f"{name} "))
            assert f" {run.steps} " in line
            assert "to do" in line
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_what_is_trained_is_evaluated_so_far(tmp_path, monkeypatch):
    """A study that was cut short: evaluations and tables of the finished run, and no training."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    first, second, *_ = runs_of("smoke")
    results.model_file("smoke", second).parent.mkdir(parents=True)
    results.model_file("smoke", second).touch()
    for option, expected in ((["so_far=True"], {second}), ([], set(runs_of("smoke")))):
        command = driver.snakemake("smoke", 1, "--dry-run", "--quiet", "host", "--config", "profile=smoke", *option)
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stdout + done.stderr
        planned = done.stdout + done.stderr
        assert set(re.findall(r"output: rows/(\S+)\.csv \(update\)", planned)) == expected, planned[-3000:]
        assert (f"runs/{first}/model.safetensors" in planned) == (not option)
        assert "10_tables" in planned


@pytest.mark.parametrize(("jobs", "alone", "beside"), [(1, 8, 8), (4, 8, 2)])
def test_steps_side_by_side_share_the_cores(tmp_path, monkeypatch, jobs, alone, beside):
    """Of eight cores: a notebook that needs them all, and one beside others."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    results.root("smoke").mkdir(parents=True)
    code = """import runpy, sys; from igconv.workflow import driver; driver.cores = lambda: 8
sys.argv = sys.argv[1:]; runpy.run_module("snakemake", run_name="__main__", alter_sys=True)"""
    _, _, module, *words = driver.snakemake("smoke", jobs, "--dry-run", "--printshellcmds")
    done = subprocess.run([sys.executable, "-c", code, module, *words], capture_output=True, text=True)
    shown = done.stdout + done.stderr
    given = re.findall(r"OMP_NUM_THREADS=\$\(\((\d+) \* (\d+)\)\) .*?(0[24]_\w+)\.ipynb", shown)
    threads = {notebook: int(needed) * int(share) for needed, share, notebook in given}
    assert threads == {"02_evaluate": alone, "04_spconv_correlation": beside}


@pytest.mark.parametrize(("profile", "expected"), [("smoke", 8), ("benchmark", 1)])
def test_a_gpu_is_not_shared_unless_asked(tmp_path, monkeypatch, profile, expected):
    """Trainings side by side on one GPU only take turns; on CPUs each has cores of its own."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    started = []
    monkeypatch.setattr(driver, "cores", lambda: 8)
    monkeypatch.setattr(driver, "missing_data", lambda profile: [])
    monkeypatch.setattr(driver, "again", lambda profile: [])
    monkeypatch.setattr(driver, "run", lambda profile, jobs, *_, **__: started.append(jobs) or 0)
    assert driver.main([profile]) == driver.main([profile, "--jobs", "3"]) == 0
    assert started == [expected, 3]


def test_missing_data_stop_with_one_line(tmp_path):
    done = call("paper", results_folder=tmp_path, IGCONV_DATA=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: image set DIV2K not found: looked at")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nonsense"], "unknown profile 'nonsense'; choose from"), (["sample", "--jobs", "-1"], "--jobs must be")],
)
def test_bad_words_give_one_line(tmp_path, words, message):
    done = call(*words, results_folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def shell(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(PROJECT / "run_all.sh"), *words], capture_output=True, text=True, cwd="/")


def test_run_all_help_and_unknown_profile_need_no_environment():
    helped = shell("--help")
    assert helped.returncode == 0
    for word in ("sample", "cpu", "benchmark", "paper", "test", "--dry-run", "--jobs", "--keep-going"):
        assert word in helped.stdout
    unknown = shell("sampel")
    assert unknown.returncode == 2
    assert unknown.stderr == "error: unknown profile 'sampel'; choose from sample, cpu, benchmark, paper, test, lab\n"


def test_plan_marks_trained_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    name = next(iter(runs_of("smoke")))
    assert set(driver.plan("smoke").state) == {"to do"}
    model = build_model("edsr", "spconv", scales=(2,), channels=4, blocks=1)
    save(model, results.model_file("smoke", name), run=name, config_hash=get_run("smoke", name).config_hash())
    assert driver.plan("smoke").set_index("run").state[name] == "trained"


def test_run_all_opens_jupyterlab_in_the_environment():
    """With `--version` it says which one it would open."""
    words = ["bash", str(PROJECT / "run_all.sh"), "lab", "--version"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "PATH": path}
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == version("jupyterlab")


def test_explore_runs_without_a_browser(smoke, tmp_path, monkeypatch):
    """On the models of the study: pictures, and its SPConv x2 made multi-scale."""
    monkeypatch.setenv("IGCONV_RESULTS", str(smoke[0].parent))
    copy = tmp_path / "explore.ipynb"
    execute(PROJECT / "notebooks" / "explore.ipynb", copy, {"profile": "smoke", "crops": "24"})
    outputs = [output for cell in nbformat.read(copy, 4).cells for output in cell.get("outputs", [])]
    text = json.dumps(outputs)
    assert text.count('"image/png"') >= 4
    assert "IGConv+ (smoke)" in text
    assert "not converted" not in text


# Last, because it breaks the results that the tests above look at.
def test_a_failing_notebook_fails_the_driver_and_is_named(smoke):
    """One line names notebook and culprit, the status is not 0, the executed copy is kept."""
    root = smoke[0]
    victim = root / "analysis" / "efficiency" / "upsamplers.csv"
    victim.write_text("")
    broken = call("smoke", results_folder=root.parent)
    assert broken.returncode == 1
    (line,) = {line for line in broken.stdout.splitlines() if line.startswith("FAILED ")}
    assert line.startswith("FAILED 10_tables: ")
    assert str(victim) in line
    assert (root / "notebooks" / "10_tables.ipynb").is_file()
