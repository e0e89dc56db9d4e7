"""A planted network whose channels are mixed: matching of channels fails, alignment finds it."""

import numpy as np
import pytest
import torch
from torch import nn

from igconv import InputError
from igconv.analysis import alignment, correlation, ridge
from igconv.conversion import sums
from igconv.models.super_resolver import MeanShift, SuperResolver, build_model
from igconv.models.upsamplers import SPConv

CHANNELS = 8


class Mixed(nn.Module):
    """A fixed non-linear encoder followed by an invertible mixture of its channels."""

    def __init__(self, mixture: torch.Tensor):
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.mix.weight.data[:, :, 0, 0] = mixture

    def forward(self, x):
        return self.mix(torch.sin(3 * self.conv(x)))  # no dead channels, whose part of a mixture nobody could know


def planted(scale: int, functions: torch.Tensor, mixture: torch.Tensor) -> SuperResolver:
    """An encoder with mixed channels, and the SPConv (functions (4, 3, C, 3, 3) on the cell, sampled) to undo it."""
    head = SPConv(CHANNELS, (scale,))
    sampled = torch.einsum("pi,icdkl->cpdkl", torch.from_numpy(correlation.basis(scale)).float(), functions)
    kernel, bias = alignment.composed(
        sampled.flatten(0, 1), torch.zeros(3 * scale**2), torch.linalg.inv(mixture), torch.zeros(CHANNELS)
    )
    conv = head.heads[str(scale)][0]
    conv.weight.data, conv.bias.data = kernel, bias
    return SuperResolver(Mixed(mixture), head).eval()


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(1)
    # As kernels of networks have it: little of the constant is common, and no orientation is preferred.
    functions = torch.randn(4, 3, CHANNELS, 3, 3, generator=generator) * 0.05
    mixtures = [torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator))[0] for _ in range(2)]
    return planted(2, functions, mixtures[0]), planted(3, functions, mixtures[1])


@pytest.fixture
def scenes(photograph):
    return torch.stack([photograph(48, 48, seed) for seed in range(8)])


def test_alignment_finds_what_matching_of_channels_cannot(pair, scenes, photograph):
    two, three = pair
    matching = correlation.compare("a", correlation.kernel(two, 2), 2, "b", correlation.kernel(three, 3), 3, 99)
    assert (matching.groupby(["statistic", "constant"]).p_value.max() > 0.05).all()

    images = {("set", name): photograph(50, 62, 90 + i) for i, name in enumerate("ab")}
    rows, psnr = alignment.align("f", ("a", two, 2), ("b", three, 3), scenes, images, side=12, permutations=49)
    assert tuple(rows.columns) == alignment.COLUMNS
    assert tuple(psnr.columns) == alignment.PSNR
    fitted = rows[rows.alignment == "fitted"]
    assert (fitted.value > 0.999).all()
    assert (fitted.p_value == 0.02).all()
    assert (fitted.map_explained > 0.999).all()
    assert (rows[rows.alignment == alignment.MAPS[-1]].value > 0.999).all()
    others = rows[rows.alignment.isin(["images shuffled", "channels as they are"]) & (rows.compared == "kernel")]
    assert (others.value.abs() < 0.5).all()

    summary = alignment.psnr_summary(psnr).set_index("head").difference_db
    assert summary["predicted"] == pytest.approx(0, abs=0.05)
    assert summary["true"] == 0
    assert summary["true on {1, x, y, xy}"] == pytest.approx(0, abs=0.01)


def test_independent_kernels_give_uniform_p_values(pair, scenes):
    """Two encoders that agree, with SPConvs that have nothing to do with each other."""
    p = []
    for seed in range(20):
        functions = torch.randn(2, 4, 3, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(seed))
        a, b = (planted(s, f, torch.eye(CHANNELS)) for s, f in zip((2, 3), functions, strict=True))
        rows, _ = alignment.align("f", ("a", a, 2), ("b", b, 3), scenes[:4], {}, side=12, permutations=19, seed=seed)
        p.append(
            rows[
                (rows.alignment == "fitted") & (rows.compared == "kernel") & (rows.constant == "removed")
            ].p_value.item()
        )
    assert np.mean(p) == pytest.approx(0.5, abs=0.25)
    assert min(p) < 0.35 < 0.65 < max(p)


@pytest.mark.parametrize("trained", [False, True])
def test_the_spconv_in_the_units_of_the_image(trained):
    """The mean colour, and a trained 1x1 convolution as RCAN has it, belong to it."""
    torch.manual_seed(0)
    model = build_model("edsr", "spconv", scales=(3,), channels=6, blocks=1).eval()
    if trained:
        model.post = MeanShift(1.0, (0.4, 0.5, 0.6))
        model.post.weight.data += 0.1 * torch.randn_like(model.post.weight)
    lr = torch.rand(1, 3, 9, 10)
    with torch.no_grad():
        made = ridge.head(*alignment.spconv(model, 3), 3)(model.encode(lr)[1])
        assert torch.allclose(made, model(lr, 3), atol=1e-5)


