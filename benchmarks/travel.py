"""There and back: what a machine with a GPU needs as one archive, and what came back put into results/.

python benchmarks/travel.py pack [--out igconv-gpu.tar] [--profile benchmark] [--wheels FOLDER]
python benchmarks/travel.py unpack FOLDER [--profile benchmark]
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from igconv.data import datasets
from igconv.errors import InputError
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


def pack(out: Path, profile: str, wheels: Path | None) -> dict[str, float]:
    """Write the archive; returns MiB of its parts. Unpacked, it is a folder ``igconv-gpu`` to start first_gpu.sh in."""
    contents = {path: str(path.relative_to(results.PROJECT)) for path in code() if path.is_file()}
    sizes = {"code": sum(p.stat().st_size for p in contents) / 2**20}
    pictures = images(profile)
    sizes["images"] = sum(p.stat().st_size for p in pictures) / 2**20
    contents |= pictures
    if wheels:
        found = sorted(wheels.glob("*.whl"))
        sizes["wheels"] = sum(p.stat().st_size for p in found) / 2**20
        contents |= {path: f"wheels/{path.name}" for path in found}
    with tarfile.open(out, "w") as archive:
        for path, name in contents.items():
            archive.add(path, f"igconv-gpu/{name}")
        commit = results.git_commit().encode()
        entry = tarfile.TarInfo("igconv-gpu/COMMIT")
        entry.size = len(commit)
        archive.addfile(entry, io.BytesIO(commit))
    return sizes | {"archive": out.stat().st_size / 2**20}


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
    back = commands.add_parser("unpack")
    back.add_argument("folder", type=Path)
    for command in (to, back):
        command.add_argument("--profile", default="benchmark")
    options = parser.parse_args(words)
    try:
        if options.command == "pack":
            for part, mib in pack(options.out, options.profile, options.wheels).items():
                print(f"{part:8} {mib:8.1f} MiB")
        else:
            print("\n".join(unpack(options.folder, options.profile)))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
