"""A planted map between features, and the transfer table on a tiny study."""

import pytest
import torch
import torch.nn.functional as F

from igconv import InputError, build_model
from igconv.analysis import ridge
from igconv.conversion import closed_form
from igconv.data.images import to_float
from igconv.evaluation.benchmark import bicubic
from igconv.evaluation.metrics import psnr_y


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_linear_map_recovers_a_planted_mixture():
    x = noise(8, 6, 12, 12)
    matrix, offset = noise(4, 6, seed=1), noise(4, seed=2)
    y = torch.einsum("dc,bchw->bdhw", matrix, x) + offset[:, None, None]
    found = closed_form.fit(ridge.map_equations(x[:6], y[:6]), ridge.map_equations(x[6:], y[6:]))
    assert torch.allclose(found.coefficients.T.float(), matrix, atol=1e-5)
    assert torch.allclose(found.intercept.float(), offset, atol=1e-5)


def test_dead_channels_do_no_harm():
    features = noise(8, 4, 12, 12)
    features[:, 2] = 0.7
    image = noise(8, 3, 24, 24, seed=1) + F.pixel_shuffle(features[:, [0, 1, 3] * 4], 2)
    found = ridge.spconv_fit(features, (image * 40 + 128).clamp(0, 255).byte(), 2)
    kernel, _ = closed_form.kernel_of(found)
    assert torch.isfinite(kernel).all()
    assert kernel[:, 2, 1, 1].abs().max() < 1e-6


@pytest.fixture
def study(photograph):
    torch.manual_seed(0)
    models = {f"x{s}": (build_model("edsr", "spconv", scales=(s,), channels=6, blocks=1), s) for s in (2, 3)}
    models["IGConv"] = (build_model("edsr", "igconv", scales=(2, 3), channels=4, blocks=1, hidden_dim=8, num_layers=1),
                        0)  # fmt: skip
    scenes = torch.stack([photograph(48, 48, seed) for seed in range(8)])
    images = {("set", name): photograph(50, 62, 90 + i) for i, name in enumerate("abc")}
    return models, {2: "x2", 3: "x3"}, scenes, images


def test_transfer_of_a_tiny_study(study):
    models, natives, scenes, images = study
    rows = ridge.transfer("tiny", models, natives, scenes, images, side=12)
    assert tuple(rows.columns) == ridge.ROWS
    assert len(rows) == 2 * 3 * (3 + 1 + 1)  # scales x images x (refitted encoders, native as trained, bicubic)
    summary = ridge.transfer_summary(rows, natives)
    assert tuple(summary.columns) == ridge.TRANSFER
    itself = summary[(summary["head"] == "refitted") & (summary.encoder_scale == summary.target_scale)]
    assert (itself[["difference_db", "low_db", "high_db"]] == 0).all(axis=None)
    others = summary[summary["head"] != "as trained"].drop(itself.index)
    assert (others.low_db <= others.difference_db).all()
    assert (others.difference_db <= others.high_db).all()
    # A random SPConv makes noise; the same features with a fitted one make an image.
    assert (summary[summary["head"] == "as trained"].difference_db < -5).all()

    facts, lr, hr = ridge.cut_tests(images, 3)[0]
    row = rows[(rows.target_scale == 3) & (rows.image == facts["image"])].set_index(["encoder", "head"]).psnr_y_db
    with torch.no_grad():
        sr = models["x3"][0](to_float(lr)[None], 3)[0]
    assert row["x3", "as trained"] == pytest.approx(psnr_y(sr, hr, 3), abs=1e-4)
    assert row["", "bicubic"] == pytest.approx(psnr_y(bicubic(to_float(lr)[None], 3)[0], hr, 3))


def test_a_sampler_belongs_to_the_native_image():
    model = build_model("edsr", "igconv+", scales=(2,), channels=4, blocks=1, hidden_dim=8, num_layers=1).eval()
    lr = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        assert torch.equal(ridge.native(model, *model.encode(lr), 2), model(lr, 2))


def test_central_parts_are_those_of_all_scales(photograph):
    scenes = photograph(48, 48)[None]
    (lr2, hr2), (lr3, hr3) = (ridge.pairs(scenes, scale, 12) for scale in (2, 3))
    assert lr2.shape == lr3.shape == (1, 3, 12, 12)
    assert torch.equal(hr2, scenes[..., 12:36, 12:36])
    assert torch.equal(hr3, scenes[..., 6:42, 6:42])
    ((_, lr, hr),) = ridge.cut_tests({("s", "a"): photograph(50, 62)}, 2, side=24)
    assert (tuple(lr.shape), tuple(hr.shape)) == ((3, 12, 12), (3, 24, 24))


def test_bad_input_is_named(study):
    models, natives, scenes, images = study
    with pytest.raises(InputError, match="no encoder trained for x4"):
        ridge.transfer("tiny", models, {**natives, 4: "x4"}, scenes, images, 12)
    with pytest.raises(InputError, match="20 px at x3 need scenes of 60 px"):
        ridge.pairs(scenes, 3, 20)
    with pytest.raises(InputError, match="3 crops cannot be split"):
        ridge.transfer("tiny", models, natives, scenes[:3], images, 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_an_error(tiny_model, value):
    """Where they appear, and not a fit of nothing."""
    model = tiny_model("igconv")
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(value)
    with pytest.raises(InputError, match="features of the encoder has values that are not numbers"):
        ridge.features(model, torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8))
