"""The catalogue of image sets and where their files are."""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from igconv.errors import InputError, choose
from igconv.images import SUFFIXES, read_image
from igconv.results import PROJECT


@dataclass(frozen=True)
class ImageSet:
    """One entry of ``data/datasets.toml``."""

    name: str
    use: str  # "train" or "test"
    images: int  # how many there should be
    source: str
    licence: str
    folder: str = ""  # below the data root
    files: tuple[tuple[str, str], ...] = ()  # (name in scikit-image's data folder, sha256)

    def paths(self) -> list[Path]:
        """Image files, sorted. Raises InputError when the set is not here, or not complete."""
        if self.files:
            import skimage

            folder = Path(skimage.__file__).parent / "data"
            paths = [folder / name for name, _ in self.files]
            missing = [str(p) for p in paths if not p.is_file()]
            if missing:
                raise InputError(f"{self.name}: this scikit-image has no {missing[0]}")
            return paths
        for root in data_roots():
            if (root / self.folder).is_dir():
                paths = images_in(root / self.folder)
                # Means over half a benchmark would look like results.
                if len(paths) != self.images:
                    raise InputError(f"{root / self.folder} has {len(paths)} images; {self.name} has {self.images}")
                return paths
        looked = " and ".join(str(root / self.folder) for root in data_roots())
        raise InputError(f"image set {self.name} not found: looked at {looked} (set IGCONV_DATA to its root)")


@cache
def catalogue() -> dict[str, ImageSet]:
    """Image sets by name."""
    with open(PROJECT / "data" / "datasets.toml", "rb") as file:
        entries = tomllib.load(file)
    return {
        name: ImageSet(name, **{**entry, "files": tuple(map(tuple, entry.get("files", ())))})
        for name, entry in entries.items()
    }


def image_set(name: str) -> ImageSet:
    return catalogue()[choose(name, catalogue(), "image set")]


def data_roots() -> list[Path]:
    """Folders that may hold ``benchmarks/`` and ``train/``: IGCONV_DATA, then the project's ``data/``."""
    own = os.environ.get("IGCONV_DATA")
    return ([Path(own)] if own else []) + [PROJECT / "data"]


def images_in(folder: str | Path) -> list[Path]:
    """Image files of a folder, sorted by name. Raises InputError when it is missing or holds none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"no images in {folder}; expected files ending in {', '.join(SUFFIXES)}")
    return paths


def read_set(name: str) -> list[Tensor]:
    """All images of a set, (3, H, W) uint8. Grey images count as RGB with equal colours."""
    return [read_image(path, grey_as_rgb=True) for path in image_set(name).paths()]


def data_hash(names) -> str:
    """16 hex digits over names and contents of the files of several sets, for provenance."""
    digest = hashlib.sha256()
    for name in names:
        for path in image_set(name).paths():
            digest.update(f"{name}/{path.name}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def verify(name: str) -> list[str]:
    """What is wrong with a set on this machine, a line each; empty if nothing is."""
    entry = image_set(name)
    try:
        paths = entry.paths()
    except InputError as error:
        return [str(error)]
    problems = []
    for path, (_, expected) in zip(paths, entry.files, strict=False):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            problems.append(f"{path}: sha256 {found[:12]}..., expected {expected[:12]}...")
    return problems
