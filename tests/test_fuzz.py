"""Any image, size, tile, halo, scale and format: an image as it should be, or an InputError."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import igconv
from igconv import InputError, upscaling
from igconv.data.images import SUFFIXES, Picture, read_picture
from igconv.data.picture_files import is_lossy, write_picture


@pytest.fixture(scope="module")
def models():
    """One that sees a neighbourhood, with tiles of its own reach, and one that sees the whole image."""
    torch.manual_seed(0)
    tiny = dict(hidden_dim=4, num_layers=1, channels=4, blocks=1)
    return [igconv.build_model(name, "igconv+", scales=(2, 3), **tiny).eval() for name in ("edsr", "smfanet")]


@settings(max_examples=80, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.integers(1, 4),
    depth=st.sampled_from([np.uint8, np.uint16]),
    scale=st.integers(1, 5),
    tile=st.none() | st.integers(0, 80),
    halo=st.none() | st.integers(-1, 9),
    suffix=st.sampled_from(SUFFIXES),
    which=st.integers(0, 1),
    seed=st.integers(0, 9),
)
def test_an_image_or_one_line(models, tmp_path, sides, channels, depth, scale, tile, halo, suffix, which, seed):
    """Size, depth, channels, opaque and invisible parts as in the input; nothing is left of what was refused."""
    rng, path = np.random.default_rng(seed), tmp_path / f"a{suffix}"
    path.unlink(missing_ok=True)
    white = np.iinfo(depth).max
    pixels = rng.integers(0, white + 1, (*sides, channels), dtype=depth)
    if channels in (2, 4):
        pixels[..., -1] = white * (rng.random(sides) < (0, 0.5, 1)[seed % 3])
    try:
        model = upscaling.upscaler(models[which], tile=tile, halo=halo)
        large, _ = upscaling.upscale_picture(model, Picture(pixels), scale, tile=tile)
    except InputError as error:
        said = str(error)
        assert "halo" in said
        assert "\n" not in said
        assert halo == -1 or (which == 1 and tile and halo is None)
        return
    assert large.pixels.shape == (scale * sides[0], scale * sides[1], channels)
    assert large.pixels.dtype == depth
    if channels in (2, 4) and seed % 3 != 1:
        assert (large.pixels[..., -1] == pixels[0, 0, -1]).all()
    try:
        write_picture(large, path)
    except InputError as error:
        said = str(error)
        assert "choose" in said
        assert not path.exists()
        return
    back = read_picture(path)
    assert back.pixels.shape[:2] == large.pixels.shape[:2]
    if not is_lossy(path):
        assert np.array_equal(back.pixels, large.pixels)
