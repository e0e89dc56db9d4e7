"""Weights on disk: safetensors files that carry the configuration which rebuilds the model."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from igconv.errors import InputError
from igconv.files import write
from igconv.model import SuperResolver, build_model


def save(
    model: SuperResolver, path: str | Path, dtype: torch.dtype = torch.float32, rebuildable: bool = True, **meta
) -> None:
    """Write the weights as safetensors, with the model's configuration and ``meta`` (JSON values) inside.

    The file appears under its name only when it is complete. Raises InputError for a model with an encoder of the
    user's, which nothing could rebuild; ``rebuildable=False`` stores the weights alone, to be loaded into such a model.
    """
    from safetensors.torch import save as serialise

    config = getattr(model, "config", None)
    if config is None and rebuildable:
        raise InputError("only models that build_model made from an encoder's name can be rebuilt; "
                         "save(..., rebuildable=False) stores the weights alone")  # fmt: skip
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    write(path, serialise(state, metadata={"igconv": json.dumps({"config": config, "meta": meta})}))


def load(path: str | Path, model: SuperResolver | None = None) -> SuperResolver:
    """The model in a file written by `save`, float32 and in eval mode.

    Args:
        model: gets the weights, for files of a model with an encoder of yours; others are rebuilt.

    Raises:
        InputError: not such a file, truncated, or weights that do not fit its configuration.
    """
    header = metadata(path)
    if "config" not in header:
        raise InputError(f"{path} has no igconv configuration; igconv.load reads files written by igconv.save")
    if model is None and header["config"] is None:
        raise InputError(f"{path} holds weights of a model with an encoder of yours; give it: igconv.load(path, model)")
    try:
        model = build_model(**header["config"]) if model is None else model
    except (InputError, TypeError) as error:
        raise InputError(f"{path} has a configuration this version does not know: {error}") from None
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its model: {' '.join(str(error).split())[:200]}") from None
    return model.float().eval()


def metadata(path: str | Path) -> dict:
    """``{"config": ..., "meta": ...}`` of a file written by `save`, empty for other safetensors files."""
    with _open_safetensors(path) as file:
        text = (file.metadata() or {}).get("igconv", "{}")
    try:
        header = json.loads(text)
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict):
        raise InputError(f"{path} has an igconv header that is not one: {text[:40]!r}")
    return header


def read_weights(checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name: ``params_ema`` if there, else ``params``, else everything.

    Pickles are read with ``weights_only=True``: a file that wants to run code is refused.
    """
    if not isinstance(checkpoint, Mapping):
        path = Path(checkpoint)
        if path.suffix == ".safetensors":
            with _open_safetensors(path) as file:
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
    except Exception as error:  # torch raises many kinds here: pickle, zip, EOF, runtime
        reason = "it holds code, not only weights" if "weights_only" in str(error) else "truncated or not a checkpoint"
        raise InputError(f"cannot read {path}: {reason}") from None
    if not isinstance(content, dict):
        raise InputError(f"cannot read {path}: it holds a {type(content).__name__}, not a dictionary of weights")
    return content


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_safetensors(path: str | Path):
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: not a complete safetensors file ({error})") from None
