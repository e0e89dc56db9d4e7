"""Decode once: the pixels of image sets in flat uint8 files that all processes map into memory.

A set is stored under a key made of its files' names and contents, so a changed image makes a new file and nothing
is ever stale. The folder (`igconv.data.fingerprint.folder`) can be deleted at any time.
"""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igconv.data import datasets
from igconv.data.fingerprint import folder, remembered
from igconv.data.images import read_image
from igconv.errors import InputError
from igconv.files import exclusive, sha256
from igconv.progress import follow_items

FORMAT = 2  # part of every key; to be raised when the layout below, or what reading an image gives, changes
THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class DecodedSet:
    """Images of a set: views of a file that is mapped, not read, until pixels are touched."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]  # (H, W, 3) uint8 each, read-only
    pixels_sha256: tuple[str, ...]


def decoded(name: str) -> DecodedSet:
    """The images of a set, decoded now if no process did so before. Grey images count as RGB with equal colours.

    Two processes that want the same set wait for the one that decodes; one that was killed leaves nothing that counts.
    A stored set that is not what was stored is made again.

    Raises InputError for a set that is not here or not complete, an unreadable image, or a full disk.
    """
    paths = datasets.image_set(name).paths()
    place = folder() / f"{Path(name).name}-{_key(paths)}"
    found = _stored(place, paths)
    if found is None:
        with exclusive(folder() / f".lock-{place.name}", wait=True, who=f"the image cache of {name}"):
            found = _stored(place, paths)
            if found is None:
                _remove_damaged(place, name)
                _build(name, paths, place)
                found = _mapped(place, paths)
    return found


def _stored(place: Path, paths: list[Path]) -> DecodedSet | None:
    """A stored set whose every image has the pixels that were stored; None for one that is missing or damaged."""
    try:
        images = _mapped(place, paths)
    except (OSError, ValueError, TypeError):  # missing, cut short, no index
        return None
    files = [place / "pixels.u8", place / "index.json"]
    return images if remembered("intact", files, lambda: _intact(images)) == "yes" else None


def _intact(images: DecodedSet) -> str:
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda image: hashlib.sha256(image).hexdigest(), images.images)
        return "yes" if tuple(digests) == images.pixels_sha256 else "no"


def _mapped(place: Path, paths: list[Path]) -> DecodedSet:
    index = json.loads((place / "index.json").read_text())
    flat = np.memmap(place / "pixels.u8", dtype=np.uint8, mode="r")
    sizes = [h * w * 3 for _, h, w, _ in index]
    if sum(sizes) != flat.size or len(index) != len(paths):
        raise ValueError(f"{place} does not hold what its index says")
    starts = np.cumsum([0, *sizes])
    return DecodedSet(
        names=tuple(datasets.image_names(paths)),
        images=tuple(
            flat[a : a + n].reshape(h, w, 3) for a, n, (_, h, w, _) in zip(starts, sizes, index, strict=False)
        ),
        pixels_sha256=tuple(digest for *_, digest in index),
    )


def _key(paths: list[Path]) -> str:
    def find() -> str:
        with ThreadPoolExecutor(THREADS) as pool:
            contents = list(pool.map(sha256, paths))
        listed = json.dumps([FORMAT, *([path.name, digest] for path, digest in zip(paths, contents, strict=True))])
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    return remembered(f"cache key {FORMAT}", paths, find)


def _remove_damaged(place: Path, name: str) -> None:
    if not place.exists():
        return
    print(f"the image cache of {name} is damaged ({place}); it is made again", flush=True)
    try:
        shutil.rmtree(place)
    except OSError as error:
        raise InputError(
            f"cannot remove the damaged image cache {place}: {error.strerror or error}; "
            "remove it, or set IGCONV_CACHE to another folder"
        ) from None


def _build(name: str, paths: list[Path], place: Path) -> None:
    temporary = place.with_name(f".{place.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # of a builder that was killed: this one holds the lock
    try:
        temporary.mkdir(parents=True)
        with open(temporary / "pixels.u8", "wb") as file:
            images = follow_items(_decode(paths), len(paths), f"decode {name}")
            index = [_append(file, path, pixels) for path, pixels in images]
        (temporary / "index.json").write_text(json.dumps(index))
        temporary.rename(place)
    except OSError as error:
        raise InputError(f"cannot write the image cache {place}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode(paths: list[Path]):
    """(path, (H, W, 3) uint8) in order, a few images ahead: all of DF2K would not fit into memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), 4 * THREADS):
            some = paths[start : start + 4 * THREADS]
            for path, image in zip(some, pool.map(lambda p: read_image(p, grey_as_rgb=True), some), strict=True):
                yield path, np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _append(file, path: Path, pixels: np.ndarray) -> list:
    file.write(pixels)
    return [path.stem, *pixels.shape[:2], hashlib.sha256(pixels).hexdigest()]
