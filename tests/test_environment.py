"""What people are told equals what there is: dependencies, README commands, licences."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from igconv.data import datasets
from igconv.models import published
from igconv.study.results import PROJECT
from igconv.study.runs import runs_of

# Pages whose commands and examples a person copies.
PAGES = [PROJECT / "README.md", *(PROJECT / "docs" / f"{name}.md" for name in
                                  ("conversion", "data", "reproduce", "training"))]  # fmt: skip


def commands(page) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = (line.strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


COMMANDS = [command.split("#")[0].strip() for page in PAGES for command in commands(page)]

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
# Distributions that are not named like what is imported; "_" and "-" are the same.
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
# Used where a user has it, and in no extra: one needs a CUDA compiler to be built, the other has the same code as the
# declared lightning-fabric and stands in for it.
BROUGHT = {"mamba-ssm", "lightning"}


def code_of(path: Path) -> str:
    """The Python of a module, of a notebook's cells, or of a Snakefile: its import lines."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n".join("".join(cell["source"]) for cell in cells)
    if path.name == "Snakefile":
        return "\n".join(re.findall(r"^\s*((?:import|from)\s.+)$", text, re.MULTILINE))
    return text


def imported_packages(code: str) -> set[str]:
    """Names of distributions that are imported anywhere in the code, also in functions, without Python's own."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    names -= {*sys.stdlib_module_names, "igconv"}
    return {DISTRIBUTIONS.get(name, name).lower().replace("_", "-") for name in names}


def requirements(*extras: str) -> list[str]:
    """Entries of extras in pyproject.toml, with those of the extras that they name."""
    found = []
    for entry in (entry for extra in extras for entry in PYPROJECT["optional-dependencies"][extra]):
        named = re.fullmatch(r"igconv\[(.+)\]", entry)
        found += requirements(*named.group(1).split(",")) if named else [entry]
    return found


def declared_packages(*extras: str) -> set[str]:
    """Names of the distributions in pyproject.toml: those that are always installed, and those of extras."""
    entries = PYPROJECT["dependencies"] + requirements(*extras)
    return {re.match(r"[\w-]+", entry).group().lower().replace("_", "-") for entry in entries}


def test_every_import_is_declared():
    """What code of the study imports is in `dependencies`, or in an extra that users choose (`dev` is none of them);
    what tests and benchmarks import is there or in `dev`."""
    study = [*(PROJECT / "igconv").rglob("*.py"), *(PROJECT / "notebooks").glob("*.ipynb"), PROJECT / "Snakefile"]
    ours = [path for folder in ("tests", "benchmarks") for path in (PROJECT / folder).rglob("*.py")]
    beside = {path.stem.replace("_", "-") for path in ours}  # tests and benchmarks import each other
    for paths, extras, known in (
        (study, ("study", "export", "hub", "mamba", "srformer"), BROUGHT),
        (ours, ("dev",), beside | BROUGHT),
    ):
        wanted = {path.relative_to(PROJECT): imported_packages(code_of(path)) for path in paths}
        assert set.union(*wanted.values()) & {"torch", "pandas"}  # the walk finds something
        missing = {str(path): names - declared_packages(*extras) - known for path, names in wanted.items()}
        assert {path: names for path, names in missing.items() if names} == {}


def test_imports_are_found_wherever_they_stand():
    """In functions, below `try`, with aliases, of submodules; relative ones and Python's own do not count."""
    code = (
        "import os, PIL.Image as p\ndef f():\n try:\n  from spandrel_extra_arches.x import y\n finally:\n  import yaml"
    )
    assert imported_packages(code + "\nfrom . import z\nfrom igconv import a") == {
        "pillow", "spandrel-extra-arches", "pyyaml",
    }  # fmt: skip


def test_environment_yml_names_the_packages_of_pyproject():
    conda = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    pip = next(entry for entry in conda if isinstance(entry, dict))["pip"]
    assert sorted(entry.split(" #")[0] for entry in pip) == sorted(
        [*PYPROJECT["dependencies"], *requirements("dev"), "--editable ."]
    )
    assert f"python{PYPROJECT['requires-python']}" in conda


def test_the_study_rests_on_its_packages():
    """All of them come with what run_all.sh installs; a plain installation has what models need, and no notebooks."""
    study = {"jupyterlab", "papermill", "snakemake", "matplotlib", "seaborn", "lightning-fabric", "nbconvert"}
    models = {"torch", "torchvision", "pandas", "scikit-image", "spandrel", "safetensors", "tyro", "pillow"}
    assert models <= declared_packages()
    assert not study & declared_packages()
    assert study | models <= declared_packages("study")
    assert study | {"onnx", "onnxruntime", "onnxscript"} <= declared_packages("dev")
    assert study <= declared_packages("slurm")


def blocked(names: set[str], code: str) -> subprocess.CompletedProcess:
    """Python code in a process where modules of these names are not installed."""
    hook = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(names)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""
    return subprocess.run([sys.executable, "-c", hook + code], capture_output=True, text=True, cwd=PROJECT)


