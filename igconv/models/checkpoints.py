"""Weights on disk: safetensors files that carry the configuration which rebuilds the model."""

import json
from pathlib import Path

import torch

from igconv.errors import InputError, reason
from igconv.files import write
from igconv.models.state_files import open_safetensors, read_weights
from igconv.models.super_resolver import SuperResolver, build_model


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
        raise InputError(
            "only models that build_model made from an encoder's name can be rebuilt; "
            "save(..., rebuildable=False) stores the weights alone"
        )
    state = {
        k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype).contiguous()
        for k, v in model.state_dict().items()
    }
    write(path, serialise(state, metadata={"igconv": json.dumps({"config": config, "meta": meta})}))


def load(path: str | Path, model: torch.nn.Module | None = None) -> SuperResolver:
    """The model in a file written by `save`, float32 and in eval mode.

    Args:
        model: gets the weights, for files of a model with an encoder of yours; others are rebuilt. For a file of a
            network that was converted it may be that bare network, which is copied.

    Raises:
        InputError: not such a file, truncated, or weights that do not fit its configuration.
    """
    header = metadata(path)
    if "config" not in header:
        raise InputError(f"{path} has no igconv configuration; igconv.load reads files written by igconv.save")
    if model is None and header["config"] is None:
        raise InputError(f"{path} holds weights of a model with an encoder of yours; give it: igconv.load(path, model)")
    config = header["config"] or {}
    if model is None or (not isinstance(model, SuperResolver) and isinstance(config.get("encoder"), dict)):
        model = _rebuilt(path, config, model)
    if not isinstance(model, SuperResolver):
        raise InputError(f"{path} needs a SuperResolver to be loaded into, got a {type(model).__name__}")
    state = read_weights(path)
    if getattr(model.upsampler, "bias", None) is not None:
        state.setdefault("upsampler.bias", torch.zeros(3))  # files from before there was one
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its model: {reason(error)}") from None
    return model.float().eval()


def _rebuilt(path: str | Path, config: dict, network: torch.nn.Module | None) -> SuperResolver:
    """The model of a configuration; of a network that was taken apart, ``network`` if it is given."""
    try:
        if isinstance(config.get("encoder"), dict):
            from igconv.models.encoders.headless import rebuilt

            config = {**config, "encoder": rebuilt(config["encoder"], network)}
        with torch.random.fork_rng(devices=()):  # what starts at random is the caller's business
            return build_model(**config)
    except InputError as error:
        raise InputError(f"{path} cannot be rebuilt: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} has a configuration this version does not know: {reason(error)}") from None


def metadata(path: str | Path) -> dict:
    """``{"config": ..., "meta": ...}`` of a file written by `save`, empty for other safetensors files."""
    with open_safetensors(path) as file:
        text = (file.metadata() or {}).get("igconv", "{}")
    try:
        header = json.loads(text)
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict) or not _is_configuration(header.get("config") or {}):
        raise InputError(f"{path} has an igconv header that is not one: {text[:40]!r}")
    return header


def _is_configuration(config) -> bool:
    """Whether what others look up in a configuration can be looked up."""
    return isinstance(config, dict) and isinstance(config.get("scales", []), list)
