"""Options and weights from elsewhere that have to fit exactly: nothing unknown, missing or misshapen."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from igconv.errors import InputError, choose

REQUIRED = object()  # stands where an option has no default


def with_defaults(options: Mapping, defaults: dict, kind: str) -> dict:
    """``options`` over ``defaults``. Raises InputError for an unknown option and for a `REQUIRED` one left out."""
    for name in options:
        choose(name, defaults, f"option of {kind}")
    merged = {**defaults, **options}
    missing = [name for name, value in merged.items() if value is REQUIRED]
    if missing:
        raise InputError(f"{kind} needs {', '.join(missing)}")
    return merged


def load_strict(module: nn.Module, state: Mapping[str, Tensor], kind: str, source: object = "the checkpoint") -> None:
    """Copy ``state`` into ``module``: every key must be there, none may be left over, shapes must fit.

    ``kind`` and ``source``, the model's name and the weights' file, are for messages.
    """
    own = module.state_dict()
    missing, additional = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or additional:
        raise InputError(f"{source} does not fit {kind}: missing {missing[:5]}, additional {additional[:5]}")
    fitted = {}
    for key, value in state.items():
        is_linear = own[key].ndim == 2 and value.ndim == 4 and value.shape[2:] == (1, 1)
        fitted[key] = value.flatten(1) if is_linear else value
        if fitted[key].shape != own[key].shape:
            expected = tuple(own[key].shape)
            raise InputError(f"{source}: {key} of {kind} has shape {tuple(value.shape)}, expected {expected}")
    with torch.no_grad():
        module.load_state_dict(fitted)
