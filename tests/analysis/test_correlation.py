"""Inter-scale correlation on planted kernels, and calibration of its p-values."""

import numpy as np
import pandas as pd
import pytest
import torch

from igconv import InputError, build_model
from igconv.analysis import correlation
from igconv.analysis.correlation import coefficients, compare, patterns, permutation_test
from igconv.models.hypernetwork import subpixel_centres

CHANNELS = 16


def sampled(functions: np.ndarray, scale: int) -> torch.Tensor:
    """Kernels (3 r^2, C, 3, 3) of continuous functions a + b x + c y + d xy + e x^2, (C, 5), sampled at r x r."""
    c = subpixel_centres(scale, dtype=torch.float64).numpy()
    x, y = np.meshgrid(c, c)
    values = np.einsum("ce,eij->cij", functions, np.stack([np.ones_like(x), x, y, x * y, x**2]))
    kernels = torch.from_numpy(values).permute(1, 2, 0).reshape(1, scale**2, -1, 1, 1)
    return kernels.expand(3, -1, -1, 3, 3).reshape(3 * scale**2, -1, 3, 3).float()


def test_pattern_layout_equals_pixel_shuffle():
    """The pattern of a channel is what a constant unit feature paints, in grey, up to the number of taps."""
    torch.manual_seed(0)
    kernels = torch.randn(27, 4, 3, 3)
    grey = torch.tensor(correlation.GREY)
    for channel in range(4):
        feature = torch.zeros(1, 4, 3, 3)
        feature[:, channel] = 1
        image = torch.nn.functional.pixel_shuffle(torch.nn.functional.conv2d(feature, kernels), 3)[0]
        painted = torch.einsum("k,kij->ij", grey, image) / 9
        assert patterns(kernels, 3)[channel] == pytest.approx(painted.numpy(), abs=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4, 7])
def test_bilinear_functions_have_the_same_coefficients_at_every_scale(scale):
    functions = np.array([[0.3, -1, 2, 0.5, 0]])
    expected = functions[:, :4] * correlation.BASIS_NORMS
    assert coefficients(patterns(sampled(functions, scale), scale)) == pytest.approx(expected, abs=1e-6)


def test_dot_product_of_coefficients_is_the_mean_product_over_the_cell():
    rng = np.random.default_rng(0)
    f, g = rng.standard_normal((2, 1, 5)) * [1, 1, 1, 1, 0]
    a, b = (coefficients(patterns(sampled(h, 2), 2)) for h in (f, g))
    fine_a, fine_b = (patterns(sampled(h, 200), 200) for h in (f, g))
    assert (a @ b.T).item() == pytest.approx((fine_a * fine_b).mean(), rel=1e-3)


@pytest.mark.parametrize(("r", "s"), [(2, 3), (2, 4), (3, 4)])
def test_one_continuous_kernel_with_permuted_channels_is_found(r, s):
    rng = np.random.default_rng(1)
    functions = rng.standard_normal((CHANNELS, 5)) * [1, 1, 1, 1, 0.3]
    other = functions[rng.permutation(CHANNELS)]
    table = compare("a", sampled(functions, r), r, "b", sampled(other, s), s, permutations=99)
    assert tuple(table.columns) == correlation.COLUMNS
    matched = table[table.statistic != "same channel"]
    assert (matched.value > 0.95).all()
    assert (matched.p_value == 0.01).all()
    assert (table[table.statistic == "same channel"].value < 0.6).all()
    same = compare("a", sampled(functions, r), r, "a", sampled(functions, s), s, permutations=99)
    same = same[same.statistic == "same channel"]
    assert (same.value > 0.95).all()
    assert (same.p_value == 0.01).all()


def test_a_common_constant_correlates_only_while_it_is_kept():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, CHANNELS, 5)) * 0.1 + [3, 0, 0, 0, 0]
    table = compare("a", sampled(a, 2), 2, "b", sampled(b, 3), 3, permutations=99).query("statistic == 'same channel'")
    values = table.set_index("constant").value
    assert values["kept"] > 0.95
    assert abs(values["removed"]) < 0.5
    assert table.p_value.min() > 0.05, "a constant that all channels share says nothing about equal channels"


def test_sign_is_disregarded_only_where_said():
    a = np.random.default_rng(3).standard_normal((CHANNELS, 4))
    up_to_sign = permutation_test(a, -a, "matched up to sign", "kernels turned", 19)
    assert up_to_sign["value"] == pytest.approx(1)
    assert permutation_test(a, -a, "matched", "kernels turned", 19)["value"] < 0.98


@pytest.mark.parametrize(
    ("statistic", "null"),
    [("same channel", "channel order"), ("matched", "coefficients shuffled"), ("matched", "kernels turned"),
     ("matched up to sign", "coefficients shuffled"), ("matched up to sign", "kernels turned")],
)  # fmt: skip
def test_p_values_of_independent_kernels_are_uniform(statistic, null):
    rng = np.random.default_rng(4)
    p = [
        permutation_test(*rng.standard_normal((2, 10, 3)), statistic, null, 39, seed)["p_value"] for seed in range(120)
    ]
    # 4.5 standard errors of a uniform mean, and Kolmogorov-Smirnov at about the same level.
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)
    assert np.abs(np.sort(p) - (np.arange(120) + 0.5) / 120).max() < 0.18


