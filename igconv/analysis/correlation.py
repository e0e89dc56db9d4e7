"""Do the SPConvs of different scales do the same? Correlation of their sub-pixel patterns.

The kernel of one input channel, averaged over its k x k taps and over colours, is an r x r *pattern*: what the
channel paints into each output cell (after the authors' notebook). Patterns of different r are compared
as functions on the cell [-1, 1]^2 after projection on {1, x, y, xy}, all that r = 2 can carry:

    similarity of channel c of a and channel d of b = cosine in L2 of the cell,

with the constant term removed that is Pearson's correlation over the cell. The constant alone can make everything
correlate, so both are reported. Statistics: the mean over equal channels ("same channel"), and because separately
trained models need not share their channel order (nor sign), the mean over the best one-to-one matching
("matched", "matched up to sign"). The paper gives no number and no estimator; these are ours.

A limit of any channel-wise comparison: where the last features are read and written by linear maps only (EDSR's
residual stream), an invertible mixture of channels gives the same network, so models can agree without any channel
matching. A large p-value here therefore says "no common channels", not "no common function"; `alignment`
undoes the mixture first. `continuity` says how continuous the kernels of one IGConv are.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from igconv.errors import InputError, choose, positive_integer
from igconv.evaluation.statistics import mean_interval
from igconv.models.hypernetwork import subpixel_centres

GREY = (0.2126, 0.7152, 0.0722)
# L2 norms of 1, x, y, xy on [-1, 1]^2 with unit total mass.
BASIS_NORMS = np.array([1, 3**-0.5, 3**-0.5, 1 / 3])
STATISTICS = ("same channel", "matched", "matched up to sign")
NULLS = ("channel order", "coefficients shuffled", "kernels turned")
COLUMNS = ("comparison", "model_a", "model_b", "scale_a", "scale_b", "channels", "constant", "statistic", "value",
           "value_low", "value_high", "null", "null_mean", "null_q95", "p_value", "permutations")  # fmt: skip
CONTINUITY = ("model", "channel", "scale", "correlation", "total_variation", "total_variation_shuffled")


def kernel(model, scale: int) -> Tensor:
    """(3 r^2, C, k, k) kernels of a model's upsampler at a scale: SPConv's stored or IGConv's generated ones.

    Raises InputError for a scale the model lacks, or an upsampler that has no single sub-pixel convolution.
    """
    upsampler, scale = model.upsampler, positive_integer(scale, "scale")
    if hasattr(upsampler, "kernel_bank"):
        with torch.no_grad():
            return upsampler.kernel_bank(scale).detach().cpu()
    if str(scale) not in upsampler.heads:
        raise InputError(f"this model has no head for x{scale}, only for x{', x'.join(upsampler.heads)}")
    layers = list(upsampler.heads[str(scale)])
    if len(layers) != 2:
        raise InputError(f"a {type(upsampler).__name__} has no single sub-pixel convolution; give SPConv or IGConv")
    return layers[0].weight.detach().cpu()


def patterns(kernels: Tensor, scale: int) -> np.ndarray:
    """Kernels (3 r^2, C, k, k), ordered colour, sub-row, sub-column -> grey patterns (C, r, r), float64."""
    if kernels.ndim != 4 or kernels.shape[0] != 3 * positive_integer(scale, "scale") ** 2:
        raise InputError(f"x{scale} needs kernels (3 r^2, C, k, k) = ({3 * scale**2}, ...), got {tuple(kernels.shape)}")
    colours = kernels.double().mean((-2, -1)).unflatten(0, (3, scale, scale))
    return torch.einsum("kijc,k->cij", colours, torch.tensor(GREY, dtype=torch.float64)).numpy()


def basis(scale: int) -> np.ndarray:
    """1, x, y, xy at the r^2 centres of the cell, sub-row first: (r^2, 4). x runs along sub-columns, y along sub-rows.

    Raises InputError at x1, whose one sub-pixel carries no pattern.
    """
    if scale < 2:
        raise InputError("x1 has one sub-pixel; a pattern needs a scale of at least 2")
    centres = subpixel_centres(scale, dtype=torch.float64).numpy()
    x, y = np.meshgrid(centres, centres)
    return np.stack([np.ones_like(x), x, y, x * y], axis=-1).reshape(-1, 4)


def coefficients(patterns: np.ndarray) -> np.ndarray:
    """Least-squares coefficients (C, 4) of patterns (C, r, r), r >= 2, on {1, x, y, xy} at the cell centres.

    One continuous function a + b x + c y + d xy has the same coefficients at every r. Scaled by the norms of the
    basis: dot products are L2 inner products on the cell.
    """
    solution = np.linalg.lstsq(basis(patterns.shape[-1]), patterns.reshape(len(patterns), -1).T, rcond=None)[0]
    return solution.T * BASIS_NORMS


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(C, n), (C, n) -> (C, C). Raises InputError for a channel without coefficients, which has no direction."""
    norms = [np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b)]
    if not min(norm.min() for norm in norms) > 0:
        raise InputError("a channel has no pattern (its coefficients are zero), so it correlates with nothing")
    return (a / norms[0]) @ (b / norms[1]).T


