"""What a difference of two trainings is worth: the run-to-run noise that was measured, and intervals that contain it.

Two trainings that differ in their seed alone differ in PSNR. The variance of that is estimated per scale from trainings
that were repeated: those of the study itself where one kind was trained with three seeds or more, else the sample
study's IGConv+ of `benchmarks/precision.py`, three seeds in two precisions, on photographs and for 1,500 steps. Then
the estimate is borrowed, of another model on other images, and with so few seeds it is known poorly: Student's t with
its degrees of freedom makes intervals that wide. Pure functions on data frames but for `measured`.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import stdtrit  # `stats.t.ppf` for one finite number takes eighty times as long

from igconv.study import results

KIND = ["encoder", "upsampler", "variant", "train_scales"]  # what trainings that differ in their seed have in common
EQUAL_DB = 0.05  # half-width of the band in which two models count as equal
MEAN_OF_SETS = "mean of sets"  # of the paper: every set counts the same


def measured(rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """`seed_noise` of the repeated trainings among evaluation rows; with less than two degrees of freedom, the borrowed
    one."""
    own = seed_noise(repeated(rows)) if rows is not None else pd.DataFrame()
    if len(own) and (own.trainings - own.kinds).min() >= 2:
        return own
    file = results.PROJECT / "benchmarks" / "results" / "precision.csv"
    return seed_noise(pd.read_csv(file).rename(columns={"precision": "kind"}))


def repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean PSNR-Y over images per kind, seed and scale of the kinds that have several seeds: kind, seed, scale,
    psnr_y_db."""
    if not {*KIND, "seed"} <= set(rows):
        return pd.DataFrame(columns=["kind", "seed", "scale", "psnr_y_db"])
    own = rows[rows.seed.notna()].assign(kind=rows[KIND].astype(str).agg(" ".join, axis=1))
    means = own.groupby(["kind", "seed", "scale"], sort=False).psnr_y_db.mean().reset_index()
    return means[means.groupby(["kind", "scale"]).seed.transform("nunique") > 1]


