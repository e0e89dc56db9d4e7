"""CKA on planted cases, and the stages of real encoders."""

import copy

import numpy as np
import pytest
import torch

from igconv import InputError, build_model
from igconv.analysis import similarity


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (16, 3, 12, 12), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("edsr_tiny", "spconv", scales=(2,), channels=6, blocks=2)


@pytest.mark.parametrize("minibatch", [None, 16])
def test_rotated_shifted_and_scaled_features_are_the_same(minibatch):
    x = noise(64, 20)
    rotation = torch.linalg.qr(noise(20, 20, seed=1))[0]
    assert similarity.linear_cka(x, 3 * x @ rotation + 5, minibatch) == pytest.approx(1, abs=1e-9)


def test_independent_features_are_near_zero_however_wide_they_are():
    values = [similarity.linear_cka(noise(64, 2000, seed=2 * s), noise(64, 3000, seed=2 * s + 1), 32) for s in range(8)]
    # The biased estimator gives about 0.98 here.
    assert abs(np.mean(values)) < 0.02
    assert min(values) < 0 < max(values)


def test_known_value_between_zero_and_one():
    """x shares one of two equal independent dimensions with y: CKA = tr(Sxy Syx) / (|Sxx| |Syy|) = 1/2."""
    z = noise(4096, 3)
    assert similarity.linear_cka(z[:, :2], z[:, 1:], 64) == pytest.approx(0.5, abs=0.03)


def test_hsic_equals_the_formula_of_song_et_al():
    x, y, n = noise(9, 4), noise(9, 5, seed=1), 9
    k, l = ((z @ z.T).fill_diagonal_(0) for z in (x, y))  # noqa: E741
    expected = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
    a, b = (similarity.Grams(("",), similarity.centred_gram(z)[None, None]) for z in (x, y))
    assert similarity.hsic(a, b).item() == pytest.approx(expected.item() / (n * (n - 3)), rel=1e-9)


def test_stages_are_those_of_the_encoder_and_the_input_is_normalised(model, images):
    grams = similarity.stage_grams(model, images, minibatch=8)
    assert grams.stages == ("first conv", "block 1", "block 2", "last conv", "output")
    assert grams.values.shape == (2, 5, 8, 8)
    features = model.encoder.conv_first(model.pre(images[8:].float() / 255)).detach()
    assert torch.allclose(grams.values[1, 0], similarity.centred_gram(features), rtol=1e-4, atol=1e-4)
    _, read = model.encode(images[8:].float() / 255)  # by the upsampler
    assert torch.allclose(grams.values[1, -1], similarity.centred_gram(read), rtol=1e-4, atol=1e-4)
    assert not any(stage._forward_hooks for stage in similarity.stages_of(model).values())


def test_frame_of_a_comparison(model, images):
    torch.manual_seed(1)
    other = build_model("edsr_tiny", "spconv", scales=(3,), channels=4, blocks=3)
    grams = {"a": similarity.stage_grams(model, images, 8), "b": similarity.stage_grams(other, images, 8)}
    table = similarity.compare(grams, [("a", "a"), ("a", "b")], "test", draws=50)
    assert tuple(table.columns) == similarity.COLUMNS
    assert len(table) == 5 * 5 + 5 * 6
    itself = table[(table.model_b == "a") & (table.stage_a == table.stage_b)]
    assert itself.cka.to_numpy() == pytest.approx(1)
    assert (table.cka_low <= table.cka + 1e-9).all()
    assert (table.cka <= table.cka_high + 1e-9).all()
    assert set(table.examples) == {16}


def test_shuffled_images_destroy_similarity():
    x = noise(512, 30)
    grams = {"x": similarity.Grams(("s",), torch.stack([similarity.centred_gram(b)[None] for b in x.split(32)]))}
    assert similarity.compare(grams, [("x", "x")], "", shuffle=True).cka.item() == pytest.approx(0, abs=0.05)


def image_of(number: int, side: int):
    """Random pixels that are odd in one place and tell whose they are: red is the number everywhere."""
    rng = np.random.default_rng(number)
    image = torch.from_numpy(rng.integers(0, 256, (3, side, side), dtype=np.uint8))
    image[0] = number
    return image


def test_scenes_come_from_all_images_once_and_not_from_flat_regions():
    small, large = image_of(1, 16), image_of(2, 64)
    flat = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    scenes, units = similarity.scenes([small, large, flat], 8, 12, minibatch=6)
    assert (scenes.shape, units) == ((12, 3, 8, 8), 1)
    assert len({scene.numpy().tobytes() for scene in scenes}) == 12
    assert (scenes[:, 0, 0, 0] == 1).sum() == 4
    assert (scenes[:, 0, 0, 0] == 2).sum() == 8
    with pytest.raises(InputError, match="these 3 images hold 68"):
        similarity.scenes([small, large, flat], 8, 72, minibatch=6)


def test_an_image_is_in_one_unit_only():
    """Many images: a unit per minibatch. Few: fewer units of several minibatches, none of which is a single image."""
    for images, side, expected in ((40, 16, 8), (9, 32, 4)):
        scenes, units = similarity.scenes([image_of(i, side) for i in range(images)], 8, 64, minibatch=8)
        assert units == expected
        owners = [set(unit[:, 0, 0, 0].tolist()) for unit in scenes.chunk(units)]
        assert sum(map(len, owners)) == len(set.union(*owners))
        assert min(map(len, owners)) >= 2
    with pytest.raises(InputError, match="64 crops of 8 px wanted, 8 in each of 8 groups"):
        similarity.scenes([image_of(i, 8) for i in range(40)], 8, 64, minibatch=8)
    with pytest.raises(InputError, match="60 examples are no multiple"):
        similarity.scenes([image_of(0, 64)], 8, 60, minibatch=8)