def _matched(a: np.ndarray, b: np.ndarray, statistic: str) -> np.ndarray:
    """Cosines (C) of the pairs of channels that a statistic is the mean of."""
    from scipy.optimize import linear_sum_assignment

    similarity = _cosines(a, b)
    if statistic == "same channel":
        return np.diag(similarity)
    if statistic == "matched up to sign":
        similarity = np.abs(similarity)
    return similarity[linear_sum_assignment(similarity, maximize=True)]


def _statistic(a: np.ndarray, b: np.ndarray, statistic: str) -> float:
    return float(_matched(a, b, statistic).mean())


def _turned(b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every pattern flipped and transposed at random: x -> -x, y -> -y, x <-> y act on the last three columns."""
    flip_x, flip_y = rng.choice([-1.0, 1.0], (2, len(b)))
    x, y = b[:, -3] * flip_x, b[:, -2] * flip_y
    swap = rng.random(len(b)) < 0.5
    turned = np.stack([np.where(swap, y, x), np.where(swap, x, y), b[:, -1] * flip_x * flip_y], axis=1)
    return np.concatenate([b[:, :-3], turned], axis=1)


def _null_sample(b: np.ndarray, null: str, rng: np.random.Generator) -> np.ndarray:
    if null == "channel order":
        return b[rng.permutation(len(b))]
    return rng.permuted(b, axis=0) if null == "coefficients shuffled" else _turned(b, rng)


def permutation_test(
    a: np.ndarray, b: np.ndarray, statistic: str, null: str, permutations: int = 999, seed: int = 0
) -> dict:
    """Is a statistic of two coefficient arrays (C, 3 or 4) larger than chance?

    Args:
        statistic: one of `STATISTICS`.
        null: how b is randomised. "channel order" (only for "same channel", matching undoes it): channels in random
            order; exact whenever the two models are independent. "coefficients shuffled": each basis coefficient
            permuted over channels; exact if coefficients of a channel are independent of each other. "kernels
            turned": each pattern flipped and transposed at random, which keeps its strength and its constant; exact
            if patterns of a channel are as likely in each orientation, as training with such augmentation suggests.

    Returns:
        value, its 95 % bootstrap interval over the pairs of channels (a matching is kept as it is), null, null_mean,
        null_q95, p_value = (1 + #{null >= value}) / (1 + permutations), permutations.
    """
    choose(statistic, STATISTICS, "statistic"), choose(null, NULLS, "null hypothesis")
    if (null == "channel order") != (statistic == "same channel"):
        raise InputError(f"the null hypothesis {null!r} says nothing about the statistic {statistic!r}")
    if a.shape != b.shape or len(a) < 4:
        raise InputError(f"two arrays of at least 4 equal channels are needed, got {a.shape} and {b.shape}")
    rng = np.random.default_rng(seed)
    value, low, high = mean_interval(_matched(a, b, statistic), seed=seed)
    draws = np.array([_statistic(a, _null_sample(b, null, rng), statistic) for _ in range(permutations)])
    return dict(
        value=value,
        value_low=low,
        value_high=high,
        null=null,
        null_mean=draws.mean(),
        null_q95=np.quantile(draws, 0.95),
        p_value=(1 + np.sum(draws >= value - 1e-12)) / (1 + permutations),
        permutations=permutations,
    )


def compare(
    name_a: str,
    kernels_a: Tensor,
    scale_a: int,
    name_b: str,
    kernels_b: Tensor,
    scale_b: int,
    permutations: int = 999,
    seed: int = 0,
    comparison: str = "",
) -> pd.DataFrame:
    """All statistics for two kernel banks (3 r^2, C, k, k) of equally many channels: `COLUMNS`, a row per test."""
    a, b = coefficients(patterns(kernels_a, scale_a)), coefficients(patterns(kernels_b, scale_b))
    for name, z in ((name_a, a), (name_b, b)):
        flat = np.linalg.norm(z[:, 1:], axis=1) <= 1e-9 * np.linalg.norm(z, axis=1)
        if flat.any():  # what is left without the constant is rounding
            raise InputError(f"{name}: {flat.sum()} of {len(z)} channels have a constant pattern, nothing to correlate")
    rows = []
    for constant, first in (("kept", 0), ("removed", 1)):
        for statistic in STATISTICS:
            for null in NULLS[:1] if statistic == "same channel" else NULLS[1:]:
                test = permutation_test(a[:, first:], b[:, first:], statistic, null, permutations, seed)
                rows.append(
                    dict(
                        comparison=comparison,
                        model_a=name_a,
                        model_b=name_b,
                        scale_a=scale_a,
                        scale_b=scale_b,
                        channels=len(a),
                        constant=constant,
                        statistic=statistic,
                        **test,
                    )
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``p_holm``: Holm's correction over the pairs of models that share statistic, constant and null.

    Within such a family, the chance of any false "p_holm < 0.05" is at most 5 %, however the tests depend on each
    other. Different statistics are different questions and are not corrected for each other.
    """
    table = table.assign(p_holm=np.nan)
    for _, same_test in table.groupby(["statistic", "constant", "null"]):
        ordered = same_test.p_value.sort_values()
        factors = np.arange(len(ordered), 0, -1)
        table.loc[ordered.index, "p_holm"] = np.maximum.accumulate(np.minimum(1, factors * ordered.to_numpy()))
    return table


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Per comparison, constant and statistic: pairs, range of the value, and in how many pairs it is beyond chance,
    that is p_holm < 0.05 under every null hypothesis that applies."""
    key = ["comparison", "constant", "statistic"]
    pair = [*key, "model_a", "model_b", "scale_a", "scale_b"]
    pairs = table.groupby(pair, sort=False).agg(
        value=("value", "first"), p_holm=("p_holm", "max"), chance=("null_mean", "max")
    )
    pairs["beyond"] = pairs.p_holm < 0.05
    return (
        pairs.groupby(key, sort=False)
        .agg(
            pairs=("value", "size"),
            least=("value", "min"),
            mean=("value", "mean"),
            largest=("value", "max"),
            chance=("chance", "mean"),
            beyond_chance=("beyond", "sum"),
        )
        .reset_index()
    )


def averaged(patterns: np.ndarray, scale: int) -> np.ndarray:
    """Patterns (C, R, R) averaged over each of scale x scale equal cells, R >= scale: (C, scale, scale)."""
    fine = patterns.shape[-1]
    if fine < scale:
        raise InputError(f"a pattern of {fine} x {fine} cannot be averaged to {scale} x {scale}")
    edges, cells = (np.arange(n + 1) / n for n in (fine, scale))
    overlap = np.minimum(cells[1:, None], edges[1:]) - np.maximum(cells[:-1, None], edges[:-1])
    weights = np.clip(overlap, 0, None) * scale
    return weights @ patterns @ weights.T


def total_variation(patterns: np.ndarray) -> np.ndarray:
    """Path length of patterns (C, r, r) along rows and columns in units of their standard deviation: (C,).

    Sum of the steps along a row (column), mean over rows and columns. Of a continuous function sampled more and more
    finely it tends to a limit; of independent numbers it grows with r - 1.
    """
    steps = [np.abs(np.diff(patterns, axis=axis)).sum(axis).mean(-1) for axis in (-1, -2)]
    return (steps[0] + steps[1]) / 2 / patterns.std(axis=(-2, -1))


def continuity(name: str, model, scales=(2, 3, 4, 8, 32), seed: int = 0) -> pd.DataFrame:
    """How far the patterns of a multi-scale model are samples of one continuous function: `CONTINUITY`, per channel.

    ``correlation``: Pearson's between the pattern at r and that of the largest scale averaged down to r x r.
    ``total_variation``: see there; ``.._shuffled`` is that of the same numbers in random places.
    """
    finest, rng, rows = max(scales), np.random.default_rng(seed), []
    fine = patterns(kernel(model, finest), finest)
    for scale in scales:
        values, reduced = patterns(kernel(model, scale), scale), averaged(fine, scale)
        mixed = rng.permuted(values.reshape(len(values), -1), axis=1).reshape(values.shape)
        a, b = ((z - z.mean((1, 2), keepdims=True)).reshape(len(z), -1) for z in (values, reduced))
        rows.append(
            pd.DataFrame(
                dict(
                    model=name,
                    channel=np.arange(len(a)),
                    scale=scale,
                    correlation=np.diag(_cosines(a, b)),
                    total_variation=total_variation(values),
                    total_variation_shuffled=total_variation(mixed),
                )
            )
        )
    return pd.concat(rows, ignore_index=True)[list(CONTINUITY)]


def pattern_table(name: str, model, scales, channels: int = 12) -> pd.DataFrame:
    """Patterns of the first channels for pictures: model, scale, channel, sub_row, sub_col, value."""
    tables = []
    for scale in scales:
        values = patterns(kernel(model, scale), scale)[:channels]
        channel, row, col = (index.ravel() for index in np.indices(values.shape))
        tables.append(
            pd.DataFrame(dict(model=name, scale=scale, channel=channel, sub_row=row, sub_col=col, value=values.ravel()))
        )
    return pd.concat(tables, ignore_index=True)
