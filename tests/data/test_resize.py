"""Bicubic resizing against Pillow itself, against the recipe for MATLAB's, and against reference vectors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from igconv import InputError
from igconv.data.resize import downsample, imresize, modcrop


def pillow(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Columns first, as the authors' Pillow does; since version 13 Pillow reduces tall images rows first (#9549)."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    columns = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(columns.resize((width, height), Image.Resampling.BICUBIC))).permute(2, 0, 1)


def random_image(seed: int, height: int, width: int) -> torch.Tensor:
    """Half noise of all levels, half black and white, where clipping happens."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, height, width))
    image[:, : height // 2] = rng.integers(0, 2, (3, height // 2, width)) * 255
    return torch.from_numpy(image.astype(np.uint8))


@pytest.mark.parametrize("seed", range(25))
def test_pil_equals_pillow(seed):
    """Bit for bit, reductions and enlargements, sides that are no multiples."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(4, 90, 2)
    scale = float(rng.choice([1 / 2, 1 / 3, 1 / 4, 1 / 8, 2, 3, 4, 1.5, 0.7, 1]))
    image = random_image(seed, height, width)
    ours = imresize(image, scale, "pil")
    assert torch.equal(ours, pillow(image, *ours.shape[-2:]))


@pytest.mark.parametrize("scale", [2, 3, 4, 6, 8])
def test_downsample_is_pillow_on_patches(scale):
    """What training uses, batches of square patches, by Pillow's own single call."""
    images = torch.stack([random_image(s, 48 * scale, 48 * scale) for s in range(2)])
    ours = downsample(images, scale, "pil")
    for image, lr in zip(images, ours, strict=True):
        theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((48, 48), Image.Resampling.BICUBIC)
        assert torch.equal(lr, torch.from_numpy(np.array(theirs)).permute(2, 0, 1))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_equals_the_recipe(scale, photograph):
    """Unrounded: symmetric padding by 4 s, antialiased F.interpolate, crop by 4; within 1e-4 grey levels."""
    image = photograph(20 * scale, 31 * scale)[None].double() / 255
    pad = 4 * scale
    mirrored = torch.cat([image[..., :pad].flip(-1), image, image[..., -pad:].flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored[..., :pad, :].flip(-2), mirrored, mirrored[..., -pad:, :].flip(-2)], dim=-2)
    expected = F.interpolate(mirrored, scale_factor=1 / scale, mode="bicubic", antialias=True)[..., 4:-4, 4:-4]
    ours = imresize(image, 1 / scale, "matlab", quantize=False)
    assert (ours - expected).abs().max() * 255 < 1e-4


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_enlarges_by_bicubic(scale, photograph):
    """Enlargement needs no antialiasing: PyTorch's with a = -0.5 (its antialias kernel), mirrored border."""
    image = photograph(9, 12)[None].double() / 255
    mirrored = torch.cat([image[..., :4].flip(-1), image, image[..., -4:].flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored[..., :4, :].flip(-2), mirrored, mirrored[..., -4:, :].flip(-2)], dim=-2)
    expected = F.interpolate(mirrored, scale_factor=scale, mode="bicubic", antialias=True)
    inner = slice(4 * scale, -4 * scale)
    torch.testing.assert_close(imresize(image, scale, quantize=False), expected[..., inner, inner], atol=1e-6, rtol=0)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reference_vectors(reference, scale):
    """The authors' resize of both kinds."""
    entry, tensors = reference("resize")
    image = tensors["in.rgb_uint8"].permute(2, 0, 1)
    assert torch.equal(downsample(image, scale, "pil"), tensors[f"out.pil.x{scale}"].permute(2, 0, 1))
    odd = modcrop(image[:, :95, :143], scale)
    assert torch.equal(downsample(odd, scale, "pil"), tensors[f"out.pil_odd.x{scale}"].permute(2, 0, 1))
    plain = imresize(image.float() / 255, 1 / scale, "matlab", quantize=False)
    expected = tensors[f"out.matlab_f32.x{scale}"].permute(2, 0, 1)
    torch.testing.assert_close(plain, expected, atol=entry["tol"]["matlab_f32"], rtol=0)
    # The case's uint8 form rounds once, at the end; stored benchmark images are rounded after each pass.
    once = (plain.double() * 255).round().clamp(0, 255)
    theirs = tensors[f"out.matlab_uint8.x{scale}"].permute(2, 0, 1).double()
    assert ((once - theirs).abs() <= 1).all()
    assert (once != theirs).double().mean() < 1e-3


@pytest.mark.data
@pytest.mark.parametrize(("scale", "expected"), [(2, 33.673), (3, 30.403), (4, 28.429)])
def test_bicubic_on_set5(data_root, scale, expected):
    """MATLAB's bicubic, down and up, gives the known PSNR-Y of Set5 within 0.005 dB."""
    from igconv.data import datasets
    from igconv.evaluation.benchmark import benchmark_pair
    from igconv.evaluation.metrics import psnr_y

    values = []
    for image in datasets.read_set("Set5"):
        lr, hr = benchmark_pair(image, scale)
        values.append(psnr_y(imresize(lr, scale, "matlab"), hr, scale))
    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("method", ["matlab", "pil"])
@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 3])
@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_constant_images_stay_constant(method, scale, value):
    """Weights sum to one and rounding does not drift, at the border too."""
    image = torch.full((3, 24, 36), value, dtype=torch.uint8)
    assert (imresize(image, scale, method) == value).all()
    plain = imresize(image.float() / 255, scale, method, quantize=False)
    torch.testing.assert_close(plain, torch.full_like(plain, value / 255), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["matlab", "pil"])
