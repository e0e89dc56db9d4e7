"""The layout of the package: imports go down the floors, never up and never in a circle; modules stay small.

Read from the code's own import statements, those inside functions included; nothing is imported.
"""

import ast
from pathlib import Path

import pytest

from igconv.study.results import PROJECT

# From top to bottom. A module imports from its own floor and from those below it.
FLOORS = (
    ("cli", "commands"), ("upscaling",), ("workflow",), ("reporting",), ("analysis",), ("training",),
    ("conversion",), ("evaluation",), ("models",), ("data",), ("study",), ("errors", "files", "progress"),
)  # fmt: skip


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a folder's ``__init__.py`` has the folder's name."""
    names = {path: path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def imports(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports. The package itself (""), whose names are lazy, has none."""
    known, found = modules(package), {}
    for module, path in known.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text())) if module else ():
            names = []
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: imports by full names"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                first, _, rest = name.partition(".")
                if first == package.name:
                    # `from igconv.a import b`: b is a module, or a name in module a.
                    found[module].add(rest if rest in known else rest.rpartition(".")[0])
    return found


def floor_of(module: str) -> int:
    return next(place for place, names in enumerate(FLOORS) if module.split(".")[0] in names)


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that go up, and those of the package's lazy names, which lead to every floor."""
    return [f"{module} -> {target or 'the package itself'}" for module, targets in graph.items() if module
            for target in sorted(targets) if not target or floor_of(target) < floor_of(module)]  # fmt: skip


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Imports that lead back to where they come from."""

    def reached(module: str) -> set[str]:
        seen, waiting = set(), [module]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    return [f"{module} -> {target}" for module, targets in graph.items() for target in sorted(targets)
            if module in reached(target) | {target}]  # fmt: skip


def test_imports_go_down_and_never_in_a_circle():
    graph = imports(PROJECT / "igconv")
    assert len(graph) > 60
    assert upward(graph) == []
    assert circles(graph) == []


def test_every_module_is_on_a_floor_and_small():
    for module, path in modules(PROJECT / "igconv").items():
        assert not module or floor_of(module) >= 0
        assert len(path.read_text().splitlines()) <= 400, f"{path} is long; what of it is a thing of its own?"
    assert len(list((PROJECT / "igconv").glob("*.py"))) <= 7


def test_each_floor_says_what_it_is_and_no_more():
    for folder in (names[0] for names in FLOORS if (PROJECT / "igconv" / names[0]).is_dir()):
        body = ast.parse((PROJECT / "igconv" / folder / "__init__.py").read_text()).body
        assert len(body) == 1, f"{folder}/__init__.py is a docstring"
        assert "first" in body[0].value.value, f"{folder}/__init__.py says what to read first"


@pytest.mark.parametrize(
    ("files", "wrong_way", "circle"),
    [
        ({"data/images": "from igconv.errors import InputError", "errors": ""}, 0, 0),
        ({"data/images": "def f():\n    from igconv.models import inference", "models/inference": ""}, 1, 0),
        ({"data/images": "import igconv.cli", "cli": ""}, 1, 0),
        ({"data/images": "from igconv import build_model"}, 1, 0),
        ({"data/a": "from igconv.data.b import x", "data/b": "from igconv.data import a"}, 0, 2),
    ],
)
def test_the_check_finds_what_it_is_for(tmp_path, files, wrong_way, circle):
    for name, text in ({"__init__": ""} | files).items():
        path = tmp_path / "igconv" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports(tmp_path / "igconv")
    assert (len(upward(graph)), len(circles(graph))) == (wrong_way, circle)
