"""Images as people have them: orientation, depth, profiles, frames, transparency, formats, places. Files made here."""

import io
import os
import re
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, PngImagePlugin

from igconv import InputError
from igconv.data import memory, picture_files
from igconv.data.images import OF_PEOPLE, Picture, check_finite, picture_of, read_image, read_picture, to_bytes
from igconv.data.picture_files import check_format, check_name, check_place, check_target, write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)  # (H, W, RGBA)


def one_line(call, *words) -> None:
    """The call raises InputError with one line that has the words."""
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, suffix, orientation):
    """Files and Pillow images, for people and for the study, as Pillow turns them; the corner block shows it."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **(dict(lossless=True) if suffix == "webp" else {}))
    turn = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM}  # fmt: skip
    expected = Image.fromarray(pixels)
    expected = np.asarray(expected.transpose(turn[orientation]) if orientation > 1 else expected).astype(int)
    with Image.open(path) as opened:
        given = picture_of(opened).pixels
    for upright in (read_picture(path).pixels, given, read_image(path).permute(1, 2, 0).numpy()):
        assert upright.shape == expected.shape
        assert np.abs(upright - expected).max() <= 2  # JPEG


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("profile", [None, PROFILE], ids=["plain", "profile"])
@pytest.mark.parametrize("suffix", OF_PEOPLE)
def test_what_is_written_is_read(tmp_path, channels, depth, profile, suffix):
    """Pixels, depth, alpha and profile survive, or nothing is written; JPEG and AVIF are near, some have no grey."""
    pixels = np.random.default_rng(1).integers(0, np.iinfo(depth).max + 1, (6, 9, channels), dtype=depth)
    if suffix in (".jpg", ".jpeg", ".avif"):
        pixels[:] = 100
    path = tmp_path / f"a{suffix}"
    try:
        write_picture(Picture(pixels, profile), path)
    except InputError as error:
        said = str(error)
        assert "choose" in said
        assert not list(tmp_path.iterdir())
        assert suffix in (".jpg", ".jpeg", ".bmp", ".webp", ".avif", ".ppm", ".pgm", ".pnm") or (channels, depth) == (
            2,
            np.uint16,
        )
        return
    back = read_picture(path)
    assert (back.pixels.dtype, back.profile) == (depth, profile)
    if (suffix in (".webp", ".ppm") and channels < 3) or (suffix == ".avif" and channels == 2):
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, -1), pixels[..., 1:]], axis=-1)
    assert back.pixels.shape == pixels.shape
    assert np.abs(back.pixels.astype(int) - pixels).max() <= (2 if suffix in (".jpg", ".jpeg", ".avif") else 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("white", [1, 100, 255, 1000, 65535])
def test_netpbm_of_other_programs_is_read(tmp_path, channels, white):
    """Any largest value, comments in the header; bytes above 255 stand with the high one first."""
    values = np.random.default_rng(white).integers(0, white + 1, (4, 5, channels))
    values[0, 0], values[0, 1] = white, 0
    head = f"P{6 if channels == 3 else 5} # by hand\n5\n# 9 9\n4 {white}\n".encode()
    (tmp_path / "a.pnm").write_bytes(head + values.astype(">u1" if white < 256 else ">u2").tobytes())
    pixels = read_picture(tmp_path / "a.pnm").pixels
    full = 255 if white < 256 else 65535
    assert pixels.dtype == (np.uint8 if white < 256 else np.uint16)
    assert (pixels == np.rint(values * (full / white))).all()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_of_other_programs_are_read(tmp_path, byteorder, compression, channels):
    """TIFFs by tifffile in both byte orders, all bits; for the study they are no 8-bit RGB."""
    pixels = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels if channels > 1 else pixels[..., 0], byteorder=byteorder,
                     photometric="rgb" if channels > 1 else "minisblack", compression=compression,
                     extrasamples=["unassalpha"] if channels == 4 else None)  # fmt: skip
    picture = read_picture(tmp_path / "a.tif")
    assert picture.pixels.dtype == np.uint16
    assert (picture.pixels == pixels).all()
    one_line(lambda: read_image(tmp_path / "a.tif", grey_as_rgb=True), "16-bit", "a.tif")


def test_white_may_be_zero(tmp_path):
    """16-bit grey TIFFs that count from white."""
    pixels = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    assert (65535 - read_picture(tmp_path / "a.tif").pixels[..., 0] == pixels).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode):
    """tRNS of RGB and grey; the study refuses it, because pixels that nobody sees are no training data."""
    image = Image.fromarray(PIXELS[..., :3]).convert(mode)
    key = image.getpixel((4, 2))
    image.save(tmp_path / "a.png", transparency=key)
    picture = read_picture(tmp_path / "a.png")
    expected = (np.asarray(image).reshape(6, 9, -1) == np.array(key)).all(-1)
    assert picture.has_alpha
    assert ((picture.pixels[..., -1] == 0) == expected).all()
    one_line(lambda: read_image(tmp_path / "a.png", grey_as_rgb=True), "transparent colour")


def test_palettes_become_colours(tmp_path):
    """With and without transparency."""
    image = Image.fromarray(PIXELS[..., :3]).quantize(8)
    image.save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png").pixels == np.asarray(image.convert("RGB"))).all()
    image.save(tmp_path / "b.png", transparency=3)
    assert ((read_picture(tmp_path / "b.png").pixels[..., 3] == 0) == (np.asarray(image) == 3)).all()


def test_cmyk_becomes_rgb(tmp_path):
    """By Pillow's formula without a profile; a profile of CMYK is not passed on to RGB."""
    image = (
        Image.fromarray(PIXELS, "CMYK") if hasattr(Image, "_") else Image.frombytes("CMYK", (9, 6), PIXELS.tobytes())
    )
    image.save(tmp_path / "a.tif", icc_profile=b"no profile at all")
    picture = read_picture(tmp_path / "a.tif")
    assert (picture.pixels == np.asarray(image.convert("RGB"))).all()
    assert picture.profile is None


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_texts_and_profiles_of_any_size_are_read(tmp_path):
    """2 MB of text in a few kB, and a profile above Pillow's limit; Pillow's own limits stay as they are."""
    limit = PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 2_000_000, zip=True)
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "a.png", pnginfo=info, icc_profile=PROFILE + bytes(2_000_000))
    picture = read_picture(tmp_path / "a.png")
    assert (picture.pixels == PIXELS[..., :3]).all()
    assert len(picture.profile) == len(PROFILE) + 2_000_000
    assert limit == (PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS)


