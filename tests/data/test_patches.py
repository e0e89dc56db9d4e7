"""Training patches: a pure function of (seed, step, index), with the authors' degradation."""

import numpy as np
import pytest
import torch
from PIL import Image

from igconv import InputError
from igconv.data import cache, datasets
from igconv.data.images import read_image
from igconv.data.patches import PatchSource


@pytest.fixture
def source(photograph):
    """``source(**options)``: patches of 8 px from three images."""
    images = [photograph(40, 52, 0), photograph(64, 33, 1), photograph(48, 48, 2)]
    defaults = dict(images=images, scales=(2, 3, 4), lr_patch=8, size=3, seed=5)

    def make(**options) -> PatchSource:
        options = defaults | options
        options["images"] = [image.permute(1, 2, 0).contiguous().numpy() for image in options["images"]]
        return PatchSource(**options)

    return make


def same(a, b) -> bool:
    return a.scale == b.scale and torch.equal(a.lr, b.lr) and torch.equal(a.hr, b.hr)


def test_shapes_and_range(source):
    """(B, 3, p, p) and (B, 3, r p, r p), float32 in [0, 1]."""
    for step in range(6):
        batch = source().micro_batch(step, 0)
        assert batch.lr.shape == (3, 3, 8, 8)
        assert batch.hr.shape == (3, 3, 8 * batch.scale, 8 * batch.scale)
        for x in (batch.lr, batch.hr):
            assert x.dtype == torch.float32
            assert 0 <= x.min() < x.max() <= 1


def test_pure_function_of_seed_step_and_index(source):
    """Another object, any order of calls, other generators: the same patches; another argument: other ones."""
    a, b = source(), source()
    b.micro_batch(9, 9)
    torch.rand(3), np.random.default_rng(0).random()
    batch = a.micro_batch(2, 1)
    assert same(batch, b.micro_batch(2, 1))
    others = [a.micro_batch(1, 2), a.micro_batch(3, 1), a.micro_batch(2, 0), source(seed=6).micro_batch(2, 1)]
    assert not any(same(batch, other) for other in others)


@pytest.mark.parametrize("lr_index", [0, 1, 2])
def test_lr_is_pillows_bicubic_of_the_hr_patch(source, lr_index):
    """From the cropped and flipped patch, bit for bit."""
    for step in range(5):
        batch = source().micro_batch(step, 0)
        hr = (batch.hr[lr_index] * 255).round().to(torch.uint8)
        picture = Image.fromarray(hr.permute(1, 2, 0).numpy()).resize((8, 8), Image.Resampling.BICUBIC)
        assert np.array_equal((batch.lr[lr_index] * 255).round().permute(1, 2, 0).numpy(), np.array(picture))


def test_scales_are_uniform(source):
    """Each of three scales in a third of 1500 draws (four standard deviations)."""
    patches = source(size=1, lr_patch=1)
    drawn = np.array([patches.micro_batch(step, index).scale for step in range(375) for index in range(4)])
    for scale in (2, 3, 4):
        assert abs((drawn == scale).mean() - 1 / 3) < 4 * (2 / 9 / 1500) ** 0.5


def test_positions_images_and_augmentations_vary(source):
    """Every image, every corner position and all eight orientations occur."""
    marked = torch.arange(3 * 3, dtype=torch.uint8).view(1, 3, 3).expand(3, 3, 3) * 20
    patches = source(images=[marked], scales=(1,), lr_patch=2, size=4)
    seen = {tuple((patch[0] * 255).round().int().flatten().tolist())
            for step in range(150) for patch in patches.micro_batch(step, 0).hr}  # fmt: skip
    assert len(seen) == 4 * 8  # positions x orientations


def test_patches_are_cut_from_the_images(source, photograph):
    """Undo the orientation and find the patch: axes of image and crop are not mixed up."""
    image = photograph(30, 17)
    hr = source(images=[image], scales=(2,), size=1).micro_batch(0, 0).hr[0]
    patch = (hr * 255).round().to(torch.uint8)
    windows = image.unfold(1, 16, 1).unfold(2, 16, 1)  # (3, rows, columns, 16, 16)
    oriented = [p.flip(dims) for p in (patch, patch.transpose(-1, -2)) for dims in ((), (-1,), (-2,), (-1, -2))]
    assert any((windows == p[:, None, None]).all(-1).all(-1).all(0).any() for p in oriented)


def test_small_images_are_left_out_at_their_scale_only(source, photograph):
    """33 px: out at x4 and 8 px patches... of 10, in below; one line says so."""
    images = [photograph(33, 60), photograph(60, 60)]
    patches = source(images=images, lr_patch=10)
    assert {s: i.tolist() for s, i in patches.usable.items()} == {2: [0, 1], 3: [0, 1], 4: [1]}
    assert "1 at x4" in patches.left_out()
    assert "40 px" in patches.left_out()
    assert "\n" not in patches.left_out()
    assert "x3" not in patches.left_out()
    assert source(images=images, lr_patch=8).left_out() == ""
    for step in range(20):
        patches.micro_batch(step, 0)


def test_an_image_of_exactly_the_patch_fits(source, photograph):
    """No off-by-one at the border."""
    batch = source(images=[photograph(16, 16)], scales=(2,)).micro_batch(0, 0)
    assert batch.hr.shape == (3, 3, 16, 16)


@pytest.mark.parametrize(("images", "largest"), [([], "0 px"), ([(31, 90), (20, 20)], "31 px")], ids=["none", "small"])
def test_no_usable_image_is_refused(source, photograph, images, largest):
    """One line with the patch and the largest image."""
    with pytest.raises(InputError, match=largest) as error:
        source(images=[photograph(*size) for size in images])
    assert "\n" not in str(error.value)


@pytest.mark.data
def test_real_training_set(data_root):
    """T91 from the cache: its pixels, and the 51 of 91 images that are under 192 px are out at x4 only."""
    stored = cache.decoded("T91")
    for index in (0, 40, 90):
        expected = read_image(datasets.image_set("T91").paths()[index], grey_as_rgb=True)
        assert np.array_equal(stored.images[index], expected.permute(1, 2, 0))
    patches = PatchSource(stored.images, (2, 3, 4), 48, 16, 0)
    assert len(patches.usable[4]) == 91 - 51
    assert len(patches.usable[2]) > len(patches.usable[3]) > len(patches.usable[4])
    assert "51 at x4 (short side under 192 px)" in patches.left_out()
    assert patches.micro_batch(0, 0).hr.shape[0] == 16
