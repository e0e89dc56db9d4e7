"""Is a gap between two models one of convergence, and where does it sit? Gaps in steps, and encoder against head.

In dB a gap does not say how far apart two trainings are. `equal_steps` says after how many steps the fixed-scale model
was as good as the multi-scale one is at its end, in three ways: on the learning curves of the averaged weights (mean of
the scales, because that is what a record has), per scale on those of the raw weights, and per scale on the test images
between fixed-scale trainings of two budgets. Only the last compares finished trainings: a curve is read while
its learning rate is still high, where it lies below what a training that ended there would have.

`parts` splits a gap on test images by heads fitted in closed form: what is left between the two encoders when each has
the best SPConv for it is the encoder's part, the rest is the head's.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from igconv.analysis.budget import training_records
from igconv.evaluation.statistics import mean_interval
from igconv.study import results
from igconv.study.run import Run

STEPS = ("model", "baseline", "seed", "scale", "measured_on", "model_steps", "gap_db", "equal_steps")
PARTS = ("family", "model", "scale", "part", "difference_db", "low_db", "high_db", "images")
AVERAGED, RAW, TEST = "validation crops, averaged weights", "validation crops, raw weights", "test images, two budgets"


def reached(steps: Sequence[float], values: Sequence[float], level: float) -> float:
    """Step at which a curve first reaches ``level``, between its records linear in log(step).

    NaN where it never does, and where its first record lies above already: then it is not known.
    """
    order = np.argsort(steps)
    x, y = np.log(np.asarray(steps, float)[order]), np.maximum.accumulate(np.asarray(values, float)[order])
    if len(x) == 0 or not y[0] <= level <= y[-1]:
        return float("nan")
    after = int(np.argmax(y >= level))
    if after == 0:
        return float(np.exp(x[0]))
    share = (level - y[after - 1]) / (y[after] - y[after - 1])
    return float(np.exp(x[after - 1] + share * (x[after] - x[after - 1])))


def equal_steps(runs: Iterable[Run], rows: pd.DataFrame) -> pd.DataFrame:
    """`STEPS`: for every multi-scale run that stands for its model, and the SPConv runs of its encoder and seed,

    gap_db: the model at its end minus the baseline at its end; equal_steps: after how many the baseline was as good.
    ``scale`` is "mean" where the three were averaged. Runs without records or rows are left out.

    Args:
        rows: evaluation rows, for the test images.
    """
    runs = list(runs)
    lines = []
    for multi in (run for run in runs if not run.is_fixed_scale and run.is_main and run.is_plain):
        fixed = [run for run in runs if _is_spconv_of(multi, run)]
        full = [run for run in fixed if run.steps == multi.steps]
        facts = dict(model=multi.label, baseline="SPConv", seed=multi.seed, model_steps=multi.steps)
        if {scale for run in full for scale in run.scales} >= set(multi.scales):
            lines += [facts | one for one in _on_records(multi, full)]
            lines += [facts | one for scale in multi.scales for one in _on_bands(multi, full, scale)]
            lines += [facts | one for scale in multi.scales for one in _on_tests(multi, fixed, scale, rows)]
    return pd.DataFrame(lines, columns=list(STEPS))


def _is_spconv_of(multi: Run, run: Run) -> bool:
    """Whether it is a fixed-scale SPConv run of the same encoder and seed, of full budget or a third of it."""
    same = (run.encoder, run.seed) == (multi.encoder, multi.seed)
    plain = run.upsampler == "spconv" and run.is_fixed_scale and run.is_plain and not run.frequency_weight
    return plain and same and run.steps in (multi.steps, multi.steps // 3)


def _line(scale, where: str, model_db: float, curve: pd.Series) -> list[dict]:
    """``curve``: dB by step. No line where one of the two was not made."""
    if curve.empty or np.isnan(model_db):
        return []
    equal = reached(curve.index, curve, model_db)
    return [dict(scale=scale, measured_on=where, gap_db=model_db - curve[curve.index.max()], equal_steps=equal)]


def _on_records(multi: Run, fixed: list[Run]) -> list[dict]:
    records = training_records([multi, *fixed])
    if len(set(records.run)) < 1 + len(fixed):
        return []
    known = records.dropna(subset="psnr_y_db").pivot_table(index="step", columns="run", values="psnr_y_db")
    curve = known[[run.name for run in fixed]].mean(axis=1, skipna=False).dropna()
    return _line("mean", AVERAGED, known[multi.name].dropna().iloc[-1], curve)


def _on_bands(multi: Run, fixed: list[Run], scale: int) -> list[dict]:
    (base,) = (run for run in fixed if scale in run.scales)
    model, curve = (_error_curve(run, scale) for run in (multi, base))
    return _line(str(scale), RAW, model.iloc[-1], curve) if len(model) else []


def _error_curve(run: Run, scale: int) -> pd.Series:
    """Error of all bands together below 255^2, in dB like a PSNR, by step."""
    path = results.run_folder(run.profile, run.name) / "bands.csv"
    if not path.is_file():
        return pd.Series(dtype=float)
    table = results.read_table(path)
    energy = table[(table.scale == scale) & (table.step > 0)].groupby("step").error_energy.sum()
    return 10 * np.log10(255**2 / energy)


def _on_tests(multi: Run, fixed: list[Run], scale: int, rows: pd.DataFrame) -> list[dict]:
    """Mean of the sets, as the paper's."""
    at = rows[rows.scale == scale]
    of_run = at.groupby(["run", "dataset"]).psnr_y_db.mean().groupby("run").mean()
    points = {run.steps: of_run[run.name] for run in fixed if scale in run.scales and run.name in of_run}
    if multi.name not in of_run or len(points) < 2:
        return []
    return _line(str(scale), TEST, of_run[multi.name], pd.Series(points).sort_index())


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """`PARTS`: the gap between a multi-scale model and the native one, as trained, and how much of it the encoder has.

    With W, R the PSNR of the multi-scale model as trained and with a refitted SPConv, and w, r those of the native one:
    whole W - w, encoder R - r, head (W - R) - (w - r), paired by image with bootstrap intervals over images.

    Args:
        rows: ``analysis/similarity/functional_images.csv`` (`igconv.analysis.encoders.transferred`).
    """
    known = rows[rows["head"].isin(["as trained", "refitted"]) & rows.trained.astype(bool)]
    lines = []
    for (family, scale), at in known.groupby(["family", "target_scale"], sort=False):
        wide = at.pivot_table(index=["dataset", "image"], columns=["encoder", "head"], values="psnr_y_db")
        scale_of = at.groupby("encoder").encoder_scale.first()
        native = [name for name in scale_of.index[scale_of == scale] if (name, "as trained") in wide]
        for model in scale_of.index[scale_of == 0]:
            if not native or (model, "as trained") not in wide:
                continue
            whole = wide[model, "as trained"] - wide[native[0], "as trained"]
            encoder = wide[model, "refitted"] - wide[native[0], "refitted"]
            for part, values in (("whole", whole), ("encoder", encoder), ("head", whole - encoder)):
                lines.append((family, model, scale, part, *mean_interval(values.to_numpy()), len(values)))
    return pd.DataFrame(lines, columns=list(PARTS))


def parts_conclusion(table: pd.DataFrame) -> str:
    """What `parts` says, a line per family, model and scale."""
    if table.empty:
        return "Encoder and head of multi-scale models: not run."
    lines = []
    for (family, model, scale), part in table.groupby(["family", "model", "scale"], sort=False):
        words = {
            row.part: f"{row.difference_db:+.2f} dB ({row.low_db:+.2f} to {row.high_db:+.2f})"
            for row in part.itertuples()
        }
        lines.append(
            f"{family}, {model} minus the native model at x{scale}: {words['whole']} as trained, of which "
            f"{words['encoder']} is left between the encoders when both get a fitted SPConv, and {words['head']} is "
            f"the heads'; intervals over {part.images.iloc[0]} images."
        )
    return "\n".join(lines)
