"""run_all.sh on the machines people have, with stand-ins for uv, pip and the study, so that nothing is downloaded.

The Pythons and virtual environments are real. What is "installed" is a path to the checkout and two empty packages.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from igconv.study.results import PROJECT

SCRIPT = (PROJECT / "run_all.sh").read_text()
PACKAGES = re.search(r"^packages=\((.*)\)$", SCRIPT, re.MULTILINE)[1].split()

# Stand-in for pip and ensurepip (by PYTHONPATH, where modules come before Python's own) and for uv.
PIP = """
import os, pathlib, sys, sysconfig
words = sys.argv[1:]
pathlib.Path(os.environ["CALLS"]).open("a").write("pip " + " ".join(words) + "\\n")
if words[:1] == ["--version"]:
    sys.exit("pip" in os.environ.get("BROKEN", "").split())
if words[-1] == "uv" or "install" in os.environ.get("BROKEN", "").split():
    sys.exit(1)
site = pathlib.Path(sysconfig.get_path("purelib"))
(site / "igconv.pth").write_text(os.getcwd())
for name in PACKAGES:
    (site / f"{name}.py").write_text("")
"""
ENSUREPIP = """
import os, pathlib, sys, sysconfig
pathlib.Path(os.environ["CALLS"]).open("a").write("ensurepip\\n")
if "ensurepip" in os.environ.get("BROKEN", "").split():
    sys.exit("no wheels\\n  bundled")
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >> "$CALLS"
[[ " $BROKEN " != *" uv "* ]] || { echo "error: no such package" >&2; exit 1; }
[[ $1 == pip ]] || exit 1
BROKEN="" exec "$5" -m pip install "${@: -1}"
"""
# `python3 -m venv` without the two seconds of pip's own installation, or broken like Debian's without python3-venv.
PYTHON = """#!/usr/bin/env bash
if [[ $1 == -m && $2 == venv ]]; then
  echo "venv ${*:3}" >> "$CALLS"
  [[ " $BROKEN " != *" venv "* || " $* " == *" --without-pip "* ]] || {
    mkdir -p .venv/lib; echo "ensurepip is not"; echo "  available"; exit 1
  }
  [[ " $BROKEN " != *" any-venv "* ]] || { echo "Error: [Errno 28] No space left on device" >&2; exit 1; }
  exec REAL -m venv --without-pip "${@:3}"
