"""There and back: what a machine with a GPU needs as one archive, and what came back put into results/.

python benchmarks/travel.py pack [--out igconv-gpu.tar] [--profile benchmark] [--wheels FOLDER] [--part-mib N]
                                 [--without SET ...]
python benchmarks/travel.py unpack FOLDER [--profile benchmark]
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from igconv.data import datasets
from igconv.errors import InputError, choose
from igconv.evaluation.validation import looked_at
from igconv.models import checkpoints
from igconv.study import results
from igconv.study.runs import runs_of


def code() -> list[Path]:
    """Tracked files without results, which training does not read."""
    listed = subprocess.run(["git", "ls-files"], cwd=results.PROJECT, capture_output=True, text=True, check=True)
    return [results.PROJECT / name for name in listed.stdout.splitlines() if not name.startswith("results/")]


def images(profile: str) -> dict[Path, str]:
    """Image file -> its name in the archive, for the sets that the profile trains and looks at."""
    found = {}
    for name in dict.fromkeys(n for run in runs_of(profile).values() for n in (*run.train_sets, *run.test_sets)):
        for member in datasets.image_set(name).members():
            folder = member.found()
            if isinstance(member, datasets.Folder) and folder is not None:
                found |= {path: f"data/{member.folder}/{path.relative_to(folder)}" for path in member.paths()}
    return found


def unread(profile: str, without: Sequence[str]) -> set[Path]:
    """Images of the test sets ``without`` that no training reads: all but those that validation looks at.

    Raises InputError for what is no test set of the profile, and for one that is not here.
    """
    tests = {name for run in runs_of(profile).values() for name in run.test_sets}
    found = set()
    for name in without:
        found |= set(datasets.image_set(choose(name, tests, "test set")).paths()) - set(looked_at(name))
    return found


def pack(
    out: Path, profile: str, wheels: Path | None, without: Sequence[str] = (), part_mib: float = 0.0
) -> dict[str, float]:
    """Write the archive, a folder ``igconv-gpu`` to start first_gpu.sh in; returns MiB of what is in it and of itself.

    Args:
        without: test sets whose images nobody looks at in a training; these go as empty files. Their names have to be
            there, because a training refuses an incomplete set, and whoever reads one is told that it is no image.
        part_mib: MiB of the parts that the archive is left in (see `in_parts`); 0: it is one file.
    """
    contents = {path: str(path.relative_to(results.PROJECT)) for path in code() if path.is_file()}
    sizes = {"code": _mib(contents)}
    pictures, left = images(profile), unread(profile, without)
    sizes["images"] = _mib(pictures.keys() - left)
    contents |= pictures
    if wheels:
        found = sorted(wheels.glob("*.whl"))
        sizes["wheels"] = _mib(found)
        contents |= {path: f"wheels/{path.name}" for path in found}
    with tarfile.open(out, "w") as archive:
        for path, name in contents.items():
            if path in left:
                archive.addfile(tarfile.TarInfo(f"igconv-gpu/{name}"))
            else:
                archive.add(path, f"igconv-gpu/{name}")
        commit = results.git_commit().encode()
        entry = tarfile.TarInfo("igconv-gpu/COMMIT")
        entry.size = len(commit)
        archive.addfile(entry, io.BytesIO(commit))
    sizes["archive"] = _mib([out])
    remove_parts(out)
    if part_mib:
        sizes |= {path.name: _mib([path]) for path in in_parts(out, part_mib)}
        out.unlink()
    return sizes


def _mib(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 2**20


def remove_parts(path: Path) -> None:
    """Parts of a file that `in_parts` has made before, of which there may be more than the next time."""
    for old in path.parent.glob(f"{path.name}.part[0-9][0-9][0-9]"):
        old.unlink()


def in_parts(path: Path, mib: float) -> list[Path]:
    """Copies of a file's bytes as <name>.part000, ... beside it, at most ``mib`` MiB each; in the order of their names
    they are the file. Raises InputError where three digits are too few."""
    remove_parts(path)
    size, made = int(mib * 2**20), []
    if size < 1 or path.stat().st_size > 1000 * size:
        raise InputError(f"{path.name} has {_mib([path]):.1f} MiB, more than 1000 parts of {mib:g} MiB")
    with open(path, "rb") as file:
        for number, chunk in enumerate(iter(lambda: file.read(size), b"")):
            made.append(path.with_name(f"{path.name}.part{number:03d}"))
            made[-1].write_bytes(chunk)
    return made


def join(folder: Path) -> None:
    """Files that first_gpu.sh has split, whole again."""
    for first in sorted(folder.rglob("*.part000")):
        whole = first.with_name(first.name.removesuffix(".part000"))
        if not whole.is_file():
            with open(whole, "wb") as file:
                for part in sorted(first.parent.glob(f"{whole.name}.part[0-9][0-9][0-9]")):
                    file.write(part.read_bytes())


def unpack(folder: Path, profile: str) -> list[str]:
    """Put the runs that came back into the results of this checkout; returns a line per run.

    A finished run is taken if it is the run of the table here (its config hash), a checkpoint as it is. What is here
    and finished stays. Raises InputError for a folder without runs.
    """
    join(folder)
    place = folder / "results" / profile / "runs"
    if not place.is_dir():
        raise InputError(f"{folder} holds no runs of profile {profile}")
    lines, known = [], runs_of(profile)
    for source in sorted(p for p in place.iterdir() if p.is_dir()):
        name, weights = source.name, source / "model.safetensors"
        if name not in known:
            lines.append(f"{name}: left out, no run of this table")
            continue
        target = results.run_folder(profile, name)
        if results.model_file(profile, name).is_file():
            lines.append(f"{name}: left out, finished here")
            continue
        if weights.is_file():
            if checkpoints.metadata(weights).get("meta", {}).get("config_hash") != known[name].config_hash():
                lines.append(f"{name}: left out, trained with other settings")
                continue
            state = "finished"
        elif (source / "last.ckpt").is_file():
            state = "to go on from its checkpoint"
        else:
            continue
        target.mkdir(parents=True, exist_ok=True)
        names = sorted((p for p in source.iterdir() if p.is_file() and ".part" not in p.suffix
                        and not p.name.startswith(".")), key=lambda p: p.name == weights.name)  # fmt: skip
        for path in names:  # the weights last: they say that the rest is there
            shutil.copyfile(path, target / path.name)
        lines.append(f"{name}: {state}")
    return lines


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="travel.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    to = commands.add_parser("pack")
    to.add_argument("--out", type=Path, default=Path("igconv-gpu.tar"))
    to.add_argument("--wheels", type=Path, help="folder of wheels that the other machine lacks")
    to.add_argument("--without", nargs="+", default=[], metavar="SET", help="test sets whose unread images stay here")
    to.add_argument("--part-mib", type=float, default=0.0, help="in parts of at most so many MiB; 0: one file")
    back = commands.add_parser("unpack")
    back.add_argument("folder", type=Path)
    for command in (to, back):
        command.add_argument("--profile", default="benchmark")
    options = parser.parse_args(words)
    try:
        if options.command == "pack":
            sizes = pack(options.out, options.profile, options.wheels, options.without, options.part_mib)
            for part, mib in sizes.items():
                print(f"{part:24} {mib:8.1f} MiB")
        else:
            print("\n".join(unpack(options.folder, options.profile)))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
