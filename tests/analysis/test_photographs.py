"""Sizes of sets, two ways of making LR images, and crops to look at."""

import pandas as pd
import pytest
import torch

from igconv.analysis import photographs, pictures
from igconv.evaluation.benchmark import bicubic
from igconv.evaluation.metrics import psnr_y


def test_sizes_are_width_and_height(image_sets):
    table = photographs.sizes(("tiny_train", "tiny_test"))
    assert set(zip(table.dataset, table.use, table.width_px, table.height_px, table.short_side_px, strict=True)) == {
        ("tiny_train", "train", 80, 72, 72), ("tiny_test", "test", 63, 50, 50),
    }  # fmt: skip
    per_set = photographs.sizes_per_set(table).loc[("train", "tiny_train")]
    assert (per_set.images, per_set.smallest_side_px) == (3, 72)
    assert per_set.pixels_millions == pytest.approx(3 * 72 * 80 / 1e6)


def test_pillow_and_matlab_differ_a_little(image_sets):
    gap = photographs.degradation_gap(("tiny_test",), (2, 3))
    assert list(gap.columns) == ["dataset", "image", "scale", "differing_share", "largest_difference_levels"]
    assert len(gap) == 4
    assert gap.differing_share.between(0.01, 0.5).all()
    assert gap.largest_difference_levels.between(1, 20).all()


def test_the_gap_in_words():
    gap = pd.DataFrame(dict(scale=[2, 2, 3], differing_share=[0.1, 0.3, 0.5], largest_difference_levels=[1, 2, 1]))
    assert photographs.degradation_conclusion(gap) == (
        "MATLAB's and Pillow's LR images differ in 20 % of the values at ×2, 50 % of the values at ×3, by up to 2 grey "
        "levels."
    )


def test_bicubic_in_words():
    beside = pd.DataFrame(dict(dataset=["Set5", "B100", "Set14"], difference_db=[0.001, -0.004, 0.09]))
    assert "0.004 dB" in photographs.bicubic_conclusion(beside)
    assert "no published values" in photographs.bicubic_conclusion(beside.head(0))


def test_a_preview_has_as_many_images_of_each_set(image_sets):
    shown = photographs.preview(("tiny_test", "tiny_train"), count=4, side=32)
    assert [title for title, _ in shown] == ["tiny_test: t0", "tiny_test: t1", "tiny_train: 0", "tiny_train: 1"]
    assert all(crop.shape == (3, 32, 32) for _, crop in shown)
    name, image = photographs.first("tiny_test")
    assert (name, tuple(image.shape)) == ("t0", (3, 50, 63))
    assert [image for _, image, _ in photographs.read(("tiny_test",))] == ["t0", "t1"]


def test_the_centre_of_an_image():
    image = torch.arange(5 * 9).view(1, 5, 9)
    assert pictures.centre(image, 3).tolist() == [[[12, 13, 14], [21, 22, 23], [30, 31, 32]]]
    assert pictures.centre(image, 7).shape == (1, 5, 7)


def test_results_stand_beside_each_other(photograph):
    """The same place of each: a model that is bicubic gives bicubic's crop."""
    shown = dict(pictures.side_by_side({"model": bicubic}, photograph(50, 61), "name", scale=3, side=20))
    assert list(shown) == ["HR, name", "bicubic", "model"]
    assert all(crop.shape == (3, 20, 20) and crop.dtype == torch.uint8 for crop in shown.values())
    assert torch.equal(shown["bicubic"], shown["model"])
    assert (shown["HR, name"].float() - shown["bicubic"].float()).abs().mean() < 25


def test_enlargements_and_degradations(photograph):
    shown = pictures.enlarged(bicubic, photograph(40, 40), (2, 5), side=12)
    assert [(title, crop.shape[-1]) for title, crop in shown] == [
        ("input", 12), ("bicubic ×2", 24), ("model ×2", 24), ("bicubic ×5", 60), ("model ×5", 60),
    ]  # fmt: skip
    views = pictures.degradations(photograph(90, 70), scale=4, side=64)
    assert [(title, crop.shape[-1]) for title, crop in views] == [
        ("HR", 64), ("LR ×4, matlab", 16), ("bicubic of it, matlab", 64), ("LR ×4, pil", 16),
        ("bicubic of it, pil", 64),
    ]  # fmt: skip


@pytest.mark.parametrize("place", [(3, 30), (24, 0)])
def test_the_crop_is_where_the_models_differ(photograph, place):
    """A row per scale with HR, bicubic and the models, all of one place: that of the largest scale's difference."""
    image, (top, left) = photograph(48, 60), place

    def other(lr, scale):
        enlarged = bicubic(lr, scale)
        if scale == 3:
            enlarged[..., top : top + 12, left : left + 12] = 1 - enlarged[..., top : top + 12, left : left + 12]
        return enlarged

    models = {"one": {2: bicubic, 3: bicubic}, "other": {2: other, 3: other}}
    shown = pictures.at_scales(models, image, "name", side=12)
    assert [title.split(":")[0] for title, _ in shown] == [
        "name, HR", "bicubic ×2", "one ×2", "other ×2", "name, HR", "bicubic ×3", "one ×3", "other ×3",
    ]  # fmt: skip
    crop = image[:, top : top + 12, left : left + 12]
    assert torch.equal(shown[0][1], crop)
    assert torch.equal(shown[4][1], crop)
    assert torch.equal(shown[5][1], shown[6][1])
    assert not torch.equal(shown[5][1], shown[7][1])
    assert shown[6][0] == f"one ×3: {psnr_y(shown[6][1], crop, 0):.2f} dB"


def test_nothing_larger_than_the_image_is_cut():
    assert pictures.where_they_differ([torch.zeros(3, 8, 9), torch.ones(3, 8, 9)], 20) == (0, 0)
