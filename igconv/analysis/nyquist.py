"""Error below and above the Nyquist frequency of the LR image: of finished models, and of trainings at equal error.

Above 0.5 / scale cycles per HR pixel the LR image says nothing directly, so that is where "high" begins, at every scale
elsewhere. Energies are added up, so a side's error is what it contributes to the mean squared error; a mean of dB over
bands would give an empty band the weight of a full one. A band in which the boundary lies is shared by width, so edges
at the boundaries (12 bands have those of x2, x3 and x4) are exact.

A model that is better has less error everywhere, and relatively less where it was easy. So whether a model has a bias
towards low frequencies is asked at equal total error: at the checkpoints where two trainings have the same.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from igconv.errors import InputError
from igconv.evaluation import statistics
from igconv.study.labels import run_label

BAND = ["band_low_cycles_per_px", "band_high_cycles_per_px"]
BELOW, ABOVE, WHOLE = "below", "above", "whole"
EQUAL = ("run", "upsampler", "variant", "seed", "scale", "minus", "level_db", "step", "step_minus", "above_share",
         "above_share_minus", "difference")  # fmt: skip


def share_above(low, high, scale):
    """What part of the width of the bands [low, high) lies above 0.5 / scale, between 0 and 1."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    return np.clip((high - 0.5 / np.asarray(scale, float)) / (high - low), 0, 1)


def energies(table: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Error and HR energy of all bands together: ``key``, error_below, error_above, error_whole, hr_whole.

    Args:
        table: scale, the band edges, error_energy and hr_energy, a row per band; ``key`` has the scale.
    """
    above = share_above(table[BAND[0]], table[BAND[1]], table.scale)
    parts = table[key].assign(
        error_below=table.error_energy * (1 - above),
        error_above=table.error_energy * above,
        error_whole=table.error_energy,
        hr_whole=table.hr_energy,
    )
    return parts.groupby(key, sort=False, dropna=False).sum().reset_index()


def differences(errors: pd.DataFrame, base: Collection[str]) -> pd.DataFrame:
    """Error energy of every other kind of run over that of the base, on both sides and in all, by image and seed.

    Args:
        errors: `igconv.analysis.spectrum.COLUMNS` of several runs.
        base: names of the runs that the others are compared with, one kind in several seeds or scales.

    Returns: upsampler, variant, side (`BELOW`, `ABOVE`, `WHOLE`), difference_db (of the energies of an image; mean over
        images and scales; positive: worse than the base), low_db, high_db (95 % by
        `igconv.evaluation.statistics.crossed_interval`), images, seeds.

    Raises InputError when the errors hold no run of the base.
    """
    is_base = errors.run.isin(base)
    if not is_base.any():
        raise InputError(f"the rows hold no run of {', '.join(base)}")
    key = ["dataset", "image", "seed", "scale"]
    of_base = energies(errors[is_base], key).drop(columns="hr_whole")
    others = energies(errors[~is_base], ["upsampler", "variant", *key])
    pairs = others.merge(of_base, on=key, suffixes=("", "_base"))
    lines = []
    for (upsampler, variant), of_kind in pairs.groupby(["upsampler", "variant"], sort=False):
        for side in (BELOW, ABOVE, WHOLE):
            ratio = of_kind[f"error_{side}"] / of_kind[f"error_{side}_base"]
            mean, low, high = statistics.crossed_interval(of_kind.assign(db=10 * np.log10(ratio)), "db")
            numbers = dict(difference_db=mean, low_db=low, high_db=high, seeds=of_kind.seed.nunique())
            images = len(of_kind[["dataset", "image"]].drop_duplicates())
            lines.append(dict(upsampler=upsampler, variant=variant, side=side, **numbers, images=images))
    columns = ["upsampler", "variant", "side", "difference_db", "low_db", "high_db", "images", "seeds"]
    return pd.DataFrame(lines, columns=columns)


def at_equal_error(curves: pd.DataFrame, base: Collection[str]) -> pd.DataFrame:
    """`EQUAL`: how much of the error lies above the Nyquist frequency where two trainings have the same total error.

    Every run is compared with the base run of its scale and seed. The level is the final error of the poorer of the
    two; where a training first reaches it, step and share are interpolated between records in log(error). ``level_db``
    is the total error over the energy of the images; ``difference`` (of the shares) is positive where the run has more
    of its error at high frequencies than the base.

    Args:
        curves: `igconv.analysis.spectrum.learning_curve` of several runs.
        base: names of the runs that are subtracted.
    """
    facts = ["run", "upsampler", "variant", "seed", "scale"]
    totals = energies(curves[curves.step > 0], [*facts, "step"])
    of_run = {name: part.sort_values("step") for name, part in totals.groupby(facts, sort=False)}
    is_base = {(seed, scale): name for name in of_run for run, _, _, seed, scale in [name] if run in base}
    lines = []
    for name, part in of_run.items():
        other = is_base.get(name[3:])
        if other is None or name[0] in base:
            continue
        level = max(part.error_whole.iloc[-1], of_run[other].error_whole.iloc[-1])
        (step, share), (step_base, share_base) = (_reached(one, level) for one in (part, of_run[other]))
        minus = run_label(*other[1:3])
        level_db = 10 * np.log10(level / part.hr_whole.iloc[-1])
        lines.append((*name, minus, level_db, step, step_base, share, share_base, share - share_base))
    return pd.DataFrame(lines, columns=list(EQUAL))


def _reached(curve: pd.DataFrame, level: float) -> tuple[float, float]:
    """(step, share of the error above) where a curve first comes down to a level of total error that it has reached."""
    total, share = curve.error_whole.to_numpy(), (curve.error_above / curve.error_whole).to_numpy()
    after = int(np.argmax(total <= level * (1 + 1e-12)))
    if after == 0:
        return float(curve.step.iloc[0]), float(share[0])
    way = np.log(total[after - 1] / level) / np.log(total[after - 1] / total[after])
    steps = np.log(curve.step.to_numpy(float))
    step = np.exp(steps[after - 1] + way * (steps[after] - steps[after - 1]))
    return float(step), float(share[after - 1] + way * (share[after] - share[after - 1]))


def differences_in_words(table: pd.DataFrame, name: str) -> str:
    """What `differences` to the runs called ``name`` says, two lines per kind."""
    return "\n".join(
        f"{run_label(row.upsampler, row.variant)} minus {name}: error energy {row.side} the LR image's Nyquist "
        f"frequency {row.difference_db:+.2f} dB [{row.low_db:+.2f}, {row.high_db:+.2f}] (mean over scales; "
        f"{row.images} images, {row.seeds} seed(s))"
        for row in table[table.side != WHOLE].itertuples()
    )


def equal_error_conclusion(table: pd.DataFrame) -> str:
    """What `at_equal_error` says, a line per kind of run."""
    if table.empty:
        return "The error at high frequencies at equal total error: not run."
    lines = []
    for (upsampler, variant, minus), rows in table.groupby(["upsampler", "variant", "minus"], sort=False):
        points = 100 * rows.difference
        lines.append(
            f"{run_label(upsampler, variant)} beside {minus} at equal total error: {rows.above_share.mean():.1%} of "
            f"the error above the LR image's Nyquist frequency against {rows.above_share_minus.mean():.1%}, "
            f"{points.mean():+.1f} points ({points.min():+.1f} to {points.max():+.1f} over {len(rows)} cases of "
            f"{rows.run.nunique()} training(s), {rows.seed.nunique()} seed(s))."
        )
    return "\n".join(lines)
