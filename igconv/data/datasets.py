"""The catalogue of image sets: where their files are, whether they are the right ones, what may be trained on."""

import csv
import hashlib
import io
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from igconv.data.images import SUFFIXES, read_image
from igconv.errors import InputError, choose
from igconv.files import sha256
from igconv.progress import follow_items
from igconv.study.results import PROJECT

CATALOGUE = PROJECT / "data" / "datasets.toml"
IMAGES = PROJECT / "data" / "images.csv"
COLUMNS = ("set", "name", "height", "width", "pixels_sha256", "file_sha256")
DESCRIBED = ("T91", "BSD200", "SunHays80", "Set5", "Set14", "B100", "Urban100")  # what images.csv holds
SHOWN = 5  # problems that are named before "and N more"


@dataclass(frozen=True)
class ImageSet:
    """One entry of ``data/datasets.toml``, or a folder of the user's."""

    name: str
    use: str  # "train" or "test"; "any" for a folder of the user's
    images: int  # how many there should be; 0: any number
    source: str
    licence: str
    folder: str = ""  # below the data root, or absolute
    files: tuple[tuple[str, str], ...] = ()  # (name in scikit-image's data folder, sha256)
    parts: tuple[str, ...] = ()  # sets that this one is made of
    numbered: str = ""  # names of the images: "0001-0800"
    nested: bool = False  # images are in folders below the folder, too
    addresses: tuple[str, ...] = ()  # tried in turn; with {name} one image each, else an archive
    checksum: str = ""  # of the archive, "sha256:..." or "md5:..."; empty: unknown
    inside: str = ""  # where the images are in the archive
    bring: str = ""  # what to do for a set without an address

    def paths(self, root: str | Path | None = None) -> list[Path]:
        """Image files, sorted. Raises InputError when the set is not here, or has missing or extra images.

        Only names and their number are looked at; `verify` looks at the pixels.
        """
        if self.parts:
            return [path for part in self.parts for path in image_set(part).paths(root)]
        if self.files:
            missing = [str(path) for path in self._bundled() if not path.is_file()]
            if missing:
                raise InputError(f"{self.name}: this scikit-image has no {missing[0]}")
            return self._bundled()
        folder = self.found(root)
        if folder is None:
            looked = " and ".join(str(r / self.folder) for r in data_roots(root))
            raise InputError(f"image set {self.name} not found: looked at {looked} (set IGCONV_DATA to its root)")
        paths = images_in(folder, self.nested)
        # Means over half a benchmark would look like results.
        wrong = list(wrong_names(self, paths).values())
        if wrong:
            raise InputError(f"{folder}: {'; '.join(shortened(wrong))}")
        return paths

    def found(self, root: str | Path | None = None) -> Path | None:
        """Folder of the set, the first that is there below the data roots; with parts that of the last, if all are."""
        if self.parts:
            places = [image_set(part).found(root) for part in self.parts]
            return places[-1] if all(places) else None
        if self.files:
            return self._bundled()[0].parent
        return next((r / self.folder for r in data_roots(root) if (r / self.folder).is_dir()), None)

    def names(self) -> list[str]:
        """Names of the images without suffix, sorted; empty where only their number is known, if that."""
        if self.numbered:
            first, last = self.numbered.split("-")
            return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        return sorted(known_images().get(self.name, {}))

    def summary(self, root: str | Path | None = None) -> str:
        """Three lines for people: state, source and terms, address."""
        here = self.found(root) is not None
        known = "sha256" if self.files else "sha256 of the pixels" if self.name in known_images() else ""
        known = known or self.checksum.split(":")[0] + " of the archive" * bool(self.checksum) or "unknown"
        count = f"{self.images:5}" if self.images else "  any"
        address = " + ".join(self.parts) or " or ".join(self.addresses) or self.bring or "scikit-image"
        return (f"{self.name:13} {self.use:5} {count} images  {'here' if here else 'not here':8}  "
                f"checksum: {'of its parts' if self.parts else known}\n"
                f"    {self.source}; terms: {self.licence}\n    from: {address}")  # fmt: skip

    def _bundled(self) -> list[Path]:
        import skimage

        return [Path(skimage.__file__).parent / "data" / name for name, _ in self.files]


@dataclass(frozen=True)
class KnownImage:
    """One row of ``data/images.csv``."""

    height: int
    width: int
    pixels_sha256: str  # see `pixels_sha256`: the same for every lossless copy
    file_sha256: str  # of the published file where that is a JPEG, whose pixels depend on the decoder; else empty


