"""Intervals of means and of paired differences, over images and seeds. Pure functions on data frames."""

from collections.abc import Collection

import numpy as np
import pandas as pd


def mean_interval(values, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): 95 % percentile bootstrap interval of the mean over values; NaN ends below 2 values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan")
    means = values[np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def standard_error(low, high):
    """That of a mean whose 95 % interval is [low, high], as of a normal distribution."""
    return (high - low) / (2 * 1.96)


def crossed_interval(pairs: pd.DataFrame, column: str, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of a paired difference: 95 % percentile bootstrap interval over images and seeds.

    Every draw takes images with replacement and, independently, seeds with replacement, the same seeds for all its
    images: what a training gets wrong it gets wrong on many images together, so seeds drawn anew for each image would
    average that away (Owen 2007, the pigeonhole bootstrap). With one seed it is the bootstrap over images, and says
    nothing about another training; with two or three it is too narrow still, by a factor of about
    sqrt((seeds - 1) / seeds). Every image counts the same, whatever its set. NaN ends for a single value.

    Args:
        pairs: one row per image and seed (several, as of scales or bands, are averaged); columns dataset, image,
            seed and ``column``.
    """
    named = pairs.assign(seed=list(map(str, pairs.seed)))  # models that are not ours have none
    cells = named.pivot_table(index=["dataset", "image"], columns="seed", values=column, aggfunc="mean").to_numpy(float)
    known = ~np.isnan(cells)
    filled, (images, seeds) = np.where(known, cells, 0.0), cells.shape
    mean = float(filled.sum() / known.sum())
    if known.sum() < 2:
        return mean, np.nan, np.nan
    rng = np.random.default_rng(seed)
    by_image, by_seed = (_counts(rng, draws, n) for n in (images, seeds))
    weight = ((by_image @ known) * by_seed).sum(1)
    # A draw may hit only images and seeds that were not run together; it says nothing and is left out.
    means = ((by_image @ filled) * by_seed).sum(1)[weight > 0] / weight[weight > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return mean, float(low), float(high)


def _counts(rng: np.random.Generator, draws: int, n: int) -> np.ndarray:
    """How often each of n is drawn with replacement in n draws: (draws, n)."""
    if n == 1:
        return np.ones((draws, 1))
    chosen = rng.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(float)


def paired_difference(rows: pd.DataFrame, model: Collection[str], baseline: Collection[str], scale: int) -> dict:
    """Mean PSNR-Y and SSIM differences model - baseline at one scale, with 95 % intervals over images and seeds.

    Runs are paired by dataset, image and seed; intervals by `crossed_interval`. Without a common pair every value is
    NaN and ``images`` is 0.

    Returns: difference_db, low_db, high_db, images, seeds, difference_ssim, low_ssim, high_ssim.
    """
    return paired_summary(pairs_of(rows, model, baseline, scale))


def pairs_of(rows: pd.DataFrame, model: Collection[str], baseline: Collection[str], scale: int) -> pd.DataFrame:
    """Runs paired by dataset, image and seed: psnr_y_db and ssim_y, each as ``_model`` and ``_baseline``."""
    keys, values = ["dataset", "image", "seed"], ["psnr_y_db", "ssim_y"]
    at = rows.loc[rows.scale == scale]
    left, right = (at.loc[at.run.isin(names), [*keys, *values]] for names in (model, baseline))
    return left.merge(right, on=keys, suffixes=("_model", "_baseline"))


def paired_summary(pairs: pd.DataFrame) -> dict:
    """What `paired_difference` returns, of pairs with psnr_y_db and ssim_y, each as ``_model`` and ``_baseline``."""
    found = {}
    for name, unit in (("psnr_y_db", "db"), ("ssim_y", "ssim")):
        difference = pairs.assign(difference=pairs[f"{name}_model"] - pairs[f"{name}_baseline"])
        interval = crossed_interval(difference, "difference") if len(pairs) else (np.nan,) * 3
        found |= dict(zip((f"difference_{unit}", f"low_{unit}", f"high_{unit}"), interval, strict=True))
        if unit == "db":
            found |= dict(images=len(pairs[["dataset", "image"]].drop_duplicates()), seeds=pairs.seed.nunique())
    return found
