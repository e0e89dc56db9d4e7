"""The committed notebooks keep their form, and the runner refuses what papermill lets pass."""

import ast
import json
import sys
from pathlib import Path

import nbformat
import pytest

import igconv
from igconv.errors import InputError
from igconv.study.results import PROJECT
from igconv.workflow.notebooks import convert, execute, main, parameters

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
EXPECTED = ["00_data", "01_train", "02_evaluate", "03_encoder_similarity", "04_spconv_correlation",
            "05_spectral_bias", "06_efficiency", "07_unseen_scales", "08_initialisation", "09_conversion", "10_tables",
            "11_figures", "explore"]  # fmt: skip


def test_all_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == EXPECTED


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestForm:
    def test_is_stripped(self, path):
        """No outputs, counts or machine metadata are committed."""
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert notebook.metadata.keys() <= {"kernelspec", "language_info"}
        assert notebook.metadata.language_info == {"name": "python"}
        for cell in notebook.cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
            assert cell.metadata.keys() <= {"tags"}

    def test_begins_with_question_inputs_outputs_and_parameters(self, path):
        first, second = nbformat.read(path, 4).cells[:2]
        assert first.cell_type == "markdown"
        for word in ("# ", "**Question.**", "**Inputs.**", "**Outputs.**", "**Time.**"):
            assert word in first.source
        assert second.metadata.get("tags") == ["parameters"]
        known = parameters(path)
        assert known["profile"] == ("str", "sample")
        assert all("  # " in line for line in second.source.splitlines()), "a parameter has a help text"

    def test_the_package_chooses_the_device(self, path):
        """One rule for all: `igconv.models.arithmetic.chosen_device`."""
        sources = "".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        assert "is_available" not in sources
        assert "get_default_device" not in sources

    def test_is_thin(self, path):
        """No classes, no functions over three lines, no long cells: logic belongs to the package."""
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                lines = cell.source.splitlines()
                assert len(lines) <= 16, f"a cell of {len(lines)} lines begins with {lines[0]!r}"
                assert max(map(len, lines)) <= 120
                for node in ast.walk(ast.parse(cell.source)):
                    assert not isinstance(node, ast.ClassDef)
                    if isinstance(node, ast.FunctionDef):
                        assert node.end_lineno - node.lineno < 3


def _notebook(path: Path, *sources: str) -> Path:
    first = nbformat.v4.new_code_cell(
        'name: str = "a"  # text\ncount: int = 1  # number\nsides: tuple[int, ...] = ()  # more'
    )
    first.metadata["tags"] = ["parameters"]
    cells = [first, *map(nbformat.v4.new_code_cell, sources)]
    metadata = {"language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def test_parameters_reach_the_notebook(tmp_path, capfd, caplog):
    source = _notebook(tmp_path / "a.ipynb", "print(name, count + 1, max(sides))")
    execute(source, tmp_path / "out.ipynb", {"name": "b", "count": "41", "sides": "(7, 43)"})
    assert "b 42 43" in capfd.readouterr().out
    assert "unknown parameter" not in caplog.text
    copy = (tmp_path / "out.ipynb").read_text()
    assert "b 42" in copy
    assert str(tmp_path) not in copy  # executed notebooks are committed; paths of a machine say nothing to others


def test_unknown_parameter_is_an_error(tmp_path):
    source = _notebook(tmp_path / "a.ipynb")
    with pytest.raises(InputError, match="'nam'; choose from count, name, sides"):
        execute(source, tmp_path / "out.ipynb", {"nam": "b"})
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("int", "3", 3), ("float", "3", 3.0), ("bool", "True", True), ("str", "2,3", "2,3"),
     ("tuple[int, ...]", "(2, 3)", (2, 3))],
)  # fmt: skip
def test_convert(kind, text, value):
    assert convert({"x": text}, {"x": (kind, None)}, Path("a.ipynb")) == {"x": value}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "2.5"),
        ("int", "a b"),
        ("bool", "1"),
        ("tuple[int, ...]", "2"),
        ("tuple[int, ...]", "('2',)"),
        ("tuple[str, ...]", "(2,)"),
    ],
)
def test_convert_refuses_other_types(kind, text):
    with pytest.raises(InputError, match="parameter x of"):
        convert({"x": text}, {"x": (kind, None)}, Path("a.ipynb"))


@pytest.mark.parametrize(
    ("source", "message"),
    [("raise ValueError('broken thing')", "ValueError: broken thing"), ("import sys; sys.exit(0)", "stopped early")],
)
def test_a_failing_cell_fails_and_keeps_the_copy(tmp_path, capfd, source, message):
    """Also sys.exit(0), which papermill counts as success."""
    notebook, output = _notebook(tmp_path / "a.ipynb", source, "print('after')"), tmp_path / "out.ipynb"
    assert main([str(notebook), str(output)]) == 1
    failed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("FAILED a")]
    assert len(failed) == 1
    assert message in failed[0]
    assert output.is_file()
    assert str(tmp_path) not in json.dumps(nbformat.read(output, 4).metadata.papermill)  # people pass such copies on


def test_two_parameter_cells_are_an_error(tmp_path):
    path = _notebook(tmp_path / "a.ipynb")
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.from_dict({**notebook.cells[0], "id": "other"}))
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match="2 cells tagged parameters"):
        parameters(path)


@pytest.mark.parametrize("kind", ["another Python", "another checkout"])
def test_the_kernel_is_this_environments(tmp_path, monkeypatch, kind):
    """Also where a user has registered another Python's, or another checkout's, under the same name."""
    spec, other = tmp_path / "jupyter" / "kernels" / "python3", tmp_path / "other"
    for folder in (spec, other / "igconv"):
        folder.mkdir(parents=True)
    (other / "igconv" / "__init__.py").write_text("")
    python = "/bin/false" if kind == "another Python" else sys.executable
    content = dict(argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], display_name="theirs",
                   language="python", env=dict(PYTHONPATH=str(other)))  # fmt: skip
    (spec / "kernel.json").write_text(json.dumps(content))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    cell = nbformat.v4.new_code_cell('name: str = "a"')
    cell.metadata["tags"] = ["parameters"]
    look = nbformat.v4.new_code_cell("import sys, igconv\nprint(sys.executable, igconv.__file__)")
    book = nbformat.v4.new_notebook(cells=[cell, look], metadata={"language_info": {"name": "python"}})
    nbformat.write(book, tmp_path / "a.ipynb")
    execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {})
    (output,) = nbformat.read(tmp_path / "b.ipynb", 4).cells[-1].outputs
    assert output.text.split() == [sys.executable, igconv.__file__]
