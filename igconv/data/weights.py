"""The catalogue of published weights: where they come from, where they are, whether they are the right files."""

import hashlib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from igconv.data.datasets import data_roots
from igconv.errors import InputError, choose
from igconv.study.results import PROJECT

CATALOGUE = PROJECT / "data" / "weights.toml"
SUFFIXES = (".safetensors", ".pth", ".pt", ".SAFETENSORS", ".PTH", ".PT")


@dataclass(frozen=True)
class Weights:
    """One file of ``data/weights.toml``."""

    name: str
    training: str  # image set
    scales: tuple[int, ...]
    path: str  # in the repository, or the file of the release
    git_blob: str  # sha1 of the published file as git has it (`git_blob_id`), "" if unknown
    architecture: str
    repository: str  # on GitHub
    licence: str
    upsampler: str = ""  # name of the convolution before PixelShuffle, "" if it is another upsampler
    state: str = ""  # which of the file's dicts holds the weights, "" if not known
    commit: str = ""
    release: str = ""  # instead of a commit
    config: dict = field(default_factory=dict)  # the authors' options, without the scale

    @property
    def address(self) -> str:
        if self.release:
            return f"https://github.com/{self.repository}/releases/download/{self.release}/{self.path}"
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"

    def found(self, root: str | Path | None = None) -> Path | None:
        """The file, the first that is there: safetensors before the original, in the order of the data roots."""
        places = (r / "weights" / f"{self.name}{suffix}" for r in data_roots(root) for suffix in SUFFIXES)
        return next((path for path in places if path.is_file()), None)

    def summary(self, root: str | Path | None = None) -> str:
        """Three lines for people."""
        scales, known = ", ".join(f"x{scale}" for scale in self.scales), "git blob" if self.git_blob else "unknown"
        state = "here" if self.found(root) else "not here"
        return (
            f"{self.name}: {self.architecture} {scales}  {state}  checksum: {known}\n"
            f"    trained on {self.training}; terms: {self.licence}\n    from: {self.address}"
        )


@cache
def catalogue() -> dict[str, Weights]:
    """Published weights by name."""
    entries = {}
    for group in tomllib.loads(CATALOGUE.read_text()).values():
        for name, training, scales, path, blob in group.pop("files"):
            entries[name] = Weights(name, training, tuple(scales), path, blob, **group)
    return entries


def find(name: str, root: str | Path | None = None) -> Path:
    """File of published weights: ``weights/<name>.safetensors``, ``.pth`` or ``.pt`` below a data root.

    Raises InputError for an unknown name, and for a file that is not here.
    """
    entry = catalogue()[choose(name, catalogue(), "published weights")]
    path = entry.found(root)
    if path is None:
        looked = " and ".join(str(r / "weights") for r in data_roots(root))
        raise InputError(f"weights {name} not found: looked in {looked} (`igconv data fetch {name}` gets them)")
    return path


def verify(name: str, root: str | Path | None = None) -> list[str]:
    """What is wrong with weights on this machine, a line each; empty if nothing is."""
    try:
        path = find(name, root)
    except InputError as error:
        return [str(error)]
    problem = wrong_file(catalogue()[name], path)
    return [f"{path}: {problem}"] if problem else []


def wrong_file(entry: Weights, path: Path) -> str:
    """What is wrong with a file, "" if nothing is.

    A published file must have its git blob id, where that is known; a safetensors file was made from one, so it must
    say that it comes from that one.
    """
    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                blob = (file.metadata() or {}).get("source_git_blob", "")
        except (SafetensorError, OSError) as error:
            return f"unreadable: {error}"
    else:
        # An HTML page under this name would be found out only when the model is loaded: zip (torch >= 1.6) or pickle.
        with open(path, "rb") as file:
            if file.read(2) not in (b"PK", b"\x80\x02"):
                return "not a PyTorch file"
        blob = git_blob_id(path)
    if entry.git_blob and blob != entry.git_blob:
        return f"changed: git blob {blob[:12] or 'unknown'}, expected {entry.git_blob[:12]}"
    return ""


def git_blob_id(path: Path) -> str:
    """The name git gives to the content of a file: sha1 over "blob <bytes>", a zero byte, and the content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