def test_float_and_bytes_agree(method):
    """A quantised result is the same bytes, whether the input came as bytes or as float."""
    image = random_image(3, 40, 28)
    as_bytes = imresize(image, 1 / 4, method)
    as_float = imresize(image.float() / 255, 1 / 4, method, quantize=True)
    assert as_bytes.dtype == torch.uint8
    assert as_float.dtype == torch.float32
    assert torch.equal((as_float * 255).round().to(torch.uint8), as_bytes)


def test_quantise_defaults():
    """Bytes and "pil" are rounded unless told otherwise; "matlab" on float is not, and is not clipped."""
    image = random_image(4, 40, 28)
    levels = imresize(image.float() / 255, 3, "pil") * 255
    assert torch.equal(levels, levels.round())
    levels = imresize(image.float() / 255, 3, "matlab") * 255
    assert levels.min() < 0
    assert levels.max() > 255
    assert imresize(image, 3, "matlab", quantize=False).dtype == torch.float32
    assert imresize(image.double() / 255, 1 / 2, "matlab").dtype == torch.float64


def test_matlab_rounds_after_each_pass_rows_first():
    """Rounding between the passes is what stored benchmark images have: neither order nor rounding is free."""
    image = random_image(5, 40, 60)

    def half(x, transposed):
        x = x.transpose(-1, -2) if transposed else x
        y = imresize(x, 1 / 2, "matlab")
        return y.transpose(-1, -2) if transposed else y

    ours = half(image, False)
    assert not torch.equal(ours, half(image, True))
    once = (imresize(image.double() / 255, 1 / 2, "matlab", quantize=False) * 255).round().clamp(0, 255)
    assert not torch.equal(ours.double(), once)


def test_leading_axes_are_independent():
    """A batch equals its images one by one."""
    batch = torch.stack([random_image(s, 16, 24) for s in range(3)])
    for image, lr in zip(batch, imresize(batch, 1 / 2), strict=True):
        assert torch.equal(lr, imresize(image, 1 / 2))


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((10, 11), 1 / 2, (5, 6)), ((9, 12), 1 / 3, (3, 4)), ((7, 7), 3, (21, 21)), ((300, 3), 1 / 3, (100, 1))],
)
def test_sizes_follow_matlab(size, scale, expected):
    """ceil(side * scale), without the last bit of 1/3 adding a pixel."""
    assert imresize(torch.zeros(1, *size), scale).shape[-2:] == expected


def test_gradients_flow_through_the_unrounded_filter():
    """Also when the filter's matrix was first made in inference mode."""
    with torch.inference_mode():
        imresize(torch.rand(1, 3, 37, 37), 2)
    x = torch.rand(1, 3, 37, 37, requires_grad=True)
    imresize(x, 2).sum().backward()
    assert x.grad.sum() == pytest.approx(3 * 74**2, rel=1e-4)


@pytest.mark.parametrize("scale", [0, -2, float("nan"), float("inf"), "2", None], ids=repr)
def test_bad_scales_are_refused(scale):
    """Not a positive number."""
    with pytest.raises(InputError, match="scale"):
        imresize(torch.zeros(3, 8, 8), scale)


@pytest.mark.parametrize("scale", [np.int64(2), np.float32(0.5), np.float64(0.5)], ids=repr)
def test_numpy_numbers_are_scales(scale):
    """A scale from a table."""
    assert torch.equal(imresize(torch.ones(3, 8, 8), scale), imresize(torch.ones(3, 8, 8), float(scale)))


def test_unknown_method_is_refused():
    """With what there is."""
    with pytest.raises(InputError, match="matlab, pil"):
        imresize(torch.zeros(3, 8, 8), 2, "bicubic")


def test_downsample_wants_multiples():
    """Crop first; the message names the size."""
    with pytest.raises(InputError, match="multiples of 3"):
        downsample(torch.zeros(3, 9, 10, dtype=torch.uint8), 3)


@pytest.mark.parametrize(
    ("size", "scale", "expected"), [((10, 11), 3, (9, 9)), ((8, 8), 4, (8, 8)), ((5, 7), 5, (5, 5))]
)
def test_modcrop(size, scale, expected):
    """Bottom and right are dropped, the rest is untouched."""
    image = torch.rand(3, *size)
    cropped = modcrop(image, scale)
    assert cropped.shape[-2:] == expected
    assert torch.equal(cropped, image[:, : expected[0], : expected[1]])


def test_modcrop_refuses_tiny_images():
    """Nothing would be left."""
    with pytest.raises(InputError, match="too small for x4"):
        modcrop(torch.zeros(3, 3, 9), 4)