def seed_noise(means: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation of the PSNR of one training under another seed, pooled over kinds, per scale.

    Kinds that share their seeds share starts and batches and are no independent estimates. With r the residuals from
    the means of the kinds, c_ij = sum(r_i r_j) / v_ij over common seeds and v_ij one less than their number, the pooled
    sum of squares has the mean sum(v_ii c_ii) and the variance 2 sum(v_ij c_ij^2), hence the degrees of freedom
    (sum v_ii c_ii)^2 / sum(v_ij c_ij^2) of a chi-squared variable with these moments (Satterthwaite 1946, Box 1954).

    Args:
        means: kind, seed, scale, psnr_y_db in dB.

    Returns: scale, sd_db, degrees, kinds, trainings; empty for no repeated training.
    """
    lines = []
    for scale, part in means.groupby("scale"):
        wide = part.pivot_table(index="seed", columns="kind", values="psnr_y_db")
        wide = wide.loc[:, wide.notna().sum() > 1]
        if wide.empty:
            continue
        known = wide.notna().to_numpy(float)
        residual = (wide - wide.mean()).fillna(0.0).to_numpy()
        degrees = known.T @ known - 1
        products = residual.T @ residual
        squares = np.where(degrees > 0, products**2 / np.maximum(degrees, 1), 0.0).sum()
        total = np.trace(products)
        lines.append(
            dict(
                scale=scale,
                sd_db=np.sqrt(total / np.trace(degrees)),
                degrees=min(total**2 / squares, np.trace(degrees)) if squares else np.trace(degrees),
                kinds=wide.shape[1],
                trainings=int(known.sum()),
            )
        )
    return pd.DataFrame(lines, columns=["scale", "sd_db", "degrees", "kinds", "trainings"])


def at(noise: pd.DataFrame, scale: float) -> tuple[float, float]:
    """(standard deviation of one training in dB, degrees of freedom) at the nearest scale that was measured."""
    row = noise.loc[(noise.scale - scale).abs().idxmin()]
    return float(row.sd_db), float(row.degrees)


def combined(parts: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of a sum of independent parts, each a variance and its degrees of freedom.

    Half-widths of the parts' own 95 % intervals are added in squares (Zou and Donner 2008); the degrees are those with
    which Student's t makes this half-width of the standard error. Welch's weighted degrees are not here: a noise of two
    degrees that happens to be estimated too small makes them large, and in simulated studies the chance of a false
    difference then rose to 8 %.
    """
    known = [(variance, degrees) for variance, degrees in parts if variance > 0]
    total = sum(variance for variance, _ in known)
    if not known:
        return 0.0, np.inf
    least, most = (float(pick(degrees for _, degrees in known)) for pick in (min, max))
    quantile = np.sqrt(sum(variance * stats.t.ppf(0.975, degrees) ** 2 for variance, degrees in known) / total)
    if least == most or quantile >= stats.t.ppf(0.975, least):
        return float(np.sqrt(total)), least
    ends = np.log(least), np.log(min(most, 1e6))
    found, _ = brentq(lambda d: stdtrit(np.exp(d), 0.975) - quantile, *ends, full_output=True)
    return float(np.sqrt(total)), float(np.exp(found))


def interval(value: float, error: float, degrees: float) -> tuple[float, float]:
    """95 % interval by Student's t."""
    half = stats.t.ppf(0.975, degrees) * error
    return float(value - half), float(value + half)


def difference(pairs: pd.DataFrame, noise: tuple[float, float], by_set: bool = False) -> dict:
    """Mean of paired differences with an interval over images and trainings.

    The variance is that over images plus that over trainings: of the differences of the seeds where there are several,
    else twice the measured noise of one training, because both sides were trained.

    Args:
        pairs: dataset, image, seed and difference in dB.
        noise: `at` of the scale.
        by_set: every set counts the same, not every image.

    Returns: difference_db, low_db, high_db, error_db (standard error), degrees.
    """
    cells = pairs.assign(seed=pairs.seed.astype(str)).pivot_table(
        index=["dataset", "image"], columns="seed", values="difference"
    )
    sets = cells.index.get_level_values("dataset") if by_set else np.zeros(len(cells))
    sizes = pd.Series(sets).map(pd.Series(sets).value_counts()).to_numpy()
    weight = 1 / (sizes * len(set(sets)))
    of_seeds = np.array([np.average(cells[s].dropna(), weights=weight[cells[s].notna()]) for s in cells])
    per_image = cells.mean(axis=1).to_numpy()
    value = float(weight @ per_image)
    within = pd.Series(per_image).groupby(np.asarray(sets)).transform("var")
    images = float((weight**2 * np.asarray(within.fillna(within.mean()), float)).sum())
    if np.isnan(images):  # a single image says nothing about others
        return dict(difference_db=value, low_db=np.nan, high_db=np.nan, error_db=np.nan, degrees=np.nan)
    seeds = len(of_seeds)
    trainings = (of_seeds.var(ddof=1) / seeds, seeds - 1) if seeds > 1 else (2 * noise[0] ** 2, noise[1])
    error, degrees = combined([(images, max(len(cells) - len(set(sets)), 1)), trainings])
    low, high = interval(value, error, degrees)
    return dict(difference_db=value, low_db=low, high_db=high, error_db=error, degrees=degrees)


def p_different(value: float, error: float, degrees: float, target: float = 0.0) -> float:
    """Two-sided p-value of the value being the target."""
    return float(2 * stats.t.sf(abs(value - target) / error, degrees))


def p_equal(value: float, error: float, degrees: float, band: float = EQUAL_DB) -> float:
    """p-value of the value lying outside +- ``band``: the larger of two one-sided tests (TOST, Schuirmann 1987)."""
    return float(stats.t.sf((band - abs(value)) / error, degrees))


def holm(p: Iterable[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979); NaN stays and does not count."""
    p = np.asarray(list(p), float)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return corrected


def seeds_for_equality(sd_db: float, band: float = EQUAL_DB) -> int:
    """How many seeds of both models it takes until the 95 % half-width of their difference is within the band, by the
    spread of one training alone."""
    return next(n for n in range(2, 10_000) if stats.t.ppf(0.975, n - 1) * np.sqrt(2 / n) * sd_db <= band)
