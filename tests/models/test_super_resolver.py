"""SuperResolver: composition, padding, several scales, instantiation, bad input."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from igconv import InputError, SuperResolver, build_model
from igconv.models.hypernetwork import HyperNetwork
from igconv.models.super_resolver import UPSAMPLERS


class Padded(nn.Module):
    """An encoder that needs sides that are multiples of 8, as window attention does."""

    out_channels, pad_to = 6, 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        assert x.shape[-2] % 8 == x.shape[-1] % 8 == 0
        return self.conv(x)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_output_is_an_image(tiny_model, upsampler, scale):
    """(B, 3, r H, r W), float32, for every upsampler."""
    sr = tiny_model(upsampler)(torch.rand(2, 3, 5, 8), scale)
    assert sr.shape == (2, 3, 5 * scale, 8 * scale)
    assert sr.dtype == torch.float32


@pytest.mark.parametrize("upsampler", ["igconv", "igconv+", "liif"])
@pytest.mark.parametrize("scale", [1, 5, 9, 32])
def test_unseen_scales_work(tiny_model, upsampler, scale):
    """Any integer scale >= 1, trained or not."""
    with torch.no_grad():
        sr = tiny_model(upsampler, scales=(2,)).eval()(torch.rand(1, 3, 4, 3), scale)
    assert sr.shape == (1, 3, 4 * scale, 3 * scale)
    assert sr.isfinite().all()


def test_composition_is_the_one_of_the_design(tiny_model):
    """post(upsampler(f)) + sampler(raw lr, f), f = encoder(pre(lr)): the sampled LR is added after the mean."""
    model, lr = tiny_model("igconv+"), torch.rand(2, 3, 6, 7)
    mean = torch.tensor(model.encoder.mean).view(1, 3, 1, 1)
    features = model.encoder(lr - mean)
    expected = model.upsampler(features, 3) + mean + model.sampler(lr, features, 3)
    torch.testing.assert_close(model(lr, 3), expected)


def test_igconv_plus_is_a_configuration():
    """Dihedral averaging and IGSample of half the width and depth; each may be left out."""
    options = dict(scales=(2,), hidden_dim=8, num_layers=4)
    plus = build_model("edsr_tiny", "igconv+", **options)
    assert plus.upsampler.hyper.dihedral
    assert plus.sampler.hyper.dihedral
    assert plus.sampler.hyper.freq.shape[1] == 2 * 4
    assert len(plus.sampler.hyper.query_kernel) == 2 * 2 + 1
    same = build_model("edsr_tiny", "igconv", dihedral=True, igsample=True, **options)
    assert {k: v.shape for k, v in same.state_dict().items()} == {k: v.shape for k, v in plus.state_dict().items()}
    assert build_model("edsr_tiny", "igconv+", igsample=False, **options).sampler is None
    assert not build_model("edsr_tiny", "igconv+", dihedral=False, **options).upsampler.hyper.dihedral
    plain = build_model("edsr_tiny", "igconv", **options)
    assert plain.sampler is None
    assert not plain.upsampler.hyper.dihedral


def test_liif_is_a_configuration():
    """The paper's 256 x 4 unless asked otherwise, beside any encoder, and no sampler."""
    model = build_model("edsr_tiny", "liif", scales=(2,))
    assert model.sampler is None
    assert (model.upsampler.of_features.out_channels, len(model.upsampler.mlp)) == (256, 2 * 4)
    small = build_model("smfanet", "liif", scales=(2, 3), hidden_dim=8, num_layers=2)
    assert (small.upsampler.of_features.out_channels, len(small.upsampler.mlp)) == (8, 2 * 2)
    assert small(torch.rand(1, 3, 9, 8), 3).shape == (1, 3, 27, 24)


# ---- padding


@pytest.mark.parametrize("upsampler", ["spconv", "igconv+", "liif"])
@pytest.mark.parametrize("size", [(8, 16), (13, 9)])
def test_padding_is_cropped(enliven, upsampler, size):
    """Sides become multiples of pad_to by reflection at the bottom and right; the image is r H x r W again."""
    options = {} if upsampler == "spconv" else dict(hidden_dim=8, num_layers=2)
    model = enliven(build_model(Padded(), upsampler, scales=(3,), **options))
    lr = torch.rand(1, 3, *size)
    padded = F.pad(lr, (0, -size[1] % 8, 0, -size[0] % 8), mode="reflect")
    features = model.encoder(padded)
    whole = model.upsampler(features, 3)
    if model.sampler is not None:
        whole = whole + model.sampler(padded, features, 3)
    for sr in (model(lr, 3), model.instantiate(3)(lr)):
        torch.testing.assert_close(sr, whole[..., : size[0] * 3, : size[1] * 3], atol=1e-5, rtol=1e-5)


