"""What may be trained on: no test image, whatever its name, folder or set."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from igconv.data import cache, datasets
from igconv.data.datasets import Folder, images_in
from igconv.errors import InputError


def training_images(names: Sequence[str]) -> list:
    """Pixels (H, W, 3) of all images of training sets, in their order. Raises InputError as `refuse_leaks`."""
    sets = {name: cache.decoded(name) for name in names}
    pixels = [
        (f"{name}/{image}", digest)
        for name, decoded in sets.items()
        for image, digest in zip(decoded.names, decoded.pixels_sha256, strict=True)
    ]
    refuse_leaks(names, pixels)
    return [image for decoded in sets.values() for image in decoded.images]


def refuse_leaks(names: Sequence[str], pixels: Iterable[tuple[str, str]] = (), root: str | Path | None = None) -> None:
    """Raise InputError when a training set holds test images; the line names the image and the reason.

    Refused are: sets that are there for testing, and their folders; images named like one of B100 (which is BSDS500's
    validation part) or 302003, of which Set5's woman is a part, wherever they lie; DIV2K's validation images; and
    every image with the pixels of a benchmark image, if pixels are given.

    Args:
        names: training sets, of the catalogue or folders.
        pixels: (name for people, `datasets.pixels_sha256`) of every image, as the image cache has them.
    """
    sets = datasets.catalogue()
    tests = {name: entry for name, entry in sets.items() if entry.use == "test"}
    folders = [entry for entry in tests.values() if isinstance(entry, Folder)]
    test_folders = {
        (data_root / entry.folder).resolve(): entry.name for entry in folders for data_root in datasets.data_roots(root)
    }
    for entry in [member for name in names for member in datasets.image_set(name).members()]:
        folder = entry.found(root)
        test = entry.name if entry.use == "test" else test_folders.get(folder and folder.resolve())
        if test:
            others = ", ".join(other.name for other in sets.values() if other.use == "train")
            raise InputError(f"{entry.name} cannot be trained on: {test} is a test set; choose from {others}, a folder")
        for path in images_in(folder, entry.nested) if folder and isinstance(entry, Folder) else ():
            reason = datasets.test_image(entry, path)
            if reason:
                raise InputError(f"{path} cannot be trained on{reason}; take it out, or rename it if it is another")
    known = datasets.known_images()
    digests = {image.pixels_sha256: f"{name}'s {stem}" for name in tests for stem, image in known.get(name, {}).items()}
    for image, digest in pixels:
        if digest in digests:
            raise InputError(f"training image {image} has the pixels of {digests[digest]}, a test image; take it out")
