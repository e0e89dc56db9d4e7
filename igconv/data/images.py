"""Read images: (3, H, W) uint8 tensors for the study, `Picture` for whatever people bring.

docs/images.md lists what goes in, what comes out and what is refused; `igconv.data.picture_files` writes.
"""

import io
import math
import os
import re
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igconv.data import memory, netpbm
from igconv.errors import InputError, reason

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
OF_PEOPLE = (*SUFFIXES, ".avif", ".ppm", ".pgm", ".pnm")  # written for people; no images of the study
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # whose depth is known here; MPO is read as its JPEG
MAX_PIXELS = 178_956_970  # Pillow's limit, above which it suspects an attack; here: what is read without tiles
DAMAGED = (OSError, SyntaxError, ValueError, IndexError, TypeError, KeyError, struct.error, zlib.error, EOFError,
           OverflowError)  # fmt: skip
RGB_LIKE = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA", "RGBa": "RGBA"}
SIXTEEN = re.compile(r"(RGB|RGBA|RGBX|LA|I);16([BLN]?)$")  # raw modes of Pillow with two bytes per value
XMP = b"XML:com.adobe.xmp\0\0"  # uncompressed; may hold the orientation
BYTE_ORDER_OF_THE_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True)
class Picture:
    """An image as people have it, upright.

    Attributes:
        pixels: (H, W, C) uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (not premultiplied).
        profile: ICC profile of the colours, if the file has one.
        kind: how the file stores them, in words ("RGB", "16-bit grey", "CMYK").
    """

    pixels: np.ndarray
    profile: bytes | None = None
    kind: str = ""

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)


def read_image(path: str | Path, grey_as_rgb: bool = False) -> Tensor:
    """An 8-bit RGB image as (3, H, W) uint8, upright: what models are trained and tested on.

    Args:
        path: a file in one of `FORMATS`.
        grey_as_rgb: take an 8-bit grey image as RGB with equal colours, as the literature does with Set14's
            ``bridge``; otherwise it is refused.

    Raises:
        InputError: not an image, truncated, or other pixels (alpha, palette, 16 bit, CMYK, YCbCr, several frames).
    """
    picture = read_picture(path)
    if picture.kind not in (("RGB", "L") if grey_as_rgb else ("RGB",)):
        raise InputError(
            f"{path} is a {picture.kind} image; 8-bit RGB is needed (convert it, without alpha or 16-bit values)"
        )
    pixels = np.broadcast_to(picture.pixels, (*picture.pixels.shape[:2], 3))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def read_picture(path: str | Path, tiles: bool = False) -> Picture:
    """An image file with all that belongs to it.

    Grey, 16 bits and alpha stay; palettes become RGB(A), a transparent colour (tRNS) becomes alpha, CMYK becomes sRGB
    (by its profile, or by Pillow's formula without one).

    Args:
        path: a file in one of `FORMATS`.
        tiles: also above `MAX_PIXELS`; the caller works in tiles.

    Raises:
        InputError: not an image, damaged, several frames, too large, or colours that are neither grey, RGB nor CMYK.
    """
    if not os.path.isfile(path):
        raise InputError(f"no image at {path}")
    try:
        with warnings.catch_warnings(action="ignore"), open(path, "rb") as file:
            return _read(file, str(path), tiles)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"cannot read {path}: not enough memory") from None
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: not an image or damaged ({reason(error) or 'unknown'})") from None


def picture_of(image) -> Picture:
    """`Picture` of a Pillow image (its orientation applied), or of an array (H, W) or (H, W, 1 to 4), uint8 or uint16.

    Raises InputError for other arrays, several frames, and colours that are neither grey, RGB nor CMYK.
    """
    if hasattr(image, "getexif") and hasattr(image, "mode"):
        if any(
            SIXTEEN.match(_raw_mode(part)) and image.mode in ("RGB", "RGBA", "LA")
            for part in getattr(image, "tile", ())
        ):
            raise InputError("Pillow makes 8 bits of this 16-bit image; give the file's path instead")
        try:
            return _upright(image, "the Pillow image")
        except DAMAGED as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot read the Pillow image: damaged ({reason(error)})") from None
    pixels = np.asarray(image)
    if (
        pixels.dtype not in (np.uint8, np.uint16)
        or pixels.ndim not in (2, 3)
        or 0 in pixels.shape
        or pixels.shape[2:] not in ((), (1,), (2,), (3,), (4,))
    ):
        raise InputError(
            "expected pixels (H, W) or (H, W, C) with 1 to 4 channels (grey or RGB, then alpha) of uint8 or uint16, "
            f"got {pixels.shape} of {pixels.dtype}"
        )
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return Picture(np.ascontiguousarray(pixels), kind="array")