def test_pad_mode_is_the_encoders():
    """pad_mode is handed to F.pad."""
    model = build_model(Padded(), "spconv", scales=(2,))
    model.encoder.pad_mode = "replicate"
    padded, _ = model.encode(torch.rand(1, 3, 2, 3))  # too small to reflect
    assert padded.shape == (1, 3, 8, 8)


# ---- several scales in one pass


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("scales", [(2, 3, 4), (3, 2, 3, 2), (4,), (2, 2)], ids=str)
def test_multi_scale_equals_separate_forwards(tiny_model, upsampler, scales):
    """One encoder pass for parts of different scales: values and gradients of separate passes."""
    model, lr = tiny_model(upsampler), torch.rand(2 * len(scales), 3, 5, 6)
    parts = list(zip(lr.split(2), scales, strict=True))

    def gradients(images):
        model.zero_grad()
        sum(i.square().sum() for i in images).backward()
        return [torch.zeros(()) if p.grad is None else p.grad.clone() for p in model.parameters()]

    together, apart = model.multi_scale(lr, scales), [model(part, s) for part, s in parts]
    for ours, expected in zip(together, apart, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for ours, expected in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


def test_multi_scale_generates_a_bank_once_per_scale(tiny_model, monkeypatch):
    """Repeated scales of a step share a kernel bank."""
    calls, original = [], HyperNetwork.generate
    monkeypatch.setattr(HyperNetwork, "generate", lambda self, s: calls.append(s) or original(self, s))
    tiny_model("igconv").multi_scale(torch.rand(4, 3, 5, 5), [3, 2, 3, 3])
    assert sorted(calls) == [2, 3]


@pytest.mark.parametrize("scales", [[], [2, 3], [2, 0, 3]], ids=str)
def test_multi_scale_refuses_uneven_parts(tiny_model, scales):
    """A batch of three cannot be halved; no scales or bad ones are refused."""
    with pytest.raises(InputError):
        tiny_model("igconv").multi_scale(torch.rand(3, 3, 5, 5), scales)


# ---- fixed scale


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_instantiate_gives_the_same_image(tiny_model, upsampler, scale, mode):
    """Within 1e-5, from either mode, in the mode of the model."""
    model, lr = tiny_model(upsampler).train(mode), torch.rand(2, 3, 7, 5)
    fixed = model.instantiate(scale)
    assert fixed.training == mode
    torch.testing.assert_close(fixed(lr), model(lr, scale), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("upsampler", "factor"), [("igconv", 27), ("igconv+", 135)])
@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("scale", [1, 2, 5])
def test_instantiated_parameters(upsampler, factor, channels, scale):
    """27 C r^2 for IGConv, 135 C r^2 for IGConv+, beside the encoder's."""
    model = build_model("edsr", upsampler, scales=(2,), channels=channels, blocks=1, hidden_dim=8, num_layers=2)
    assert count(model.instantiate(scale)) - count(model.encoder) == factor * channels * scale**2


def test_instantiate_shares_nothing(tiny_model):
    """Training the fixed-scale module leaves the model as it was."""
    model, lr = tiny_model("igconv+"), torch.rand(1, 3, 5, 5)
    before, fixed = model(lr, 2), model.instantiate(2)
    for p in fixed.parameters():
        p.data.zero_()
    assert torch.equal(model(lr, 2), before)
    assert not {p.data_ptr() for p in fixed.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_copies_are_independent(tiny_model):
    """A deep copy made in eval mode, as EMA does, follows its own weights."""
    model, lr = tiny_model("igconv+").eval(), torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        before = model(lr, 2)
        twin = copy.deepcopy(model)
        for p in twin.parameters():
            p.mul_(1.1)
        assert not torch.equal(twin(lr, 2), before)
        assert torch.equal(model(lr, 2), before)


@pytest.mark.parametrize("upsampler", ["igconv+", "liif"])
def test_every_parameter_gets_a_gradient(tiny_model, upsampler):
    """No dead parameters: distributed training would complain."""
    model = tiny_model(upsampler)
    model(torch.rand(1, 3, 6, 6), 2).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("upsampler", ["igconv+", "liif"])
def test_half_precision_autocast(tiny_model, upsampler):
    """bfloat16 autocast returns float32 close to the full-precision image."""
    model, lr = tiny_model(upsampler).eval(), torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        expected = model(lr, 2)
        with torch.autocast("cpu", torch.bfloat16):
            sr = model(lr, 2)
    assert sr.dtype == torch.float32
    assert (sr - expected).abs().mean() < 0.05 * expected.abs().mean()


# ---- bad input


@pytest.mark.parametrize("scale", [0, -1, 2.5, 2.0, True, "2", None], ids=repr)
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_bad_scales_are_refused(tiny_model, upsampler, scale):
    """At construction, in forward and in `instantiate`: one line that names the value."""
    model = tiny_model(upsampler)
    for act in (lambda: model(torch.rand(1, 3, 4, 4), scale), lambda: model.instantiate(scale),
                lambda: build_model("edsr_tiny", upsampler, scales=(scale,))):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(repr(scale))) as error:
            act()
        assert "\n" not in str(error.value)


def test_numpy_integers_are_scales(tiny_model):
    """np.int64 is accepted everywhere a scale is."""
    model, lr = tiny_model("igconv+", scales=np.array([2, 3])), torch.rand(1, 3, 4, 4)
    assert torch.equal(model(lr, np.int64(3)), model(lr, 3))
    assert model.instantiate(np.int32(3))(lr).shape == (1, 3, 12, 12)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 4, 4), (1, 4, 4, 4), (1, 3, 4, 4)], ids=str)
