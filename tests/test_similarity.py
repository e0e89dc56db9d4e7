"""CKA on planted cases, and the stages of real encoders."""

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
    assert grams.stages == ("first conv", "block 1", "block 2", "last conv")
    assert grams.values.shape == (2, 4, 8, 8)
    features = model.encoder.conv_first(model.pre(images[8:].float() / 255)).detach()
    assert torch.allclose(grams.values[1, 0], similarity.centred_gram(features), rtol=1e-6, atol=1e-9)
    assert not any(stage._forward_hooks for stage in model.encoder.stages().values())


def test_frame_of_a_comparison(model, images):
    torch.manual_seed(1)
    other = build_model("edsr_tiny", "spconv", scales=(3,), channels=4, blocks=3)
    grams = {"a": similarity.stage_grams(model, images, 8), "b": similarity.stage_grams(other, images, 8)}
    table = similarity.compare(grams, [("a", "a"), ("a", "b")], "test", draws=50)
    assert tuple(table.columns) == similarity.COLUMNS
    assert len(table) == 4 * 4 + 4 * 5
    itself = table[(table.model_b == "a") & (table.stage_a == table.stage_b)]
    assert itself.cka.to_numpy() == pytest.approx(1)
    assert (table.cka_low <= table.cka + 1e-9).all()
    assert (table.cka <= table.cka_high + 1e-9).all()
    assert set(table.examples) == {16}


def test_shuffled_images_destroy_similarity():
    x = noise(512, 30)
    grams = {"x": similarity.Grams(("s",), torch.stack([similarity.centred_gram(b)[None] for b in x.split(32)]))}
    assert similarity.compare(grams, [("x", "x")], "", shuffle=True).cka.item() == pytest.approx(0, abs=0.05)


def test_crops_come_from_all_images_once_and_not_from_flat_regions():
    rng = np.random.default_rng(0)
    small, large = (torch.from_numpy(rng.integers(0, 256, (3, s, s), dtype=np.uint8)) for s in (16, 64))
    flat = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    crops = similarity.crops([small, large, flat], 8, 12)
    assert crops.shape == (12, 3, 8, 8)
    assert len({crop.numpy().tobytes() for crop in crops}) == 12
    from_small = sum(
        any((crop == small[:, t : t + 8, c : c + 8]).all() for t in (0, 8) for c in (0, 8)) for crop in crops
    )
    assert from_small == 4
    with pytest.raises(InputError, match="69 crops of 8 px wanted, these 3 images hold 68"):
        similarity.crops([small, large, flat], 8, 69)


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
