"""Scales nobody trained on: the clamp, x4 then bicubic, and what is compared with what."""

import numpy as np
import pandas as pd
import pytest
import torch

from igconv import InputError
from igconv.analysis import unseen
from igconv.analysis.unseen import CHAINED, DIRECT, clamped, then_bicubic
from igconv.data import datasets
from igconv.data.resize import imresize
from igconv.evaluation import benchmark, metrics
from igconv.models import run_weights
from igconv.models.hypernetwork import HyperNetwork
from igconv.training.loop import train

LR = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(3))


def networks(model):
    return [part for part in model.modules() if isinstance(part, HyperNetwork)]


# ---- the clamp


@pytest.mark.parametrize("training", [False, True])
def test_clamp_changes_kernels_beyond_it_only(tiny_model, training):
    """Kernel banks of IGConv and IGSample: equal for r <= 4, different for r > 4, and those of a model built so."""
    model = tiny_model("igconv+").train(training)
    with torch.no_grad():
        before = {r: [net(r).clone() for net in networks(model)] for r in (2, 3, 4, 5, 8, 9)}  # fills the caches
        wide = clamped(model, 8)
        built = tiny_model("igconv+", max_scale=8)
        assert len(networks(wide)) == 2
        for r, banks in before.items():
            for old, net, whole in zip(banks, networks(wide), networks(built), strict=True):
                assert torch.equal(net(r), old) == (r <= 4), r
                torch.testing.assert_close(net(r), whole(r))
        assert torch.equal(networks(clamped(wide, 4))[0](8), before[8][0])
        assert torch.equal(networks(model)[0](8), before[8][0])  # the original stays
    assert (wide.training, wide.config["max_scale"], "max_scale" in model.config) == (training, 8, False)
    assert [net.max_scale for net in networks(model)] == [4, 4]


def test_clamp_needs_a_hyper_network(tiny_model):
    with pytest.raises(InputError, match="no hyper-network"):
        clamped(tiny_model("spconv", scales=(4,)), 8)
    with pytest.raises(InputError, match="max_scale must be an integer"):
        clamped(tiny_model("igconv"), 0)


# ---- x4, then bicubic


@pytest.mark.parametrize("scale", [4, 5, 6, 7, 8, 12, 16])
def test_chain_has_the_exact_size_and_keeps_constants(scale):
    """Factors that are no integers too; no model but bicubic inside."""
    sr = then_bicubic(benchmark.bicubic)(torch.full((1, 3, 9, 11), 100 / 255), scale)
    assert sr.shape == (1, 3, 9 * scale, 11 * scale)
    assert sr.numpy() == pytest.approx(100 / 255, abs=1e-6)


@pytest.mark.parametrize("scale", [5, 6, 8])
def test_chain_keeps_a_linear_ramp(scale):
    """A ramp stays that ramp at the centres of the new pixels, away from the border: no shift, no stretch."""

    def ramp(side: int, r: int):
        return (20 + 8 * ((torch.arange(side * r) + 0.5) / r - 0.5)) / 255

    def exact(lr, r):
        return ramp(24, r).expand(1, 3, 24 * r, -1)

    sr = then_bicubic(exact)(torch.zeros(1, 3, 24, 24), scale)
    inside = slice(2 * scale, -2 * scale)
    expected = ramp(24, scale).expand(24 * scale, -1)
    for image, target in (
        (sr[0, 0], expected),
        (then_bicubic(lambda x, r: exact(x, r).mT)(sr, scale)[0, 1], expected.T),
    ):
        assert (image - target)[inside, inside].abs().max() <= 0.51 / 255 + 1e-6  # half a grey level of rounding


