"""The catalogue of image sets: what they are, where their files lie, which names belong to them.

`igconv.data.verify` compares pixels with those that are known, `igconv.data.leaks` keeps test images out of training.
"""

import csv
import hashlib
import os
import re
import tomllib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from igconv.data.fingerprint import remembered
from igconv.data.images import SUFFIXES, read_image
from igconv.errors import InputError, choose
from igconv.study.results import PROJECT

CATALOGUE = PROJECT / "data" / "datasets.toml"
IMAGES = PROJECT / "data" / "images.csv"
SHOWN = 5  # problems that are named before "and N more"


@dataclass(frozen=True)
class ImageSet(ABC):
    """What all kinds of sets have in common; `Bundled`, `Folder` and `Union` say where the images are."""

    name: str
    use: str  # "train" or "test"; "any" for a folder of the user's
    images: int  # how many there should be; 0: any number
    source: str
    licence: str

    @abstractmethod
    def paths(self, root: str | Path | None = None) -> list[Path]:
        """Image files, sorted. Raises InputError when the set is not here, or has missing or extra images.

        Only names and their number are looked at; `igconv.data.verify` looks at the pixels.
        """

    @abstractmethod
    def found(self, root: str | Path | None = None) -> Path | None:
        """Folder of the set, None if it is not on this machine."""

    @abstractmethod
    def checksum_kind(self) -> str:
        """For people: what the images can be compared with."""

    @abstractmethod
    def origin(self) -> str:
        """For people: where the images come from."""

    def members(self) -> "list[Bundled | Folder]":
        """The sets that this one is made of: itself, unless it is a `Union`."""
        return [self]

    def names(self) -> list[str]:
        """Names of the images without suffix, sorted; empty where only their number is known, if that."""
        return []

    def summary(self, root: str | Path | None = None) -> str:
        """Three lines for people: state, source and terms, address."""
        count = f"{self.images:5}" if self.images else "  any"
        state = "here" if self.found(root) else "not here"
        return (
            f"{self.name:13} {self.use:5} {count} images  {state:8}  checksum: {self.checksum_kind()}\n"
            f"    {self.source}; terms: {self.licence}\n    from: {self.origin()}"
        )


@dataclass(frozen=True)
class Bundled(ImageSet):
    """Photographs that come with scikit-image."""

    files: tuple[tuple[str, str], ...]  # (name in scikit-image's data folder, sha256)

    def paths(self, root: str | Path | None = None) -> list[Path]:
        paths = [self.found() / name for name, _ in self.files]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{self.name}: this scikit-image has no {path}")
        return paths

    def found(self, root: str | Path | None = None) -> Path:
        import skimage

        return Path(skimage.__file__).parent / "data"

    def checksum_kind(self) -> str:
        return "sha256"

    def origin(self) -> str:
        return "scikit-image"


@dataclass(frozen=True)
class Folder(ImageSet):
    """A folder of images: one that can be fetched, one that users bring, or any of the user's."""

    folder: str  # below the data root, or absolute
    numbered: str = ""  # names of the images: "0001-0800"
    nested: bool = False  # images are in folders below the folder, too
    addresses: tuple[str, ...] = ()  # tried in turn; with {name} one image each, else an archive
    checksum: str = ""  # of the archive, "sha256:..." or "md5:..."; empty: unknown
    inside: str = ""  # where the images are in the archive
    bring: str = ""  # what to do for a set without an address

    def paths(self, root: str | Path | None = None) -> list[Path]:
        folder = self.found(root)
        if folder is None:
            raise InputError(self.not_found(root))
        paths = images_in(folder, self.nested)
        # Means over half a benchmark would look like results.
        wrong = list(self.wrong_names(paths).values())
        if wrong:
            raise InputError(f"{folder}: {'; '.join(shortened(wrong))}")
        return paths

    def found(self, root: str | Path | None = None) -> Path | None:
        places = (data_root / self.folder for data_root in data_roots(root))
        return next((place for place in places if place.is_dir()), None)

    def not_found(self, root: str | Path | None = None) -> str:
        """One line on a set that is not here."""
        looked = " and ".join(str(data_root / self.folder) for data_root in data_roots(root))
        return f"image set {self.name} not found: looked at {looked} (set IGCONV_DATA to its root)"

    def names(self) -> list[str]:
        if self.numbered:
            first, last = self.numbered.split("-")
            return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        return sorted(known_images().get(self.name, {}))

    def wrong_names(self, paths: Sequence[Path]) -> dict[str, str]:
        """Image name -> what is wrong: missing, extra, or there twice. The number alone where names are not known."""
        names, there = set(self.names()), Counter(path.stem for path in paths)
        if not names:
            if self.images and len(paths) != self.images:
                return {"": f"has {len(paths)} images; {self.name} has {self.images}"}
            return {}
        missing = {name: f"missing: {name}" for name in sorted(names - there.keys())}
        extra = {path.stem: f"extra: {path.name}{test_image(self, path)}" for path in paths if path.stem not in names}
        twice = {name: f"there twice: {name}" for name, count in there.items() if count > 1 and name in names}
        return missing | extra | twice

    def checksum_kind(self) -> str:
        if self.name in known_images():
            return "sha256 of the pixels"
        return f"{self.checksum.split(':')[0]} of the archive" if self.checksum else "unknown"

    def origin(self) -> str:
        return " or ".join(self.addresses) or self.bring or self.folder


