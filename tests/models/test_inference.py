"""Whole images: tiles, self-ensemble, arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from igconv import InputError, build_model
from igconv.models.inference import authors_tiles, exact_arithmetic, prepare, reach, self_ensemble, tiled, upscale


@pytest.fixture(scope="module")
def lr() -> torch.Tensor:
    return torch.rand(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))


def small(upsampler: str, **options):
    torch.manual_seed(0)
    return build_model("edsr", upsampler, scales=(2, 3, 4), channels=8, blocks=2, **options).eval()


MODELS = [("spconv", {}), ("spconv+", {}), ("spconv+", dict(width=6)), ("igconv", dict(hidden_dim=8, num_layers=1)),
          ("igconv+", dict(hidden_dim=8, num_layers=1))]  # fmt: skip


@pytest.mark.parametrize(("upsampler", "options"), MODELS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_tiles_equal_the_whole_image(lr, upsampler, options, scale):
    """At the default halo, for tiles that fit the image and for those that do not."""
    model = small(upsampler, **options)
    whole = model(lr, scale)
    for tile in (16, 25, 64):
        torch.testing.assert_close(tiled(model, tile)(lr, scale), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_reach_is_tight(lr):
    """What an output pixel sees, by its derivative; a smaller halo changes the seams."""
    model = small("spconv")
    assert reach(model) == 2 * 2 + 2 + 3
    with torch.enable_grad():
        x = lr.clone().requires_grad_()
        model(x, 2)[0, :, 36, 50].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.max() - 18 <= model.encoder.reach + 1
    assert rows.max() - 18 == model.encoder.reach + 1
    assert not torch.allclose(tiled(model, 16, halo=2)(lr, 2), model(lr, 2), atol=1e-5)


def test_encoders_that_see_everything_need_a_halo(lr):
    """SMFANet pools over the image: refused without a halo, taken with one."""
    model = build_model("smfanet", "spconv", scales=(2,), channels=8, blocks=1).eval()
    with pytest.raises(InputError, match=r"SMFANet may see the whole image.*halo"):
        tiled(model, 16)
    with torch.no_grad():
        assert tiled(model, 16, halo=8)(lr, 2).shape == (1, 3, 74, 100)


@pytest.mark.parametrize(("tile", "halo"), [(0, 4), (-3, 4), (16, -1), (16, 2.5)])
def test_bad_tiles_are_refused(tile, halo):
    """Values that are no sizes."""
    with pytest.raises(InputError, match="must be"):
        tiled(small("spconv"), tile, halo)


@torch.no_grad()
def test_self_ensemble_is_the_mean_over_the_square_group(lr):
    """Against the eight cases written out, and equivariant as its name promises."""
    model = small("igconv", hidden_dim=8, num_layers=1)
    result = self_ensemble(model)(lr, 2)
    transposed = lambda x: x.transpose(-1, -2)  # noqa: E731
    turned = []
    for first in (lambda x: x, transposed):
        for dims in ((), (-1,), (-2,), (-1, -2)):
            turned.append(first(model(first(lr).flip(dims), 2).flip(dims)))
    torch.testing.assert_close(result, torch.stack(turned).mean(0), atol=1e-6, rtol=1e-6)
    for dims in ((-1,), (-2,)):
        torch.testing.assert_close(self_ensemble(model)(lr.flip(dims), 2).flip(dims), result, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(lr.flip(-1), 2).flip(-1), model(lr, 2), atol=1e-5)


def nearest(lr, scale):
    return F.interpolate(lr, scale_factor=scale)


@pytest.mark.parametrize("size", [(199, 30), (200, 30), (401, 210), (30, 607)])
def test_authors_tiles_cover_the_image(size):
    """One tile under 200 px; every pixel comes from its place."""
    x, shapes = torch.rand(1, 3, *size), []
    result = authors_tiles(lambda lr, s: shapes.append(lr.shape[-2:]) or nearest(lr, s))(x, 2)
    assert torch.equal(result, nearest(x, 2))
    pieces = [side // 200 + 1 for side in size]
    assert len(shapes) == pieces[0] * pieces[1]


def test_authors_tiles_overlap_by_a_tenth():
    """401 px are 3 tiles of 134 (one row of padding) that see 13 px of each neighbour."""
    shapes = []
    authors_tiles(lambda lr, s: shapes.append(tuple(lr.shape[-2:])) or nearest(lr, s))(torch.rand(1, 3, 401, 100), 2)
    assert shapes == [(134 + 13, 100), (134 + 26, 100), (134 + 13, 100)]


def test_exact_arithmetic_turns_tf32_off_and_back():
    """Inside: none; afterwards: as before."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with exact_arithmetic():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_preparation_keeps_the_function(lr):
    """Layout and allocator change no value beyond rounding; functions without weights pass through."""
    model = small("igconv+", hidden_dim=8, num_layers=1)
    image = (lr[0] * 255).round().to(torch.uint8)
    before, _ = upscale(model, image, 3)
    ready = prepare(model.train())
    assert not ready.training
    torch.testing.assert_close(upscale(ready, image, 3)[0], before, atol=1e-5, rtol=1e-5)
    assert prepare(nearest) is nearest
