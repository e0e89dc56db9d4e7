"""What people are told equals what there is: dependencies, README commands, licences."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from igconv.models import published
from igconv.study.results import PROJECT
from igconv.study.runs import runs_of

README = (PROJECT / "README.md").read_text()
COMMANDS = [
    line.strip() for block in re.findall(r"```(?:bash|sh)\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]  # fmt: skip


def test_environment_yml_names_the_packages_of_pyproject():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    pip = next(entry for entry in conda if isinstance(entry, dict))["pip"]
    assert sorted(entry.split(" #")[0] for entry in pip) == sorted(
        [*project["dependencies"], *project["optional-dependencies"]["dev"], "--editable ."]
    )
    assert f"python{project['requires-python']}" in conda


def test_the_study_rests_on_its_packages():
    dependencies = (PROJECT / "pyproject.toml").read_text()
    for name in ("torch", "torchvision", "jupyterlab", "papermill", "matplotlib", "pandas", "seaborn", "scikit-image"):
        assert f'"{name}>=' in dependencies


def test_every_folder_of_modules_is_installed():
    """A package left out of pyproject.toml is missing from an installation that is not editable."""
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(PROJECT) for path in (PROJECT / "igconv").rglob("*.py")}
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)


def test_readme_has_the_two_commands():
    assert "./run_all.sh" in COMMANDS
    assert "./run_all.sh test" in COMMANDS


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_readme_commands_exist(command):
    """Every command of the README names a program, a subcommand, options, runs and files that exist."""
    words = command.split("#")[0].split()
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]  # VARIABLE=value in front
    if words[0] == "./run_all.sh":
        helped = subprocess.run(["bash", str(PROJECT / "run_all.sh"), "--help"], capture_output=True, text=True).stdout
        assert all(word in helped or word.isdigit() for word in words[1:])
    elif words[0] == "igconv":
        helped = subprocess.run(
            [sys.executable, "-m", "igconv.cli", words[1], "--help"], capture_output=True, text=True
        )
        assert helped.returncode == 0
        assert all(word in helped.stdout for word in words[2:] if word.startswith("-"))
        if words[1] in ("train", "evaluate"):
            profile = words[words.index("--profile") + 1] if "--profile" in words else "sample"
            assert words[2] in (*runs_of(profile), "bicubic", *published.runnable())
    elif words[0] == "torchrun":
        assert "igconv.cli" in words
    else:
        assert words[0] in ("git", "cd", "source", "jupyter", ".venv/bin/jupyter", "conda", "sbatch"), command


def test_licences_are_stated():
    assert "MIT License" in (PROJECT / "LICENSE").read_text()
    third_party = (PROJECT / "THIRD_PARTY.md").read_text()
    for word in ("Apache-2.0", "spandrel", "CC BY-NC", "scikit-image"):
        assert word in third_party
