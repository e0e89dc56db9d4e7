"""SMFANet in strips gives the whole image's result."""

import pytest
import torch

from igconv import InputError, build_model
from igconv.data import memory
from igconv.models import inference, strips


def small(upsampler="igconv+", encoder="smfanet", **options):
    torch.manual_seed(0)
    options = dict(hidden_dim=8, num_layers=1) | options if upsampler.startswith("igconv") else options
    model = build_model(encoder, upsampler, scales=(2, 3), channels=8, blocks=3, **options).eval()
    for name, value in model.named_parameters():  # what starts at zero or one hides what it multiplies
        if name.endswith(("belt", "alpha")):
            value.data.uniform_(0.5, 20)
    return model


@pytest.mark.parametrize("size", [(70, 45), (7, 90), (41, 5), (33, 1), (1, 1)])
@pytest.mark.parametrize("upsampler", ["igconv+", "spconv"])
@torch.no_grad()
def test_strips_equal_the_whole_image(size, upsampler, monkeypatch):
    """Sides that are no multiples of a cell, less than one cell, a last strip of one row."""
    monkeypatch.setattr(strips, "LEAST_ROWS", 3)
    model, lr = small(upsampler), torch.rand(1, 3, *size)
    halo = inference._head_reach(model)
    for pixels in (10 * size[1], size[1] * (size[0] - 1)):
        result = strips.in_strips(model, halo, pixels)(lr, 3)
        torch.testing.assert_close(result, model(lr, 3), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_tiles_of_such_a_model_do_not(monkeypatch):
    """The test above could tell: tiles with a wide halo are off by more than a grey level."""
    model, lr = small(), torch.rand(1, 3, 100, 81)
    assert (inference.tiled(model, 32, 16)(lr, 2) - model(lr, 2)).abs().max() > 1 / 255


@torch.no_grad()
def test_nothing_in_double_precision_on_the_device(monkeypatch):
    """Apple's GPUs have no float64: what is computed in it has been brought to the CPU, a number per channel."""
    seen = []
    original = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda self: seen.append(self.shape[-2:].numel()) or original(self))
    strips.in_strips(small(), 11, 900)(torch.rand(1, 3, 60, 30), 2)
    assert set(seen) == {1}


@torch.no_grad()
def test_large_images_take_strips(monkeypatch):
    """Without tiles or a halo asked for; the self-ensemble, too."""
    monkeypatch.setattr(inference, "WHOLE", 30 * 30)
    monkeypatch.setattr(inference, "WHOLE_SEEN", 30 * 30)
    monkeypatch.setattr(strips, "LEAST_ROWS", 8)
    model, lr = small(), torch.rand(1, 3, 60, 50)
    whole = model(lr, 2)
    seen = []
    model.encoder.feats[0].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(inference.tiled_by_size(model)(lr, 2), whole, atol=2e-5, rtol=1e-5)
    assert not seen, "no block has seen the whole image"
    turned = inference.self_ensemble(inference.tiled_by_size(model))(lr, 2)
    torch.testing.assert_close(turned, inference.self_ensemble(model)(lr, 2), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [60, 20])
def test_what_does_not_fit_is_said_before(monkeypatch, rows):
    """With the way out; features, a strip's copies of them and the result have to fit together."""
    model, whole = small(), torch.rand(1, 3, 60, 50)
    monkeypatch.setattr(strips, "_first", lambda *_: pytest.fail("the work began"))
    needed = 4 * (model.encoder.out_channels * (60 + strips.COPIES * rows) * 50 + 2 * 3 * 120 * 100)
    run = strips.in_strips(model, 11, pixels=rows * 50)
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    with pytest.raises(InputError, match=r"50x60 pixels at x2 with the features of all needs about .*--tile"):
        run(whole, 2)
    monkeypatch.setattr(memory, "available", lambda: needed)
    with pytest.raises(pytest.fail.Exception, match="the work began"):
        run(whole, 2)


def test_other_models_are_left_to_tiles():
    """Encoders with a reach, functions, and a network whose blocks are not these."""
    assert not strips.fits(small(encoder="edsr"))
    assert not strips.fits(lambda lr, scale: lr)
    assert strips.fits(small())
