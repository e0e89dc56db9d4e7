"""Encoders from spandrel: the same functions as its networks, and any of its fixed-scale networks as an encoder."""

import copy
import re
import sys

import pandas as pd
import pytest
import torch
from parity import COLUMNS, parity, reference_errors, write
from torch import nn

from igconv import InputError, build_model
from igconv.models.encoders import ENCODERS, from_spandrel
from igconv.models.super_resolver import pad_to_multiple

SMALL = dict(depths=(2, 2), heads=(2, 2))
WINDOWED = {  # name: options; the second of each with everything else than the default
    "swinir": [dict(channels=24, **SMALL, window=4, img_size=16),
               dict(channels=24, **SMALL, window=7, img_size=7, connection="3conv", qkv_bias=False, qk_scale=0.3,
                    patch_norm=False, img_range=255.0)],
    "srformer": [dict(channels=24, **SMALL, window=6, img_size=18),
                 dict(channels=24, **SMALL, window=8, img_size=20, connection="3conv", qkv_bias=False, qk_scale=0.3,
                      patch_norm=False)],
    "hat": [dict(channels=24, **SMALL, window=4, squeeze=6, conv_scale=0.2),
            dict(channels=24, **SMALL, window=8, compress=2, squeeze=4, overlap=0.25, qkv_bias=False,
                 connection="identity", qk_scale=0.3, patch_norm=False)],
    "atd": [dict(channels=24, **SMALL, window=8, tokens=12, token_channels=6, category_size=50),
            dict(channels=24, **SMALL, window=4, tokens=5, token_channels=3, category_size=4000, ffn_kernel_size=3,
                 connection="3conv", qkv_bias=False, patch_norm=False)],
}  # fmt: skip


def make(name: str, options: dict) -> nn.Module:
    """An encoder in eval mode whose biases, tables and norms are not at their start values."""
    if name == "srformer":
        pytest.importorskip("spandrel_extra_arches", reason='extra "srformer"')
    encoder = ENCODERS[name][0](**options).eval()
    for p in encoder.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    return encoder