def test_resampling_keeps_bilinear_functions_and_all_of_x2():
    kernels = torch.randn(12, 4, 3, 3, dtype=torch.float64)
    assert torch.allclose(alignment.resampled(kernels, 2, 2), kernels)
    assert torch.allclose(alignment.resampled(alignment.resampled(kernels, 2, 4), 4, 2), kernels)
    pattern = correlation.patterns(kernels, 2), correlation.patterns(alignment.resampled(kernels, 2, 5), 5)
    assert correlation.coefficients(pattern[0]) == pytest.approx(correlation.coefficients(pattern[1]))


def test_a_composed_spconv_makes_the_same_inside_the_image():
    features, matrix, offset = torch.randn(1, 5, 9, 9), torch.randn(4, 5), torch.randn(4)
    kernel, bias = torch.randn(12, 4, 3, 3), torch.randn(12)
    mapped = torch.einsum("cd,bdhw->bchw", matrix, features) + offset[:, None, None]
    expected = ridge.head(kernel, bias, 2)(mapped)
    made = ridge.head(*alignment.composed(kernel, bias, matrix, offset), 2)(features)
    assert torch.allclose(made[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-4)


def test_cosine_with_and_without_constant_and_weights():
    a, b = torch.randn(2, 12, 3, 3, 3, dtype=torch.float64)
    assert alignment.cosine(a, 2 * a, True) == pytest.approx(1)
    shifted = (a.unflatten(0, (3, 4)) + b.unflatten(0, (3, 4))[:, :1]).flatten(0, 1)
    assert alignment.cosine(a, shifted, False) == pytest.approx(1)
    assert alignment.cosine(a, shifted, True) < 0.99
    covariance = torch.diag(torch.eye(27, dtype=torch.float64)[0])
    same_there = b.flatten(1).clone()
    same_there[:, 0] = a.flatten(1)[:, 0]
    assert alignment.cosine(a, same_there.view_as(a), True, covariance) == pytest.approx(1)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_kernel_of_four_functions_beats_the_ceiling(constant, weighted):
    """Gradient ascent from a random start over all kernels of four functions ends at the projection's cosine."""
    torch.manual_seed(2)
    true = torch.randn(27, 2, 3, 3, dtype=torch.float64)
    mixing = torch.randn(18, 18, dtype=torch.float64)
    covariance = mixing @ mixing.T if weighted else None
    smooth = alignment.resampled(true, 3, 3)
    ceiling = alignment.cosine(smooth, true, constant, covariance)
    functions = torch.from_numpy(correlation.basis(3))
    free = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    metric = torch.eye(18, dtype=torch.float64) if covariance is None else covariance
    optimiser = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

    def flat(kernel):
        by_colour = kernel.unflatten(0, (3, -1))
        return (by_colour if constant else by_colour - by_colour.mean(1, keepdim=True)).flatten(0, 1).flatten(1)

    def loss():
        optimiser.zero_grad()
        a, b = flat(torch.einsum("sf,cf...->cs...", functions, free).flatten(0, 1)), flat(true)
        dot = lambda x, y: ((x @ metric) * y).sum()  # noqa: E731
        negative = -dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        negative.backward()
        return negative

    optimiser.step(loss)
    reached = -loss().item()
    assert reached <= ceiling + 1e-6
    assert reached == pytest.approx(ceiling, abs=1e-3)


def test_the_ceiling_stands_beside_the_cosine_also_for_older_tables():
    rows = [dict(family="f", scale_a=2, scale_b=3, compared=c, constant="kept", alignment=name, value=value)
            for c, best in (("kernel", 0.8), ("output", 0.9))
            for name, value in (("fitted", 0.5), (alignment.MAPS[-1], best))]  # fmt: skip
    found = alignment.with_ceiling(alignment.pd.DataFrame(rows))
    assert found.ceiling.tolist() == [0.8, 0.8, 0.9, 0.9]


def test_gain_and_bias_are_least_squares(pair, scenes):
    model = pair[1]
    lr, hr = ridge.pairs(scenes, 3, 12)
    features = ridge.features(model, lr)
    equations = sums.spconv_equations(features, hr.float() / 255, 3)
    kernel = alignment.spconv(model, 3)[0]
    fitted, constants = alignment.gain_and_bias(kernel * 7, equations)
    taps = sums.taps(features).double()
    target = torch.nn.functional.pixel_unshuffle(hr.double() / 255, 3).permute(0, 2, 3, 1).flatten(0, 2)
    design = torch.stack([taps @ kernel.flatten(1)[5], torch.ones(len(taps))], dim=1)
    gain, offset = torch.linalg.lstsq(design, target[:, 5:6]).solution.flatten()
    assert torch.allclose(fitted[5], gain * kernel[5], rtol=1e-5)
    assert constants[5].item() == pytest.approx(offset.item(), rel=1e-5)


def test_bad_input_is_named(pair):
    with pytest.raises(InputError, match="no head for x4, only for x2"):
        alignment.spconv(pair[0], 4)
    table = alignment.pd.DataFrame([("f", "a", "b", 2, 3, "predicted", "d", "i", 20.0)], columns=list(alignment.PSNR))
    with pytest.raises(InputError, match="no row of the true kernel"):
        alignment.psnr_summary(table)
