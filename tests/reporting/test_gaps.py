"""The gap to SPConv by budget, on planted rows: the right pairs, signs and intervals; one budget is no curve."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from igconv import InputError
from igconv.reporting import figures, gaps, summary
from igconv.study.run import Run

STEPS = (100, 800)


def study(budgets=STEPS, seeds=(0,)) -> dict[str, Run]:
    runs = []
    for steps in budgets:
        for seed in seeds:
            base = Run(
                "cpu", "e", "igconv", scales=(2, 3), steps=steps, seed=seed, variant="" if steps == 100 else "long"
            )
            runs += [base, replace(base, upsampler="spconv", variant=f"heads_{base.variant}".rstrip("_"))]
            runs += [replace(base, upsampler="spconv", scales=(scale,)) for scale in (2, 3)]
    # Not compared: an ingredient more, another start, other steps, another upsampler.
    base = runs[0]
    runs += [replace(base, variant="fft", frequency_weight=0.1), replace(base, variant="from", start_from="w"),
             replace(base, variant="odd", steps=50), replace(base, upsampler="liif")]  # fmt: skip
    return {run.name: run for run in runs}


def evaluated(runs: dict[str, Run], db) -> pd.DataFrame:
    """Four images in each of two sets, of unequal difficulty; ``db``: run -> its PSNR."""
    return pd.DataFrame([
        dict(run=name, encoder=run.encoder, upsampler=run.upsampler, variant=run.variant, seed=run.seed,
             steps=run.steps, train_scales=run.train_scales, dataset=dataset, image=f"{dataset}{i}", scale=scale,
             ssim_y=0.9, psnr_y_db=db(run) + i + 0.01 * np.sin(7 * i + scale))
        for name, run in runs.items() for dataset in "AB" for i in range(4) for scale in run.scales
    ])  # fmt: skip


def planted(run: Run) -> float:
    """SPConv 30 dB; IGConv 0.5 dB lower at 100 steps and 0.1 at 800, three heads 0.2 at both."""
    if run.upsampler == "igconv" and not run.change and not run.start_from:
        return 30 - (0.5 if run.steps == 100 else 0.1)
    return 29.8 if "heads" in run.variant else 30 if run.upsampler == "spconv" else 10


def test_gaps_are_those_of_equal_steps():
    runs = study()
    table = gaps.by_budget(evaluated(runs, planted), runs)
    assert list(table.columns) == list(gaps.COLUMNS)
    found = table[table.scale == 2].set_index(["model", "steps"]).difference_db
    assert found["IGConv"].to_dict() == pytest.approx({100: -0.5, 800: -0.1})
    assert found["SPConv (one encoder, three heads)"].to_dict() == pytest.approx({100: -0.2, 800: -0.2})
    assert set(table.model) == {"IGConv", "SPConv (one encoder, three heads)"}
    assert (table.low_db < table.difference_db).all()
    assert (table.high_db > table.difference_db).all()


def test_seeds_narrow_the_interval():
    one, many = study(), study(seeds=(0, 1, 2, 3, 4))
    noisy = np.random.default_rng(0)

    def with_noise(run: Run) -> float:
        return planted(run) + 0.02 * noisy.standard_normal()

    wide, narrow = (
        gaps.by_budget(evaluated(runs, with_noise), runs).query("model == 'IGConv'") for runs in (one, many)
    )
    assert set(wide.seeds) == {1}
    assert set(narrow.seeds) == {5}
    assert (narrow.high_db - narrow.low_db).max() < (wide.high_db - wide.low_db).min()


def test_one_budget_is_no_curve():
    runs = study(budgets=(100,))
    table = gaps.by_budget(evaluated(runs, planted), runs)
    assert table.empty
    with pytest.raises(InputError, match="one budget alone"):
        figures.gap_by_budget(table)


def test_the_sentence_has_every_budget():
    runs = study()
    table = gaps.by_budget(evaluated(runs, planted), runs)
    (text,) = summary.analyses(pd.DataFrame(columns=["claim", "about", "verdict"]), table[:0], table[:0], table)
    assert "at 100, then 800 steps (x2 / x3)" in text
    assert "IGConv -0.50 / -0.50, then -0.10 / -0.10" in text
    assert "three heads) -0.20 / -0.20, then -0.20 / -0.20 dB" in text
    assert not summary.analyses(pd.DataFrame(columns=["claim", "about", "verdict"]), *[table[:0]] * 3)


def test_the_figure_has_a_panel_per_scale_and_a_line_per_model():
    runs = study()
    figure = figures.gap_by_budget(gaps.by_budget(evaluated(runs, planted), runs))
    assert [axis.get_title() for axis in figure.axes] == ["x2", "x3"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["IGConv", "SPConv (one encoder, three heads)"]
