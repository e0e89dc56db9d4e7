"""Encoders: published sizes, shapes, training, what is imported when, modules of other people."""

import subprocess
import sys

import fake_gpu
import pytest
import torch
from parity import PAPER, models
from tiny import TINY, needs
from torch import nn

from igconv import InputError, build_model
from igconv.models.encoders import ENCODERS
from igconv.models.encoders.edsr import EDSR
from igconv.models.encoders.smfanet import SMFANet
from igconv.training.losses import frequency_l1, l1


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def without_random(monkeypatch):
    """Full-size networks without drawing their weights: only sizes matter, and it is faster."""
    for name in ("trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


def test_every_constructor_is_tried():
    """The tiny sizes cover the table."""
    assert {ENCODERS[name][0] for name in TINY} == {constructor for constructor, _ in ENCODERS.values()}


@pytest.mark.parametrize("name", PAPER)
def test_published_sizes(name, without_random):
    """Encoder, IGConv, IGSample and the IGConv+ model to the digits of FACTS section 5; IGConv is encoder + IGConv."""
    needs(name)
    sizes, full = PAPER[name][2], models(name)
    encoder, upsampler = count(full["igconv"].encoder), full["igconv"].upsampler
    found = (encoder / 1e6, count(upsampler) / 1e3, count(full["igconv+"].sampler) / 1e3, count(full["igconv+"]) / 1e6)
    assert tuple(round(value, digits) for value, digits in zip(found, (3, 1, 1, 3), strict=True)) == sizes
    normalisation = count(full["igconv"].pre) + count(full["igconv"].post)  # RCAN's is trained
    assert normalisation == (24 if name == "rcan" else 0)
    assert count(full["igconv"]) == encoder + count(upsampler) + normalisation


@pytest.mark.parametrize(("encoder", "upsampler", "scale", "options", "expected"), [
    ("edsr_baseline", "spconv+", 2, {}, 1_369_859),
    ("edsr", "spconv+", 2, {}, 40.7),
    ("edsr", "spconv+", 3, {}, 43.7),
    ("edsr", "spconv+", 4, {}, 43.1),
    ("rcan", "spconv+", 2, {}, 15_444_667),
    ("smfanet", "spconv", 2, {}, 185_628),
    ("smfanet", "spconv", 4, {}, 197_328),
    ("smfanet_plus", "spconv", 2, {}, 480_300),
    ("smfanet_plus", "spconv", 3, {}, 486_795),
    ("mambair_light_baseline", "spconv", 2, {}, 1_363_320),
    ("swinir", "spconv+", 2, dict(width=64), 11.8),
    ("hat", "spconv+", 2, dict(width=64), 20.6),
])  # fmt: skip
def test_published_models(encoder, upsampler, scale, options, expected, without_random):
    """Whole models as the literature and the published weights count them (an integer, or millions)."""
    needs(encoder)
    found = count(build_model(encoder, upsampler, scales=(scale,), **options))
    assert found == expected if isinstance(expected, int) else round(found / 1e6, 1) == expected


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [(16, 24), (17, 10)])
def test_models_of_every_encoder(name, size):
    """(B, 3, H, W) -> (B, 3, r H, r W) at sides that are multiples of nothing; stored weights give the same."""
    needs(name)
    model = build_model(name, "igconv+", scales=(2, 3), hidden_dim=8, num_layers=2, **TINY[name]).eval()
    lr = torch.rand(2, 3, *size)
    with torch.no_grad():
        sr = model(lr, 3)
        assert model.encode(lr)[1].shape[1] == model.encoder.out_channels
        assert sr.shape == (2, 3, 3 * size[0], 3 * size[1])
        assert torch.equal(model.instantiate(3)(lr), sr)


@pytest.mark.parametrize("name", TINY)
def test_every_encoder_trains(name):
    """Two steps with IGConv+ and its losses: a gradient for every parameter, and the loss of the batch falls."""
    needs(name)
    model = build_model(name, "igconv+", scales=(2, 3), hidden_dim=16, num_layers=2, **TINY[name])
    model = model.to(memory_format=torch.channels_last).train()
    lr = torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last)
    hr = [nn.functional.interpolate(lr[2 * i : 2 * i + 2], scale_factor=s, mode="bicubic") for i, s in ((0, 2), (1, 3))]

    def loss():
        return sum(
            l1(sr, t) + 0.05 * frequency_l1(sr, t) for sr, t in zip(model.multi_scale(lr, (2, 3)), hr, strict=True)
        )

    def loss_in_eval_mode():
        with torch.no_grad():
            model.eval()
            value = loss().item()
        model.train()
        return value

    before = loss_in_eval_mode()
    adam = torch.optim.Adam(model.parameters(), lr=2e-4)
    for _ in range(2):
        adam.zero_grad()
        loss().backward()
        assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not [key for key, p in model.named_parameters() if not p.grad.any()]
        adam.step()
    assert loss_in_eval_mode() < before


