"""``igconv upscale`` as people call it: seconds and peak memory of the whole command, by size of the image.

python benchmarks/upscale.py [--sizes 300x300 640x360 2000x1500 3400x2300] [--scale 2] [--rounds 3]

Every call is a process of its own, with start, imports, model, reading and writing; the sizes are called in turn. The
image is a bundled photograph, repeated to the size. ``--help`` is the time of ``igconv --help``.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from PIL import Image
from timing import RESULTS, report

from igconv.analysis import photographs

HELP = "--help"


# Runs a command and prints what it took. A small process of its own, because the kernel's peak memory of a child begins
# with what its parent holds.
TIMER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps(dict(seconds=seconds, cpu_seconds=used.ru_utime + used.ru_stime, peak_mib=used.ru_maxrss / 1024)))
sys.exit(status)
"""


def cost(words: list[str], threads: int, **variables: str) -> dict:
    """Seconds, processor seconds and peak resident memory of ``igconv WORDS`` with these variables in its environment.
    Raises CalledProcessError."""
    command = [sys.executable, "-S", "-c", TIMER, sys.executable, "-m", "igconv.cli", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | variables
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def photograph(width: int, height: int) -> Image.Image:
    _, _, pixels = next(photographs.read(("sample_test",)))
    image = pixels.permute(1, 2, 0).numpy()
    times = -(-height // image.shape[0]), -(-width // image.shape[1]), 1
    return Image.fromarray(np.tile(image, times)[:height, :width])


def main(
    sizes: tuple[str, ...] = ("300x300", "640x360", "2000x1500", "3400x2300"), scale: int = 2, rounds: int = 3,
    threads: int = 2, options: tuple[str, ...] = (), out: Path = RESULTS, quick: bool = False,
) -> None:  # fmt: skip
    """Medians over the rounds.

    Args:
        sizes: of the input, WIDTHxHEIGHT.
        threads: of the command.
        options: further words for it.
        quick: one small image, once.
    """
    if quick:
        sizes, rounds, threads = ("24x16",), 1, 1
    torch.set_num_threads(threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {size: Path(folder, f"{size}.png") for size in sizes}
        for size, path in sources.items():
            photograph(*map(int, size.split("x"))).save(path)
        for number in range(rounds):
            rows.append(dict(input=HELP, round=number, **cost([HELP], threads)))
            for size, path in sources.items():
                words = ["upscale", str(path), "-o", str(path.with_stem(f"{size}-large")), "--scale", str(scale),
                         "--overwrite", *options]  # fmt: skip
                rows.append(dict(input=size, round=number, **cost(words, threads)))
                print(f"{size}, round {number}: {rows[-1]['seconds']:.1f} s", flush=True)
    table = (
        pd.DataFrame(rows).groupby("input", sort=False)[["seconds", "cpu_seconds", "peak_mib"]].median().reset_index()
    )
    report(table.assign(scale=scale, rounds=rounds, options=" ".join(options)), "upscale", out=out)


if __name__ == "__main__":
    tyro.cli(main)
