"""Upscale an image in one call, with the model that comes with the package or one of yours."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igconv.data.images import read_image, to_bytes
from igconv.errors import InputError, positive_integer
from igconv.models import checkpoints, inference
from igconv.models.super_resolver import SuperResolver

# Half-precision weights of a run of the study; its name and where they come from are in the file (README beside it).
DEFAULT_WEIGHTS = Path(__file__).parent / "pretrained" / "multi_scale.safetensors"


def upscale(
    image,
    scale: int,
    weights: str | Path | SuperResolver | None = None,
    *,
    device="cpu",
    self_ensemble: bool = False,
    tile: int = 0,
    halo: int | None = None,
) -> np.ndarray:
    """Upscale an image by an integer factor. Nothing of the caller's is changed, neither a model nor the process.

    >>> large = igconv.upscale("photo.png", 3)
    >>> PIL.Image.fromarray(large).save("large.png")

    On a CPU large images are about three times as fast in a program that calls
    `igconv.models.inference.keep_freed_memory` first, as the command line does.

    Args:
        image: path of an 8-bit RGB image, or its pixels: (H, W, 3) uint8 as an array or a Pillow image.
        scale: the factor, an integer >= 1. The default model was trained for 2, 3 and 4.
        weights: a ``model.safetensors`` of a run, or a model; None takes the weights that come with the package.
        device: "cpu" or "cuda".
        self_ensemble: mean over the eight flips and rotations of the input: slower, and a little better.
        tile: side of tiles in input pixels, for images too large for the memory; 0 works on the whole image.
        halo: input pixels that a tile sees of its surroundings. Needed for encoders that see the whole image, as the
            default model's does.

    Returns:
        (scale H, scale W, 3) uint8.

    Raises:
        InputError: not such an image, scale, weights or halo.
    """
    scale = positive_integer(scale, "scale")
    lr = _pixels(image)
    sr, _ = inference.upscale(upscaler(weights, device, self_ensemble, tile, halo), lr, scale, device)
    return to_bytes(sr).permute(1, 2, 0).contiguous().numpy()


def upscaler(
    weights: str | Path | SuperResolver | None = None,
    device="cpu",
    self_ensemble: bool = False,
    tile: int = 0,
    halo: int | None = None,
) -> Callable[[Tensor, int], Tensor]:
    """(lr, scale) -> sr on float RGB batches, as `upscale` describes it."""
    if weights is None and torch.device(device).type == "cpu":
        model = default_model()
    elif weights is None or isinstance(weights, SuperResolver):
        model = copy.deepcopy(weights or default_model())  # mode, device and memory layout of theirs stay
    else:
        model = checkpoints.load(weights)
    model = inference.prepare(model, device)
    if tile:
        model = inference.tiled(model, tile, halo)
    return inference.self_ensemble(model) if self_ensemble else model


@cache
def default_model() -> SuperResolver:
    """The model that comes with the package, in eval mode; the same one at every call."""
    return checkpoints.load(DEFAULT_WEIGHTS)


def _pixels(image) -> Tensor:
    """(3, H, W) uint8 of what `upscale` accepts."""
    if isinstance(image, str | Path):
        return read_image(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(f"expected RGB pixels (H, W, 3) of uint8, got {pixels.shape} of {pixels.dtype}")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
