"""Binary PGM and PPM files (Netpbm's P5 and P6), 8 and 16 bits: Pillow makes 8 bits of PPM's 16."""

import re

import numpy as np

from igconv.data import memory
from igconv.errors import InputError

MAGIC = (b"P5", b"P6")
# Width, height and largest value, with comments anywhere between them, and one byte of space before the pixels.
HEADER = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d{1,10})" * 3 + rb"\s")


def decoded(file, name: str, most: int | None) -> np.ndarray:
    """(H, W, 1 or 3) uint8 or uint16 of an open file; values are stretched to the whole range of their depth.

    Args:
        most: pixels that are read at most, None for any number.

    Raises:
        InputError: no such header, too many pixels, or fewer than the header says.
    """
    file.seek(0)
    found = HEADER.match(start := file.read(4096))
    if not found:
        raise InputError(f"cannot read {name}: damaged (no header of a PGM or PPM file)")
    kind, width, height, white = map(int, found.groups())
    if not (width and height and 0 < white < 65536):
        raise InputError(f"cannot read {name}: damaged ({width}x{height} pixels with values up to {white})")
    if most is not None and width * height > most:
        raise InputError(f"{name} has {width}x{height} pixels; more than {most} only with --tile")
    channels, stored = 3 if kind == 6 else 1, np.dtype(">u1" if white < 256 else ">u2")
    count = width * height * channels
    memory.require(12 * count if white not in (255, 65535) else 4 * count, f"reading {name} ({width}x{height} pixels)")
    file.seek(found.end())
    data = file.read(count * stored.itemsize)
    if len(data) < count * stored.itemsize:
        raise InputError(f"cannot read {name}: damaged (it ends before its last pixel, {start[:2].decode()})")
    values = np.frombuffer(data, stored).reshape(height, width, channels)
    depth = np.uint8 if white < 256 else np.uint16
    if white in (255, 65535):
        return values.astype(depth)
    return np.rint(values.clip(max=white) * (np.iinfo(depth).max / white)).astype(depth)


def encoded(pixels: np.ndarray) -> bytes:
    """A PGM or PPM file of pixels (H, W, 1 or 3), uint8 or uint16."""
    height, width, channels = pixels.shape
    stored = np.dtype(f">u{pixels.itemsize}")
    header = f"P{6 if channels == 3 else 5}\n{width} {height}\n{np.iinfo(pixels.dtype).max}\n"
    return header.encode() + np.ascontiguousarray(pixels, stored).tobytes()
