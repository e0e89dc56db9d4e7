"""Weights on disk: round trips, and every kind of file that is not one of ours."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from igconv import InputError, build_model, files, load, save
from igconv.models import checkpoints, state_files
from igconv.models.super_resolver import UPSAMPLERS


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_round_trip(tiny_model, tmp_path, upsampler):
    """The same images from the loaded model, which is in eval mode and float32."""
    model, lr = tiny_model(upsampler), torch.rand(1, 3, 5, 6)
    save(model, tmp_path / "m.safetensors", run="name", numbers=[1, 2])
    loaded = load(tmp_path / "m.safetensors")
    assert not loaded.training
    assert loaded.config == json.loads(json.dumps(model.config))
    assert checkpoints.metadata(tmp_path / "m.safetensors")["meta"] == {"run": "name", "numbers": [1, 2]}
    with torch.no_grad():
        torch.testing.assert_close(loaded(lr, 3), model(lr, 3), atol=1e-6, rtol=0)


def test_options_of_the_encoder_come_back(tmp_path):
    """Width, normalisation and ablation are in the file."""
    options = dict(channels=4, blocks=1, img_range=255.0, mean=(0.1, 0.2, 0.3), igsample=False, hidden_dim=8)
    save(build_model("edsr", "igconv+", scales=(2,), **options), tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    assert loaded.sampler is None
    assert loaded.upsampler.hyper.dihedral
    assert loaded.pre.factor == 255.0
    assert loaded.post.shift.flatten().tolist() == pytest.approx((0.1, 0.2, 0.3))


def test_channels_last_and_half_precision(tiny_model, tmp_path):
    """What the trainer holds (channels-last) and a half-size file both load as float32."""
    model = tiny_model("igconv").to(memory_format=torch.channels_last)
    save(model, tmp_path / "m.safetensors", dtype=torch.bfloat16)
    loaded = load(tmp_path / "m.safetensors")
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[key], atol=0, rtol=2**-8)


def test_a_model_that_cannot_be_rebuilt_is_not_saved(tmp_path):
    """An encoder of one's own has no name: refused, nothing written."""
    encoder = torch.nn.Conv2d(3, 4, 3, padding=1)
    with pytest.raises(InputError):
        save(build_model(encoder, "spconv", scales=(2,)), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_instantiated_models_are_not_saved_as_what_they_are_not(tiny_model, tmp_path):
    """A fixed-scale module has other weights than its configuration would build."""
    with pytest.raises(InputError):
        save(tiny_model("igconv").instantiate(2), tmp_path / "m.safetensors")


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damage(kind: str, model, tmp_path):
    """A file of the given kind of wrongness."""
    path = tmp_path / ("m.pth" if "pickle" in kind or kind.endswith("pth") else "m.safetensors")
    if kind == "truncated":
        save(model, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "truncated pth":
        torch.save(model.state_dict(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty" or kind == "empty pth":
        path.touch()
    elif kind == "text pth":
        path.write_text("not a checkpoint")
    elif kind == "pickle with code":
        torch.save({"params": Code(tmp_path / "ran")}, path)
    elif kind == "bare pickle with code":
        path.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    elif kind == "pickle of a list":
        torch.save([torch.zeros(2)], path)
    elif kind == "folder":
        path.mkdir()
    return path


KINDS = ("truncated", "truncated pth", "empty", "empty pth", "text pth", "pickle with code", "bare pickle with code",
         "pickle of a list", "folder", "missing")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_are_named(tiny_model, tmp_path, kind):
    """One line with the path; no code of the file runs."""
    path = damage(kind, tiny_model("igconv"), tmp_path)
    with pytest.raises(InputError, match=path.name) as error:
        state_files.read_weights(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    if path.suffix == ".safetensors":
        with pytest.raises(InputError, match=path.name):
            load(path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_is_called_code(tmp_path, as_zip):
    """The message says why the pickle was refused, in both formats of ``torch.save``."""
    torch.save({"params": Code(tmp_path / "ran")}, tmp_path / "m.pth", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(InputError, match="code"):
        state_files.read_weights(tmp_path / "m.pth")


def test_foreign_safetensors_are_named(tmp_path):
    """Weights without our configuration, or without the weights it needs."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load(path)
    config = dict(encoder="edsr_tiny", upsampler="spconv", scales=[2])
    save_file({"w": torch.zeros(2)}, path, metadata={"igconv": json.dumps({"config": config, "meta": {}})})
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load(path)


@pytest.mark.parametrize(
    "header",
    [
        "not json",
        "[]",
        json.dumps({"config": {"encoder": "resnet"}}),
        json.dumps({"config": dict(encoder="swinir", upsampler="igconv", scales=[2])}),
    ],
)
def test_foreign_configurations_are_named(tmp_path, header):
    """A header from elsewhere, or from a version that knows more encoders: the message names the file."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2)}, path, metadata={"igconv": header})
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load(path)


@pytest.mark.parametrize("content", [{}, {"params": {}}, {"a": 1}, {"params_ema": {"a": "b"}}], ids=str)
def test_dictionaries_must_hold_tensors(content):
    """Empty or with other values."""
    with pytest.raises(InputError):
        state_files.read_weights(content)


def test_a_failed_save_keeps_the_old_file(tiny_model, tmp_path, monkeypatch):
    """A full disk: one line, the old weights stay, no temporary file stays."""
    path = tmp_path / "m.safetensors"
    save(tiny_model("spconv"), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"m\.safetensors.*No space"):
        save(tiny_model("igconv"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_is_of_the_bytes(tmp_path):
    """A known digest."""
    (tmp_path / "f").write_bytes(b"abc")
    assert files.sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")
