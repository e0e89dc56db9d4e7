"""The boundary for weights: what a file is, what training tools wrap around weights, and broken numbers."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as serialise
from torch import nn

from igconv import InputError
from igconv.models import checkpoints, state_files
from igconv.models.official import load_official

WEIGHTS = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
# Name of the file, its content, what the one line says beside the name.
FOREIGN = [
    ("a.pth", b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "a web page"),
    ("b.pth", b"\n\n  <html lang=en>", "a web page"),
    ("c.safetensors", b"\xef\xbb\xbf<!doctype html>", "a web page"),
    ("d.pt", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    ("e.pth", LFS, "a git LFS pointer"),
    ("f.safetensors", LFS, "a git LFS pointer"),
    ("g.pth", b"", "empty"),
    ("h.safetensors", b"", "empty"),
    ("i.pth", bytes(4096), "empty (zeros)"),
    ("j.pth", b"\x89PNG\r\n\x1a\n....", "an image"),
    ("k.pth", b"\x1f\x8b\x08....", "gzip archive"),
    ("l.pth", b"\x89HDF\r\n", "HDF5"),
    ("m.pth", zipped(**{"photos/1.txt": "x"}), "a zip archive of other files (photos/1.txt)"),
    ("n.zip", zipped(), "a zip archive of other files (none)"),
    ("o.PTH", b"PK\x03\x04 and then nothing", "truncated"),
    ("p.pth", b"hello", "not a checkpoint"),
    ("q.pth", pickle.dumps({"weight": [1.0]})[:-3], "cannot read"),
    ("r.SAFETENSORS", b"\xff\xff\xff\x7f\0\0\0\0{", "not a complete safetensors file"),
    ("s.safetensors", serialise(WEIGHTS)[:-4], "not a complete safetensors file"),
    ("t.pth", saved(WEIGHTS)[:200], "truncated"),
    ("u.pth", saved([1, 2]), "it holds a list"),
    ("v.pth", saved({"epoch": 3}), "found ['epoch']"),
    ("w.pth", saved({"state_dict": {}}), "found ['state_dict']"),
    ("x.pth", saved({"conv.weight": np.ones(3).tolist()}), "found ['conv.weight']"),
    ("y.pth", saved(dict.fromkeys(("config_hash", "optimizer", "bands"), 1)), "the checkpoint of a training"),
    ("z.pth", saved({"a": torch.tensor([1.0, torch.nan])}), "NaN weights, the first in a"),
    ("aa.pth", saved({"model": {"a": torch.ones(2), "b.c": torch.tensor(-torch.inf)}}), "infinite weights"),
    ("ab.safetensors", serialise({"a": torch.tensor([torch.nan]).half()}), "NaN weights, the first in a"),
    ("ac.pth", saved({"module.a": torch.ones(1), "module._orig_mod.a": torch.ones(1)}), "two weights of one name"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), FOREIGN, ids=[name for name, *_ in FOREIGN])
def test_what_is_no_weight_file_is_named(tmp_path, name, content, said):
    """One line with the file and what it is."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        state_files.read_weights(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_script_and_a_module_are_told_from_code(tmp_path):
    """TorchScript and whole pickled modules are no attack, and what to do about them is said."""
    path = tmp_path / "m.pt"
    path.write_bytes(script())
    with pytest.raises(InputError, match=r"m\.pt: it is a TorchScript archive"):
        state_files.read_weights(path)
    for content in (nn.Linear(2, 2), {"model": nn.Linear(2, 2), "epoch": 1}):
        path.write_bytes(saved(content))
        with pytest.raises(InputError, match=r"m\.pt: it holds a whole pickled module.*state_dict\(\)"):
            state_files.read_weights(path)


def test_links_to_nothing_and_folders(tmp_path):
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone.pth")
    with pytest.raises(InputError, match=r"link\.pth \(a link to nothing\)"):
        state_files.read_weights(tmp_path / "link.pth")
    with pytest.raises(InputError, match=r"it is a folder; name the file"):
        state_files.read_weights(tmp_path)


def prefixed(prefix: str, **beside) -> dict:
    return OrderedDict({f"{prefix}{name}": value for name, value in WEIGHTS.items()}, **beside)


