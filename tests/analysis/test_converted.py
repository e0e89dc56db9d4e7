"""Conversion as an experiment: copies of kernels, losses in dB, differences per head, and what an empty study gives."""

import math

import pandas as pd
import pytest
import torch

from igconv import InputError
from igconv.analysis import converted
from igconv.conversion import closed_form, sums
from igconv.reporting import figures


def test_copies_of_kernels_are_the_nearest_sub_pixels():
    """x2 to x4 repeats every sub-pixel in both directions; to x3 the middle has the second one's."""
    grid = torch.arange(12.0).view(1, 3, 2, 2)
    to_4 = converted.copied(grid.flatten(1), 2, 4).view(3, 4, 4)
    assert torch.equal(to_4, grid[0].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert converted.copied(grid.flatten(1), 2, 3).view(3, 3, 3)[0].tolist() == [[0, 1, 1], [2, 3, 3], [2, 3, 3]]


def test_loss_in_db():
    """Kernels with twice the squared error of others are 3.01 dB below them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 9, generator=generator).double()
    noise = torch.randn(400, 12, generator=generator).double()
    equations = sums.normal_equations(x, noise)
    best = torch.cat([(found := closed_form.solve(equations, 1e-12))[0], found[1][None]])
    least = closed_form.error(equations, best[:-1], best[-1]).mean()
    off = best.clone()
    off[-1] += least.sqrt()  # a constant error adds its square
    assert converted.loss_db(equations, off, best) == pytest.approx(10 * math.log10(2), abs=1e-6)


def rows(**psnr):
    facts = dict(network="A x4", family="A", encoder_scale=4, scale=2, fitted=True, dataset="s")
    return pd.DataFrame([dict(head=head, image=str(i), psnr_y_db=value, **facts)
                         for head, values in psnr.items() for i, value in enumerate(values)])  # fmt: skip


def test_differences_are_to_the_closed_form_of_the_same_images():
    table = rows(**{converted.CLOSED: [30, 31], converted.FITTED: [29.9, 30.7], converted.NATIVE: [30, 30]})
    quality = converted.summary(table).set_index("head")
    assert quality.difference_db[converted.FITTED] == pytest.approx(-0.2)
    assert quality.low_db[converted.FITTED] == pytest.approx(-0.3)
    assert quality.images.eq(2).all()
    costs = pd.DataFrame([("A x4", "fit", "2", 8, 1.5, 100.0)], columns=list(converted.COSTS))
    text = converted.conclusion(quality.reset_index(), costs)
    assert "costs 0.200 dB on average over 1 encoders and 1 sets, at most 0.200 dB" in text
    assert "minus the network that was trained for that scale: +0.50 dB in the median" in text


def test_a_study_without_networks():
    tables = converted.all_of([], "", (), [], {}, {}, converted.Settings())
    assert list(tables["quality"].columns) == list(converted.QUALITY)
    assert converted.conclusion(tables["quality"], tables["costs"]).startswith("not run")
    for draw in (figures.conversion_losses, figures.conversion_heads):
        with pytest.raises(InputError, match="nothing to draw"):
            draw(tables["quality"])


def test_whitened_channels_have_variance_one_whatever_crops_weigh():
    features, images = torch.rand(8, 3, 6, 6), torch.rand(8, 3, 12, 12)
    raw = {2: sums.spconv_equations(features, images, 2, torch.linspace(0.01, 1, 8))}
    basis = sums.whitening(sums.channel_covariance(raw))
    found = converted.eigenvalues("x", raw, basis)
    whitened = found[(found.features == "whitened") & (found.iloc[:, 2] == "channels")]
    assert whitened.iloc[:, -1].tolist() == pytest.approx([1, 1, 1], abs=1e-6)
