"""Read and write images: 8-bit RGB, (3, H, W) uint8 tensors."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igconv.errors import InputError
from igconv.files import write

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: str | Path, grey_as_rgb: bool = False) -> Tensor:
    """An 8-bit RGB image as (3, H, W) uint8.

    Args:
        path: a file Pillow can decode.
        grey_as_rgb: take an 8-bit grey image as RGB with equal colours, as the literature does with Set14's
            ``bridge``; otherwise it is refused.

    Raises:
        InputError: not an image, truncated, or another pixel format (alpha, palette, 16 bit, CMYK).
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no image at {path}")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            # Pillow turns 16-bit colour into 8-bit silently; only the decoder's raw mode tells. It comes first among
            # the decoder's arguments; for a BMP a row stride like 516 follows.
            modes = [tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in image.tile]
            is_16_bit = any("16" in str(mode) for mode in modes)
            image.load()
            mode, pixels = "16-bit " + image.mode if is_16_bit else image.mode, np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {path}: not an image or damaged ({error})") from None
    if mode == "L" and grey_as_rgb:
        pixels = np.stack([pixels] * 3, axis=-1)
    elif mode != "RGB":
        raise InputError(f"{path} is a {mode} image; 8-bit RGB is needed (convert it, without alpha or 16-bit values)")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def write_image(image: Tensor, path: str | Path) -> None:
    """Write a float RGB image in [0, 1] (clamped, rounded) or a uint8 one, (3, H, W), in the format of the suffix.

    The file appears under its name only when it is complete.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"cannot write {path}: choose one of {', '.join(SUFFIXES)}")
    encoded = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    Image.fromarray(to_bytes(image).permute(1, 2, 0).cpu().numpy()).save(encoded, format=kind)
    write(path, encoded.getvalue())


def to_bytes(image: Tensor) -> Tensor:
    """Float image in [0, 1] (clamped, rounded) or uint8 -> uint8."""
    return image if image.dtype == torch.uint8 else (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_float(image: Tensor) -> Tensor:
    """uint8 (..., H, W) -> float32 in [0, 1]."""
    return image.float().div(255)