@cache
def catalogue() -> dict[str, ImageSet]:
    """Image sets by name."""
    entries = tomllib.loads(CATALOGUE.read_text())
    for entry in entries.values():
        entry["images"] = entry.get("images") or sum(entries[part]["images"] for part in entry.get("parts", ()))
    return {name: ImageSet(name, **{k: _frozen(v) for k, v in entry.items()}) for name, entry in entries.items()}


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@cache
def known_images() -> dict[str, dict[str, KnownImage]]:
    """``data/images.csv``: set -> name of the image -> what is known about it."""
    known = {}
    with open(IMAGES, newline="") as file:
        for row in csv.DictReader(file):
            image = KnownImage(int(row["height"]), int(row["width"]), row["pixels_sha256"], row["file_sha256"])
            known.setdefault(row["set"], {})[row["name"]] = image
    return known


def image_set(name: str) -> ImageSet:
    """A set of the catalogue, or any folder of images: a path, or the name of a folder that exists here."""
    if name not in catalogue() and (os.sep in name or Path(name).is_dir()):
        folder = Path(name).expanduser().absolute()
        if not folder.is_dir():
            raise InputError(f"no folder at {name}")
        return ImageSet(name, "any", 0, "a folder of yours", "yours to know", folder=str(folder))
    return catalogue()[choose(name, catalogue(), "image set")]


def data_roots(root: str | Path | None = None) -> list[Path]:
    """Folders that may hold ``benchmarks/``, ``train/`` and ``weights/``: ``root`` alone if given, else IGCONV_DATA and
    the project's ``data/``. What is fetched goes below the first."""
    if root is not None:
        return [Path(root)]
    own = os.environ.get("IGCONV_DATA")
    return ([Path(own)] if own else []) + [PROJECT / "data"]


def images_in(folder: str | Path, nested: bool = False) -> list[Path]:
    """Image files of a folder (with ``nested`` also of those below), sorted; hidden files do not count.

    Raises InputError when it is missing or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    found = folder.rglob("*") if nested else folder.iterdir()
    paths = sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise InputError(f"no images in {folder}; expected files ending in {', '.join(SUFFIXES)}")
    return paths


def pixels_sha256(image: Tensor) -> str:
    """sha256 of the pixels of a (3, H, W) uint8 image in (H, W, 3) order; grey images count as RGB, as `read_set` has
    them. Formats do not matter, so PNG, WebP and BMP copies of an image have the same."""
    return hashlib.sha256(image.permute(1, 2, 0).contiguous().numpy()).hexdigest()


def read_set(name: str) -> list[Tensor]:
    """All images of a set, (3, H, W) uint8. Grey images count as RGB with equal colours."""
    return [read_image(path, grey_as_rgb=True) for path in image_set(name).paths()]


def data_hash(names) -> str:
    """16 hex digits over names and contents of the files of several sets, for provenance."""
    digest = hashlib.sha256()
    for name in names:
        for path in image_set(name).paths():
            digest.update(f"{name}/{path.name}".encode(errors="surrogateescape"))
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Whether the files are the right ones


def wrong_names(entry: ImageSet, paths: Sequence[Path]) -> dict[str, str]:
    """Image name -> what is wrong: missing, extra, or there twice. The number alone where names are not known."""
    names, there = set(entry.names()), Counter(path.stem for path in paths)
    if not names:
        if entry.images and len(paths) != entry.images:
            return {"": f"has {len(paths)} images; {entry.name} has {entry.images}"}
        return {}
    wrong = {name: f"missing: {name}" for name in sorted(names - there.keys())}
    wrong |= {path.stem: f"extra: {path.name}{_leak(entry, path)}" for path in paths if path.stem not in names}
    return wrong | {name: f"there twice: {name}" for name, count in there.items() if count > 1 and name in names}


def wrong_content(path: Path, known: KnownImage | None) -> str:
    """What is wrong with an image file, "" if nothing is: not readable, or not the pixels that are known."""
    if known and known.file_sha256 and sha256(path) == known.file_sha256:
        return ""
    try:
        image = read_image(path, grey_as_rgb=True)
    except InputError as error:
        return f"unreadable: {error}"
    if known and tuple(image.shape[1:]) != (known.height, known.width):
        return (f"changed: {path.name} is {image.shape[2]}x{image.shape[1]} px, expected "
                f"{known.width}x{known.height}")  # fmt: skip
    found = pixels_sha256(image)
    if known and found != known.pixels_sha256:
        return f"changed: {path.name} has pixels of sha256 {found[:12]}..., expected {known.pixels_sha256[:12]}..."
    return ""


def examine(entry: ImageSet, folder: Path) -> dict[str, str]:
    """Image name -> what is wrong with it in a folder: missing, extra, unreadable or changed. Decodes every image."""
    try:
        paths = images_in(folder, entry.nested)
    except InputError as error:
        return {name: f"missing: {name}" for name in entry.names()} or {"": str(error)}
    wrong, known = wrong_names(entry, paths), known_images().get(entry.name, {})
    paths = [path for path in paths if path.stem not in wrong]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda path: wrong_content(path, known.get(path.stem)), paths)
        found = follow_items(found, len(paths), f"verify {entry.name}")
        return wrong | {path.stem: text for path, text in zip(paths, found, strict=True) if text}


def verify(name: str, root: str | Path | None = None) -> list[str]:
    """What is wrong with a set on this machine, a line each, at most `SHOWN` and how many more; empty if nothing is."""
    entry = image_set(name)
    if entry.parts:
        return [line for part in entry.parts for line in verify(part, root)]
    if entry.files or entry.found(root) is None:
        try:
            paths = entry.paths(root)
        except InputError as error:
            return [str(error)]
        digests = zip(paths, entry.files, map(sha256, paths), strict=False)
        return [f"{path}: sha256 {found[:12]}..., expected {expected[:12]}..."
                for path, (_, expected), found in digests if found != expected]  # fmt: skip
    folder = entry.found(root)
    return shortened([f"{folder}: {text}" for text in examine(entry, folder).values()])


def shortened(lines: list[str]) -> list[str]:
    """The first `SHOWN` lines, and how many more there are."""
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"and {more} more"] if more > 0 else [])


def describe(names: Sequence[str] = DESCRIBED, root: str | Path | None = None) -> str:
    """The content of ``data/images.csv``, made from the images on this machine (data/README.md has the command)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in names:
        folder = image_set(name).found(root)
        if folder is None:
            raise InputError(f"image set {name} not found below {' and '.join(map(str, data_roots(root)))}")
        for path in images_in(folder):
            image = read_image(path, grey_as_rgb=True)
            own = sha256(path) if path.suffix.lower() in (".jpg", ".jpeg") else ""
            table.writerow((name, path.stem, *image.shape[1:], pixels_sha256(image), own))
    return text.getvalue()


