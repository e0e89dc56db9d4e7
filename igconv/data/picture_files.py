"""Write images: what a format cannot hold, and where nothing may be written, is said before the work."""

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from igconv.data import netpbm
from igconv.data.images import OF_PEOPLE, Picture, to_bytes, to_pillow
from igconv.errors import InputError
from igconv.files import write

JPEG_QUALITY, AVIF_QUALITY = 95, 90  # with full colour resolution; WebP is lossless unless a quality is asked for
LOSSY = (".jpg", ".jpeg", ".webp", ".avif")
NETPBM = (".ppm", ".pgm", ".pnm")
# Largest side in pixels that the format, or the library that everybody writes it with, allows.
MAX_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500, ".bmp": 2**31 - 1, ".png": 2**31 - 1,
            ".tif": 2**31 - 1, ".tiff": 2**31 - 1, ".avif": 65536, **dict.fromkeys(NETPBM, 2**31 - 1)}  # fmt: skip
MAX_BYTES = {".bmp": 2**32 - 2**16, ".tif": 2**32 - 2**20, ".tiff": 2**32 - 2**20}  # their offsets have 32 bits
SIXTEEN_BIT = (".png", ".tif", ".tiff", *NETPBM)
ALPHA = (".png", ".webp", ".tif", ".tiff", ".avif")


def write_image(image: Tensor, path: str | Path) -> None:
    """Write a float RGB image in [0, 1] (clamped, rounded) or a uint8 one, (3, H, W), in the format of the suffix.

    The file appears under its name only when it is complete.
    """
    write_picture(Picture(to_bytes(image).permute(1, 2, 0).contiguous().cpu().numpy()), path)


def write_picture(picture: Picture, path: str | Path, quality: int | None = None) -> None:
    """Write a picture with its profile in the format of the suffix; the file appears only when it is complete.

    PNG, TIFF, BMP, PPM and WebP are lossless, WebP unless ``quality`` (1 to 100) is given; without one JPEG has
    `JPEG_QUALITY` and AVIF `AVIF_QUALITY`.
    """
    path = Path(path)
    check_name(path, quality)
    check_format(path, picture)
    write(path, _encoded(picture, path.suffix.lower(), quality))


def is_lossy(path: str | Path) -> bool:
    """Whether the format of a name knows a quality."""
    return Path(path).suffix.lower() in LOSSY


def check_name(path: str | Path, quality: int | None = None) -> None:
    """Raises InputError if a name has no format that is written, or the format no such quality."""
    path = Path(path)
    if path.suffix.lower() not in OF_PEOPLE:
        raise InputError(f"cannot write {path}: choose one of {', '.join(OF_PEOPLE)}")
    if path.suffix.lower() == ".avif":
        from PIL import features

        if not features.check("avif"):
            raise InputError(f"cannot write {path}: this Pillow has no AVIF (Pillow 11.3 has); choose .webp or .png")
    if quality is not None and not is_lossy(path):
        raise InputError(f"a quality is for .jpg, .webp and .avif; {path} is lossless")
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise InputError(f"quality must be an integer from 1 to 100, got {quality!r}")


def check_format(path: str | Path, picture: Picture, size: tuple[int, int] | None = None) -> None:
    """Raises InputError if the format of a name (`check_name`) cannot hold a picture, made ``size`` (height, width)."""
    path = Path(path)
    suffix = path.suffix.lower()
    channels = picture.pixels.shape[2]
    height, width = size or picture.pixels.shape[:2]
    count = height * width * channels * picture.pixels.itemsize
    if max(height, width) > MAX_SIDE[suffix]:
        raise InputError(
            f"cannot write {path}: {suffix} holds at most {MAX_SIDE[suffix]} pixels a side, this has {width}x{height}"
        )
    if count > MAX_BYTES.get(suffix, count):
        raise InputError(
            f"cannot write {path}: {suffix} holds less than 4 GB, this has {count / 1e9:.1f} GB; choose .png"
        )
    if picture.pixels.dtype == np.uint16 and suffix not in SIXTEEN_BIT:
        raise InputError(f"cannot write {path}: {suffix} has no 16-bit values; choose one of {', '.join(SIXTEEN_BIT)}")
    deep_grey = picture.pixels.dtype == np.uint16 and channels == 2 and suffix != ".png"  # Pillow reads no such TIFF
    if picture.has_alpha and (suffix not in ALPHA or deep_grey):
        raise InputError(f"cannot write {path}: {suffix} holds no such transparency; choose .png")
    if picture.profile and suffix in (".bmp", *NETPBM):
        raise InputError(f"cannot write {path}: {suffix} holds no colour profile; choose .png")
    if suffix == ".pgm" and channels > 2:
        raise InputError(f"cannot write {path}: .pgm holds no colours; choose .ppm")