def to_pillow(picture: Picture):
    """The Pillow image of 8-bit pixels, or of 16-bit grey ones, with its profile; Pillow has no other 16-bit images."""
    from PIL import Image

    height, width, channels = picture.pixels.shape
    mode = "I;16" if picture.pixels.dtype == np.uint16 else ("L", "LA", "RGB", "RGBA")[channels - 1]
    values = np.ascontiguousarray(picture.pixels, "<u2" if mode == "I;16" else np.uint8)
    image = Image.frombytes(mode, (width, height), values)
    if picture.profile:
        image.info["icc_profile"] = picture.profile
    return image


def to_bytes(image: Tensor) -> Tensor:
    """Float image in [0, 1] (clamped, rounded) or uint8 -> uint8. Raises InputError for values that are no numbers."""
    if image.dtype == torch.uint8:
        return image
    check_finite(image, "an image")
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_float(image: Tensor) -> Tensor:
    """uint8 (..., H, W) -> float32 in [0, 1]."""
    return image.float().div(255)


def check_finite(values: Tensor, what: str) -> None:
    """Raises InputError if there is a NaN or an infinity: it would turn into a black pixel, and that into a number."""
    if values.numel() and not all(map(math.isfinite, torch.stack(values.detach().aminmax()).tolist())):
        raise InputError(f"{what} has values that are not numbers (NaN or infinity)")


