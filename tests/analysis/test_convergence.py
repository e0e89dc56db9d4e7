"""Gaps in steps and in parts, on planted curves and planted encoders and heads."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from igconv.analysis import convergence
from igconv.study import results
from igconv.study.run import Run

BASE = Run("planted", "edsr_tiny", "igconv", steps=2_000, test_sets=("Set5",))
FIXED = [replace(BASE, upsampler="spconv", scales=(scale,)) for scale in (2, 3, 4)]
THIRD = [replace(run, steps=666, variant="third") for run in FIXED]


def test_a_level_is_reached_between_records_in_the_logarithm_of_steps():
    steps = np.array([500, 1000, 2000])
    assert convergence.reached(steps, 30 + np.log(steps), 30 + np.log(1400)) == pytest.approx(1400)
    assert convergence.reached([2, 1, 4], [1.0, 0.0, 0.9], 0.5) == pytest.approx(np.sqrt(2)), "the first crossing"
    assert np.isnan(convergence.reached(steps, [1, 2, 3], 4)), "never"
    assert np.isnan(convergence.reached(steps, [1, 2, 3], 0.5)), "before the first record"


@pytest.fixture
def planted(results_root):
    """SPConv learns like the logarithm of its steps; IGConv ends where SPConv was after 1,200 steps at every scale."""
    steps = [500, 1000, 1500, 2000]
    for run in (BASE, *FIXED):
        ends = [1200] * 4 if run is BASE else steps
        folder = results.run_folder(run.profile, run.name)
        folder.mkdir(parents=True)
        shown = np.mean([30 - 2 * s for s in run.scales]) + np.log(ends)
        pd.DataFrame(dict(step=steps, psnr_y_db=shown)).to_csv(folder / "record.csv", index=False)
        bands = [dict(step=step, scale=scale, band_low_cycles_per_px=low, error_energy=255**2 / 2 * 10 ** (-db / 10))
                 for step, end in zip(steps, ends, strict=True) for scale in run.scales
                 for db in [20 - scale + np.log(end)] for low in (0.0, 0.25)]  # fmt: skip
        pd.DataFrame(bands).to_csv(folder / "bands.csv", index=False)
    return pd.DataFrame([
        dict(run=run.name, dataset=dataset, scale=scale, psnr_y_db=25 - scale + shift + 2 * np.log(steps))
        for run in (BASE, *FIXED, *THIRD) for scale in run.scales
        for steps in [1200 if run is BASE else run.steps] for dataset, shift in (("a", 0), ("b", 5))
    ])  # fmt: skip


def test_gaps_in_steps(planted):
    found = convergence.equal_steps([BASE, *FIXED, *THIRD], planted)
    assert tuple(found.columns) == convergence.STEPS
    assert found.groupby("measured_on", sort=False).scale.agg(list).to_dict() == {
        convergence.AVERAGED: ["mean"], convergence.RAW: ["2", "3", "4"], convergence.TEST: ["2", "3", "4"],
    }  # fmt: skip
    assert found.equal_steps.to_numpy() == pytest.approx(1200)
    assert (found.gap_db < 0).all()
    assert found.gap_db.iloc[0] == pytest.approx(np.log(1200 / 2000))


def test_what_was_not_made_has_no_line(planted):
    assert convergence.equal_steps([BASE, *FIXED[:2]], planted).empty
    alone = convergence.equal_steps([BASE, *FIXED], planted)
    assert convergence.TEST not in set(alone.measured_on), "one budget is no curve"
    other = replace(BASE, variant="fft", frequency_weight=0.05)
    assert set(convergence.equal_steps([BASE, other, *FIXED], planted).model) == {"IGConv"}


def test_encoder_and_head_are_told_apart():
    """A gap of 0.5 dB, of which 0.4 is the encoder's: planted per image with noise that pairing removes."""
    rng, rows = np.random.default_rng(0), []
    values = {("SPConv x3", 3, "as trained"): 30.0, ("SPConv x3", 3, "refitted"): 29.9,
              ("IGConv", 0, "as trained"): 29.5, ("IGConv", 0, "refitted"): 29.5}  # fmt: skip
    for image, level in enumerate(rng.normal(0, 5, 12)):
        for (encoder, scale, head), db in values.items():
            rows.append(dict(family="f", encoder=encoder, encoder_scale=scale, target_scale=3, head=head, dataset="d",
                             image=image, psnr_y_db=db + level, trained=True))  # fmt: skip
        rows.append(rows[-1] | dict(encoder="untrained", head="as trained", trained=False, psnr_y_db=0.0))
    found = convergence.parts(pd.DataFrame(rows))
    assert found.set_index("part").difference_db.to_dict() == pytest.approx(
        {"whole": -0.5, "encoder": -0.4, "head": -0.1}
    )
    assert set(found.model) == {"IGConv"}
    text = convergence.parts_conclusion(found)
    assert "IGConv minus the native model at x3: -0.50 dB (-0.50 to -0.50) as trained, of which -0.40 dB" in text
    assert convergence.parts(pd.DataFrame(rows).query("head == 'refitted'")).empty
    assert "not run" in convergence.parts_conclusion(found.head(0))