# What may be trained on


def refuse_leaks(names: Sequence[str], pixels: Mapping[str, str] | None = None, root: str | Path | None = None) -> None:
    """Raise InputError when a training set holds test images; the line names the image and the reason.

    Refused are: sets that are there for testing, and their folders; images named like one of B100 (which is BSDS500's
    validation part) or 302003, of which Set5's woman is a part, wherever they lie; DIV2K's validation images; and
    every image with the pixels of a benchmark image, if pixels are given.

    Args:
        names: training sets, of the catalogue or folders.
        pixels: image name -> `pixels_sha256`, as the image cache has them.
    """
    tests = {entry.name: entry for entry in catalogue().values() if entry.use == "test"}
    folders = {(r / t.folder).resolve(): t.name for t in tests.values() if t.folder for r in data_roots(root)}
    digests = {image.pixels_sha256: f"{name}'s {stem}"
               for name in tests for stem, image in known_images().get(name, {}).items()}  # fmt: skip
    entries = [image_set(name) for name in names]
    for entry in [image_set(part) for whole in entries for part in whole.parts or (whole.name,)]:
        folder = entry.found(root)
        test = entry.name if entry.use == "test" else folders.get(folder and folder.resolve())
        if test:
            others = ", ".join(e.name for e in catalogue().values() if e.use == "train")
            raise InputError(f"{entry.name} cannot be trained on: {test} is a test set; choose from {others}, a folder")
        for path in images_in(folder, entry.nested) if folder and not entry.files else ():
            reason = _leak(entry, path)
            if reason:
                raise InputError(f"{path} cannot be trained on{reason}; take it out, or rename it if it is another")
    for stem, digest in (pixels or {}).items():
        if digest in digests:
            raise InputError(f"training image {stem} has the pixels of {digests[digest]}, a test image; take it out")


def _leak(entry: ImageSet, path: Path) -> str:
    """Why an image of this name is in no training set, as " (reason)"; "" if it may be."""
    if entry.use == "test":
        return ""
    if path.stem == "302003":
        return " (Set5's woman is a part of BSD 302003)"
    if path.stem in known_images().get("B100", {}):
        return f" (BSD {path.stem} is in the test set B100)"
    if re.fullmatch(r"0(8(?!00)\d\d|900)(_\w+)?", path.stem) and (entry.name == "DIV2K" or _side(path) == 2040):
        return " (DIV2K's 0801-0900 are its validation part)"
    return ""


def _side(path: Path) -> int:
    """Longer side of an image in pixels, from its header. Numbers alone tell little: others number their images, too;
    all of DIV2K's are 2040 px long."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return max(image.size)
    except OSError:
        return 0