fi
exec REAL "$@"
"""
DRIVER = """
import os, subprocess, sys, tempfile
cache = os.environ.get("XDG_CACHE_HOME") or os.environ["HOME"]  # as Snakemake and others do
os.makedirs(cache, exist_ok=True)
assert cache  # not where the driver stands
os.rmdir(tempfile.mkdtemp(dir=cache))
look = "import igconv, os; print(os.path.dirname(os.path.dirname(os.path.realpath(igconv.__file__))))"
# As the notebooks' kernels do, which do not stand in the checkout.
found = subprocess.run([sys.executable, "-c", look], cwd="/", capture_output=True, text=True).stdout.strip()
print("RAN", found, sys.prefix, os.getcwd(), sep="|")
"""


class Machine:
    """A machine with one or more checkouts, and what is called on it."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        self.home, self.bin = folder / "home", folder / "bin"
        for name in ("home", "bin", "modules", "tmp"):
            (folder / name).mkdir()
        self.script("python3", PYTHON.replace("REAL", os.path.realpath(sys.executable)))
        (folder / "modules" / "pip.py").write_text(PIP.replace("PACKAGES", repr(PACKAGES)))
        (folder / "modules" / "ensurepip.py").write_text(ENSUREPIP)
        self.calls.write_text("")

    def script(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def checkout(self, name: str) -> Path:
        place = self.folder / name
        (place / "igconv" / "workflow").mkdir(parents=True)
        for file in ("run_all.sh", "pyproject.toml"):
            shutil.copy(PROJECT / file, place / file)
        for package in ("igconv", "igconv/workflow"):
            (place / package / "__init__.py").write_text("")
        (place / "igconv" / "workflow" / "driver.py").write_text(DRIVER)
        return place.resolve()

    def run(self, script, *words, cwd=None, broken: str = "", **variables) -> subprocess.CompletedProcess:
        """``run_all.sh words``; ``broken`` names what fails; ``calls`` holds what it called, from this run alone."""
        self.calls.write_text("")
        environment = dict(PATH=f"{self.bin}:/usr/bin:/bin", HOME=str(self.home), CALLS=str(self.calls), BROKEN=broken,
                           PYTHONPATH=str(self.folder / "modules"), TMPDIR=str(self.folder / "tmp"),
                           PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
        environment = {k: str(v) for k, v in (environment | variables).items() if v is not None}
        return subprocess.run(
            ["bash", str(script), *words], cwd=cwd or "/", env=environment, capture_output=True, text=True
        )

    def called(self) -> list[str]:
        return [line.split()[0] for line in self.calls.read_text().splitlines()]


def ran(done: subprocess.CompletedProcess, checkout: Path) -> bool:
    """Whether this checkout's code ran, in its own environment, standing in its folder."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RAN|")] or [done.stdout + done.stderr]
    return line == f"RAN|{checkout}|{checkout / '.venv'}|{checkout}" and done.returncode == 0


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def checkout(machine) -> Path:
    return machine.checkout("study")


def test_installed_once(machine, checkout):
    """A second call installs nothing."""
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert "pip" in machine.called()
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert machine.called() == []


def test_what_is_imported_stays_compiled(machine, checkout):
    """Also where the environment says, as `Machine.run` does and images of containers do, that nothing be kept."""
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    # Not igconv's own folder: it is imported to try the installation, without what the environment says.
    assert list((checkout / "igconv" / "workflow" / "__pycache__").glob("*.pyc"))


def test_uv_is_taken_and_pip_where_it_fails(machine, checkout):
    """A mirror that pip alone knows: uv is there and finds nothing."""
    machine.script("uv", UV)
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert machine.called()[1] == "uv"
    shutil.rmtree(checkout / ".venv")
    done = machine.run(checkout / "run_all.sh", broken="uv")
    assert ran(done, checkout)
    assert machine.called()[1:] == ["uv", "pip", "pip"]
    assert "trying pip" in done.stdout


@pytest.mark.parametrize(
    "break_it",
    [
        lambda venv: (venv / "bin" / "python").unlink(),
        lambda venv: [path.unlink() for path in (venv / "bin").iterdir()],
        lambda venv: (shutil.rmtree(venv), (venv / "bin").mkdir(parents=True)),
        lambda venv: ((venv / "bin" / "python").unlink(), (venv / "bin" / "python").symlink_to("/gone/python3")),
        lambda venv: (venv / ".installed").unlink(),
        lambda venv: next(venv.glob("lib/python*/site-packages/snakemake.py")).unlink(),
        lambda venv: next(venv.glob("lib/python*/site-packages/igconv.pth")).unlink(),
    ],
    ids=["no python", "no bin", "folders alone", "python gone", "interrupted", "a package lost", "igconv lost"],
)
def test_half_an_installation_is_repaired(machine, checkout, break_it):
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    break_it(checkout / ".venv")
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert "pip" in machine.called()


def test_python_without_ensurepip(machine, checkout):
    """`python3 -m venv` fails half way; what it leaves is no environment, and the next way is taken."""
    assert ran(machine.run(checkout / "run_all.sh", broken="venv"), checkout)
    assert machine.called().count("venv") == 2


def test_pip_that_is_missing_is_brought(machine, checkout):
    assert ran(machine.run(checkout / "run_all.sh", broken="pip"), checkout)
    assert "ensurepip" in machine.called()


@pytest.mark.parametrize("broken", ["pip ensurepip", "install"])
def test_an_installation_that_fails_is_one_line_and_tried_again(machine, checkout, broken):
    done = machine.run(checkout / "run_all.sh", broken=broken)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "RAN" not in done.stdout
    assert ran(machine.run(checkout / "run_all.sh"), checkout)


def test_an_installation_of_nothing_is_noticed(machine, checkout):
    """pip that succeeds and leaves no igconv: nothing runs, and no stamp says that it is installed."""
    (machine.folder / "modules" / "pip.py").write_text("")
    done = machine.run(checkout / "run_all.sh")
    assert done.returncode == 2
    assert "not complete" in done.stderr
    assert not (checkout / ".venv" / ".installed").exists()


def test_a_moved_checkout_has_its_environment_made_again(machine, checkout):
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    moved = checkout.rename(machine.folder / "moved")
    done = machine.run(moved / "run_all.sh")
    assert ran(done, moved)
    assert f".venv was made for {checkout}" in done.stdout
    assert str(checkout) not in (moved / ".venv" / "bin" / "activate").read_text()


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "of an older version"])
def test_a_copy_runs_its_own_code(machine, checkout, marked):
    """The copied environment leads to the original, which stays as it is."""
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    if not marked:
        (checkout / ".venv" / ".checkout").unlink(missing_ok=True)
    copy = machine.folder / "copy"
    shutil.copytree(checkout, copy, symlinks=True)
    assert ran(machine.run(copy / "run_all.sh"), copy)
    assert ran(machine.run(checkout / "run_all.sh"), checkout)


def test_a_link_to_another_checkouts_environment_is_refused(machine, checkout):
    """And what is behind it stays: making it again would empty it."""
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    other = machine.checkout("other")
    (other / ".venv").symlink_to(checkout / ".venv")
    done = machine.run(other / "run_all.sh")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(checkout) in done.stderr
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert machine.called() == []


def test_another_checkouts_active_environment_is_not_taken(machine, checkout):
    other = machine.checkout("other")
    assert ran(machine.run(other / "run_all.sh"), other)
    done = machine.run(checkout / "run_all.sh", VIRTUAL_ENV=other / ".venv",
                       PATH=f"{other / '.venv' / 'bin'}:{machine.bin}:/usr/bin:/bin")  # fmt: skip
    assert ran(done, checkout)
    assert f"igconv of {other}" in done.stderr
    assert ran(machine.run(other / "run_all.sh"), other)


def test_an_active_environment_with_this_checkout_is_taken(machine, checkout):
    """Nothing is made."""
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    mine = (checkout / ".venv").rename(machine.folder / "mine")
    done = machine.run(checkout / "run_all.sh", VIRTUAL_ENV=mine, PATH=f"{mine / 'bin'}:{machine.bin}:/usr/bin:/bin")
    assert f"RAN|{checkout}|{mine}|" in done.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("kind", ["folder", "module"])
def test_another_igconv_on_pythonpath_is_left_out(machine, checkout, kind):
    """And the other folders of PYTHONPATH stay."""
    other = machine.folder / "authors"
    other.mkdir()
    if kind == "folder":
        (other / "igconv").mkdir()
        (other / "igconv" / "__init__.py").write_text("raise SystemExit('theirs')")
    else:
        (other / "igconv.py").write_text("raise SystemExit('theirs')")
    for order in ([other, machine.folder / "modules"], [machine.folder / "modules", other]):
        done = machine.run(checkout / "run_all.sh", PYTHONPATH=":".join(map(str, order)))
        assert ran(done, checkout)
        assert f"{other} has another igconv" in done.stderr


def test_the_lab_takes_this_environments_kernel(machine, checkout, monkeypatch):
    """Before one of its name that is registered elsewhere, in JUPYTER_PATH, too; others stay."""
    from jupyter_client.kernelspec import KernelSpecManager

    (machine.folder / "modules" / "jupyterlab.py").write_text("import os; print(os.environ['JUPYTER_PATH'])")
    mine, theirs = checkout / ".venv" / "share" / "jupyter", machine.folder / "theirs"
    for variables in ({}, dict(JUPYTER_PATH=theirs)):
        done = machine.run(checkout / "run_all.sh", "lab", **variables)
        assert done.returncode == 0, done.stderr
        path = done.stdout.splitlines()[-1]
        assert path == ":".join(map(str, [mine, *variables.values()]))
    for place, name in ((mine, "python3"), (theirs, "python3"), (theirs, "other")):
        spec = place / "kernels" / name
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text('{"argv": ["python"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", path)
    found = KernelSpecManager().find_kernel_specs()
    assert found["python3"] == str(mine / "kernels" / "python3")
    assert found["other"] == str(theirs / "kernels" / "other")


def test_the_lab_opens_the_explorer(machine, checkout):
    """Further words come later, so they win."""
    (machine.folder / "modules" / "jupyterlab.py").write_text("import sys; print(*sys.argv[1:])")
    done = machine.run(checkout / "run_all.sh", "lab", "--no-browser")
    assert done.returncode == 0, done.stderr
    first, address, last = done.stdout.splitlines()[-1].split()
    assert (first, last) == ("--notebook-dir=notebooks", "--no-browser")
    notebook = address.removeprefix("--LabApp.default_url=/lab/tree/")
    assert (PROJECT / "notebooks" / notebook).is_file()


def test_started_by_links(machine, checkout):
    """A link, and a relative link to it, in other folders."""
    place = machine.folder / "links"
    place.mkdir()
    (place / "first").symlink_to(checkout / "run_all.sh")
    (place / "second").symlink_to("first")
    assert ran(machine.run("second", cwd=place), checkout)


def test_cdpath_leads_nowhere_else(machine, checkout):
    decoy = machine.folder / "decoys"
    (decoy / "study").mkdir(parents=True)
    assert ran(machine.run("study/run_all.sh", cwd=machine.folder, CDPATH=decoy), checkout)


@pytest.mark.parametrize("home", [None, "", "/proc/missing", "/proc"], ids=["unset", "empty", "missing", "read-only"])
def test_no_home_that_can_be_written(machine, checkout, home):
    """Nobody, root included, can write /proc: it stands for a home of a container that was mounted for reading."""
    done = machine.run(checkout / "run_all.sh", HOME=home)
    assert ran(done, checkout), done.stderr
    made = list((machine.folder / "tmp").glob("igconv-home-*"))
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700]


def test_a_writable_home_is_left_as_it_is(machine, checkout):
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert list(machine.home.iterdir()) == []
    assert list((machine.folder / "tmp").glob("igconv-home-*")) == []


def test_a_folder_with_spaces(machine):
    odd = machine.checkout("my study's (new)")
    assert ran(machine.run(odd / "run_all.sh"), odd)
    assert ran(machine.run(odd / "run_all.sh"), odd)
    assert machine.called() == []


def test_why_no_environment_can_be_made_is_said(machine, checkout):
    """What `python -m venv` says, in one line; where another way is found, too."""
    done = machine.run(checkout / "run_all.sh", broken="any-venv")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: python3 cannot make .venv: Error: [Errno 28] No space left")
    done = machine.run(checkout / "run_all.sh", broken="venv")
    assert ran(done, checkout)
    assert done.stderr == "python3 -m venv fails: ensurepip is not available \n"
    shutil.rmtree(checkout / ".venv")
    done = machine.run(checkout / "run_all.sh", broken="pip ensurepip")
    assert "neither uv nor pip can be had in .venv: no wheels bundled" in done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_that_is_lost_is_noticed(machine, checkout, package):
    """Its module gone, or a folder of its name without a module in it, as an interrupted installation leaves."""
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    module = next((checkout / ".venv").glob(f"lib/python*/site-packages/{package}.py"))
    module.unlink()
    module.with_suffix("").mkdir()
    assert ran(machine.run(checkout / "run_all.sh"), checkout)
    assert "pip" in machine.called()


def test_packages_that_cannot_be_imported_are_noticed_after_installing(machine, checkout):
    """They are found and do not work; nothing is called installed, and the reason is said."""
    broken = (PIP.replace("PACKAGES", repr(PACKAGES))
              + '(site / "snakemake.py").write_text("import nothing_of_this_name")\n')  # fmt: skip
    (machine.folder / "modules" / "pip.py").write_text(broken)
    done = machine.run(checkout / "run_all.sh")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "does not work: ModuleNotFoundError: No module named 'nothing_of_this_name'" in line
    assert not (checkout / ".venv" / ".installed").exists()


def test_the_packages_looked_for_are_ours():
    """Each is a dependency: another would have the environment made again at every call."""
    text = (PROJECT / "pyproject.toml").read_text().replace("-", "_").replace("scikit_image", "skimage")
    assert all(f'"{name}' in text or name == "ipykernel" for name in PACKAGES)
    assert all(importlib.util.find_spec(name).origin for name in PACKAGES)


def test_nowhere_to_write_is_one_line(machine, checkout):
    done = machine.run(checkout / "run_all.sh", HOME="/proc", TMPDIR="/proc")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: neither HOME nor /proc can be written"
