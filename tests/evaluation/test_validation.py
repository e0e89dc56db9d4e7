"""The look that a training takes at its model: which pixels, and how often they are read."""

import shutil

import numpy as np
import pytest

from igconv.data import datasets
from igconv.evaluation import benchmark, metrics, validation
from igconv.evaluation.validation import validation_psnr
from igconv.models.inference import upscale


def test_validation_is_a_mean_over_centres(tiny_model, image_sets):
    """The centre crop of every image at every scale; the model's mode comes back."""
    model = tiny_model("igconv").train()
    value = validation_psnr(model, ["tiny_test"], (2, 3), side=24)
    assert model.training
    model.eval()
    expected = []
    for image in datasets.read_set("tiny_test"):
        h, w = image.shape[-2:]
        crop = image[:, (h - 24) // 2 :, (w - 24) // 2 :][:, :24, :24]
        for scale in (2, 3):
            lr, hr = benchmark.benchmark_pair(crop, scale)
            # In the same memory layout: another one may round a byte.
            expected.append(metrics.psnr_y(upscale(model, lr, scale)[0], hr, scale))
    assert value == pytest.approx(np.mean(expected), abs=1e-6)
    shutil.copyfile(
        image_sets / "train/tiny/0.png", image_sets / "benchmarks/tiny/HR/t0.png"
    )  # another image of the name
    assert abs(validation_psnr(model, ["tiny_test"], (2, 3), side=24) - value) > 1e-3


def test_validation_looks_at_the_first_three_of_a_set():
    """Committed training curves are of these."""
    paths = datasets.image_set("sample_train").paths()
    assert len(paths) > 3
    assert validation.looked_at("sample_train") == paths[:3]


def test_validation_decodes_an_image_once(tiny_model, image_sets, monkeypatch):
    """A training looks at the same centres some fifty times."""
    decoded, original = [], validation.read_image
    monkeypatch.setattr(validation, "read_image", lambda path, **_: decoded.append(path) or original(path, **_))
    validation._centre_pair.cache_clear()
    model = tiny_model("igconv")
    values = [validation_psnr(model, ["tiny_test"], (2, 3), side=24) for _ in range(3)]
    assert len(set(values)) == 1
    assert len(decoded) == 4  # two images at two scales
