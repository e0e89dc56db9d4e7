"""A redraw of the notebook `explore`: from a moved control to the new pictures, without the browser's part.

python benchmarks/explorer.py [--profile cpu] [--scale 2] [--rounds 5]

The packaged model and the main models of the profile that have the scale, on a bundled photograph: an LR crop of
128 x 128 px goes through each. Controls are moved in turn, there and back; seconds are medians over the rounds.
"""

import time
from pathlib import Path

import pandas as pd
import torch
import tyro
from timing import RESULTS, report

from igconv import upscaling
from igconv.analysis import explored, photographs
from igconv.analysis.explored import View
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.reporting.explorer import Explorer, study_models

MOVES = dict(column=(0.4, 0.6), side=(48, 32), show=("error", "image"), dihedral=(False, True))


def models_of(profile: str, scale: int) -> dict[str, SuperResolver]:
    """The packaged one and a profile's."""
    models = {"packaged model": upscaling.default_model(), **study_models(profile)}
    return {name: model for name, model in models.items() if explored.serves(model, scale)}


def main(
    profile: str = "cpu", scale: int = 2, rounds: int = 5, threads: int = 2, out: Path = RESULTS, quick: bool = False
) -> None:
    """Move, time, write.

    Args:
        profile: whose models stand beside the packaged one.
        quick: one tiny network, once.
    """
    if quick:
        tiny = build_model("edsr_tiny", "igconv+", scales=(2,), hidden_dim=8, num_layers=1).eval()
        rounds, threads, models = 1, 1, {"tiny": tiny}
    else:
        models = models_of(profile, scale)
    torch.set_num_threads(threads)
    _, name, pixels = next(photographs.read(("sample_test",)))
    explorer = Explorer(models, {name: pixels}, View(scale=scale))
    rows = []
    for _ in range(rounds):
        for control, values in MOVES.items():
            for value in values:
                start = time.perf_counter()
                getattr(explorer, control).value = value
                rows.append(dict(control=control, seconds=time.perf_counter() - start))
    table = pd.DataFrame(rows).groupby("control", sort=False).seconds.median().reset_index()
    report(table.assign(models=len(models), scale=scale, crop_px=explored.CROP), "explorer", out=out)


if __name__ == "__main__":
    tyro.cli(main)
