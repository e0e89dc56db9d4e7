"""The paper's claims, each with our measure, its interval and a verdict by rule. Pure functions on data frames."""

import numpy as np
import pandas as pd

from igconv.tables import over_all_sets, run_label

NOISE_DB = 0.05  # run-to-run noise of the field: what a difference from a single seed has to exceed


def _judge(low: float, high: float, target: float, seeds: int, value: float) -> str:
    """Is the value above the target? The interval has to clear it, and a single seed the noise as well."""
    if np.isnan(value):
        return "not run"
    if low > target and (seeds > 1 or value > target + NOISE_DB):
        return "reproduced"
    if high < target and (seeds > 1 or value < target - NOISE_DB):
        return "differs"
    return "undecided"


def _judge_ratio(value: float, claimed: float, tolerance: float = 0.1) -> str:
    """Is a cost ratio at most the claimed one (within the tolerance)? Between it and 1 it is "partly"."""
    if np.isnan(value):
        return "not run"
    return "reproduced" if value <= claimed * (1 + tolerance) else "partly" if value < 1 else "differs"


def claims(
    difference: pd.DataFrame, ablation: pd.DataFrame, budget: pd.DataFrame, upsamplers: pd.DataFrame
) -> pd.DataFrame:
    """Each claim of the paper with our measure and a verdict by rule.

    Args: `fixed_vs_multi`, `ablation`, and of `igconv.analysis.efficiency` ``budget_summary`` and
    ``upsampler_costs``. Columns: claim, scale, verdict, value, low, high, unit, encoder, measure.

    Verdicts: "reproduced" or "differs" when the 95 % interval over images clears the target (and a single seed the
    noise of 0.05 dB), else "undecided"; for cost ratios "reproduced" up to 10 % above the claimed ratio, "partly"
    below 1, else "differs"; "not run" without the runs.
    """
    lines, difference, ablation = [], over_all_sets(difference), over_all_sets(ablation)
    statements = {"IGConv": ("equal PSNR with one model for all scales", -NOISE_DB),
                  "IGConv+": ("better PSNR than the fixed-scale model", 0.0)}  # fmt: skip
    for row in difference[difference.baseline == "SPConv"].itertuples():
        claim, target = statements[row.model]
        # "Equal" is a band around zero: the noise is in its target already.
        seeds = 2 if row.model == "IGConv" else row.seeds
        lines.append(dict(claim=f"{row.model}: {claim}", measure=f"PSNR-Y minus {row.baseline}, equal steps per model",
                          encoder=row.encoder, scale=f"x{row.scale}", value=row.difference_db, low=row.low_db,
                          high=row.high_db, unit="dB",
                          verdict=_judge(row.low_db, row.high_db, target, seeds, row.difference_db)))  # fmt: skip
    for row in ablation.itertuples():
        sign = -1 if row.change == "left out" else 1
        low, high = sorted((sign * row.low_db, sign * row.high_db))
        measure = f"PSNR-Y {'lost when' if sign < 0 else 'gained when'} {row.change}"
        lines.append(dict(claim=f"{row.ingredient} helps", measure=measure, encoder=row.encoder, scale=f"x{row.scale}",
                           value=sign * row.difference_db, low=low, high=high, unit="dB",
                          verdict=_judge(low, high, 0.0, row.seeds, sign * row.difference_db)))  # fmt: skip
    lines += _cost_claims(budget, upsamplers)
    columns = ["claim", "scale", "verdict", "value", "low", "high", "unit", "encoder", "measure"]
    return pd.DataFrame(lines, columns=columns)


def _cost_claims(budget: pd.DataFrame, upsamplers: pd.DataFrame) -> list[dict]:
    lines = []
    for encoder, group in budget[budget.variant == ""].groupby("encoder"):
        means = group.groupby("upsampler")[["steps", "training_seconds", "stored_parameters"]].mean()
        for model in ("igconv", "igconv+"):
            for column, what in (("steps", "training steps"), ("training_seconds", "training time"),
                                 ("stored_parameters", "stored parameters")):  # fmt: skip
                known = {"spconv", model} <= set(means.index)
                ratio = means.loc[model, column] / means.loc["spconv", column] if known else np.nan
                lines.append(dict(claim=f"{run_label(model)}: a third of the {what}", encoder=encoder,
                                  measure="one model / three SPConv models", scale="x2-x4", value=ratio, unit="ratio",
                                  verdict=_judge_ratio(ratio, 1 / 3)))  # fmt: skip
    stored = upsamplers[(upsamplers.form == "instantiated") | upsamplers.upsampler.isin(["SPConv", "SPConv+"])]
    latency = stored.set_index("upsampler").latency_ms
    for model, baseline in (("IGConv", "SPConv"), ("IGConv+", "SPConv+")):
        ratio = latency[model] / latency[baseline]
        lines.append(dict(claim=f"{model}: no slower than {baseline} after instantiation",
                          measure="latency of the upsampler alone, ratio", encoder="", unit="ratio",
                          scale=f"x{stored.scale.iloc[0]}", value=ratio, verdict=_judge_ratio(ratio, 1.0)))  # fmt: skip
    return lines
