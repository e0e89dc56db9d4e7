"""A wanted size instead of a factor: the integer factor that covers it, and the way down from there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from igconv.errors import InputError, positive_integer


@dataclass(frozen=True)
class Size:
    """A wanted size in pixels; the side that is None follows the image's shape."""

    width: int | None
    height: int | None

    def of(self, height: int, width: int, scales: Sequence[int] | None = None) -> tuple[int, tuple[int, int]]:
        """(the integer factor that covers it, (height, width)) for an image.

        Args:
            scales: those of the model, where it has not all of them.

        Raises InputError for a size that is smaller than the image, or beyond the model's scales.
        """
        wide = self.width or max(1, round(width * (self.height or height) / height))
        high = self.height or max(1, round(height * wide / width))
        if wide < width or high < height:
            raise InputError(f"{wide}x{high} pixels are less than the image has ({width}x{height})")
        least = max(-(-wide // width), -(-high // height))
        scale = least if scales is None else next((scale for scale in sorted(scales) if scale >= least), None)
        if scale is None:
            largest = ", ".join(map(str, scales or ()))
            raise InputError(f"{wide}x{high} pixels of {width}x{height} need scale {least}; this model has {largest}")
        return scale, (high, wide)


def wanted_size(scale: int | None, width: int | None, height: int | None) -> int | Size:
    """The factor, 2 if nothing is said, or the size. Raises InputError for both, and for no number of pixels."""
    for value, name in ((scale, "scale"), (width, "width"), (height, "height")):
        if value is not None:
            positive_integer(value, name)
    if width is None and height is None:
        return 2 if scale is None else scale
    if scale is not None:
        raise InputError(f"give a scale ({scale}) or a size, not both")
    return Size(width, height)


def to_size(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (H, W, C) of uint8 or uint16 made smaller, (height, width, C): bicubic with antialiasing, rounded.

    Channel by channel, so that floats take the memory of one.
    """
    small = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    for channel in range(pixels.shape[2]):
        plane = torch.from_numpy(pixels[..., channel].astype(np.float32))[None, None]
        plane = F.interpolate(plane, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        small[..., channel] = plane[0, 0].round_().clamp_(0, np.iinfo(pixels.dtype).max).numpy().astype(pixels.dtype)
    return small
