"""Decode once: the same pixels, made by one process, never half."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from igconv import InputError
from igconv.data import cache, datasets

pytestmark = pytest.mark.usefixtures("image_sets")


@pytest.fixture
def decodings(monkeypatch) -> list:
    """Paths that were really decoded."""
    seen, original = [], cache.read_image
    monkeypatch.setattr(cache, "read_image", lambda path, **k: seen.append(path) or original(path, **k))
    return seen


def test_pixels_are_those_of_the_files(image_sets, write_png, photograph):
    """Names, sizes, every value; grey as RGB. Views of a mapped file that cannot be written to."""
    from PIL import Image

    Image.fromarray(photograph(30, 41)[0].numpy()).save(image_sets / "train" / "tiny" / "1.png")
    stored = cache.decoded("tiny_train")
    assert stored.names == ("0", "1", "2")
    for found, expected in zip(stored.images, datasets.read_set("tiny_train"), strict=True):
        assert np.array_equal(found, expected.permute(1, 2, 0))
        assert isinstance(found.base, np.memmap)
        assert not found.flags.writeable
    digests = [datasets.pixels_sha256(image) for image in datasets.read_set("tiny_train")]
    assert stored.pixels_sha256 == tuple(digests)


def test_decoded_once(decodings):
    """The second call, also of another process, maps what is there."""
    cache.decoded("tiny_train")
    cache.decoded("tiny_train")
    assert len(decodings) == 3


def test_the_key_is_the_content(image_sets, decodings, photograph, write_png):
    """A changed image is decoded, an untouched one that was only copied is not; both sets stay."""
    cache.decoded("tiny_train")
    path = image_sets / "train" / "tiny" / "1.png"
    os.utime(path, (0, 0))
    cache.decoded("tiny_train")
    assert len(decodings) == 3
    write_png(photograph(60, 60, 77), path)
    assert cache.decoded("tiny_train").images[1].shape == (60, 60, 3)
    assert len(list(cache.folder().glob("tiny_train-*"))) == 2


def test_two_builders(decodings, monkeypatch):
    """Both want it at the same time: one decodes, the other waits and reads."""
    original = cache._append
    monkeypatch.setattr(cache, "_append", lambda *a: time.sleep(0.05) or original(*a))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(cache.decoded, ["tiny_train"] * 2)
    assert len(decodings) == 3
    assert first.pixels_sha256 == second.pixels_sha256


def test_a_killed_builder_leaves_nothing_that_counts(image_sets, decodings):
    """SIGKILL in the middle of decoding; the next call makes the whole set."""
    code = """if True:
        import time
        from igconv.data import cache, datasets
        sets = {"tiny_train": datasets.Folder("tiny_train", "train", 3, "", "", folder="train/tiny")}
        datasets.catalogue = lambda: sets
        original = cache._append
        def slow(*arguments):
            result = original(*arguments)
            print("one", flush=True)
            time.sleep(60)
            return result
        cache._append = slow
        cache.decoded("tiny_train")
    """
    builder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert builder.stdout.readline() == b"one\n"
    assert list(cache.folder().glob(".*.partial"))
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert len(cache.decoded("tiny_train").images) == 3
    assert len(decodings) == 3
    assert not list(cache.folder().glob(".*.partial"))


def test_a_full_disk_is_one_line(monkeypatch):
    """Nothing half is left, and the next call repairs."""

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_append", full)
        with pytest.raises(InputError, match=r"cannot write the image cache .*No space"):
            cache.decoded("tiny_train")
    assert not [path for path in cache.folder().iterdir() if path.is_dir()]
    assert len(cache.decoded("tiny_train").images) == 3


def test_an_unreadable_image_is_named(image_sets):
    """And no cache of the others is left behind."""
    path = image_sets / "train" / "tiny" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"cannot read .*2\.png"):
        cache.decoded("tiny_train")
    assert not [path for path in cache.folder().iterdir() if path.is_dir()]
