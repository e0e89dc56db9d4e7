"""How the gap between multi-scale models and SPConvs of equal steps goes with the budget: convergence or capacity?"""

import pandas as pd

from igconv.evaluation import noise
from igconv.evaluation.statistics import pairs_of
from igconv.study.labels import run_label
from igconv.study.run import Run

COLUMNS = ("encoder", "upsampler", "variant", "model", "scale", "steps", "seeds", "difference_db", "low_db", "high_db")


def by_budget(rows: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """PSNR-Y of multi-scale models minus that of SPConv networks of equal steps, for every number of steps.

    Models are those from scratch that are as their name says: IGConv, IGConv+, and one encoder with three SPConvs. Only
    those evaluated at two budgets or more have lines. Every set counts the same; intervals are those of
    `igconv.evaluation.noise.difference`.
    """
    plain = [run for run in runs.values() if run.is_plain and run.change is None]
    kinds: dict[tuple, list[Run]] = {}
    for run in plain:
        if not run.is_fixed_scale and run.family in ("igconv", "spconv"):
            kinds.setdefault((run.encoder, run.upsampler, run.steps), []).append(run)
    measured, lines = noise.measured(rows), []
    for (encoder, upsampler, steps), models in kinds.items():
        heads = upsampler == "spconv"
        for scale in sorted({scale for run in models for scale in run.scales}):
            fixed = {run.name for run in plain if run.is_fixed_scale and run.upsampler == "spconv"
                     and (run.encoder, run.steps) == (encoder, steps)}  # fmt: skip
            pairs = pairs_of(rows, {run.name for run in models}, fixed, scale)
            if len(pairs):
                pairs = pairs.assign(difference=pairs.psnr_y_db_model - pairs.psnr_y_db_baseline)
                found = noise.difference(pairs, noise.at(measured, scale), by_set=True)
                kind = dict(encoder=encoder, upsampler=upsampler, variant="heads" if heads else "")
                kind |= dict(model=run_label(upsampler, kind["variant"]), scale=scale, steps=steps)
                lines.append(kind | dict(seeds=pairs.seed.nunique()) | found)
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    budgets = table.groupby(["encoder", "model", "scale"]).steps.transform("nunique") if len(table) else 0
    return table[budgets > 1].sort_values(["encoder", "model", "scale", "steps"], ignore_index=True)
