"""The code here against an earlier commit of itself: training steps, images, the whole `igconv upscale`.

python benchmarks/against.py [--commit f7699b2] [--rounds 3]

Every measurement is a process of its own; both codes
take turns, and the ratio is taken within each round. Absolute times belong to one machine, these ratios less so.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd
import torch
import tyro
from timing import RESULTS, report
from upscale import cost, photograph

from igconv.study.results import PROJECT

# Median milliseconds of a training step, and of an image, as the benchmarks of a tree make and time them.
STEP = """
import sys, torch
from step import random_batch, training_step
from timing import interleaved
from igconv import build_model
encoder, upsampler, precision, side, threads, repeats = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
model = build_model(encoder, upsampler, scales=(4,)).train().to(memory_format=torch.channels_last)
batch = random_batch((4,), 4, int(side), "cpu")
step = training_step(model, 0.05 if upsampler == "igconv+" else 0.0, precision)
print(interleaved({"": lambda: step(batch)}, rounds=int(repeats)).ms.median())
"""
IMAGE = """
import sys
from inference import cost
encoder, upsampler, width, height, threads, repeats = sys.argv[1:]
print(cost(encoder, upsampler, int(width), int(height), 2, "cpu", int(threads), int(repeats), True, False)[0])
"""


def measured(tree: Path, script: str, *words) -> float:
    """What a script prints with the package and the benchmarks of a tree."""
    path = os.pathsep.join((str(tree), str(tree / "benchmarks")))
    command = [sys.executable, "-c", script, *map(str, words)]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, cwd=tree, stdout=subprocess.PIPE, check=True)
    return float(run.stdout.split()[-1])


def upscaled(tree: Path, source: Path, threads: int) -> float:
    """Milliseconds of ``igconv upscale`` as a whole. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["upscale", str(source), "-o", str(Path(folder, "large.png")), "--scale", "2"]
        return 1000 * cost(words, threads, PYTHONPATH=str(tree))["seconds"]


def tree_of(commit: str, folder: Path) -> Path:
    """The files of a commit below ``folder``; nothing of it stays in the repository. Raises CalledProcessError."""
    tree = folder / "earlier"
    tree.mkdir()
    packed = subprocess.run(["git", "archive", commit], cwd=PROJECT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    return tree


def one_round(
    trees: dict[str, Path], folder: Path, encoders: tuple[str, ...], image: tuple[int, int], side: int,
    sizes: tuple[str, ...], threads: int, repeats: int,
) -> list[dict]:  # fmt: skip
    """Rows case, ms, earlier_ms, ratio: each case with the code here and with the earlier one, bf16 here alone."""
    found: dict[str, dict[str, float]] = {}
    for code, tree in trees.items():
        for upsampler in ("igconv", "igconv+"):
            case, words = f"step x4, {encoders[-1]} {upsampler}", (side, threads, repeats)
            ms = measured(tree, STEP, encoders[-1], upsampler, "32-true", *words)
            found.setdefault(case, {})[code] = ms
            if code == "ms":
                ms = measured(tree, STEP, encoders[-1], upsampler, "bf16-mixed", *words)
            found.setdefault(f"{case}, bf16 over float32", {})[code] = ms
        for encoder in encoders:
            case = f"image {image[0]}x{image[1]} x2, {encoder} igconv+"
            found.setdefault(case, {})[code] = measured(tree, IMAGE, encoder, "igconv+", *image, threads, repeats)
        for size in sizes:
            ms = upscaled(tree, Path(folder, f"{size}.png"), threads)
            found.setdefault(f"igconv upscale {size} x2", {})[code] = ms
    return [dict(case=case, **times, ratio=times["ms"] / times["earlier_ms"]) for case, times in found.items()]


def main(
    commit: str = "f7699b2",
    rounds: int = 3,
    repeats: int = 5,
    threads: int = 2,
    sizes: tuple[str, ...] = ("300x300", "2000x1500"),
    encoders: tuple[str, ...] = ("smfanet_plus", "edsr_baseline"),
    image: tuple[int, int] = (640, 360),
    side: int = 48,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Medians over the rounds; ``ratio`` is the code here over the earlier one, in float32.

    Args:
        commit: the earlier code.
        repeats: calls per process, of which the median counts.
        sizes: of images for the whole command, WIDTHxHEIGHT.
        encoders: of the images in memory; the last one's training step is measured.
        image: width and height of those.
        side: of the LR patches of a step.
        quick: the code against itself, tiny sizes, once.
    """
    if quick:
        commit, rounds, repeats, threads, side, image = "HEAD", 1, 1, 1, 8, (24, 16)
        sizes, encoders = ("24x16",), ("edsr_tiny",)
    torch.set_num_threads(threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trees = {"earlier_ms": tree_of(commit, Path(folder)), "ms": PROJECT}
        for size in sizes:
            photograph(*map(int, size.split("x"))).save(Path(folder, f"{size}.png"))
        for number in range(rounds):
            rows += one_round(trees, Path(folder), encoders, image, side, sizes, threads, repeats)
            print(f"round {number}", flush=True)
    table = pd.DataFrame(rows).groupby("case", sort=False)[["ms", "earlier_ms", "ratio"]].median().reset_index()
    report(table.assign(earlier_commit=commit, rounds=rounds), "against", out=out)


if __name__ == "__main__":
    tyro.cli(main)
