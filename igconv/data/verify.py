"""Whether image sets on this machine are the right ones: every image decoded, its pixels compared with those known."""

import csv
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from igconv.data import datasets
from igconv.data.datasets import Bundled, Folder, KnownImage, image_names, images_in, pixels_sha256, shortened
from igconv.data.images import read_image
from igconv.errors import InputError
from igconv.files import sha256
from igconv.progress import follow_items

COLUMNS = ("set", "name", "height", "width", "pixels_sha256", "file_sha256")
DESCRIBED = ("T91", "BSD200", "SunHays80", "Set5", "Set14", "B100", "Urban100")  # what images.csv holds


def verify(name: str, root: str | Path | None = None) -> list[str]:
    """What is wrong with a set on this machine, a line each, at most `datasets.SHOWN` of each part and how many more;
    empty if nothing is."""
    lines = []
    for entry in datasets.image_set(name).members():
        lines += _wrong_files(entry) if isinstance(entry, Bundled) else _wrong_images(entry, root)
    return lines


def _wrong_files(entry: Bundled) -> list[str]:
    try:
        paths = entry.paths()
    except InputError as error:
        return [str(error)]
    digests = [(path, sha256(path), expected) for path, (_, expected) in zip(paths, entry.files, strict=True)]
    return [
        f"{path}: sha256 {digest[:12]}..., expected {expected[:12]}..."
        for path, digest, expected in digests
        if digest != expected
    ]


def _wrong_images(entry: Folder, root: str | Path | None) -> list[str]:
    folder = entry.found(root)
    if folder is None:
        return [entry.not_found(root)]
    return shortened([f"{folder}: {problem}" for problem in examine(entry, folder).values()])


def examine(entry: Folder, folder: Path) -> dict[str, str]:
    """Image name -> what is wrong with it in a folder: missing, extra, unreadable or changed. Decodes every image."""
    try:
        paths = images_in(folder, entry.nested)
    except InputError as error:
        return {name: f"missing: {name}" for name in entry.names()} or {"": str(error)}
    wrong, known = entry.wrong_names(paths), datasets.known_images().get(entry.name, {})
    paths = [path for path in paths if path.stem not in wrong]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = pool.map(lambda path: wrong_content(path, known.get(path.stem)), paths)
        problems = follow_items(problems, len(paths), f"verify {entry.name}")
        return wrong | {name: problem for name, problem in zip(image_names(paths), problems, strict=True) if problem}


def wrong_content(path: Path, known: KnownImage | None) -> str:
    """What is wrong with an image file, "" if nothing is: not readable, or not the pixels that are known."""
    if known and known.file_sha256 and sha256(path) == known.file_sha256:
        return ""
    try:
        image = read_image(path, grey_as_rgb=True)
    except InputError as error:
        return f"unreadable: {error}"
    if known is None:
        return ""
    height, width = image.shape[1:]
    if (height, width) != (known.height, known.width):
        return f"changed: {path.name} is {width}x{height} px, expected {known.width}x{known.height}"
    digest = pixels_sha256(image)
    if digest != known.pixels_sha256:
        return f"changed: {path.name} has pixels of sha256 {digest[:12]}..., expected {known.pixels_sha256[:12]}..."
    return ""


def describe(names: Sequence[str] = DESCRIBED, root: str | Path | None = None) -> str:
    """The content of ``data/images.csv``, made from the images on this machine (data/README.md has the command)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in names:
        folder = datasets.image_set(name).found(root)
        if folder is None:
            looked = " and ".join(map(str, datasets.data_roots(root)))
            raise InputError(f"image set {name} not found below {looked}")
        for path in images_in(folder):
            image = read_image(path, grey_as_rgb=True)
            is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
            table.writerow((name, path.stem, *image.shape[1:], pixels_sha256(image), sha256(path) if is_jpeg else ""))
    return text.getvalue()