@pytest.mark.parametrize("name", TINY)
def test_saved_and_loaded(name, tmp_path):
    """A model of every encoder comes back from its file with the same function."""
    import igconv

    needs(name)
    model = build_model(name, "igconv", scales=(2,), hidden_dim=8, num_layers=1, **TINY[name]).eval()
    igconv.save(model, tmp_path / "model.safetensors")
    lr = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(igconv.load(tmp_path / "model.safetensors")(lr, 2), model(lr, 2))


def test_imports_are_light():
    """The table of encoders and the loader import none of the packages that presets need."""
    code = """
import sys
import igconv, igconv.models.super_resolver, igconv.models.official, igconv.study.runs
assert not [m for m in sys.modules if m.split(".")[0] in ("spandrel", "spandrel_extra_arches", "mambapy", "mamba_ssm")]
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_missing_extra_is_named(monkeypatch):
    """One line with the command that installs it and with its licence (MambaIR: test_selective_scan.py)."""
    package = "spandrel_extra_arches"
    for name in (package, *(name for name in sys.modules if name.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    monkeypatch.delitem(sys.modules, "igconv.models.encoders.srformer", raising=False)
    with pytest.raises(InputError) as error:
        build_model("srformer", "igconv", scales=(2,))
    assert "\n" not in str(error.value)
    assert "igconv[srformer]" in str(error.value)
    assert "CC BY-NC" in str(error.value)


@pytest.mark.parametrize("name", ["swinir", "hat", "atd", "srformer"])
@pytest.mark.parametrize("size", [(1, 16), (3, 40)])
def test_images_too_small_for_the_window(name, size):
    """They cannot be mirrored far enough: one line with size and window."""
    needs(name)
    model = build_model(name, "igconv", scales=(2,), hidden_dim=8, num_layers=1, **(TINY[name] | dict(window=8)))
    with pytest.raises(InputError, match=rf"{size[0]}x{size[1]} px.*8 px") as error:
        model(torch.rand(1, 3, *size), 2)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="multiples of the window, 8 px"):
        model.encoder(torch.rand(1, 3, 12, 12))


@pytest.mark.parametrize(("name", "options", "named"), [
    ("swin", {}, "swinir"),
    ("swinir", dict(embed_dim=60), "channels"),
    ("swinir", dict(depths=(2,), heads=(2, 2)), "depths"),
    ("swinir", dict(channels=25), "heads"),
    ("swinir", dict(connection="2conv"), "3conv"),
    ("hat", dict(connection="3conv"), "identity"),
    ("plksr", dict(mixer="MLP"), "DCCM"),
    ("plksr", dict(kind="LK"), "RectSparsePLK"),
    ("edsr_tiny", dict(window=8), "window"),
])  # fmt: skip
def test_unknown_encoders_and_options(name, options, named):
    """One line with what is allowed."""
    with pytest.raises(InputError, match=named) as error:
        build_model(name, "igconv", scales=(2,), **options)
    assert "\n" not in str(error.value)


# ---- modules of other people


def test_any_module_is_an_encoder():
    """The width is found by running it once, which leaves mode, weights and statistics as they are."""
    encoder = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(), nn.Dropout())
    encoder[3].eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    model = build_model(encoder, "igconv+", scales=(2, 3), hidden_dim=8, num_layers=1)
    assert model.encoder is encoder
    assert [m.training for m in encoder] == [True, True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert model(torch.rand(1, 3, 6, 5), 3).shape == (1, 3, 18, 15)


@pytest.mark.parametrize(("encoder", "named"), [
    (nn.Sequential(nn.Conv2d(3, 8, 3)), r"\(1, 8, 62, 62\)"),
    (nn.Sequential(nn.Conv2d(3, 8, 2, stride=2)), r"\(1, 8, 32, 32\)"),
    (nn.Sequential(nn.Conv2d(1, 8, 3)), "expected input"),
    (nn.Sequential(nn.Flatten()), r"\(1, 12288\)"),
    (nn.LSTM(64, 4), "does not take an image"),
    (torch.zeros, "an nn.Module"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_modules_that_are_no_encoders(encoder, named):
    """Features of another size, another input, no module: one line with the shapes."""
    with pytest.raises(InputError, match=named) as error:
        build_model(encoder, "igconv", scales=(2,))
    assert "\n" not in str(error.value)


def test_options_of_a_module_are_named():
    """They cannot be known; the line says whose they are not."""
    with pytest.raises(InputError, match=r"Sequential.*blocks"):
        build_model(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), "igconv", scales=(2,), blocks=3)


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "replicate", "constant"])
def test_padding_modes(mode):
    """NumPy's modes of the same meaning."""
    import numpy as np

    from igconv.models.super_resolver import pad_to_multiple

    image, numpys = torch.rand(2, 3, 6, 9), {"replicate": "edge"}.get(mode, mode)
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 2), (0, 7)), mode=numpys)
    assert torch.equal(pad_to_multiple(image, 8, mode)[..., :16], torch.from_numpy(padded))
    assert pad_to_multiple(image[..., :6, :6], 6, mode).shape == (2, 3, 6, 6)


