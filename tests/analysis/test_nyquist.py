"""Error on both sides of the LR image's Nyquist frequency, on planted energies."""

import numpy as np
import pandas as pd
import pytest

from igconv import InputError
from igconv.analysis import nyquist
from igconv.evaluation.bands import band_edges

LOW, HIGH = nyquist.BAND


def test_the_boundary_is_that_of_each_scale():
    edges = band_edges(12)
    for scale in (2, 3, 4):
        above = nyquist.share_above(edges[:-1], edges[1:], scale)
        assert above.tolist() == pytest.approx([float(low >= 0.5 / scale - 1e-9) for low in edges[:-1]])
    assert nyquist.share_above([0.15], [0.2], 3)[0] == pytest.approx(2 / 3), "a band with the boundary is shared"
    assert nyquist.share_above([0.25], [0.3], [2])[0] == 1


def errors(name: str, upsampler: str, of_band, seed: int = 0) -> pd.DataFrame:
    """Two bands at x2 and at x4: up to the boundary and beyond; energies ``of_band`` times that of the image."""
    rows = [
        dict(run=name, upsampler=upsampler, variant="", seed=seed, dataset="d", image=image, scale=scale,
             error_energy=energy * level, hr_energy=100 * level, **{LOW: low, HIGH: high})
        for image, level in (("a", 1.0), ("b", 50.0)) for scale in (2, 4)
        for energy, (low, high) in zip(of_band, ((0, 0.125), (0.125, 0.25), (0.25, 0.7)), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_energies_are_added_and_not_their_decibels():
    """At x4 only the first band is below. Halving a band that holds 1 % of the error changes next to nothing, where
    the mean of decibels over two bands would be -1.5 dB."""
    base, other = errors("base", "igconv", (1.0, 99.0, 1.0)), errors("other", "igconv+", (1.0, 99.0, 0.5))
    found = nyquist.differences(pd.concat([base, other]), ["base"]).set_index("side")
    at_x2, at_x4 = 10 * np.log10(0.5), 10 * np.log10(99.5 / 100)
    assert found.difference_db[nyquist.ABOVE] == pytest.approx((at_x2 + at_x4) / 2)
    assert found.difference_db[nyquist.BELOW] == pytest.approx(0)
    assert found.difference_db[nyquist.WHOLE] == pytest.approx(10 * np.log10(100.5 / 101))
    assert (found.images[nyquist.ABOVE], found.seeds[nyquist.ABOVE]) == (2, 1)
    text = nyquist.differences_in_words(found.reset_index(), "IGConv").splitlines()
    assert len(text) == 2
    assert text[1].startswith("IGConv+ minus IGConv: error energy above the LR image's Nyquist frequency -1.52 dB")
    with pytest.raises(InputError, match="no run of nobody"):
        nyquist.differences(base, ["nobody"])


def curve(run: str, upsampler: str, total, share, steps=(1, 10, 100, 1000), seed: int = 0) -> pd.DataFrame:
    """Total error by step, of which ``share`` (of the total) lies above the boundary of x2."""
    rows = [
        dict(run=run, upsampler=upsampler, variant="", seed=seed, step=step, scale=2, hr_energy=50.0,
             error_energy=energy * part, **{LOW: low, HIGH: high})
        for step, energy in zip(steps, total, strict=True)
        for part, (low, high) in ((1 - share(energy), (0, 0.25)), (share(energy), (0.25, 0.7)))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def rising(error):
    """The better a model the more of its error is high, as it is for every model: no bias."""
    return 0.8 - 0.1 * np.log10(error)


def test_a_better_model_has_no_other_spectrum_at_equal_error():
    """Both follow the same path and one is farther on it: their ends differ in the share, equal errors do not."""
    slow, fast = curve("slow", "igconv", (90, 50, 20, 10), rising), curve("fast", "spconv", (80, 30, 8, 2), rising)
    (row,) = nyquist.at_equal_error(pd.concat([slow, fast]), ["fast"]).itertuples()
    assert row.difference == pytest.approx(0, abs=1e-9)
    assert row.above_share == pytest.approx(rising(10))
    assert row.step == pytest.approx(1000)
    assert row.step_minus == pytest.approx(10 * 10 ** (np.log(30 / 10) / np.log(30 / 8)))
    assert row.level_db == pytest.approx(10 * np.log10(10 / 100))
    assert row.minus == "SPConv"


def test_a_bias_is_found_whichever_is_better():
    biased = lambda error: rising(error) + 0.05  # noqa: E731
    for total in ((90, 50, 20, 10), (70, 20, 5, 1)):
        tables = [curve("m", "igconv", total, biased), curve("b", "spconv", (80, 30, 8, 2), rising)]
        found = nyquist.at_equal_error(pd.concat(tables), ["b"])
        assert found.difference.tolist() == pytest.approx([0.05])
    text = nyquist.equal_error_conclusion(found)
    assert "+5.0 points (+5.0 to +5.0 over 1 cases of 1 training(s), 1 seed(s))" in text
    assert "not run" in nyquist.equal_error_conclusion(found.head(0))


def test_runs_of_other_seeds_are_compared_with_their_own_base():
    tables = [curve(f"{kind}-{seed}", kind, (90, 50, 20, 10 + seed), rising, seed=seed)
              for kind in ("igconv", "spconv") for seed in (0, 1)]  # fmt: skip
    found = nyquist.at_equal_error(pd.concat(tables), ["spconv-0", "spconv-1"])
    assert found.seed.tolist() == [0, 1]
    assert nyquist.at_equal_error(pd.concat(tables[:1]), ["spconv-0"]).empty
