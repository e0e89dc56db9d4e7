"""Starts at each one's best rate: planted tables, and short trainings that leave nothing behind."""

import os
from dataclasses import replace

import pandas as pd
import pytest

from igconv.analysis import rates
from igconv.study import results


def table(**psnr) -> pd.DataFrame:
    names = dict(authors=rates.AUTHORS, spconv=rates.LIKE_SPCONV)
    return pd.DataFrame([
        dict(start=names[name], learning_rate=0.001 * factor, factor=factor, seed=0, steps=9, l1=0.1, psnr_y_db=value)
        for name, values in psnr.items() for factor, value in zip(rates.FACTORS, values, strict=True)
    ])  # fmt: skip


def test_a_start_that_only_needs_another_rate_is_no_better_start():
    """At the study's rate SPConv's start is 1 dB ahead, at each one's best rate it is level."""
    found = table(authors=(28, 29, 30), spconv=(29, 30, 28))
    best = rates.at_best(found).set_index("start")
    assert best.factor.to_dict() == {rates.AUTHORS: 3.0, rates.LIKE_SPCONV: 1.0}
    assert best.at_edge.to_dict() == {rates.AUTHORS: True, rates.LIKE_SPCONV: False}
    text = rates.conclusion(found)
    assert "IGConv, the authors' start: 30.00 dB at its best rate, 0.003 (an end of the grid)" in text
    assert "SPConv's start minus the authors': +0.00 dB at each one's best rate, +1.00 dB at the study's" in text


def test_short_trainings_leave_nothing_behind(tiny_run, results_root):
    plain = dict(dihedral=False, igsample=False, frequency_weight=0.0)
    base = replace(tiny_run, upsampler="igconv", scales=(2, 3), **plain)
    found = rates.tried(base, 2, factors=(1.0, 0.01))
    assert found.start.tolist() == [rates.AUTHORS] * 2 + [rates.LIKE_SPCONV] * 2
    assert found.learning_rate.tolist() == pytest.approx([base.learning_rate, 0.01 * base.learning_rate] * 2)
    assert found.psnr_y_db.notna().all()
    assert found.psnr_y_db.nunique() == 4
    assert os.environ["IGCONV_RESULTS"] == str(results_root)
    assert not results.root(base.profile).exists()


def test_without_trainings_there_is_nothing_to_say():
    assert rates.conclusion(pd.DataFrame(columns=list(rates.COLUMNS))).endswith("not run.")