@pytest.mark.parametrize("encoder", [EDSR(8, 3), SMFANet(8, 3)], ids=["edsr", "smfanet"])
def test_stages_are_modules_that_run_in_order(encoder):
    """The analyses hook `stages()`: each runs once per forward, in the order listed, with encoder-wide outputs."""
    stages, ran = encoder.stages(), []
    for name, module in stages.items():
        module.register_forward_hook(lambda _, __, out, name=name: ran.append((name, tuple(out.shape))))
    encoder(torch.rand(1, 3, 9, 8))
    assert ran == [(name, (1, 8, 9, 8)) for name in stages]
    assert len(stages) >= 4


def test_edsr_scales_its_residuals():
    """res_scale multiplies every residual branch: with 0 the blocks are the identity."""
    encoder, x = EDSR(8, 2, res_scale=0.0), torch.rand(1, 3, 6, 6)
    first = encoder.conv_first(x)
    assert torch.equal(encoder(x), encoder.conv_after_body(first) + first)


@pytest.mark.parametrize("factor", [0.1, 1.0, 2.0])
def test_edsr_scales_its_residuals_by_the_factor(factor):
    """Both blocks: x + factor * conv(relu(conv(x))), and the gradients of the branch; 1 multiplies nothing."""
    encoder, x = EDSR(8, 2, res_scale=factor), torch.rand(1, 3, 6, 6)
    first = y = encoder.conv_first(x)
    for block in encoder.body:
        y = y + factor * block.conv2(block.conv1(y).relu())
    expected = encoder.conv_after_body(y) + first
    with fake_gpu.Count() as count:
        found = encoder(x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert count.kernels["mul"] == (0 if factor == 1 else 2)
    weights = [block.conv1.weight for block in encoder.body]
    for a, b in zip(*(torch.autograd.grad(sr.sum(), weights) for sr in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_full_edsr_has_a_tenth_of_its_residuals():
    """Lim et al.; the small ones add them whole."""
    factors = {name: options.get("res_scale", 1.0) for name, (kind, options) in ENCODERS.items() if kind is EDSR}
    assert factors == {name: 0.1 if name == "edsr" else 1.0 for name in factors}
    assert {"edsr", "edsr_baseline", "edsr_tiny"} <= factors.keys()


def test_edsr_starts_as_basicsr():
    """Kaiming weights times 0.1 and zero biases in the blocks."""
    block = EDSR(64, 1).body[0]
    for conv in (block.conv1, block.conv2):
        assert conv.weight.detach().std() == pytest.approx(0.1 * (2 / 576) ** 0.5, rel=0.05)
        assert not conv.bias.any()


def test_edsr_normalisation_is_undone():
    """img_range and mean go in before the encoder and come out after the upsampler, for any values."""
    options = dict(channels=4, blocks=1, img_range=255.0, mean=(0.1, 0.2, 0.3))
    model, x = build_model("edsr", "spconv", scales=(1,), **options), torch.rand(1, 3, 5, 5)
    mean = torch.tensor(options["mean"]).view(1, 3, 1, 1)
    torch.testing.assert_close(model.pre(x), (x - mean) * 255, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(model.post(model.pre(x)), x, atol=1e-6, rtol=0)
    assert not any("shift" in key for key in model.state_dict())


@pytest.mark.parametrize("size", [(1, 2), (3, 20), (7, 7)])
def test_smfanet_takes_images_below_its_pooling(size):
    """The authors' pooling is empty below 8 pixels; ours stays finite."""
    sr = SMFANet(8, 1)(torch.rand(1, 3, *size))
    assert sr.shape == (1, 8, *size)
    assert sr.isfinite().all()


def test_smfanet_partial_convolution_reads_a_quarter():
    """PCFN's 3x3 convolution works on the first quarter of the hidden channels."""
    assert SMFANet(48, 1, ffn_scale=2).feats[0].pcfn.conv_1.in_channels == 24


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("scale", "expected"), [(2, 38.177), (4, 32.433)])
def test_published_smfanet_weights_reach_their_value(data_root, scale, expected):
    """SMFANet+ (DIV2K) on Set5 within 0.005 dB: encoder, data, degradation and metric at once."""
    from igconv.evaluation.benchmark import measure
    from igconv.models.state_files import read_weights

    state = read_weights(data_root / "weights" / f"smfanet_plus_div2k_x{scale}.safetensors")
    model = build_model("smfanet_plus", "spconv", scales=(scale,)).eval()
    head = f"upsampler.heads.{scale}.0."
    model.load_state_dict({k.replace("to_img.0.", head) if k.startswith("to_img.0.") else f"encoder.{k}": v
                           for k, v in state.items()})  # fmt: skip
    rows = list(measure(model, ["Set5"], [scale]))
    assert len(rows) == 5
    assert sum(row["psnr_y_db"] for row in rows) / 5 == pytest.approx(expected, abs=0.005)
