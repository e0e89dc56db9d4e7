"""Closed-form SPConvs: planted kernels come back, sums add up, the whitening whitens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from igconv import InputError
from igconv.analysis.ridge import head
from igconv.conversion import closed_form, sums
from igconv.models.hypernetwork import dihedral_average


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [2, 3])
def test_a_planted_spconv_is_recovered(scale):
    """Kernels and biases to 1e-4, in the order of the convolution, and its image to float precision."""
    features = noise(12, 5, 16, 16) * torch.tensor([1, 10, 0.1, 1, 3])[:, None, None] + 2
    kernel, bias = noise(3 * scale**2, 5, 3, 3, seed=1), noise(3 * scale**2, seed=2)
    image = F.pixel_shuffle(F.conv2d(features, kernel, bias, padding=1), scale)
    equations = [sums.spconv_equations(features[part], image[part], scale) for part in (slice(9), slice(9, None))]
    found = closed_form.fit(*equations)
    fitted, constants = closed_form.kernel_of(found)
    assert (fitted - kernel).abs().max() < 1e-4
    assert (constants - bias).abs().max() < 1e-3
    assert found.explained > 0.999999
    made = head(fitted, constants, scale)(features)
    assert (made - image).abs().max() < 1e-3


def test_the_solution_is_least_squares_and_the_error_is_its_error():
    x, y = noise(200, 7) + 3, noise(200, 2, seed=1)
    normal = sums.normal_equations(x, y)
    coefficients, intercept = closed_form.solve(normal, 0.0)
    design = np.c_[x.numpy(), np.ones(200)].astype(float)
    expected = np.linalg.lstsq(design, y.double().numpy(), rcond=None)[0]
    assert torch.cat([coefficients, intercept[None]]).numpy() == pytest.approx(expected, abs=1e-9)
    shifted = intercept + 0.3
    residual = y.double() - x.double() @ coefficients - shifted
    assert closed_form.error(normal, coefficients, shifted).numpy() == pytest.approx(residual.square().mean(0).numpy())


def test_equations_of_parts_add_up():
    x, y = noise(30, 4), noise(30, 2, seed=1)
    whole, parts = sums.normal_equations(x, y), [sums.normal_equations(x[s], y[s]) for s in (slice(9), slice(9, 30))]
    for name in ("count", "xx", "xy", "yy"):
        assert torch.allclose(*(torch.as_tensor(getattr(z, name)).double() for z in (whole, parts[0] + parts[1])))


def test_an_image_of_weight_two_counts_as_two():
    """Everything but the number of pixels: sums, means, covariances, solution, error."""
    features, hr = noise(3, 2, 8, 8), noise(3, 3, 16, 16, seed=1)
    weighted = sums.spconv_equations(features, hr, 2, torch.tensor([1.0, 2.0, 1.0]))
    repeated = sums.spconv_equations(features[[0, 1, 1, 2]], hr[[0, 1, 1, 2]], 2)
    assert (weighted.count, weighted.weight) == (3 * 64, 4 * 64)
    for name in ("x", "y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))
    torch.testing.assert_close(weighted.moments(), repeated.moments())
    torch.testing.assert_close(weighted.in_basis(noise(2, 2)).xx, repeated.in_basis(noise(2, 2)).xx)
    found, expected = closed_form.solve(weighted, 1e-3), closed_form.solve(repeated, 1e-3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(closed_form.error(weighted, *found), closed_form.error(repeated, *expected))
    covariances = [sums.channel_covariance({2: one}) for one in (weighted, repeated)]
    torch.testing.assert_close(*covariances)


def test_what_an_lr_image_says_makes_a_crop_no_heavier_or_lighter():
    """Weights fall with the variance within LR pixels, are one without any, and are half at a grey level of it."""
    coarse = noise(4, 3, 6, 6).repeat_interleave(3, 2).repeat_interleave(3, 3)
    fine = torch.ones(3, 3)
    fine[1, 1] = -8  # mean 0, variance 8
    detail = fine.repeat(6, 6) * torch.tensor([0, 1, 2, 4.0])[:, None, None, None] * (sums.FLAT / 8) ** 0.5
    torch.testing.assert_close(sums.crop_weights(coarse + detail, 3), 1 / torch.tensor([1.0, 2, 5, 17]))


def test_easy_crops_are_not_given_up_for_busy_ones():
    """One constant for two kinds of crops: a mean of PSNR wants what is good for the easy ones; so does `gather`."""
    easy, busy = torch.full((2, 3, 8, 8), 0.5), 0.7 + 0.2 * noise(2, 3, 8, 8)
    crops = torch.cat([easy + 0.001 * noise(2, 3, 8, 8, seed=1), busy])
    normal = sums.gather(
        lambda lr: noise(4, 1, 4, 4, seed=3), lambda index: (None, crops, sums.crop_weights(crops, 2)), 1, 2
    )
    _, means = normal.means()
    assert (means - 0.5).abs().max() < 0.01


def test_the_weight_is_chosen_on_held_out_pixels():
    """Pure noise with nearly as many unknowns as equations: the least weight would fit it, a large one is better."""
    x, y = noise(60, 40), noise(60, 1, seed=1)
    held_out = sums.normal_equations(noise(60, 40, seed=2), noise(60, 1, seed=3))
    found = closed_form.fit(sums.normal_equations(x, y), held_out)
    assert found.weight == max(closed_form.WEIGHTS)


def test_whitened_channels_are_uncorrelated_and_equations_follow_them():
    """W f has covariance 1 and its own mean; the equations of W f are those in the basis W."""
    features = torch.einsum("dc,bchw->bdhw", noise(4, 4, seed=1), noise(6, 4, 8, 8)) * 3 + 2
    image = noise(6, 3, 16, 16, seed=2)
    equations = {2: sums.spconv_equations(features, image, 2)}
    basis = sums.whitening(sums.channel_covariance(equations))
    mixed = torch.einsum("dc,bchw->bdhw", basis, features.double())
    flat = mixed.movedim(1, 0).flatten(1)
    assert torch.allclose(torch.cov(flat, correction=0), torch.eye(4).double(), atol=1e-5)
    assert flat.mean(1).abs().max() > 0.1  # nothing was subtracted
    expected, found = sums.spconv_equations(mixed.float(), image, 2), equations[2].in_basis(basis)
    for name in ("x", "xx", "xy"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-2)


def test_bad_equations_are_named():
    with pytest.raises(InputError, match="constant features"):
        sums.channel_covariance({2: sums.spconv_equations(torch.full((2, 4, 8, 8), 0.3), noise(2, 3, 16, 16), 2)})
    with pytest.raises(InputError, match="more crops"):
        closed_form.solve(sums.normal_equations(noise(10, 12), noise(10, 1)), 1e-3)
    with pytest.raises(InputError, match="constant features"):
        closed_form.solve(sums.normal_equations(torch.full((20, 3), 0.1), noise(20, 1)), 1e-3)
    with pytest.raises(InputError, match="need images"):
        sums.spconv_equations(noise(2, 4, 8, 8), noise(2, 3, 16, 16), 3)


def test_the_best_symmetric_kernel_is_found():
    """Planted symmetric kernels come back, and among symmetric ones none has a smaller error than the solution."""
    features = noise(4, 3, 12, 12).double()
    kernel = noise(12, 3, 3, 3, seed=1).double()
    symmetric = dihedral_average(kernel)

    def equations(k):
        return sums.spconv_equations(features, F.pixel_shuffle(F.conv2d(features, k, padding=1), 2), 2)

    found, _ = closed_form.solve_symmetric(equations(symmetric), 1e-12)
    assert torch.allclose(found.T.view_as(kernel), symmetric, atol=1e-8)
    other = equations(kernel)
    found, constants = closed_form.solve_symmetric(other, 1e-12)
    least = closed_form.error(other, found, constants).mean()
    averaged = symmetric.flatten(1).T
    means = (other.y - other.x @ averaged) / other.count
    assert 0 < least < closed_form.error(other, averaged, means).mean()
    assert closed_form.error(other, *closed_form.solve(other, 1e-12)).mean() < 1e-9
