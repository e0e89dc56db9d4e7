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
    content: Mapping
    if isinstance(checkpoint, Mapping):
        content = checkpoint
    elif Path(checkpoint).suffix == ".safetensors":
        with open_safetensors(checkpoint) as file:
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    else:
        content = read_pickle(checkpoint)
    for name in ("params_ema", "params"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    foreign = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if foreign or not content:
        raise InputError(f"a checkpoint must hold tensors by name; found {foreign[:3] or 'nothing'}")
    return {key.removeprefix("module."): value for key, value in content.items()}


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
