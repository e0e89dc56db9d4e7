"""One catalogue: what notebooks make and the report shows is in it, and everything in it is made and shown."""

import ast
import inspect
import re

import nbformat
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from igconv import InputError
from igconv.reporting import catalogue, figures, report
from igconv.study import results
from igconv.study.results import PROJECT

FIGURES = {figure.name: figure for figure in catalogue.FIGURES}
TABLES = {table.name: table for table in catalogue.TABLES}
# Of the notebook explore, which writes nothing; helpers that draw nothing.
NO_FILE = {"explored", "kernel_along_scale", "sampling_offsets"}
HELPERS = {"COLOURS", "Picture", "labelled", "save", "style"}


def calls(name: str) -> list[ast.Call]:
    cells = [c.source for c in nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
    nodes = [[node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)] for cell in cells]
    return [node for of_cell in nodes for node in sorted(of_cell, key=lambda node: (node.lineno, node.col_offset))]


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_each_name_is_there_once_and_has_a_caption():
    for entries in (catalogue.FIGURES, catalogue.TABLES):
        assert len({entry.name for entry in entries}) == len(entries)
        assert all(entry.caption.endswith(".") for entry in entries)


def test_notebooks_make_every_table_and_no_other():
    written = {name: [c.args[0].value for c in calls(name) if called(c) == "catalogue.write"]
               for name in ("02_evaluate", "10_tables")}  # fmt: skip
    assert sorted(written["02_evaluate"] + written["10_tables"]) == sorted(TABLES)
    order = [name for name in TABLES if name in written["10_tables"]]
    assert written["10_tables"] == order, "claims are made of what was written before"


def test_no_notebook_saves_a_table_or_figure_past_the_catalogue():
    for path in sorted((PROJECT / "notebooks").glob("*.ipynb")):
        names = [called(call) for call in calls(path.stem)]
        assert "tables.write" not in names
        assert ("figures.save" in names) == (path.stem == "11_figures")
    source = " ".join(ast.unparse(call) for call in calls("11_figures"))
    assert "figures.save(picture, folder, entry.name)" in source


def test_every_drawing_function_is_in_the_catalogue():
    """By what the drawings call; those that are not functions of the figures call one."""
    drawn = set()
    for entry in catalogue.FIGURES:
        name = entry.drawing.__name__
        drawn |= (
            {name} if name in figures.__all__ else set(re.findall(r"figures\.(\w+)", inspect.getsource(entry.drawing)))
        )
    assert drawn == set(figures.__all__) - NO_FILE - HELPERS


def test_snakemake_waits_for_files_of_the_catalogue():
    text = (PROJECT / "Snakefile").read_text()
    assert set(re.findall(r"/tables/(\w+)\.csv", text)) <= set(TABLES)
    assert set(re.findall(r"/figures/(\w+)\.png", text)) <= set(FIGURES)


@pytest.fixture
def committed(monkeypatch) -> catalogue.Study:
    """The committed study on two CPU cores."""
    monkeypatch.setenv("IGCONV_RESULTS", str(PROJECT / "results"))
    return catalogue.Study("cpu")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_from_the_committed_tables(committed, name, request):
    if name == "crops":  # needs the test images and the committed weights, too
        request.getfixturevalue("data_root")
    assert isinstance(FIGURES[name].draw(committed), Figure)


@pytest.mark.parametrize("name", ["main", "runs"])
def test_tables_are_made_from_what_is_committed(committed, name):
    made = TABLES[name].make(committed)
    stored = committed.table(f"tables/{name}")
    assert list(made.columns) == list(stored.columns)
    assert len(made) == len(stored)


def test_selections_leave_out_what_the_caption_says(committed):
    assert committed.changed
    assert not set(committed.changed) & set(committed.references)
    rows = catalogue._unchanged(committed.table("rows"), committed)
    evaluated = {name for name in committed.own if committed.file(f"rows/{name}").is_file()}
    assert set(rows.run) == {"bicubic", *evaluated} - set(committed.changed)
    assert {run.upsampler for run in map(committed.own.get, committed.references)} == {"igconv", "igconv+"}


def test_tables_of_own_runs_have_no_other_encoder(committed):
    """The ablation of the first encoder, whatever else was trained."""
    effects = committed.table("tables/effects")
    both = pd.concat([effects, effects.assign(encoder="another")])
    pd.testing.assert_frame_equal(catalogue._own_ablation(both, committed), catalogue._own_ablation(effects, committed))


def test_what_was_not_run_is_an_error_in_one_line(results_root):
    study = catalogue.Study("smoke")
    for figure in catalogue.FIGURES:
        with pytest.raises(InputError):
            figure.draw(study)
    results.write_table(pd.DataFrame(), study.file("analysis/similarity/cka"))
    with pytest.raises(InputError, match=r"cka\.csv has no rows"):
        FIGURES["cka_depth"].draw(study)
    with pytest.raises(InputError, match="unknown table 'mane'"):
        catalogue.write("mane", study)


def test_the_report_shows_what_is_there_with_its_caption(results_root):
    study = catalogue.Study("smoke")
    catalogue.write("runs", study)
    picture = figures.image_grid([("t", torch.zeros(3, 4, 4, dtype=torch.uint8))], 1)
    for name in FIGURES:
        figures.save(picture, results.root("smoke") / "figures", name)
    page = report.build("smoke").read_text()
    assert len(re.findall(r'src="data:image/png;base64,\w{100}', page)) == page.count("<img") == len(FIGURES)
    shown = re.findall(r'<figure id="(\w+)">', page)
    assert shown == list(FIGURES)
    assert TABLES["runs"].caption in page
    assert TABLES["effects"].caption not in page
