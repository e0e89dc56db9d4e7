"""Where results are, and tidy tables with provenance."""

import csv
import json
import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from igconv.errors import InputError
from igconv.files import FOLDERS, absolute_folders, write  # noqa: F401 (the folders of results are among them)

# Columns that hold text also where it looks like a number: image 0801, hash 12345e678901, scales "2".
TEXT_COLUMNS = ("run", "encoder", "upsampler", "variant", "train_scales", "scales", "dataset", "image",
                "weights_sha256", "settings_hash", "within")  # fmt: skip

PROJECT = Path(__file__).resolve().parents[2]


def root(profile: str) -> Path:
    """Folder of a profile's results: ``results/<profile>``, or ``IGCONV_RESULTS/<profile>``."""
    return Path(os.environ.get("IGCONV_RESULTS") or PROJECT / "results").resolve() / profile


def shown(path: Path) -> str:
    """A path for people: from the results' folder on where it is inside, because executed notebooks are committed."""
    folder = root("").resolve()
    return f"results/{path.relative_to(folder)}" if Path(path).is_relative_to(folder) else str(path)


def run_folder(profile: str, run: str) -> Path:
    return root(profile) / "runs" / run


def model_file(profile: str, run: str) -> Path:
    """Final weights of a training; their presence says that it is finished."""
    return run_folder(profile, run) / "model.safetensors"


def weights_file(profile: str, run: str) -> Path:
    """Half-precision weights of a run, small enough to be committed (``igconv export``)."""
    return root(profile) / "weights" / f"{run}.safetensors"


def rows_file(profile: str, run: str, protocol: str = "") -> Path:
    """Evaluation rows of a run; those of a protocol other than the study's are in a folder of its own."""
    return root(profile) / "rows" / protocol / f"{run}.csv"


def analysis_file(profile: str, topic: str, name: str) -> Path:
    return root(profile) / "analysis" / topic / f"{name}.csv"


@cache
def git_commit() -> str:
    """Commit of the project, with "+changes" when anything but ``results/`` differs from it; "unknown" outside git.

    What a study writes is no change of the code that wrote it.

    A tree that was packed for another machine names its commit in the file `COMMIT`; a git around it is not its own.
    """
    if (PROJECT / "COMMIT").is_file():
        return (PROJECT / "COMMIT").read_text().strip()

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--", ".", ":(exclude)results") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name(device) -> str:
    """Name of a torch device for people: the GPU's, or the processor's."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type == "mps":
        return f"GPU of {platform.processor() or platform.machine()} (MPS)"
    try:
        model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return model[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def provenance(**facts) -> dict:
    """Where numbers come from: commit, versions, time, and the facts given (config hash, data hash, seed, device)."""
    versions = {}
    for package in ("torch", "torchvision", "lightning-fabric", "scikit-image", "numpy", "pandas", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "git_commit": git_commit(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "versions": versions,
        **facts,
    }


def write_json(content: dict, path: Path) -> None:
    write(path, json.dumps(content, indent=1) + "\n")


def write_table(table: pd.DataFrame, path: Path, **facts) -> None:
    """A tidy CSV, and its provenance beside it as ``<name>.provenance.json``."""
    write_json(provenance(**facts), path.with_suffix(".provenance.json"))
    text = table.to_csv(index=False)
    if "\r" in text:  # in a name; pandas takes an unquoted one for the end of a line
        text = table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
    write(path, text)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV that an earlier notebook wrote; `TEXT_COLUMNS` hold str, "" where the cell is empty.

    Raises InputError that names the file when it is not there.
    """
    if not Path(path).is_file():
        raise InputError(f"{shown(path)} is missing; run the notebook that writes it first (./run_all.sh does)")
    try:
        table = pd.read_csv(
            path,
            keep_default_na=False,
            na_values=[""],
            dtype=dict.fromkeys(TEXT_COLUMNS, "str"),
            float_precision="round_trip",
            encoding_errors="surrogateescape",
        )
    except ValueError as error:  # pandas' errors of an empty, damaged or binary file
        raise InputError(f"cannot read {path}: {error}") from None
    text = [column for column in table.columns if column in TEXT_COLUMNS]
    return table.assign(**{column: table[column].fillna("") for column in text})