def test_bad_images_are_refused(tiny_model, shape):
    """No batch axis, not three colours, bytes."""
    lr = torch.zeros(shape, dtype=torch.uint8 if shape == (1, 3, 4, 4) else torch.float32)
    with pytest.raises(InputError, match=r"\(B, 3, H, W\)"):
        tiny_model("igconv")(lr, 2)


@pytest.mark.parametrize(("arguments", "named"), [
    (("resnet", "igconv"), ("resnet", "edsr_tiny", "smfanet_plus")),
    (("edsr_tiny", "IGConv"), ("IGConv", "igconv+", "spconv")),
])  # fmt: skip
def test_unknown_names_list_the_choice(arguments, named):
    """Encoder and upsampler: the value and what is allowed, in one line."""
    with pytest.raises(InputError) as error:
        build_model(*arguments, scales=(2,))
    assert all(name in str(error.value) for name in named)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("upsampler", "options"), [
    ("igconv", dict(hiden_dim=8)), ("spconv", dict(hidden_dim=8)), ("spconv+", dict(dihedral=True)),
    ("igconv", dict(width=8)), ("igconv", dict(ffn_scale=2)), ("liif", dict(kernel_size=3)),
    ("liif", dict(hiden_dim=8)),
])  # fmt: skip
def test_unknown_options_are_errors(upsampler, options):
    """A typo or an option of something else is never swallowed."""
    with pytest.raises(InputError, match=next(iter(options))):
        build_model("edsr_tiny", upsampler, scales=(2,), **options)


@pytest.mark.parametrize("options", [dict(hidden_dim=7), dict(kernel_size=4), dict(num_layers=0), dict(max_scale=-1)],
                         ids=str)  # fmt: skip
def test_impossible_options_are_errors(options):
    """One line that names the option."""
    with pytest.raises(InputError, match=next(iter(options))):
        build_model("edsr_tiny", "igconv", scales=(2,), **options)


@pytest.mark.parametrize("options", [dict(hidden_dim=0), dict(hidden_dim=2.5), dict(num_layers=0)], ids=str)
def test_impossible_options_of_liif_are_errors(options):
    """One line that names the option."""
    with pytest.raises(InputError, match=next(iter(options))):
        build_model("edsr_tiny", "liif", scales=(2,), **options)


@pytest.mark.parametrize("scales", [2, "234", None], ids=repr)
def test_scales_must_be_a_list_of_integers(scales):
    """One integer or a string is the notebooks' most likely mistake."""
    with pytest.raises(InputError):
        build_model("edsr_tiny", "igconv", scales=scales)


def test_an_encoder_module_needs_its_width():
    """Without out_channels nothing can be built on it."""
    with pytest.raises(InputError, match="out_channels"):
        build_model(nn.Sequential(nn.Conv2d(3, 8, 3)), "igconv", scales=(2,))


def test_any_module_composes():
    """SuperResolver takes parts that are not ours; defaults are identities."""
    model = SuperResolver(nn.Conv2d(3, 5, 1), build_model("edsr_tiny", "spconv", scales=(2,), channels=5).upsampler)
    assert model(torch.rand(1, 3, 4, 4), 2).shape == (1, 3, 8, 8)