def test_kernels_of_both_upsamplers():
    torch.manual_seed(0)
    fixed = build_model("edsr_tiny", "spconv", scales=(3,), channels=6, blocks=1)
    multi = build_model("edsr_tiny", "igconv", scales=(2, 3), channels=6, blocks=1, hidden_dim=16, num_layers=1)
    assert torch.equal(correlation.kernel(fixed, 3), fixed.upsampler.heads["3"][0].weight)
    assert torch.equal(correlation.kernel(multi, 5), multi.upsampler.hyper.generate(5))
    table = correlation.pattern_table("m", multi, (2, 32), channels=2)
    assert len(table) == 2 * 4 + 2 * 1024
    row = table[(table.scale == 2) & (table.channel == 1) & (table.sub_row == 0) & (table.sub_col == 1)]
    assert row.value.item() == pytest.approx(patterns(correlation.kernel(multi, 2), 2)[1, 0, 1])


def test_intervals_are_those_of_the_channels():
    """Half of the channels equal, half opposite: mean 0, and an interval of about 2 sigma of 16 coins."""
    a = np.random.default_rng(6).standard_normal((CHANNELS, 4))
    b = a * np.where(np.arange(CHANNELS) % 2, 1, -1)[:, None]
    test = permutation_test(a, b, "same channel", "channel order", 9)
    assert test["value"] == pytest.approx(0, abs=1e-9)
    assert test["value_low"] == pytest.approx(-0.5, abs=0.13)
    assert test["value_high"] == pytest.approx(0.5, abs=0.13)


def test_holms_correction():
    """Against the rule, per family of tests: the i-th least p-value times (m - i), never decreasing."""
    p = [0.04, 0.01, 0.03, 0.2]
    table = pd.DataFrame(dict(statistic="matched", constant="kept", null="n", p_value=p + [0.01]))
    table.loc[4, "null"] = "another"
    assert correlation.adjusted(table).p_holm.tolist() == pytest.approx([0.09, 0.04, 0.09, 0.2, 0.01])


def test_verdicts_count_pairs_that_are_beyond_chance_under_every_null():
    rng = np.random.default_rng(7)
    functions = rng.standard_normal((CHANNELS, 5)) * [1, 1, 1, 1, 0]
    pairs = [("a", functions), ("b", rng.standard_normal((CHANNELS, 5)))]
    tables = [compare("r", sampled(functions, 2), 2, name, sampled(f, 3), 3, 99, comparison="c") for name, f in pairs]
    table = correlation.verdicts(correlation.adjusted(pd.concat(tables, ignore_index=True)))
    row = table.set_index(["constant", "statistic"]).loc["removed", "same channel"]
    assert (row.pairs, row.beyond_chance) == (2, 1)
    assert row.largest == pytest.approx(1)


def test_averages_over_cells():
    """A bilinear function averaged over a cell is its value at the centre; fractions of cells count as such."""
    fine = patterns(sampled(np.array([[0.3, -1, 2, 0.5, 0]]), 32), 32)
    for scale in (2, 3, 4, 8, 32):
        coarse = patterns(sampled(np.array([[0.3, -1, 2, 0.5, 0]]), scale), scale)
        tolerance = 1e-5 if 32 % scale == 0 else 5e-3  # parts of a cell are taken as constant
        assert correlation.averaged(fine, scale) == pytest.approx(coarse, abs=tolerance)
    with pytest.raises(InputError, match="4 x 4 cannot be averaged to 8 x 8"):
        correlation.averaged(fine[:, :4, :4], 8)


def test_total_variation_tells_functions_from_noise():
    """A ramp x on [-1, 1] goes 2 along a row and 0 along a column, at standard deviation 1 / sqrt(3)."""
    ramp = patterns(sampled(np.array([[0, 1, 0, 0, 0]]), 64), 64)
    assert correlation.total_variation(ramp) == pytest.approx(3**0.5, rel=0.05)
    noise = np.random.default_rng(8).standard_normal((20, 32, 32))
    assert correlation.total_variation(noise).mean() == pytest.approx(31 * 2 / np.pi**0.5, rel=0.05)


def test_continuity_of_a_multi_scale_model(tiny_model):
    table = correlation.continuity("m", tiny_model("igconv"), (2, 3, 8, 32))
    assert tuple(table.columns) == correlation.CONTINUITY
    assert len(table) == 4 * 6
    fine = table[table.scale == 32]
    assert fine.correlation.to_numpy() == pytest.approx(1)
    assert (fine.total_variation < fine.total_variation_shuffled).all()
    assert table[table.scale == 8].correlation.min() > 0.9


def test_bad_input_is_named():
    rng = np.random.default_rng(5)
    functions = rng.standard_normal((CHANNELS, 5))
    with pytest.raises(InputError, match="no head for x4, only for x3"):
        correlation.kernel(build_model("edsr_tiny", "spconv", scales=(3,)), 4)
    with pytest.raises(InputError, match="SPConvPlus has no single"):
        correlation.kernel(build_model("edsr_tiny", "spconv+", scales=(2,)), 2)
    with pytest.raises(InputError, match="x3 needs kernels"):
        patterns(sampled(functions, 2), 3)
    with pytest.raises(InputError, match="at least 2"):
        coefficients(patterns(sampled(functions, 1), 1))
    flat = functions * [1, 0, 0, 0, 0]
    with pytest.raises(InputError, match="b: 16 of 16 channels have a constant pattern"):
        compare("a", sampled(functions, 2), 2, "b", sampled(flat, 3), 3)
    with pytest.raises(InputError, match="equal channels"):
        compare("a", sampled(functions, 2), 2, "b", sampled(functions[:9], 3), 3)
    with pytest.raises(InputError, match="says nothing about"):
        permutation_test(functions, functions, "matched", "channel order")
