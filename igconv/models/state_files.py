"""Weights in files of any origin -> tensors by name, without running code that is in them.

The one boundary for weights: what a file is is told by its content, not by its suffix; what training tools wrap around
weights is taken off; NaN and infinite weights are refused. Every message names the file.
"""

import numbers
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igconv.errors import InputError, reason

# Where training tools keep weights in a dictionary, the best first: averaged weights before those of the last step.
WRAPPERS = ("params_ema", "params-ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema", "params",
            "model_state_dict", "state_dict", "model", "net_g", "netG", "generator", "network", "net")  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and averaged models, and of torch.compile
COUNTERS = ("n_averaged", "num_batches_tracked")  # beside all weights; a batch norm's own counter has a layer's name
PLAIN = (numbers.Number, np.number, np.bool_, str, bytes, type(None))  # such as epoch, loss and version
# First bytes of what is often taken for weights.
FOREIGN = {
    b"version https://git-lfs": "a git LFS pointer, not the weights (`git lfs pull` gets them)",
    b"\x89PNG": "an image, not weights", b"\xff\xd8\xff": "an image, not weights", b"RIFF": "an image, not weights",
    b"\x1f\x8b": "a gzip archive, not weights; unpack it", b"7z\xbc\xaf": "a 7z archive, not weights; unpack it",
    b"Rar!": "a RAR archive, not weights; unpack it", b"\x89HDF": "an HDF5 file, not weights of PyTorch",
    b"GGUF": "a GGUF file, not weights of PyTorch", b"\x93NUMPY": "a NumPy array, not weights of PyTorch",
    b"%PDF": "a PDF file, not weights", b"#!": "a script, not weights",
}  # fmt: skip


