"""Folders of any name in driver, Snakefile and the notebooks' runner; relative ones as the user means them."""

import os
import subprocess

import nbformat
import pytest

from igconv.study import results
from igconv.study.runs import runs_of
from igconv.training import identity
from igconv.workflow import driver, forkserver, notebooks

ODD = "do$lar qu\"o'te br{ace} {profile} `x` img[1]"


def test_snakemake_plans_in_a_folder_of_any_name(tmp_path, monkeypatch):
    """A path with braces would be a pattern to Snakemake."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / ODD))
    results.root("smoke").mkdir(parents=True)
    done = subprocess.run(driver.snakemake("smoke", 1, "--dry-run", "--quiet"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("folder", [ODD, "{", "plain"])
def test_notebooks_run_in_a_folder_of_any_name(tmp_path, monkeypatch, folder):
    """With a relative results folder: the kernel stands elsewhere than the user."""
    place = tmp_path / folder
    (place / "in").mkdir(parents=True)
    cell = nbformat.v4.new_code_cell('name: str = "a"  # text')
    cell.metadata["tags"] = ["parameters"]
    look = nbformat.v4.new_code_cell("import os\nprint(os.environ['IGCONV_RESULTS'])")
    book = nbformat.v4.new_notebook(cells=[cell, look], metadata={"language_info": {"name": "python"}})
    nbformat.write(book, place / "in" / "a.ipynb")
    monkeypatch.chdir(place)
    monkeypatch.setenv("IGCONV_RESULTS", "out")
    for name in forkserver.ENVIRONMENT:
        monkeypatch.setenv(name, "")  # restored afterwards
    assert notebooks.main(["in/a.ipynb", "made/b.ipynb"]) == 0
    (output,) = nbformat.read(place / "made" / "b.ipynb", 4).cells[-1].outputs
    assert output.text.strip() == str(place / "out")


def test_run_all_means_relative_folders_from_where_the_user_stands():
    """Before it changes to the folder of the project."""
    lines = (results.PROJECT / "run_all.sh").read_text().split("# The checkout this file lies in")[0]
    script = lines + '\nprintf "%s|" "$IGCONV_RESULTS" "$IGCONV_DATA" "$IGCONV_CACHE"'
    given = dict(IGCONV_RESULTS="out", IGCONV_DATA="/abs", IGCONV_CACHE="")
    done = subprocess.run(["bash", "-c", script], env=os.environ | given, cwd="/usr", capture_output=True, text=True)
    assert done.stdout == "/usr/out|/abs||", done.stderr


def test_runs_of_changed_images_are_made_again(monkeypatch, capsys):
    """Snakemake is told which; a line says why."""
    name = next(iter(runs_of("smoke")))
    monkeypatch.setattr(driver, "outdated", lambda run, **_: run.name == name)
    assert driver.again("smoke") == ["--forcerun", f"runs/{name}/model.safetensors"]
    assert "training images have changed since: 1 run" in capsys.readouterr().out
    monkeypatch.setattr(driver, "outdated", lambda run, **_: False)
    assert driver.again("smoke") == []


def test_a_dry_run_reads_no_image(tiny_run, go, monkeypatch):
    """What is remembered is compared, what is not counts as unchanged."""
    go(tiny_run)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda *_: pytest.fail("read an image"))
    assert not identity.outdated(tiny_run)
    monkeypatch.setattr(identity.datasets, "data_hash", lambda *_: "another")
    assert identity.outdated(tiny_run)


SNAKEFILE = """
rule all:
    input: "report/index.html"
rule report:
    output: "report/index.html"
    shell: "touch {output}"
"""


@pytest.fixture
def short(tmp_path, monkeypatch):
    """The driver with a Snakefile of one step."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "results"))
    original = driver.snakemake

    def with_short_file(profile, jobs, *options):
        words = original(profile, jobs, *options)
        return [str(tmp_path / "Snakefile") if word == str(results.PROJECT / "Snakefile") else word for word in words]

    monkeypatch.setattr(driver, "snakemake", with_short_file)
    return tmp_path


@pytest.mark.parametrize(
    "content", [None, "dry-run: true\n", "executor: nothing\n"], ids=["missing", "dry run", "other"]
)
def test_a_users_snakemake_profile_is_for_other_workflows(short, monkeypatch, capsys, content):
    """One that does not exist, one that computes nothing, one for a cluster that is not here."""
    if content:
        (short / "mine").mkdir()
        (short / "mine" / "config.yaml").write_text(content)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(short / "mine"))
    assert driver.run("smoke", 1) == 0, capsys.readouterr().out
    assert (results.root("smoke") / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "2", "SLURM_MEM_PER_CPU": "100"},
        {"SLURM_NTASKS": "3", "SLURM_NTASKS_PER_NODE": "x", "SLURM_JOB_CPUS_PER_NODE": "2(x4)"},
    ],
)
def test_the_driver_runs_in_any_allocation(short, monkeypatch, capsys, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert driver.run("smoke", 1) == 0, capsys.readouterr().out


def test_no_report_is_announced_that_is_not_there(short, capsys):
    """Snakemake that ends well and has made none is no success."""
    assert driver.run("smoke", 1, ["--dry-run"]) == 1
    said = capsys.readouterr().out
    assert "has no report" in said
    assert "report: " not in said
    assert driver.run("smoke", 1) == 0
    assert f"report: {results.root('smoke')}/report/index.html" in capsys.readouterr().out


def test_cores_are_those_that_are_allotted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert driver.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert driver.cores() == 64
