"""Antialiased bicubic resizing that equals MATLAB's ``imresize`` and Pillow's ``Image.resize``, on any device.

Both are separable: per axis a banded matrix of kernel values of the Keys cubic (a = -0.5), stretched by the
reduction factor. They differ in the border (MATLAB mirrors, Pillow renormalises), in the order of the axes
(MATLAB rows first, Pillow columns first), and in arithmetic (Pillow works in 22-bit fixed point and rounds and
clips to bytes after each axis). The matrices are made and applied in float64, where Pillow's integer sums are
exact, so the results do not depend on the device.

Pillow 13 takes the rows of images more than about twice as tall as wide first. Here columns always come first, as
in the versions before it; for the square patches of training there is no difference.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from igconv.errors import InputError, choose

METHODS = ("matlab", "pil")
PIL_PRECISION_BITS = 22


def imresize(
    x: Tensor,
    scale: float,
    method: str = "matlab",
    quantize: bool | None = None,
    matrices: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Resize images by ``scale`` (1/2 halves, 3 triples), bicubic with antialiasing.

    Args:
        x: (..., H, W), float with white at 1, or uint8.
        scale: positive factor. Sides become ceil(side * scale), MATLAB's rule; give images whose sides are
            multiples of the reduction to avoid fractions.
        method: "matlab" (benchmark LR images) or "pil" (the authors' training LR images).
        quantize: round and clip to bytes after each axis. Default: for uint8 input, and always for "pil", as the
            originals do. ``False`` gives the unrounded filter response.
        matrices: `axis_matrix`, or what keeps its results; by default the last 64 of the process.

    Returns:
        uint8 for uint8 input when quantised, otherwise the float type of ``x`` (float32 for uint8), in which
        quantised values are multiples of 1/255.
    """
    choose(method, METHODS, "resize method")
    if not isinstance(scale, Real) or not scale > 0 or not math.isfinite(scale):
        raise InputError(f"scale must be a positive number, got {scale!r}")
    scale = float(scale)
    is_bytes = x.dtype == torch.uint8
    if quantize is None:
        quantize = is_bytes or method == "pil"
    if x.device.type == "mps":  # Apple's GPUs have no float64
        return imresize(x.cpu(), scale, method, quantize, matrices).to(x.device)

    size = tuple(math.ceil(round(side * scale, 9)) for side in x.shape[-2:])
    levels = x.double() if is_bytes else x.double() * 255
    if method == "pil" and quantize and not is_bytes:
        levels = levels.round().clamp(0, 255)  # Pillow sees bytes
    for axis in (-2, -1) if method == "matlab" else (-1, -2):
        weights = (matrices or _weights)(x.shape[axis], size[axis], scale, method, quantize, x.device)
        levels = weights @ levels if axis == -2 else levels @ weights.T
        if quantize:
            # MATLAB rounds half up; Pillow adds half of its unit before the shift, which is the same rule.
            levels = (levels + 0.5).floor().clamp(0, 255)
    if is_bytes and quantize:
        return levels.to(torch.uint8)
    return (levels / 255).to(torch.float32 if is_bytes else x.dtype)


def downsample(hr: Tensor, scale: int, method: str = "matlab", matrices: Callable[..., Tensor] | None = None) -> Tensor:
    """LR of uint8 HR images (..., H, W) whose sides are multiples of ``scale``: uint8 (..., H/scale, W/scale).

    ``matrices``: of `imresize`.
    """
    if hr.shape[-2] % scale or hr.shape[-1] % scale:
        raise InputError(f"sides {tuple(hr.shape[-2:])} are not multiples of {scale}; crop first")
    return imresize(hr, 1 / scale, method, matrices=matrices)


def modcrop(image: Tensor, scale: int) -> Tensor:
    """Drop rows and columns at the bottom and right so that both sides are multiples of ``scale``."""
    h, w = image.shape[-2:]
    if h < scale or w < scale:
        raise InputError(f"an image of {w}x{h} pixels is too small for x{scale}")
    return image[..., : h - h % scale, : w - w % scale]


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


@torch.inference_mode(False)  # a matrix made in inference mode and kept could never be trained through
def axis_matrix(size: int, out: int, scale: float, method: str, quantize: bool, device: torch.device) -> Tensor:
    """(out, size) matrix of one axis, float64."""
    rows = _matlab_rows(size, out, scale) if method == "matlab" else _pil_rows(size, out)
    if method == "pil" and quantize:
        unit = 1 << PIL_PRECISION_BITS
        rows = np.trunc(rows * unit + np.copysign(0.5, rows)) / unit  # half away from zero, as Pillow's C code
    return torch.from_numpy(rows).to(device)


_weights = lru_cache(maxsize=64)(axis_matrix)


def _matlab_rows(size: int, out: int, scale: float) -> np.ndarray:
    stretch = min(scale, 1.0)
    width = 4 / stretch
    centre = (np.arange(out) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(int)
    taps = first[:, None] + np.arange(math.ceil(width) + 2)
    values = _cubic(stretch * (centre[:, None] - taps))
    values /= values.sum(1, keepdims=True)
    mirrored = np.mod(taps, 2 * size)
    mirrored = np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    rows = np.zeros((out, size))
    np.add.at(rows, (np.arange(out)[:, None], mirrored), values)
    return rows


def _pil_rows(size: int, out: int) -> np.ndarray:
    stretch = max(size / out, 1.0)
    rows = np.zeros((out, size))
    for i in range(out):
        centre = (i + 0.5) * size / out
        first, last = max(0, int(centre - 2 * stretch + 0.5)), min(size, int(centre + 2 * stretch + 0.5))
        values = _cubic((np.arange(first, last) - centre + 0.5) / stretch)
        rows[i, first:last] = values / values.sum()
    return rows