def check_target(path: str | Path, sources: list[Path], overwrite: bool = False) -> None:
    """Raises InputError if a file must not be written: a folder, a source by whatever name, or there already."""
    if os.path.isdir(path):
        raise InputError(f"cannot write {path}: it is a folder")
    if os.path.exists(path) and any(os.path.exists(source) and os.path.samefile(path, source) for source in sources):
        raise InputError(f"cannot write {path}: it is a source")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path} exists; --overwrite replaces it")


def check_place(path: str | Path) -> None:
    """Raises InputError if no file of that name can be made: no folder, no right, a name too long."""
    path = Path(path)
    place = path.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:  # what `igconv.files.write` will do
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=place)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    os.close(handle)
    os.unlink(temporary)


def _encoded(picture: Picture, suffix: str, quality: int | None) -> bytes:
    from PIL import Image

    if suffix in NETPBM:
        pixels = picture.pixels
        return netpbm.encoded(pixels.repeat(3, 2) if suffix == ".ppm" and pixels.shape[2] == 1 else pixels)
    if picture.pixels.dtype == np.uint16:
        return (_png_16 if suffix == ".png" else _tiff_16)(picture)
    options: dict = {"icc_profile": picture.profile} if picture.profile else {}
    if suffix == ".webp":
        options |= dict(lossless=True, exact=True) if quality is None else dict(quality=quality)
    elif suffix in (".jpg", ".jpeg"):
        options |= dict(quality=JPEG_QUALITY if quality is None else quality, subsampling=0)
    elif suffix == ".avif":
        options |= dict(
            quality=AVIF_QUALITY if quality is None else quality,
            subsampling="4:0:0" if picture.pixels.shape[2] == 1 else "4:4:4",
        )
    height, width, _ = picture.pixels.shape
    encoded = io.BytesIO()
    try:
        to_pillow(picture).save(encoded, format=Image.registered_extensions()[suffix], **options)
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"cannot write an image of {width}x{height} as {suffix}: {error}") from None
    return encoded.getvalue()


def _png_16(picture: Picture) -> bytes:
    """PNG with 16 bits per value, which Pillow has for grey only (PNG specification, third edition)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = picture.pixels.shape
    rows = np.ascontiguousarray(picture.pixels, ">u2").view(np.uint8).reshape(height, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.hstack([np.full((height, 1), 2, np.uint8), rows - above])  # filter 2: difference to the row above
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if picture.profile:
        parts.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.profile)))
    data = zlib.compress(filtered)
    parts += [chunk(b"IDAT", data[at : at + 2**30]) for at in range(0, len(data), 2**30)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def _tiff_16(picture: Picture) -> bytes:
    import tifffile

    encoded, channels = io.BytesIO(), picture.pixels.shape[2]
    pixels = picture.pixels if channels > 1 else picture.pixels[..., 0]
    tifffile.imwrite(
        encoded,
        pixels,
        photometric="rgb" if channels > 2 else "minisblack",
        compression="zlib",
        extrasamples=["unassalpha"] if channels == 4 else None,
        iccprofile=picture.profile,
        metadata=None,
    )
    return encoded.getvalue()