UPSCALES = """
import numpy, torch, igconv
from igconv import cli
assert igconv.upscale(torch.rand(3, 9, 8), 2).shape == (3, 18, 16)
assert igconv.upscale(numpy.zeros((9, 8, 4), numpy.uint8), 2).shape == (18, 16, 4)
assert cli.main(["--help"]) == 0
assert cli.main(["info"]) == 0
assert cli.main(["upscale", "nothing.png", "-o", "x.png"]) == 2
"""


def test_models_work_without_the_packages_of_the_study():
    """As `pip install igconv` leaves it; also without what only conversion needs."""
    packages = {entry.split(">")[0].replace("-", "_") for entry in requirements("study", "export", "hub")}
    hidden = (packages - {"ipython", "jinja2"}) | {"IPython", "lightning", "pandas", "skimage"}  # torch has jinja2
    done = blocked(hidden, UPSCALES)
    assert done.returncode == 0, done.stderr[-800:]
    assert "usage: igconv" in done.stdout
    assert "smfanet_plus" in done.stdout
    assert "no image at nothing.png" in done.stderr


def test_models_work_on_a_system_without_unix_modules():
    """Windows has no such modules."""
    done = blocked({"fcntl", "resource", "grp", "pwd", "termios"}, UPSCALES)
    assert done.returncode == 0, done.stderr[-800:]


def test_training_without_lightning_says_what_to_install(tmp_path):
    """One line, not a traceback."""
    code = f"""
import os
os.environ["IGCONV_RESULTS"] = {str(tmp_path)!r}
from igconv import cli
sys.exit(cli.main(["train", "edsr_tiny-spconv-x2-s0", "--profile", "smoke", "--accelerator", "cpu"]))
"""
    done = blocked({"lightning_fabric", "lightning"}, code)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr[-800:]
    assert "pip install 'igconv[study]'" in done.stderr


def test_every_file_of_the_package_is_installed():
    """Types, templates and the model, beside the modules."""
    patterns = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["igconv"]
    package = PROJECT / "igconv"
    listed = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert package / "py.typed" in listed
    assert {path for path in files - listed if path.suffix != ".py"} == set()


def test_every_folder_of_modules_is_installed():
    """A package left out of pyproject.toml is missing from an installation that is not editable."""
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(PROJECT) for path in (PROJECT / "igconv").rglob("*.py")}
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)


def test_readme_has_the_two_commands():
    first = [command.split("#")[0].strip() for command in commands(PROJECT / "README.md")]
    assert first[:2] == ["./run_all.sh", "./run_all.sh test"]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_exist(command):
    """Every command of README and docs names a program, a subcommand, options, runs and files that exist."""
    words = command.split()
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]  # VARIABLE=value in front
    if words[0] == "./run_all.sh":
        helped = subprocess.run(["bash", str(PROJECT / "run_all.sh"), "--help"], capture_output=True, text=True).stdout
        assert all(word in helped or word.isdigit() for word in words[1:])
    elif words[0] in ("igconv", ".venv/bin/igconv"):
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


def test_the_cell_for_hosted_notebooks_fetches_what_its_run_needs():
    """Installed in place, because the catalogue of images lies beside the package; results where they are kept."""
    (cell,) = re.findall(r"```python\n(keep = .*?)```", (PROJECT / "docs" / "gpu.md").read_text(), re.DOTALL)
    assert re.search(r"pip install \S+ -e './igconv\[(\w+)\]'", cell)[1] in PYPROJECT["optional-dependencies"]
    assert "%env IGCONV_RESULTS={keep}" in cell
    assert Path(re.search(r'keep = "(.*)"', cell)[1]).is_absolute()
    name, profile = re.search(r"igconv train (\S+) --profile (\S+)", cell).groups()
    run = runs_of(profile)[name]
    fetched = re.search(r'for name in "(.*)".split\(\):\n    !igconv data fetch \{name\}', cell)[1].split()
    assert fetched == [*run.train_sets, *run.test_sets]
    assert all(datasets.image_set(name).addresses for name in fetched)


def examples() -> list[str]:
    """Python that texts show: fenced blocks, and what follows ``python -c``."""
    texts = [path.read_text() for path in (*PAGES, *(PROJECT / "data").glob("*.md"))]
    return [
        code
        for text in texts
        for pattern in (r"```python\n(.*?)```", r'python -c "(.*?)"`')
        for code in re.findall(pattern, text, re.DOTALL)
    ]


@pytest.mark.parametrize("code", examples(), ids=lambda code: code.split("\n")[0][:40])
def test_names_in_examples_exist(code):
    """Imports of an example work, and what it takes from an imported module is there."""
    tree, names = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert hasattr(names[node.value.id], node.attr), ast.unparse(node)


def test_licences_are_stated():
    assert "MIT License" in (PROJECT / "LICENSE").read_text()
    third_party = (PROJECT / "THIRD_PARTY.md").read_text()
    for word in ("Apache-2.0", "spandrel", "CC BY-NC", "scikit-image"):
        assert word in third_party
