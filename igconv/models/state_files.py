"""Weights in files of any origin -> tensors by name, without running code that is in them."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from igconv.errors import InputError


def read_weights(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name: ``params_ema`` if there, else ``params``, else everything.

    Pickles are read with ``weights_only=True``: a file that wants to run code is refused.
    """
    if not isinstance(checkpoint, Mapping):
        path = Path(checkpoint)
        if path.suffix == ".safetensors":
            with open_safetensors(path) as file:
                checkpoint = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        else:
            checkpoint = read_pickle(path)
    for name in ("params_ema", "params"):
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    foreign = [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]
    if foreign or not checkpoint:
        raise InputError(f"a checkpoint must hold tensors by name; found {foreign[:3] or 'nothing'}")
    return {key.removeprefix("module."): value for key, value in checkpoint.items()}


def read_pickle(path: str | Path) -> dict:
    """A dictionary from a ``torch.save`` file, without running any code that is in it."""
    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # raised by the restricted unpickler
        raise InputError(f"cannot read {path}: it holds code, not only weights") from None
    except Exception:  # torch raises many kinds here: zip, EOF, key, runtime
        raise InputError(f"cannot read {path}: truncated or not a checkpoint") from None
    if not isinstance(content, dict):
        raise InputError(f"cannot read {path}: it holds a {type(content).__name__}, not a dictionary of weights")
    return content


def open_safetensors(path: str | Path):
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: not a complete safetensors file ({error})") from None
