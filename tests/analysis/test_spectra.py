"""Which runs' spectra are compared with which, and what the tables say in words."""

import pandas as pd
import pytest

from igconv import InputError
from igconv.analysis import spectra
from igconv.study.runs import runs_of


def names(runs) -> list[str]:
    return [f"{run.upsampler} {run.variant}".strip() for run in runs]


@pytest.fixture
def benchmark() -> list:
    """The benchmark study's runs of its first encoder that are as long as those with an ingredient more or less."""
    return spectra.runs_of_equal_steps([run for run in runs_of("benchmark").values() if run.encoder == "edsr_baseline"])


def test_runs_are_as_long_as_the_ablation(benchmark):
    assert {run.steps for run in benchmark} == {30_000}
    assert {run.steps for run in spectra.runs_of_equal_steps(list(runs_of("sample").values()))} == {800}


def test_a_family_is_sorted_by_what_its_runs_are_made_of(benchmark):
    first = [run for run in benchmark if run.seed == 0]
    family = spectra.family(first, {run.name for run in first})
    assert names(family.plain) == ["igconv 30k"]
    assert names(family.whole) == ["igconv+ 30k"]
    assert names(family.added) == ["igconv fft", "igconv igsample", "igconv dihedral"]
    assert names(family.left_out) == ["igconv+ no_fft", "igconv+ no_igsample", "igconv+ no_dihedral"]
    assert names(family.others) == ["igconv spconv_init", "igconv+ spconv_init"]
    added, left_out = family.lines
    assert (len(added), len(left_out), added[-1]) == (4, 4, left_out[-1])
    assert not family.shown & {run.name for run in family.left_out}
    assert len(family.shown) == 7


def test_where_nothing_is_added_what_is_left_out_is_shown():
    runs = list(runs_of("sample").values())
    family = spectra.family(runs, {run.name for run in runs})
    assert family.lines is None
    assert {run.name for run in family.left_out} <= family.shown
    assert family.is_comparable
    alone = spectra.family(runs, {run.name for run in family.plain})
    assert not alone.is_comparable


def test_runs_that_were_not_made_are_named(capsys):
    def measure(run):
        if run.upsampler != "spconv":
            raise InputError(f"{run.name} is not trained")
        return pd.DataFrame([dict(run=run.name)])

    runs = list(runs_of("smoke").values())
    assert len(spectra.of_each(runs, measure)) == 3
    assert capsys.readouterr().out.count("not run: ") == len(runs) - 3
    assert spectra.of_published("smoke", ["Set5"], "cpu", None) == []


def test_the_order_of_learning_in_words():
    order = pd.DataFrame(dict(measure="energy", run=["a", "a", "b", "b"], seed=0, spearman=[0.9, 0.5, -0.2, None],
                              p_value=[0.01, 0.2, 0.6, None], bands=[9, 8, 7, 2],
                              not_learned=[1, 2, 3, 8]))  # fmt: skip
    first, note = spectra.order_conclusion(order).splitlines()
    assert first.startswith("way in energy: mean correlation +0.40 (-0.20 to +0.90) over 3 cases (run and scale)")
    assert "in 1, the correlation is negative in 1, too few bands were learned in 1 more; 14 of 40 bands" in first
    assert note.startswith("Independent trainings: 1. The cases are of 2 runs of so many seeds")
    assert "2 to 9 learned bands" in note
    assert "not run" in spectra.order_conclusion(order.head(0))