@dataclass(frozen=True)
class Union(ImageSet):
    """Several sets as one, such as DF2K."""

    parts: tuple[str, ...]  # their names

    def paths(self, root: str | Path | None = None) -> list[Path]:
        return [path for member in self.members() for path in member.paths(root)]

    def found(self, root: str | Path | None = None) -> Path | None:
        """Folder of the last part, if all are here."""
        places = [member.found(root) for member in self.members()]
        return places[-1] if all(places) else None

    def members(self) -> list[Bundled | Folder]:
        return [member for part in self.parts for member in image_set(part).members()]

    def checksum_kind(self) -> str:
        return "of its parts"

    def origin(self) -> str:
        return " + ".join(self.parts)


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
    sets = {}
    for name, fields in entries.items():
        fields = {field: _frozen(value) for field, value in fields.items()}
        if "files" in fields:
            sets[name] = Bundled(name, **fields)
        elif "parts" in fields:
            sets[name] = Union(name, images=sum(entries[part]["images"] for part in fields["parts"]), **fields)
        else:
            sets[name] = Folder(name, **fields)
    return sets


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
        return Folder(name, "any", 0, "a folder of yours", "yours to know", str(folder))
    return catalogue()[choose(name, catalogue(), "image set")]


def data_roots(root: str | Path | None = None) -> list[Path]:
    """Folders that may hold ``benchmarks/``, ``train/`` and ``weights/``: ``root`` alone if given, else IGCONV_DATA and
    the project's ``data/``. What is fetched goes below the first."""
    if root is not None:
        return [Path(root)]
    chosen = os.environ.get("IGCONV_DATA")
    return ([Path(chosen)] if chosen else []) + [PROJECT / "data"]


def images_in(folder: str | Path, nested: bool = False) -> list[Path]:
    """Image files of a folder (with ``nested`` also of those below), sorted; hidden files do not count.

    Raises InputError when it is missing or holds none, and for links to nothing and folders named like images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    try:
        entries = folder.rglob("*") if nested else folder.iterdir()
        paths = sorted(p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None
    for path in [path for path in paths if not path.is_file()]:
        if not path.is_dir():
            kind = "a link to nothing" if path.is_symlink() else "no file"
            raise InputError(f"{path} is named like an image and is {kind}; take it out")
        if not nested:
            raise InputError(f"{path} is named like an image and is a folder; take it out")
        paths.remove(path)
    if not paths:
        raise InputError(f"no images in {folder}; expected files ending in {', '.join(SUFFIXES)}")
    return paths


def image_names(paths: Sequence[Path]) -> list[str]:
    """Names of the images of a set, no two alike: without suffix where that is enough, else with it, else with the
    folders that the set's images do not share."""
    stems, names = Counter(path.stem for path in paths), Counter(path.name for path in paths)
    shared = os.path.commonpath([os.path.abspath(path.parent) for path in paths]) if paths else ""

    def name(path: Path) -> str:
        if stems[path.stem] == 1:
            return path.stem
        return path.name if names[path.name] == 1 else Path(os.path.abspath(path)).relative_to(shared).as_posix()

    found = [name(path) for path in paths]
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise InputError(f"two images cannot be told apart by name: {twice[0]}; rename one")
    return found


def pixels_sha256(image: Tensor) -> str:
    """sha256 of the pixels of a (3, H, W) uint8 image in (H, W, 3) order; grey images count as RGB, as `read_set` has
    them. Formats do not matter, so PNG, WebP and BMP copies of an image have the same."""
    return hashlib.sha256(image.permute(1, 2, 0).contiguous().numpy()).hexdigest()


def read_set(name: str) -> list[Tensor]:
    """All images of a set, (3, H, W) uint8. Grey images count as RGB with equal colours."""
    return [read_image(path, grey_as_rgb=True) for path in image_set(name).paths()]


def data_hash(names, known_only: bool = False) -> str:
    """16 hex digits over names and contents of the files of several sets, for provenance.

    ``known_only`` reads no images: "" unless the hash was found before and no file has changed since.
    """
    files = [(f"{name}/{path.name}", path) for name in names for path in image_set(name).paths()]

    def find() -> str:
        digest = hashlib.sha256()
        for name, path in files:
            digest.update(name.encode(errors="surrogateescape"))
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        return digest.hexdigest()[:16]

    what = "data hash of " + "\0".join(name for name, _ in files)
    return remembered(what, [path for _, path in files], None if known_only else find)


def shortened(lines: list[str]) -> list[str]:
    """The first `SHOWN` lines, and how many more there are."""
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"and {more} more"] if more > 0 else [])


def test_image(entry: ImageSet, path: Path) -> str:
    """Which test image a training image is by its name, as " (reason)"; "" if it is none that is known."""
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