def _read(file, name: str, tiles: bool) -> Picture:
    if (start := file.read(2)) in netpbm.MAGIC:
        pixels = netpbm.decoded(file, name, None if tiles else MAX_PIXELS)
        depth = "16-bit " if pixels.dtype == np.uint16 else ""
        return Picture(pixels, None, depth + ("RGB" if pixels.shape[2] == 3 else "grey" if depth else "L"))
    data, profile = _without_text(file.read()) if start + file.read(6) == b"\x89PNG\r\n\x1a\n" else (None, None)
    source = file if data is None else io.BytesIO(data)
    with _open(source, name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS and not tiles:
            raise InputError(f"{name} has {width}x{height} pixels; more than {MAX_PIXELS} only with --tile")
        memory.require(3 * width * height * len(image.getbands()), f"reading {name} ({width}x{height} pixels)")
        sixteen = [SIXTEEN.match(_raw_mode(part)) for part in image.tile]
        if _deep(image) and (not all(sixteen) or _planes(image)):
            raise InputError(
                f"{name} has more than 8 bits per value in a form that is not read; 16-bit RGB(A) and grey are"
            )
        picture = _sixteen_bit(image, source, name) if any(sixteen) else _upright(image, name)
    return picture if profile is None or picture.profile else Picture(picture.pixels, profile, picture.kind)


def _open(source, name: str):
    """As ``Image.open``, without its limit on pixels, which is a global of the process."""
    from PIL import Image

    Image.init()
    source.seek(0)
    prefix, why = source.read(16), ""
    for kind in FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is None:  # AVIF, in a Pillow that has none
            continue
        if accept is None or accept(prefix) is True:
            source.seek(0)
            try:
                return factory(source, name)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                why = reason(error)
    raise SyntaxError(why or f"none of {', '.join(FORMATS)}, PPM")


def _deep(image) -> bool:
    """Whether a file has more than 8 bits per value."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8
    if image.format == "AVIF":
        image.fp.seek(0)
        box, found, _ = image.fp.read(1 << 16).partition(b"av1C")[::-1]  # AV1-ISOBMFF 2.3.3: the third byte has the bit
        return bool(found) and len(box) > 2 and bool(box[2] & 0x40)
    return any(SIXTEEN.match(_raw_mode(part)) for part in image.tile)


def _planes(image) -> bool:
    """Whether a TIFF stores its colours one after the other; Pillow takes 16-bit ones for 8-bit ones."""
    return image.format == "TIFF" and image.tag_v2.get(284) == 2 and len(image.getbands()) > 1


def _raw_mode(part) -> str:
    """How the decoder of a part of a file is told to unpack its values: the first of its arguments, or the only one."""
    return str(part[3][0] if isinstance(part[3], tuple) and part[3] else part[3])


def _upright(image, name: str) -> Picture:
    """The pixels of an opened image with 8 bits per value (or 16-bit grey), as Pillow decodes them."""
    mode = image.mode
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise InputError(f"{name} has {image.n_frames} frames; give one image")
    tile = getattr(image, "tile", ())
    raw = _raw_mode(tile[0]) if tile else ""
    image.load()
    kind, profile, key = mode, image.info.get("icc_profile"), image.info.get("transparency")
    if mode in ("P", "PA"):
        seen = key is not None or mode == "PA" or getattr(image.palette, "mode", "RGB") == "RGBA"
        pixels = np.array(image.convert("RGBA" if seen else "RGB"))
    elif mode == "CMYK":
        pixels, profile = np.array(_srgb(image, profile)), None
    elif mode.startswith("I;16"):
        pixels, kind = np.array(image).astype(np.uint16), "16-bit grey"
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # white is zero
            pixels = 65535 - pixels
        pixels = _with_colour_key(pixels, key)
    elif mode in RGB_LIKE:
        pixels = np.array(image if RGB_LIKE[mode] == mode else image.convert(RGB_LIKE[mode]))
        levels = {"1": 255, "L;2": 85, "L;4": 17}.get("1" if mode == "1" else raw, 1)
        kind = f"{mode} with a transparent colour" if key is not None and mode in ("1", "L", "RGB") else mode
        if mode in ("1", "L", "RGB"):
            pixels = _with_colour_key(pixels, key * levels if isinstance(key, int) else key)
    else:
        raise InputError(f"{name} is a {mode} image; RGB, grey, palette or CMYK is needed (convert it)")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return Picture(_turned(pixels, _orientation(image)), profile, kind)


def _sixteen_bit(image, source, name: str) -> Picture:
    """RGB, RGB and alpha, grey and alpha with 16 bits; Pillow has such grey only.

    It unpacks the high byte of each value. Told the other byte order it unpacks the low one, from any container.
    """
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        return _upright(image, name)
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{name} has {image.n_frames} frames; give one image")
    with _open(source, name) as second:
        if _raw_mode(image.tile[0]).startswith("LA"):  # the four bytes of a pixel are grey and alpha, high bytes first
            second._mode, second.tile = "RGBA", [part._replace(args="RGBA") for part in second.tile]
            second.load()
            values = np.array(second)
            high, low = values[..., 0::2], values[..., 1::2]
            image = second
        else:
            second.tile = [part._replace(args=_other_byte(part.args)) for part in second.tile]
            second.load()
            low = np.array(second)
            source.seek(0)
            with _open(source, name) as image:
                image.load()
                high = np.array(image)
        pixels = high.astype(np.uint16) << 8 | low
        pixels = _with_colour_key(pixels, image.info.get("transparency"))
        kind = f"16-bit {'grey with alpha' if pixels.shape[2] == 2 else 'RGBA' if pixels.shape[2] == 4 else 'RGB'}"
        return Picture(_turned(pixels, _orientation(image)), image.info.get("icc_profile"), kind)


def _other_byte(arguments):
    """Arguments of a decoder with the byte order of 16-bit values reversed."""
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    raw = raw[:-1] + BYTE_ORDER_OF_THE_OTHER_BYTE[raw[-1]]
    return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw


def _with_colour_key(pixels: np.ndarray, key) -> np.ndarray:
    """Grey (H, W) or RGB pixels with alpha, 0 where they have the transparent colour; as they are without one."""
    if not isinstance(key, int | tuple):
        return pixels
    colours = pixels if pixels.ndim == 3 else pixels[..., None]
    alpha = np.where((colours == np.array(key)).all(-1, keepdims=True), 0, np.iinfo(pixels.dtype).max)
    return np.concatenate([colours, alpha.astype(pixels.dtype)], axis=-1)


def _srgb(image, profile: bytes | None):
    """CMYK as sRGB, by the image's profile or, without a profile that can be read, by Pillow's formula."""
    if profile:
        from PIL import ImageCms

        try:
            return ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def _orientation(image) -> int:
    """EXIF orientation, 1 to 8, of a loaded image; TIFF's is applied by Pillow while it loads."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF raises many things, and the pixels are whole
        return 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) pixels upright."""
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: np.swapaxes(p, 0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(np.swapaxes(p, 0, 1), 2),
        8: lambda p: np.rot90(p),
    }
    return np.ascontiguousarray(turned.get(orientation, lambda p: p)(pixels))


def _without_text(rest: bytes) -> tuple[bytes, bytes | None]:
    """A PNG (given without its signature) without texts, and its profile: Pillow refuses either when they are large."""
    kept, profile, position = [b"\x89PNG\r\n\x1a\n"], None, 0
    while position + 8 <= len(rest):
        length, kind = struct.unpack(">I4s", rest[position : position + 8])
        end = position + 12 + length
        if kind == b"iCCP":
            body = rest[position + 8 : end - 4]
            start = body.find(b"\0") + 2
            profile = zlib.decompressobj().decompress(body[start:], 64 << 20) if start >= 2 else None
        elif kind not in (b"tEXt", b"zTXt", b"iTXt") or rest[position + 8 :].startswith(XMP):
            kept.append(rest[position:end])
        position = end
    return b"".join(kept), profile
