"""Does bf16 training reach what float32 training reaches? The sample study's IGConv+, three seeds each.

python benchmarks/precision.py [--steps N]

Writes benchmarks/results/precision.csv: one row per precision, seed and scale with the mean PSNR-Y over the test
photographs. A difference between the precisions counts as none when it lies inside the spread of the float32 seeds.
Trainings go to results/precision and are resumed, not repeated.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from igconv.evaluation.benchmark import evaluate_run
from igconv.progress import follow
from igconv.study import results
from igconv.study.runs import get_run
from igconv.training.loop import train

SEEDS, PRECISIONS = (0, 1, 2), ("32-true", "bf16-mixed")


def main(words: list[str]) -> None:
    # As committed: the sample study has become shorter since.
    base = replace(get_run("sample", "edsr_tiny-igconv+-s0"), profile="precision", steps=1_500, learning_rate=2e-3)
    if words[:1] == ["--steps"]:
        base = replace(base, steps=int(words[1]))
    rows = []
    for seed in SEEDS:
        for precision in PRECISIONS:
            run = replace(base, seed=seed, precision=precision, variant=precision.split("-")[0])
            for _ in follow(train(run, wait=True), run.steps, run.name):
                pass
            table = evaluate_run(run)
            rows += [dict(precision=precision, seed=seed, scale=scale, psnr_y_db=psnr, steps=run.steps)
                     for scale, psnr in table.groupby("scale").psnr_y_db.mean().items()]  # fmt: skip
    table = pd.DataFrame(rows)
    path = Path(__file__).parent / "results" / "precision.csv"
    results.write_table(table, path, device=results.device_name("cpu"), config_hash=base.config_hash())
    print(compare(table).to_string(index=False))


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """Per scale: spread (max - min) of the float32 seeds, and the largest and mean difference bf16 - float32 in dB."""
    wide = table.pivot(index=["scale", "seed"], columns="precision", values="psnr_y_db").reset_index()
    wide["difference"] = wide["bf16-mixed"] - wide["32-true"]
    by = wide.groupby("scale")
    spread = by["32-true"].max() - by["32-true"].min()
    largest = by.difference.apply(lambda d: d.abs().max())
    summary = pd.DataFrame({"float32_spread_db": spread, "mean_difference_db": by.difference.mean(),
                            "largest_difference_db": largest})  # fmt: skip
    return summary.assign(inside=summary.mean_difference_db.abs() <= spread).reset_index()


if __name__ == "__main__":
    main(sys.argv[1:])
