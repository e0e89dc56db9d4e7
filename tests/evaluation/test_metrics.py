"""PSNR and SSIM on luma: the authors' values, the formula, bad input."""

import math

import numpy as np
import pytest
import torch

from igconv import InputError
from igconv.evaluation.metrics import luma, psnr_y, ssim_y


def to_rgb(bgr: torch.Tensor) -> torch.Tensor:
    return bgr.flip(-1).permute(2, 0, 1)


@pytest.mark.reference
@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("shave", [0, 2, 3, 4])
def test_reference_vectors(reference, case, shave):
    """BasicSR's PSNR and SSIM on Y."""
    entry, tensors = reference("metrics")
    sr, hr = (to_rgb(tensors[f"in.{case}.{name}"]) for name in ("sr", "gt"))
    expected = entry["results"][case][f"y=True,crop={shave}"]
    assert psnr_y(sr, hr, shave) == pytest.approx(expected["psnr"], abs=entry["tol"]["psnr"])
    assert ssim_y(sr, hr, shave) == pytest.approx(expected["ssim"], abs=entry["tol"]["ssim"])
    np.testing.assert_allclose(luma(hr), tensors[f"out.{case}.gt_y"].numpy() * 255, atol=1e-3)


@pytest.mark.reference
def test_bytes_of_a_float_image(reference):
    """Clamp and round as the authors' tensor2img: luma of a float image is the luma of those bytes."""
    _, tensors = reference("metrics")
    expected = luma(to_rgb(tensors["out.tensor2img_bgr"]))
    np.testing.assert_array_equal(luma(tensors["in.tensor2img"]), expected)


@pytest.mark.parametrize("shave", [0, 1, 3])
def test_psnr_is_the_formula(photograph, shave):
    """10 log10(255^2 / MSE) of 16 + 65.481 R + 128.553 G + 24.966 B, not rounded, without the border."""
    a, b = photograph(20, 24, 0), photograph(20, 24, 1)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    ya, yb = (16 + np.tensordot(weights, x.numpy().astype(float), 1)[shave : 20 - shave, shave : 24 - shave]
              for x in (a, b))  # fmt: skip
    assert psnr_y(a, b, shave) == pytest.approx(10 * math.log10(255**2 / ((ya - yb) ** 2).mean()), abs=1e-4)


@pytest.mark.parametrize("shave", [0, 2])
def test_identical_images(photograph, shave):
    """inf and 1."""
    image = photograph(20, 24)
    assert psnr_y(image, image, shave) == math.inf
    assert ssim_y(image, image, shave) == pytest.approx(1)


def test_differences_in_the_border_do_not_count(photograph):
    """Shaving drops exactly ``shave`` pixels per side."""
    image = photograph(20, 24)
    other = image.clone()
    other[:, 2, 5] += 40
    assert psnr_y(image, other, 3) == math.inf
    assert psnr_y(image, other, 2) < math.inf


def test_floats_are_clamped_and_quantised(photograph):
    """Float images count as the bytes they would be written as."""
    image = photograph(20, 24)
    as_float = image.float() / 255
    nearly = as_float + torch.rand(as_float.shape) * 0.9 / 510
    assert psnr_y(nearly, image, 0) == math.inf
    white = torch.full((3, 12, 12), 1.0)
    assert psnr_y(white * 1.7, white, 0) == math.inf
    assert psnr_y(-white, white * 0, 0) == math.inf


def test_a_batch_of_one_is_an_image(photograph):
    """(1, 3, H, W) as a model returns it."""
    a, b = photograph(20, 24, 0), photograph(20, 24, 1)
    assert psnr_y(a[None], b, 2) == psnr_y(a, b, 2)


@pytest.mark.parametrize("measure", [psnr_y, ssim_y])
@pytest.mark.parametrize(("sr", "hr", "shave"), [
    ((3, 20, 20), (3, 20, 21), 2),
    ((3, 20, 20), (1, 20, 20), 2),
    ((2, 3, 20, 20), (2, 3, 20, 20), 2),
    ((20, 20), (20, 20), 2),
    ((3, 4, 20), (3, 4, 20), 2),
    ((3, 20, 20), (3, 20, 20), -1),
], ids=str)  # fmt: skip
def test_bad_images_are_refused(measure, sr, hr, shave):
    """Other sizes, colours, batches, nothing left after shaving."""
    with pytest.raises(InputError):
        measure(torch.zeros(sr), torch.zeros(hr), shave)


def test_ssim_needs_its_window():
    """11 x 11 pixels after shaving."""
    with pytest.raises(InputError, match="11x11"):
        ssim_y(torch.zeros(3, 14, 20), torch.zeros(3, 14, 20), 2)
    assert ssim_y(torch.zeros(3, 15, 20), torch.zeros(3, 15, 20), 2) == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [psnr_y, ssim_y])
def test_a_metric_of_no_number_is_none(measure, value):
    """NaN would count as black: an error on either side, also in the border that is shaved off."""
    good = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    bad = good.clone()
    bad[1, 0, 0] = value
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(InputError, match="not numbers"):
            measure(*pair, 2)