def test_more_pixels_than_pillow_allows_need_tiles(tmp_path, monkeypatch):
    """One line without; with tiles, memory decides."""
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_001 * 10_000), 1)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    one_line(lambda: read_image(tmp_path / "a.png"), "20000x10000", "--tile")
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    one_line(lambda: read_picture(tmp_path / "a.png", tiles=True), "20000x10000", "memory", "GB")
    monkeypatch.undo()
    assert read_picture(tmp_path / "a.png", tiles=True).pixels.shape == (10_000, 20_000, 1)


def test_memory_is_known():
    """Something between a megabyte and a petabyte."""
    assert 1e6 < memory.available() < 1e15


def test_a_photograph_with_a_preview_is_its_first_picture(tmp_path):
    """Cameras write JPEGs of several pictures (MPO); every viewer shows the first."""
    first, second = (Image.new("RGB", (16, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.jpg")[0].min() > 200


def frames(suffix):
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "white")]
    buffer = io.BytesIO()
    images[0].save(buffer, {".tif": "TIFF"}.get(suffix, suffix[1:]), save_all=True, append_images=images[1:])
    return buffer.getvalue()


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


PLAIN = saved(Image.fromarray(PIXELS[..., :3]), "PNG")
DEEP = RNG.integers(0, 65536, (3, 5, 7), dtype=np.uint16)
# No tool at hand writes 10 bits: an 8-bit file whose boxes say so (av1C's high_bitdepth, pixi's bits per channel).
DEEP_AVIF = saved(Image.fromarray(PIXELS[..., :3]), "AVIF").replace(
    b"pixi\0\0\0\0\x03\x08\x08\x08", b"pixi\0\0\0\0\x03\x0a\x0a\x0a"
)
DEEP_AVIF = re.sub(rb"(av1C..)(.)", lambda m: m[1] + bytes([m[2][0] | 0x40]), DEEP_AVIF, flags=re.DOTALL)
BAD_FILES = {  # name -> content, and what the line says
    **{f"frames{s}": (frames(s), "3 frames") for s in (".png", ".webp", ".gif", ".tif")},
    "empty.png": (b"", "cannot read"),
    "text.png": (b"hello", "cannot read"),
    "page.png": (b"<!DOCTYPE html><html></html>", "cannot read"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "cannot read"),
    "header.png": (PLAIN[:8], "cannot read"),
    "half.png": (PLAIN[: len(PLAIN) // 2], "cannot read"),
    "crc.png": (PLAIN[:20] + b"\xff" + PLAIN[21:], "cannot read"),
    "half.jpg": (saved(Image.fromarray(PIXELS[..., :3]), "JPEG")[:300], "cannot read"),
    "half.webp": (saved(Image.fromarray(PIXELS[..., :3]), "WEBP")[:60], "cannot read"),
    "half.tif": (saved(Image.fromarray(PIXELS[..., :3]), "TIFF")[:100], "cannot read"),
    "half.bmp": (saved(Image.fromarray(PIXELS[..., :3]), "BMP")[:100], "cannot read"),
    "half.gif": (saved(Image.fromarray(PIXELS[..., 0]), "GIF")[:20], "cannot read"),
    "ycbcr.tif": (saved(Image.new("YCbCr", (5, 4)), "TIFF"), "YCbCr"),
    "lab.tif": (saved(Image.new("LAB", (5, 4)), "TIFF"), "LAB"),
    "float.tif": (tiff(np.zeros((4, 5), np.float32)), "more than 8 bits"),
    "integers.tif": (tiff(np.zeros((4, 5), np.int32)), "more than 8 bits"),
    "float_rgb.tif": (tiff(np.zeros((4, 5, 3), np.float32), photometric="rgb"), "cannot read"),
    "planes.tif": (tiff(DEEP, photometric="rgb", planarconfig="separate"), "more than 8 bits"),
    "signed.tif": (tiff(np.zeros((4, 5), np.int16)), "more than 8 bits"),
    "premultiplied.tif": (tiff(np.zeros((4, 5, 4), np.uint16), photometric="rgb", extrasamples=["assocalpha"]),
                          "more than"),
    "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of PNG"),
    "half.ppm": (b"P6 2 1 65535\n" + bytes(11), "damaged"),
    "nothing.ppm": (b"P6 2 0 255\n", "damaged"),
    "words.pgm": (b"P5 two\n" + bytes(11), "damaged"),
    "vast.ppm": (b"P6 2000000000 2000000000 255\n" + bytes(11), "GB"),
    "text.ppm": (b"P3 1 1 255 1 2 3\n", "none of PNG"),
    "half.avif": (saved(Image.fromarray(PIXELS[..., :3]), "AVIF")[:200], "cannot read"),
    # Pillow would give the upper eight of its bits.
    "deep.avif": (DEEP_AVIF, "more than 8 bits"),
    "icon.png": (saved(Image.fromarray(PIXELS[..., :3]), "ICO"), "none of PNG"),
    "wide.png": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
                 + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "GB"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line(tmp_path, name):
    """For people and for the study, with the file's name."""
    content, words = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    one_line(lambda: read_picture(tmp_path / name, tiles=True), name, words)
    one_line(lambda: read_image(tmp_path / name, grey_as_rgb=True), name)


def unreadable(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    return ["a.png", "broken.png", "folder.png", "pipe.png", "none.png", "x" * 300 + ".png", "a\0b.png", ""]


def test_what_is_no_file_is_one_line(tmp_path):
    """Links in a circle and to nothing, folders, pipes, impossible names."""
    for name in unreadable(tmp_path):
        one_line(lambda name=name: read_picture(tmp_path / name), "no image at")


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "F", "I"])
def test_pillow_images_of_other_colours_are_refused(mode):
    """They have three channels of bytes, and are not RGB."""
    one_line(lambda: picture_of(Image.new(mode, (5, 4))), f"is a {mode} image")


def test_pillow_images_say_when_they_lose_bits(tmp_path):
    """Opened by Pillow, a 48-bit file becomes 24-bit; several frames are refused, too."""
    write_picture(Picture(DEEP.transpose(1, 2, 0)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        one_line(lambda: picture_of(image), "16-bit")
    with Image.open(io.BytesIO(frames(".gif"))) as image:
        one_line(lambda: picture_of(image), "3 frames")


@pytest.mark.parametrize("array", [
    PIXELS / 255, PIXELS.astype(np.int64), PIXELS[:0], PIXELS[:, :0], PIXELS[..., :0], PIXELS[0, 0], PIXELS[None],
    np.zeros((4, 4, 5), np.uint8), PIXELS > 9, "text", None, [], np.array("x"), PIXELS.astype(complex),
], ids=lambda a: f"{getattr(a, 'shape', a)}")  # fmt: skip
def test_other_arrays_are_refused(array):
    """Named with shape and type."""
    one_line(lambda: picture_of(array), "expected pixels", "got")


PICTURE = Picture(PIXELS[..., :3])


@pytest.mark.parametrize(("call", "words"), [
    (lambda p: check_name(p / "a.gif"), ".png"),
    (lambda p: check_name(p / "a"), ".png"),
    (lambda p: check_name(p / "a.jp2"), ".png"),
    (lambda p: check_name(p / "a.png", 90), "lossless"),
    (lambda p: check_name(p / "a.jpg", 0), "1 to 100"),
    (lambda p: check_name(p / "a.webp", 101), "1 to 100"),
    (lambda p: check_name(p / "a.jpg", 2.5), "1 to 100"),
    (lambda p: check_format(p / "a.webp", Picture(np.zeros((4, 8192, 3), np.uint8)), (8, 16384)), "16383"),
    (lambda p: check_format(p / "a.webp", Picture(np.zeros((8192, 4, 3), np.uint8)), (16384, 8)), "16383"),
    (lambda p: check_format(p / "a.jpg", Picture(np.zeros((4, 8192, 3), np.uint8)), (32, 65536)), "65500"),
    (lambda p: check_format(p / "a.tif", Picture(np.zeros((400, 400, 3), np.uint8)), (40000, 40000)), "4 GB"),
    (lambda p: check_format(p / "a.bmp", Picture(np.zeros((400, 400, 3), np.uint8)), (40000, 40000)), "4 GB"),
    (lambda p: check_format(p / "a.jpg", Picture(PIXELS)), "transparency"),
    (lambda p: check_format(p / "a.bmp", Picture(PIXELS)), "transparency"),
    (lambda p: check_format(p / "a.webp", Picture(PIXELS.astype(np.uint16))), "16-bit"),
    (lambda p: check_format(p / "a.jpg", Picture(DEEP[0, ..., None])), "16-bit"),
    (lambda p: check_format(p / "a.bmp", Picture(PIXELS[..., :3], PROFILE)), "profile"),
    (lambda p: check_target(p, []), "folder"),
    (lambda p: check_target(p / "old.png", []), "--overwrite"),
    (lambda p: check_target(p / "old.png", [p / "old.png"], True), "source"),
    (lambda p: check_target(p / "link.png", [p / "old.png"], True), "source"),
    (lambda p: check_target(p / "hard.png", [p / "old.png"], True), "source"),
    (lambda p: check_target(p / "." / "x" / ".." / "old.png", [p / "old.png"], True), "source"),
    (lambda p: check_target(p / "dangling.png", []), "--overwrite"),
    (lambda p: check_place(p / "old.png" / "a.png"), "cannot write"),
    (lambda p: check_place(p / "old.png" / "x" / "a.png"), "cannot write"),
    (lambda p: check_place(p / ("x" * 251 + ".png")), "cannot write"),
    (lambda p: check_place("/proc/a.png"), "cannot write"),
    (lambda p: write_picture(PICTURE, p / "a.png", 3), "lossless"),
    (lambda p: picture_files.write_image(torch.full((3, 4, 4), torch.nan), p / "a.png"), "not numbers"),
    (lambda p: picture_files.write_image(torch.full((3, 4, 4), -torch.inf), p / "a.png"), "not numbers"),
])  # fmt: skip
def test_what_cannot_be_written_is_one_line(tmp_path, call, words):
    """And nothing is left behind."""
    (tmp_path / "old.png").write_bytes(PLAIN)
    (tmp_path / "x").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "old.png")
    os.link(tmp_path / "old.png", tmp_path / "hard.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.rglob("*"))
    one_line(lambda: call(tmp_path), words)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old.png").read_bytes() == PLAIN


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    one_line(lambda: check_place(tmp_path / "a.png"), "Permission denied")


def test_quality(tmp_path, photograph):
    """JPEG is near by default, WebP exact; a quality makes both smaller."""
    picture = Picture(photograph(64, 64).permute(1, 2, 0).contiguous().numpy())
    sizes = {}
    for suffix in (".jpg", ".webp"):
        for quality in (None, 30):
            write_picture(picture, tmp_path / f"a{suffix}", quality)
            sizes[suffix, quality] = (tmp_path / f"a{suffix}").stat().st_size
    assert sizes[".jpg", 30] < sizes[".jpg", None] / 2
    assert sizes[".webp", 30] < sizes[".webp", None] / 2
    write_picture(picture, tmp_path / "a.webp")
    assert (read_picture(tmp_path / "a.webp").pixels == picture.pixels).all()


def test_only_numbers_become_pixels():
    """NaN and infinity anywhere are refused, everything else passes; bytes are bytes."""
    for value in (torch.nan, torch.inf, -torch.inf):
        image = torch.zeros(3, 4, 4)
        image[1, 2, 3] = value
        one_line(lambda image=image: to_bytes(image), "not numbers")
    assert to_bytes(torch.full((3, 2, 2), 1e30)).min() == 255
    check_finite(torch.empty(0), "nothing")


def test_reading_is_safe_in_threads(tmp_path):
    """The cache decodes in threads: no global of Pillow is touched."""
    for i in range(8):
        write_picture(Picture(DEEP.transpose(1, 2, 0) + np.uint16(i)), tmp_path / f"{i}.png")
    wrong = []

    def check(i):
        same = (read_picture(tmp_path / f"{i}.png").pixels == DEEP.transpose(1, 2, 0) + np.uint16(i)).all()
        wrong.extend([] if same else [i])

    threads = [threading.Thread(target=check, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