WRAPPED = {
    "state_dict": {"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "model": {"model": WEIGHTS, "args": None},
    "nested": {"model": {"state_dict": {"net": WEIGHTS}}},
    "averaged first": {"params": {"conv.weight": torch.ones(1)}, "params_ema": WEIGHTS},
    "ema": {"model": {"conv.weight": torch.ones(1)}, "ema": WEIGHTS},
    "settings called ema": {"model": WEIGHTS, "ema": {"decay": 0.999}},
    "network": {"network": WEIGHTS},
    "ddp": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "ddp of compiled": prefixed("module._orig_mod."),
    "compiled ddp": {"state_dict": prefixed("_orig_mod.module.")},
    "average of ddp": {"state_dict": prefixed("module.module.", n_averaged=torch.tensor(7))},
    "compiled part": {"conv._orig_mod.weight": WEIGHTS["conv.weight"], "conv._orig_mod.bias": WEIGHTS["conv.bias"]},
    "counter": WEIGHTS | {"num_batches_tracked": torch.tensor(3)},
    "plain values": WEIGHTS | {"epoch": 3, "name": "mine", "best": np.float64(30.1), "none": None},
    "numpy scalars": {"params": WEIGHTS, "psnr": np.float64(30.1), "step": np.int64(7), "half": np.float32(1)},
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("suffix", [".pth", ".PTH", ".safetensors"])
def test_wrappers_are_taken_off(tmp_path, kind, suffix):
    """From a file of any suffix (its content counts), and from a dictionary."""
    path = tmp_path / f"m{suffix}"
    path.write_bytes(saved(WRAPPED[kind]))
    for found in (state_files.read_weights(path), state_files.read_weights(WRAPPED[kind])):
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


def test_names_that_only_look_like_prefixes_stay():
    """A layer called ``module`` beside others, and the counter of a batch norm, are parts of the network."""
    state = {"module.weight": torch.ones(1), "norm.num_batches_tracked": torch.tensor(1), "norm.weight": torch.ones(1)}
    assert state_files.read_weights(state).keys() == state.keys()


@pytest.mark.parametrize("name", ["m.SAFETENSORS", "m.pth"])
def test_safetensors_of_any_suffix(tmp_path, name, tiny_model):
    """The content says what it is, for our own files too."""
    model = tiny_model("spconv", scales=(2,))
    checkpoints.save(model, tmp_path / name)
    assert state_files.read_weights(tmp_path / name).keys() == model.state_dict().keys()
    assert checkpoints.load(tmp_path / name).state_dict().keys() == model.state_dict().keys()


def test_broken_weights_are_refused_at_load(tmp_path, tiny_model):
    """A model with NaN gives black pictures; its file is named instead."""
    model = tiny_model("igconv")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    config = json.dumps({"config": model.config, "meta": {}})
    (tmp_path / "m.safetensors").write_bytes(serialise(model.state_dict(), metadata={"igconv": config}))
    with pytest.raises(InputError, match=r"m\.safetensors has NaN weights, the first in "):
        checkpoints.load(tmp_path / "m.safetensors")


def test_the_file_is_named_where_weights_do_not_fit(tmp_path):
    """Also when the names only show in the model that they should fit."""
    network_g = dict(type="EDSRIG", num_in_ch=3, num_out_ch=3)
    path = tmp_path / "theirs.pth"
    path.write_bytes(saved({"params": WEIGHTS}))
    with pytest.raises(InputError, match=r"theirs\.pth does not fit EDSRIG: missing"):
        load_official(path, network_g)


@pytest.mark.parametrize("wrapper", ["state_dict", "_orig_mod.", "module."])
def test_encoders_come_out_of_wrapped_files(tmp_path, wrapper):
    """`from_spandrel` takes what training tools leave, and says what a web page is."""
    pytest.importorskip("spandrel")
    from spandrel.architectures.PLKSR import PLKSR

    from igconv.models.encoders import from_spandrel

    state = PLKSR(dim=8, n_blocks=1, upscaling_factor=2).state_dict()
    wrapped = {"state_dict": {f"net.{k}"[4:]: v for k, v in state.items()}} if wrapper == "state_dict" else {
        f"{wrapper}{k}": v for k, v in state.items()}  # fmt: skip
    path = Path(tmp_path / "m.PTH")
    path.write_bytes(saved(wrapped))
    assert from_spandrel(path).out_channels == 8
    path.write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"m\.PTH: it is a web page"):
        from_spandrel(path)
