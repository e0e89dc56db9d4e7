"""What a weight file says about itself: model, scales, size, where it comes from, licence."""

import math
from pathlib import Path

from igconv.errors import InputError
from igconv.models import checkpoints
from igconv.models.state_files import kind_of, open_safetensors

ANY_SCALE = ("igconv", "igconv+", "liif")  # upsamplers that take scales they were not made for


def describe(path: str | Path) -> dict:
    """Facts about a file of `igconv.models.checkpoints.save`, without building its model; JSON values.

    Returns: file, encoder, upsampler, scales, other_scales (whether it takes others), parameters (numbers in it),
        precision, options (of the model), provenance (what the file says of its making), licence ("" if it says none).

    Raises:
        InputError: no such file, or one without the configuration of a model.
    """
    if kind_of(path) != "safetensors" or "config" not in (header := checkpoints.metadata(path)):
        raise InputError(f"{path} has no igconv configuration; igconv info describes files written by igconv.save")
    config, provenance = dict(header["config"] or {}), dict(header.get("meta") or {})
    other_scales = bool(config.get("upsampler")) and limited_to(config) is None
    with open_safetensors(path) as file:
        parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a mapping)
        parameters = sum(math.prod(part.get_shape()) for part in parts)
        precision = sorted({part.get_dtype() for part in parts})
    encoder, upsampler = config.pop("encoder", None), config.pop("upsampler", "")
    if isinstance(encoder, dict):
        encoder = f"of a network that was converted ({provenance.get('converted_from', 'unknown')})"
    scales = config.pop("scales", provenance.get("scales", []))
    if not isinstance(scales, list) or not all(type(scale) is int for scale in scales):
        raise InputError(f"{path} has a configuration this version does not know: scales {scales!r}")
    return dict(
        file=str(path),
        encoder=encoder or "of the user's",
        upsampler=upsampler,
        scales=scales,
        other_scales=other_scales,
        parameters=parameters,
        precision=precision,
        options=config,
        provenance={name: value for name, value in provenance.items() if name != "licence"},
        licence=provenance.get("licence", ""),
    )


def limited_to(config: dict | None) -> tuple[int, ...] | None:
    """The scales that a model of this configuration (`build_model`'s arguments) can be asked for; None: any.

    Fixed heads exist for their scales only. The kernels of a converted model are fitted at its scales, and between them
    nothing has taught the hyper-network anything.
    """
    if not config or (config.get("upsampler") in ANY_SCALE and not config.get("basis")):
        return None
    return tuple(sorted(config.get("scales", ())))