def test_the_interval_is_a_bootstrap_over_units():
    """Minibatches of one unit are drawn together: with two units of equal minibatches only three means exist."""
    x, y = noise(128, 4), noise(128, 4, seed=1)
    x, y = (torch.cat([z[:32].repeat(4, 1), z[32:64].repeat(4, 1)]) for z in (x, y))
    grams = {n: similarity.Grams(("s",), torch.stack([similarity.centred_gram(b)[None] for b in z.split(32)]))
             for n, z in (("x", x), ("y", y))}  # fmt: skip
    wide = similarity.compare(grams, [("x", "y")], "", units=2).iloc[0]
    narrow = similarity.compare(grams, [("x", "y")], "").iloc[0]
    assert (wide.units, narrow.units) == (2, 8)
    assert wide.cka == narrow.cka
    assert wide.cka_high - wide.cka_low > narrow.cka_high - narrow.cka_low
    alone = [similarity.linear_cka(x[part], y[part], 32) for part in (slice(128), slice(128, None))]
    assert sorted([wide.cka_low, wide.cka_high]) == pytest.approx(sorted(alone))
    with pytest.raises(InputError, match="8 minibatches cannot be 3 equal units"):
        similarity.compare(grams, [("x", "y")], "", units=3)


def test_features_on_one_grid(model, images):
    """LR of another size, resized: features of the same places of the same scenes; a model still equals itself."""
    coarse = similarity.stage_grams(model, images, 8, grid=6)
    assert coarse.values.shape == (2, 5, 8, 8)
    features = model.encoder.conv_first(model.pre(images[:8].float() / 255)).detach()
    resized = torch.nn.functional.interpolate(features, (6, 6), mode="bilinear", antialias=True)
    assert torch.allclose(coarse.values[0, 0], similarity.centred_gram(resized), rtol=1e-4, atol=1e-4)
    assert torch.allclose(similarity.stage_grams(model, images, 8, grid=12).values,
                          similarity.stage_grams(model, images, 8).values)  # fmt: skip


def test_without_means_brightness_does_not_count(model, images):
    """The same textures on other backgrounds: unlike with means, alike without them, at a linear stage."""
    lift = torch.randint(0, 120, (16, 3, 1, 1), generator=torch.Generator().manual_seed(9))
    a, b = images // 2, (images // 2 + lift).byte()
    views = [similarity.stage_views(model, z, ((0, False), (0, True)), 8) for z in (a, b)]
    kept, removed = (float(similarity.cka(x, y)[0, 0]) for x, y in zip(*views, strict=True))
    assert removed > kept + 0.3  # below 1, because zero padding shows the background at the edge of 12 px


def test_summary_of_comparisons(model, images):
    torch.manual_seed(1)
    other = build_model("edsr_tiny", "spconv", scales=(3,), channels=4, blocks=3)
    grams = {"a": similarity.stage_grams(model, images, 8), "b": similarity.stage_grams(other, images, 8)}
    table = similarity.compare(grams, [("a", "a"), ("a", "b")], "test", draws=10, family="f")
    summary = similarity.by_comparison(table)
    assert len(summary) == 1, "encoders of unequal depth have no equal stages"
    row = summary.iloc[0]
    assert (row.setting, row.family, row.pairs) == ("same LR", "f", 1)
    assert [row["mean"], row["min"], row["max"], row["last"]] == pytest.approx([1, 1, 1, 1])


def test_features_are_those_of_exact_arithmetic(model, images):
    """Whatever TF32 setting the caller has, which comes back."""
    seen = []
    torch.backends.cudnn.allow_tf32 = True
    similarity.observe(model, images, 8, lambda lr, features: seen.append(torch.backends.cudnn.allow_tf32))
    assert seen == [False, False]
    assert torch.backends.cudnn.allow_tf32


def test_bad_input_is_named(model, images):
    with pytest.raises(InputError, match="constant features"):
        similarity.linear_cka(torch.ones(8, 3), noise(8, 3))
    with pytest.raises(InputError, match="constant features"):
        similarity.linear_cka(noise(8, 3), (0.1 * torch.ones(8, 3)).float())
    with pytest.raises(InputError, match="at least 4 examples"):
        similarity.linear_cka(noise(3, 3), noise(3, 3))
    with pytest.raises(InputError, match="16 examples are fewer than one minibatch of 32"):
        similarity.stage_grams(model, images, 32)
    with pytest.raises(InputError, match="give both the same"):
        similarity.hsic(similarity.stage_grams(model, images, 8), similarity.stage_grams(model, images, 16))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_named_with_their_stage(model, images, value):
    """Not called constant, and no CKA comes of them."""
    broken = noise(8, 3)
    broken[5, 1] = value
    with pytest.raises(InputError, match="features has values that are not numbers"):
        similarity.linear_cka(broken, noise(8, 3))
    model = copy.deepcopy(model)  # other tests use it
    first, *_ = model.encoder.stages()
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(value)
    with pytest.raises(InputError, match=f"features of stage {first} has values that are not numbers"):
        similarity.stage_grams(model, images, 8)