def test_chain_at_the_base_is_the_model_in_bytes(tiny_model):
    model = tiny_model("igconv")
    with torch.no_grad():
        sr, direct = then_bicubic(model)(LR, 4), model(LR, 4)
    assert (sr - direct.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    other = then_bicubic(model, base=2)(LR, 3)
    torch.testing.assert_close(other, imresize(model(LR, 2).clamp(0, 1), 1.5, "matlab", quantize=True))


# ---- rows and their summary


def test_methods_of_models(tiny_model):
    none = pd.NA
    assert list(unseen.methods_of(tiny_model("igconv+"), (2, 3, 4))) == [(CHAINED, none), (DIRECT, 4), (DIRECT, 8)]
    assert list(unseen.methods_of(tiny_model("liif"), (2, 3, 4))) == [(CHAINED, none), (DIRECT, none)]
    assert list(unseen.methods_of(tiny_model("spconv", scales=(4,)), (4,))) == [(CHAINED, none)]
    with pytest.raises(InputError, match="not trained for x4"):
        unseen.methods_of(tiny_model("spconv", scales=(2,)), (2,))


@pytest.fixture
def trained(tiny_run):
    list(train(tiny_run, accelerator="cpu"))
    return tiny_run


def test_rows_of_a_run(trained):
    rows = unseen.of_run(trained, trained.test_sets, (4, 5, 8), min_lr_side=5)
    assert tuple(rows.columns) == unseen.COLUMNS
    assert len(rows) == 3 * 2 * 3  # methods, images, scales
    assert rows.groupby("scale").lr_side_px.first().to_dict() == {4: 12, 5: 10, 8: 6}
    (image, *_), model = datasets.read_set("tiny_test"), run_weights.load_run(trained)
    lr, hr = benchmark.benchmark_pair(image, 5)
    with torch.no_grad():
        sr = clamped(model, 8)(lr.float()[None] / 255, 5)
    line = rows[(rows.image == "t0") & (rows.scale == 5) & (rows.max_scale == 8)].iloc[0]
    assert line.psnr_y_db == pytest.approx(metrics.psnr_y(sr, hr, 5), abs=1e-4)
    assert line.ssim_y == pytest.approx(metrics.ssim_y(sr, hr, 5), abs=1e-6)
    at4 = rows[rows.scale == 4].pivot(index="image", columns=["method", "max_scale"], values="psnr_y_db").to_numpy()
    assert at4 == pytest.approx(at4[:, [0]].repeat(3, axis=1), abs=1e-9)  # trained: all three are the model's image


def test_small_images_are_left_out_and_none_is_a_line(image_sets):
    assert len(unseen.of_bicubic(("tiny_test",), (2, 3))) == 4
    assert unseen.of_bicubic(("tiny_test",), (3,)).lr_side_px.tolist() == [16, 16]
    with pytest.raises(InputError, match="no image of tiny_test has an LR side of 16 px at x4"):
        unseen.of_bicubic(("tiny_test",), (2, 4))


def planted(run, method, clamp, db, seeds=(0, 1)):
    return [dict(run=f"{run}{seed}", encoder="e", upsampler=run, variant="", seed=seed, method=method, max_scale=clamp,
                 dataset="D", image=image, scale=scale, lr_side_px=20, psnr_y_db=30 + i + db - scale,
                 ssim_y=0.5 + db / 100)
            for seed in seeds for i, image in enumerate("uvw") for scale in (4, 8)]  # fmt: skip


def test_summary_pairs_methods_with_bicubic_and_with_their_own_model():
    bicubic = [r | dict(run="bicubic") for r in planted("bicubic", "bicubic", pd.NA, 0.0, [""])]
    table = pd.DataFrame([*bicubic, *planted("igconv", CHAINED, pd.NA, 1.0), *planted("igconv", DIRECT, 4, 1.5),
                          *planted("igconv", DIRECT, 8, 0.25), *planted("spconv", CHAINED, pd.NA, 2.0)])  # fmt: skip
    found = unseen.summary(table)
    assert len(found) == 2 * (4 + 2)  # scales x (over bicubic + over x4 then bicubic)
    key = ["against", "upsampler", "method", "max_scale", "scale"]
    at8 = found[found.scale == 8].fillna({"max_scale": 0}).set_index(key[:-1]).difference_db.to_dict()
    assert at8 == pytest.approx({
        ("bicubic", "igconv", CHAINED, 0): 1.0, ("bicubic", "igconv", DIRECT, 4): 1.5,
        ("bicubic", "igconv", DIRECT, 8): 0.25, ("bicubic", "spconv", CHAINED, 0): 2.0,
        (CHAINED, "igconv", DIRECT, 4): 0.5, (CHAINED, "igconv", DIRECT, 8): -0.75,
    })  # fmt: skip
    assert found.low_db.to_numpy() == pytest.approx(found.difference_db.to_numpy())  # paired: no spread is left
    assert found.difference_ssim.to_numpy() == pytest.approx(found.difference_db.to_numpy() / 100)
    assert set(zip(found.images, found.seeds, strict=True)) == {(3, 2)}
    assert np.isfinite(found.psnr_y_db).all()
    with pytest.raises(InputError, match="no run 'bicubic'"):
        unseen.summary(table[table.run != "bicubic"])


# ---- in words


def lines(*rows) -> pd.DataFrame:
    names = ["upsampler", "max_scale", "against", "scale", "difference_db", "low_db", "high_db"]
    table = pd.DataFrame(rows, columns=names).astype({"max_scale": "Int64"})
    return table.assign(variant="", difference_ssim=0.01, low_ssim=0.0, high_ssim=0.02, images=3, seeds=1)


def test_scales_are_better_worse_or_undecided():
    table = lines(
        ("igconv", 4, CHAINED, 4, 0.00004, 0.0, 0.0001), ("igconv", 4, CHAINED, 5, 0.2, 0.1, 0.3),
        ("igconv", 4, CHAINED, 6, 0.1, -0.1, 0.3), ("igconv", 4, CHAINED, 8, -0.2, -0.3, -0.1),
        ("liif", None, CHAINED, 8, 0.2, 0.1, 0.3), ("igconv", 4, "bicubic", 8, 0.2, 0.1, 0.3),
    )  # fmt: skip
    first, second, check = unseen.conclusion(table).splitlines()
    assert first == (
        "IGConv, clamp 4: better than its x4 image enlarged by bicubic at x5, worse at x8 (interval excludes zero), "
        "undecided at the others of 3 scales."
    )
    assert second.startswith("LIIF: better than its x4 image enlarged by bicubic at x8, worse at no scale")
    assert check == "Check at x4: largest difference between direct and chained 0.0000 dB."
    words = unseen.differences_in_words(table).splitlines()
    assert len(words) == 5
    assert words[1].startswith("IGConv, clamp 4, x5: +0.20 dB [+0.10, +0.30], SSIM +0.0100 [+0.0000, +0.0200] over x4")


def test_without_multi_scale_models_there_is_nothing_to_say(image_sets):
    alone = unseen.summary(unseen.of_bicubic(("tiny_test",), (2,)))
    assert alone.empty
    for text in (unseen.conclusion(alone), unseen.differences_in_words(alone)):
        assert text.startswith("multi-scale models: not run")


def test_pictures_have_a_title_per_method(tiny_model):
    titled = unseen.with_titles({"IGConv": (tiny_model("igconv"), (2, 3, 4))})
    assert list(titled) == ["IGConv\nx4, then bicubic", "IGConv\ndirect, clamp 4", "IGConv\ndirect, clamp 8"]