def read_weights(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name: the averaged weights if there are some, else the last ones.

    Dictionaries around the weights (`WRAPPERS`), prefixes of all names (`PREFIXES`), counters and plain values beside
    them are taken off, however they are nested. Pickles are read with ``weights_only=True``: a file that wants to run
    code is refused.

    Raises:
        InputError: a file that is no weight file, no weights in it, or weights that are NaN or infinite.
    """
    if isinstance(checkpoint, Mapping):
        content, what = checkpoint, "the dictionary"
    elif kind_of(checkpoint) == "safetensors":
        with open_safetensors(checkpoint) as file:
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        what = str(checkpoint)
    else:
        content, what = read_pickle(checkpoint), str(checkpoint)
    weights = _without_prefixes(_unwrapped(content, what), what)
    check_finite(weights, what)
    return weights


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise InputError that names the first weight with NaN or infinite values."""
    for name, value in weights.items():
        value = value.float() if value.is_floating_point() and value.element_size() == 1 else value
        if not torch.isfinite(value).all():
            kind = "NaN" if torch.isnan(value).any() else "infinite"
            raise InputError(f"{what} has {kind} weights, the first in {name}; a broken training, or a damaged file")


def kind_of(path: str | Path) -> str:
    """ "safetensors" or "pickle" (of ``torch.save``, in either format), by the content of the file.

    Raises InputError that says what the file is instead.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"no checkpoint at {path}: it is a folder; name the file")
    if not path.is_file():
        broken = " (a link to nothing)" if path.is_symlink() else ""
        raise InputError(f"no checkpoint at {path}{broken}")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if not head.strip(b"\0 \r\n\t"):
        raise InputError(f"cannot read {path}: it is empty" + (" (zeros)" if head else "") + "; fetch it again")
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise InputError(f"cannot read {path}: it is a web page, not weights; download the file that it links to")
    for start, what in FOREIGN.items():
        if head.startswith(start):
            raise InputError(f"cannot read {path}: it is {what}")
    if head.startswith(b"PK"):
        _check_zip(path)
        return "pickle"
    if head[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and head[:1] != b"\x80"):
        return "safetensors"
    return "pickle"


def _check_zip(path: Path) -> None:
    """Raise InputError for a zip archive that is not one of ``torch.save``."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise InputError(f"cannot read {path}: truncated or not a checkpoint") from None
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise InputError(
            f"cannot read {path}: it is a TorchScript archive (code and weights in one); "
            "save the state_dict() of torch.jit.load(...) instead"
        )
    if "data.pkl" not in inside:
        raise InputError(
            f"cannot read {path}: it is a zip archive of other files ({', '.join(names[:2]) or 'none'}), "
            "not weights; unpack it"
        )


def read_pickle(path: str | Path) -> dict:
    """A dictionary from a ``torch.save`` file, without running any code that is in it."""
    if kind_of(path) != "pickle":
        raise InputError(f"cannot read {path}: it is a safetensors file, not one of torch.save")
    try:
        numpy_too = torch.serialization.safe_globals(_numpy_globals())
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"), numpy_too:  # by name: by the suffix
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # raised by the restricted unpickler
        raise InputError(f"cannot read {path}: {_not_only_weights(path)}") from None
    except Exception:  # torch raises many kinds here: zip, EOF, key, runtime
        raise InputError(f"cannot read {path}: truncated or not a checkpoint") from None
    if not isinstance(content, dict):
        raise InputError(f"cannot read {path}: it holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _numpy_globals() -> list:
    """What a pickle needs for NumPy's numbers, such as the best PSNR beside the weights: no code among it."""
    from numpy._core import multiarray

    kinds = {type(np.dtype(name)) for name in "?bBhHiIlLqQefdSUV"}
    both = [(multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [np.dtype, *kinds, *both]


def _not_only_weights(path: str | Path) -> str:
    """Why the restricted unpickler refused a file, for people."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the old format, or no pickle at all
        wanted = []
    if any(name.startswith("torch.nn.modules.") for name in wanted):
        return (
            "it holds a whole pickled module, which is code, not only weights; save its state_dict() where its class is"
        )
    with open(path, "rb") as file:
        if file.read(2) not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            return "not a checkpoint"
    return "it holds code" + (f" ({', '.join(sorted(wanted)[:3])})" if wanted else "") + ", not only weights"


def open_safetensors(path: str | Path):
    from safetensors import SafetensorError, safe_open

    if kind_of(path) != "safetensors":
        raise InputError(f"cannot read {path}: it is a file of torch.save, not a safetensors file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: not a complete safetensors file ({reason(error)})") from None


def _unwrapped(content: Mapping, what: str) -> dict[str, Tensor]:
    """The innermost dictionary of tensors, without plain values beside them."""
    if {"config_hash", "optimizer", "bands"} <= content.keys():
        raise InputError(
            f"{what} is the checkpoint of a training, from which `igconv train` goes on; "
            "its weights are in model.safetensors when it is finished"
        )
    for name in WRAPPERS:
        if _holds_tensors(content.get(name)):
            return _unwrapped(content[name], what)
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    foreign = [key for key, value in content.items() if key not in tensors and not isinstance(value, PLAIN)]
    if foreign or not tensors:
        found = foreign[:3] or [*content][:3] or "nothing"
        raise InputError(f"a checkpoint must hold tensors by name; found {found} in {what}")
    return tensors


def _holds_tensors(content: object) -> bool:
    inside = content.values() if isinstance(content, Mapping) else ()
    return any(isinstance(value, Tensor) or _holds_tensors(value) for value in inside)


def _without_prefixes(weights: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    while True:
        # A compiled part is a layer of this name; the others stand before all names, or are names of layers.
        names = {key: key.replace(".module._orig_mod.", ".").replace("._orig_mod.", ".") for key in weights}
        kept = [key for key in weights if names[key] not in COUNTERS]
        prefix = next((p for p in PREFIXES if kept and all(names[key].startswith(p) for key in kept)), "")
        stripped = {names[key].removeprefix(prefix): weights[key] for key in kept}
        if len(stripped) < len(kept):
            raise InputError(f"{what} has two weights of one name without the prefixes {', '.join(PREFIXES)}")
        if not kept or stripped.keys() == weights.keys():
            return stripped
        weights = stripped