def theirs(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Features of spandrel's network with the same weights, all of it spandrel's code."""
    cls = next(base for base in type(encoder).__mro__ if base.__module__.startswith("spandrel"))
    net = cls(**encoder.hyperparameters).eval()
    missing, additional = net.load_state_dict(encoder.state_dict(), strict=False)
    assert not additional
    assert not [key for key in missing if not key.endswith(("mask", "index", "_SA", "_OCA")) and "conv_last" not in key]
    with torch.no_grad():
        first, sizes = net.conv_first(x), list(x.shape[2:])
        tables = ({"attn_mask": net.calculate_mask(sizes), "rpi_sa": net.relative_position_index_SA}
                  if cls.__name__ == "ATD" else None)  # fmt: skip
        body = net.forward_features(first, tables) if tables else net.forward_features(first)
        return net.conv_after_body(body) + first


@pytest.mark.parametrize(("name", "options"), [(name, o) for name, both in WINDOWED.items() for o in both])
@pytest.mark.parametrize("size", [(16, 16), (21, 50)], ids=str)
def test_windows_equal_spandrels(name, options, size):
    """Equal with gradients (same steps), within rounding without (fused attention); a batch, all options."""
    encoder = make(name, options)
    x = pad_to_multiple(torch.rand(2, 3, *size), encoder.pad_to, encoder.pad_mode)
    expected = theirs(encoder, x)
    assert torch.equal(encoder(x).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), expected, atol=2e-6 * expected.abs().max().item(), rtol=0)


def test_dropout_is_for_training():
    """Stochastic depth changes features in training mode only, and is the papers' 0.1 by default."""
    for name in ("swinir", "hat"):
        options = WINDOWED[name][0]
        encoder, x = make(name, options), torch.rand(8, 3, 16, 16)
        assert torch.equal(encoder(x), encoder(x))
        encoder.train()
        assert not torch.equal(encoder(x), encoder(x))
        quiet = make(name, options | dict(drop_path=0.0)).train()
        assert torch.equal(quiet(x), quiet(x))


@pytest.mark.parametrize("options", [
    dict(mixer="CCM"), dict(mixer="ICCM", attention=False), dict(kind="SparsePLK", with_identity=True),
    dict(kind="SparsePLK", use_max_kernel=True), dict(kind="RectSparsePLK", large_kernel_size=9),
    dict(with_identity=True, split_ratio=0.5),
], ids=str)  # fmt: skip
def test_plksr_variants(options):
    """Training and evaluation mode, which take different paths, agree."""
    encoder = ENCODERS["plksr"][0](**(dict(channels=8, blocks=2, large_kernel_size=5) | options))
    x = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        expected = encoder(x)
        torch.testing.assert_close(encoder.eval()(x), expected)
    assert expected.shape == (1, 8, 9, 11)


def test_encoders_leave_their_input_alone():
    """spandrel's RCAN multiplies its input in place; ours do not."""
    for name, options in (("rcan", dict(channels=8, groups=1, blocks=1, reduction=2)), ("plksr", dict(blocks=1))):
        x = torch.rand(1, 3, 6, 6)
        before = x.clone()
        with torch.no_grad():
            ENCODERS[name][0](**options).eval()(x)
        assert torch.equal(x, before)


def test_rcan_trains_its_normalisation():
    """1x1 convolutions that start as minus and plus the mean."""
    model = build_model("rcan", "spconv", scales=(1,), channels=4, groups=1, blocks=1, reduction=2, img_range=255.0)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(model.post(model.pre(x)), x, atol=1e-6, rtol=0)
    assert all(p.requires_grad for p in (*model.pre.parameters(), *model.post.parameters()))


@pytest.mark.parametrize("name", ["rcan", "plksr", "swinir", "hat", "atd"])
def test_stages_run_in_order(name):
    """The analyses hook `stages()`: each runs once per forward, in the order listed."""
    options = WINDOWED[name][0] if name in WINDOWED else dict(channels=8, blocks=3)
    encoder, ran = make(name, options | (dict(groups=3, reduction=2) if name == "rcan" else {})), []
    for stage, module in encoder.stages().items():
        module.register_forward_hook(lambda _, __, out, stage=stage: ran.append(stage))
    encoder(torch.rand(1, 3, 16, 16))
    assert ran == list(encoder.stages())
    assert len(ran) >= 4


# ---- fixed-scale networks of other people


def spandrel_class(name: str) -> type[nn.Module]:
    from importlib import import_module

    if name == "SRFormer":
        pytest.importorskip("spandrel_extra_arches", reason='extra "srformer"')
        return import_module("spandrel_extra_arches.architectures.SRFormer").SRFormer
    return getattr(import_module(f"spandrel.architectures.{name}"), name)


SWIN = dict(embed_dim=24, depths=[2], num_heads=[2], window_size=8, upscale=4)
FIXED = [  # spandrel's class, options, width of the features, what the head is called, range
    ("SwinIR", SWIN | dict(upsampler="pixelshuffle"), 24, "conv_before_upsample", 1.0),
    ("SwinIR", SWIN | dict(upsampler="pixelshuffledirect", img_range=255.0), 24, "upsample", 255.0),
    ("SwinIR", SWIN | dict(upsampler="nearest+conv"), 24, "conv_before_upsample", 1.0),
    ("SRFormer", SWIN | dict(upsampler="pixelshuffle"), 24, "conv_before_upsample", 1.0),
    ("HAT", SWIN | dict(squeeze_factor=6), 24, "conv_before_upsample", 1.0),
    ("ATD", SWIN | dict(upsampler="pixelshuffle", upscale=3), 24, "conv_before_upsample", 1.0),
    ("ATD", SWIN | dict(upsampler="pixelshuffledirect", norm=False), 24, "upsample", None),
    ("RCAN", dict(n_resgroups=1, n_resblocks=1, n_feats=16, reduction=4, scale=2), 16, "tail", 255.0),
    ("PLKSR", dict(dim=16, n_blocks=2), 16, "feats.3", None),
    ("Compact", dict(num_feat=16, num_conv=3), 16, "body.8", None),
    ("ESRGAN", dict(num_blocks=1, num_filters=16, scale=4), 16, "model.2", None),
]  # fmt: skip


@pytest.fixture
def fixed_scale(request):
    """A fixed-scale network of spandrel in eval mode."""
    name, options, *_ = request.param
    return spandrel_class(name)(**options).eval()


@pytest.mark.parametrize(("fixed_scale", "expected"), [(case, case[2:]) for case in FIXED], indirect=["fixed_scale"],
                         ids=[f"{name}-{options.get('upsampler', '')}" for name, options, *_ in FIXED])  # fmt: skip
def test_a_fixed_scale_network_becomes_an_encoder(fixed_scale, expected):
    """The features are what its head is given; the head is gone, the rest trains; two scales come out."""
    width, head, span = expected
    before = copy.deepcopy(fixed_scale)
    encoder = from_spandrel(fixed_scale).eval()
    assert encoder.out_channels == width
    assert getattr(encoder, "img_range", None) == span
    assert all(torch.equal(a, b) for a, b in zip(fixed_scale.parameters(), before.parameters(), strict=True))

    seen, image = [], torch.rand(1, 3, 24, 32)
    part = fixed_scale.get_submodule(head)
    part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model = build_model(encoder, "igconv+", scales=(2, 3), hidden_dim=8, num_layers=1).eval()
    with torch.no_grad():
        fixed_scale(image.clone())
        torch.testing.assert_close(model.encode(image)[1], seen[0], atol=2e-5, rtol=1e-4)
    assert not any("conv_last" in key or "upsample" in key for key in encoder.state_dict())

    model.train()
    for scale in (2, 3):
        assert model(image, scale).shape == (1, 3, 24 * scale, 32 * scale)
    model(image, 2).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert model.eval().instantiate(3)(image[..., :23, :29]).shape == (1, 3, 69, 87)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("key", [None, "params_ema", "state_dict"])
def test_from_a_file(tmp_path, ending, key):
    """A weight file that spandrel can read, wrapped or not."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = spandrel_class("SwinIR")(**SWIN, upsampler="pixelshuffle").eval()
    path, state = tmp_path / f"net{ending}", net.state_dict()
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save({key: state} if key else state, path)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(from_spandrel(path).eval()(image), from_spandrel(net).eval()(image))


class Blur(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(("make_bad", "named"), [
    (lambda folder: folder / "none.pth", "no checkpoint"),
    (lambda folder: Blur(), "no layer of it enlarges"),
    (lambda folder: nn.Conv2d(1, 3, 3), "does not take an image"),
    (lambda folder: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Upsample(scale_factor=4)), "16x16 features"),
    (lambda folder: 3, "takes a file"),
    (lambda folder: _saved({"x": torch.zeros(3)}, folder), "knows no architecture"),
    (lambda folder: _saved({"x": Blur}, folder), "code"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_cannot_become_an_encoder(tmp_path, make_bad, named):
    """One line each."""
    with pytest.raises(InputError, match=re.escape(named)) as error:
        from_spandrel(make_bad(tmp_path))
    assert "\n" not in str(error.value)


def _saved(content, folder):
    torch.save(content, folder / "net.pth")
    return folder / "net.pth"


def test_models_of_spandrel_networks_come_back_from_their_files_others_do_not(tmp_path):
    """A file says which of spandrel's networks it was; an encoder of the user's nothing could rebuild."""
    import igconv

    path = tmp_path / "model.safetensors"
    net = spandrel_class("PLKSR")(dim=8, n_blocks=1)
    model = build_model(from_spandrel(net), "igconv", scales=(2,), hidden_dim=8, num_layers=1).eval()
    igconv.save(model, path)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(igconv.load(path)(image, 2), model(image, 2))
    own = build_model(torch.nn.Conv2d(3, 8, 3, padding=1), "igconv", scales=(2,), hidden_dim=8, num_layers=1)
    with pytest.raises(InputError, match="rebuilt"):
        igconv.save(own, tmp_path / "other.safetensors")
    assert list(tmp_path.iterdir()) == [path]


# ---- the parity table


@pytest.mark.reference
def test_reference_errors(reference, monkeypatch):
    """One row per network of the vectors; all that load are within the tolerance."""
    import os
    from pathlib import Path

    networks = [case for case, entry in reference()["cases"].items() if "network_g" in entry]
    table = reference_errors(Path(os.environ["IGCONV_REFERENCE"]))
    assert list(table.case) == networks
    loaded = table[table.weights_load == "yes"]
    assert set(networks) - set(loaded.case) <= {"srformer_ig", "mambair_ig"}  # where an extra is missing
    assert loaded.share_of_tolerance.max() <= 1


def test_parity_table(tmp_path):
    """Three lines per encoder, the columns that are promised, a page that says the same."""
    table = parity(["smfanet_plus"], side=16)
    assert tuple(table.columns) == COLUMNS
    assert list(table.upsampler) == ["spconv", "igconv", "igconv+"]
    assert table.parameters_m.round(3).tolist() == [0.480, 0.960, 1.250]
    write(table, tmp_path)
    assert len(pd.read_csv(tmp_path / "parity.csv")) == 3
    assert (tmp_path / "parity.provenance.json").is_file()
    assert "| smfanet_plus | igconv+" in re.sub(" +", " ", (tmp_path / "README.md").read_text())
    with pytest.raises(InputError, match="smfanet_plus"):
        parity(["resnet"])


def test_spandrel_warns_nobody():
    """Its import and constructors warn about torch.jit and meshgrid, which users cannot change."""
    import subprocess

    options = "channels=24, depths=(1,), heads=(2,), squeeze=6"
    code = f"import igconv; igconv.build_model('hat', 'igconv', scales=(2,), {options})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
