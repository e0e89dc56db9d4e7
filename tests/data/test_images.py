"""Image files and all-or-nothing writing: formats, damage, a full disk."""

import contextlib
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from igconv import InputError, files
from igconv.data.images import SUFFIXES, read_image, to_float
from igconv.data.picture_files import write_image


def refused(path, *words, **options) -> None:
    """`read_image` raises one line with the path and the words."""
    with pytest.raises(InputError) as error:
        read_image(path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_round_trip(photograph, tmp_path, suffix):
    """(3, H, W) uint8, contiguous, bit for bit; also through float."""
    image = photograph(9, 14)
    write_image(image, tmp_path / f"a{suffix}")
    back = read_image(tmp_path / f"a{suffix}")
    assert torch.equal(back, image)
    assert back.is_contiguous()
    write_image(to_float(image), tmp_path / f"b{suffix}")
    assert torch.equal(read_image(tmp_path / f"b{suffix}"), image)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_written_in_its_format(photograph, tmp_path, suffix):
    """The content is what the name says."""
    write_image(photograph(9, 14), tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert Image.registered_extensions()[suffix] == image.format
        assert image.size == (14, 9)


def test_pillow_agrees(photograph, write_png, tmp_path):
    """Channel order and axes, against a file Pillow wrote."""
    image = photograph(9, 14)
    assert torch.equal(read_image(write_png(image, tmp_path / "a.png")), image)


def test_floats_are_clamped_and_rounded(tmp_path):
    """-1, 0.5/255 rounds to even or up by at most one level, 2 is white."""
    image = torch.tensor([-1.0, 0.49 / 255, 0.51 / 255, 2.0]).view(1, 1, 4).expand(3, 1, 4)
    write_image(image, tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [0, 0, 1, 255]


MODES = {
    "L": lambda: Image.new("L", (6, 5), 9),
    "1": lambda: Image.new("1", (6, 5)),
    "LA": lambda: Image.new("LA", (6, 5)),
    "P": lambda: Image.new("RGB", (6, 5)).convert("P"),
    "RGBA": lambda: Image.new("RGBA", (6, 5)),
    "I;16": lambda: Image.fromarray(np.full((5, 6), 40_000, np.uint16)),
}


@pytest.mark.parametrize("mode", MODES)
def test_other_pixel_formats_are_refused(tmp_path, mode):
    """Grey, alpha, palette, 16 bit: named with their format."""
    MODES[mode]().save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "RGB")
    if mode != "L":
        refused(tmp_path / "a.png", "RGB", grey_as_rgb=True)


def test_cmyk_is_refused(tmp_path):
    """A JPEG for print."""
    Image.new("CMYK", (6, 5)).save(tmp_path / "a.jpg")
    refused(tmp_path / "a.jpg", "CMYK", "RGB")


def test_sixteen_bit_colour_is_not_read_as_eight(tmp_path):
    """A 48-bit PNG, which Pillow silently reduces to 8 bits, is refused too."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">6H", *[30_000 + i for i in range(6)]) for _ in range(2))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "16")


def test_grey_as_rgb(tmp_path):
    """Equal colours when asked for, as for Set14's bridge."""
    Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", grey_as_rgb=True)
    assert image.shape == (3, 5, 6)
    assert (image == torch.arange(30, dtype=torch.uint8).view(1, 5, 6)).all()


def test_a_row_stride_is_no_bit_depth(tmp_path, photograph):
    """An 8-bit BMP 172 pixels wide has rows of 516 bytes, which its decoder is told."""
    image = photograph(9, 172)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.bmp")
    assert torch.equal(read_image(tmp_path / "a.bmp"), image)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff"])
def test_truncated_images_are_refused(photograph, tmp_path, kind):
    """Cut anywhere: one line with the path, whatever the decoder raises."""
    buffer = io.BytesIO()
    Image.fromarray(photograph(16, 20).permute(1, 2, 0).numpy()).save(buffer, kind)
    content, path = buffer.getvalue(), tmp_path / f"a.{kind}"
    # JPEG ends in a two-byte marker that decoders do without; the cut is before it.
    for keep in {int(len(content) * part) for part in np.linspace(0, 0.95, 40)}:
        path.write_bytes(content[:keep])
        refused(path, "cannot read")


@pytest.mark.parametrize("seed", range(8))
def test_damaged_images_never_crash(photograph, tmp_path, seed):
    """Flipped bytes: either an image or an InputError, nothing else."""
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    kind = ("png", "jpeg", "webp", "tiff")[seed % 4]
    Image.fromarray(photograph(16, 20).permute(1, 2, 0).numpy()).save(buffer, kind)
    for _ in range(40):
        content = bytearray(buffer.getvalue())
        for position in rng.integers(0, len(content), 3):
            content[position] = rng.integers(256)
        (tmp_path / "a").write_bytes(content)
        with contextlib.suppress(InputError):
            assert read_image(tmp_path / "a").dtype == torch.uint8


@pytest.mark.parametrize("content", [b"", b"hello, no image", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "header"])
def test_what_is_no_image_is_refused(tmp_path, content):
    """Named by its path."""
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "cannot read")


def test_missing_and_folders_are_refused(tmp_path):
    """Neither is an image."""
    refused(tmp_path / "none.png", "no image")
    refused(tmp_path, "no image")


def test_unknown_suffix_is_refused(tmp_path):
    """With those that are known; nothing is written."""
    with pytest.raises(InputError, match=r"\.png"):
        write_image(torch.zeros(3, 4, 4), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


# ---- igconv.files


class FullDisk(io.BytesIO):
    def write(self, data):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, fails):
    """One line; the old content stays and no temporary file does."""
    path = tmp_path / "a.txt"
    files.write(path, "old")

    def full(handle, *_):
        if isinstance(handle, int):
            os.close(handle)
            return FullDisk()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, {"write": "fdopen", "replace": "replace"}[fails], full)
    with pytest.raises(InputError, match=r"a\.txt: No space left on device"):
        files.write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    """Ctrl-C in the middle passes on and cleans up."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "a.txt", "new")
    assert not list(tmp_path.iterdir())


def test_write_makes_folders_and_replaces(tmp_path):
    """Bytes and text, into a folder that is not there yet."""
    for content in ("one", b"two"):
        files.write(tmp_path / "x" / "y" / "a.txt", content)
    assert (tmp_path / "x" / "y" / "a.txt").read_bytes() == b"two"
    assert len(list((tmp_path / "x" / "y").iterdir())) == 1


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path):
    """Nothing can be written below a file."""
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        files.write(tmp_path / "a" / "b.txt", "new")


def test_lock_is_exclusive_and_released(tmp_path):
    """Held: one line with the process; after the block, also after an error, it is free."""
    path = tmp_path / "x" / "lock"
    holder = files.exclusive(path, wait=False, who="run A")
    with holder, pytest.raises(InputError, match=f"run A.*{os.getpid()}"), files.exclusive(path, False, who="run A"):
        pass
    with pytest.raises(RuntimeError), files.exclusive(path, wait=False, who="run A"):
        raise RuntimeError
    with files.exclusive(path, wait=False, who="run A"):
        pass


def test_lock_dies_with_its_process(tmp_path):
    """A process that was killed leaves no stale lock."""
    import signal
    import subprocess
    import sys

    code = (
        "import sys, time; from igconv.files import exclusive\n"
        "with exclusive(sys.argv[1], wait=False, who='x'): print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=str(process.pid)), files.exclusive(path, wait=False, who="run A"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with files.exclusive(path, wait=False, who="run A"):
        pass


def test_lock_in_an_unusable_place_is_one_line(tmp_path):
    """No folder can be made there, or the disk is full: InputError, not a traceback."""
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=str(tmp_path / "a")), files.exclusive(tmp_path / "a" / "lock", False, "run A"):
        pass
