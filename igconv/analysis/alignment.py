"""The SPConv of one scale predicted from another's, after the linear map between their encoders' features.

Separately trained encoders share no channel order, and a mixture of channels can be undone by the SPConv that reads
them. So the channels of encoder b (scale s) are first mapped to those of encoder a (scale r) on real images,

    F_a = M F_b + m        (ridge regression, pixel by pixel; both encoders see the same LR crops, those of scale s),

and the SPConv of a, as a function on the cell, then predicts that of b:

    K_a[r x r] -> its coefficients on {1, x, y, xy} -> sampled at s x s -> composed with M.

At r = 2 the coefficients are the kernel, nothing is lost. The predicted kernel is compared with the true one as
weights ("kernel"), and as what it makes of real features ("output": the cosine weighted by their covariance, which
disregards directions that features do not have); with the constant kept, and with it removed, i.e. without the mean
over sub-pixels of every tap, so that only what differs within the cell counts. The estimators are ours.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from igconv.analysis import ridge
from igconv.analysis.correlation import basis, kernel
from igconv.conversion import closed_form
from igconv.conversion.sums import Normal, spconv_equations
from igconv.data.images import to_float
from igconv.errors import InputError
from igconv.evaluation.benchmark import bicubic
from igconv.evaluation.metrics import psnr_y
from igconv.evaluation.statistics import mean_interval

COLUMNS = ("family", "model_a", "model_b", "scale_a", "scale_b", "alignment", "compared", "constant", "value",
           "null_mean", "null_q95", "p_value", "permutations", "map_explained", "ridge_weight", "ceiling")  # fmt: skip
PSNR = ("family", "model_a", "model_b", "scale_a", "scale_b", "head", "dataset", "image", "psnr_y_db")
MAPS = ("fitted", "images shuffled", "channels as they are", "no map: true kernel on the basis")


def spconv(model, scale: int) -> tuple[Tensor, Tensor]:
    """(kernels (3 r^2, C, k, k), biases (3 r^2)) from features to the image, float64: what follows the SPConv (a
    colour mean, RCAN's 1x1 convolution) is folded in. Raises InputError as `correlation.kernel` does."""
    weights = kernel(model, scale).double()
    bias = torch.zeros(len(weights))
    if not hasattr(model.upsampler, "kernel_bank"):
        bias = model.upsampler.heads[str(scale)][0].bias.detach().cpu()
    with torch.no_grad():  # `post` is an affine map of the colours
        like = next(model.parameters())
        probes = torch.cat([torch.zeros(1, 3), torch.eye(3)])[:, :, None, None].to(like)
        shift, *columns = model.post(probes)[:, :, 0, 0].double().cpu()
    colours = torch.stack([column - shift for column in columns], dim=1)
    parts = [torch.einsum("dc,c...->d...", colours, z.unflatten(0, (3, -1))) for z in (weights, bias.double())]
    return parts[0].flatten(0, 1), (parts[1] + shift[:, None]).flatten()


def resampled(kernels: Tensor, scale: int, other: int) -> Tensor:
    """Kernels or biases (3 r^2, ...) of one scale as functions on {1, x, y, xy}, sampled at another: (3 s^2, ...)."""
    change = torch.from_numpy(basis(other) @ np.linalg.pinv(basis(scale))).to(kernels)
    return torch.einsum("ij,cj...->ci...", change, kernels.unflatten(0, (3, scale**2))).flatten(0, 1)


def composed(kernels: Tensor, bias: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The SPConv on F_b that equals (kernels (o, C, k, k), bias) on F_a = matrix (C, D) F_b + offset (C).

    Exact inside the image: at its border the zero padding takes the place of the offset.
    """
    return torch.einsum("ockl,cd->odkl", kernels, matrix), bias + torch.einsum("ockl,c->o", kernels, offset)


def cosine(a: Tensor, b: Tensor, constant: bool, covariance: Tensor | None = None) -> float:
    """Cosine of two kernels (3 r^2, C, k, k) of one scale; see the module for ``constant``, and for the covariance
    (9 C, 9 C) of the taps (`Normal.covariances`)."""
    if not constant:
        a, b = ((z.unflatten(0, (3, -1)) - z.unflatten(0, (3, -1)).mean(1, keepdim=True)) for z in (a, b))
        a, b = a.flatten(0, 1), b.flatten(0, 1)
    a, b = a.flatten(1), b.flatten(1)
    left, right = (a, b) if covariance is None else (a @ covariance, b @ covariance)
    norms = (left * a).sum() * (right * b).sum()
    return float((left * b).sum() / norms.sqrt()) if norms > 0 else 0.0


def gain_and_bias(kernels: Tensor, equations: Normal, gain: bool = True) -> tuple[Tensor, Tensor]:
    """Kernels with the least-squares bias, and gain if wanted, of each output: 3 r^2 numbers each."""
    xx, xy, _ = equations.covariances()
    flat = kernels.flatten(1)
    factor = (flat * xy.T).sum(1) / ((flat @ xx) * flat).sum(1).clamp(min=1e-30) if gain else torch.ones(len(flat))
    flat = flat * factor[:, None]
    x, y = equations.means()
    return flat.view_as(kernels), y - flat @ x


def align(
    family: str,
    a: tuple,
    b: tuple,
    scenes: Tensor,
    images: dict,
    side: int,
    test_side: int = 0,
    permutations: int = 199,
    seed: int = 0,
    device="cpu",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the SPConv of b from a's: (`COLUMNS`, correlations; `PSNR`, one row per head and test image).

    Args:
        a, b: (name, `SuperResolver`, scale) of two fixed-scale models, a's kernels predict b's.
        scenes, images, side, test_side: as in `ridge.transfer`; LR crops and test images are those of b's scale.
        permutations: of the null hypothesis that a's channels have no partners: rows of the map in random order.

    The map's ridge weight is chosen on the last quarter of the crops. "images shuffled" is a map fitted to features
    of different crops. Heads: the true kernel, projected on the basis, reduced to its constant; the predicted one as
    it is, and with a bias (and gain) per output fitted on the crops; the same without a map, where widths are equal.
    """
    (name_a, model_a, scale_a), (name_b, model_b, scale_b) = a, b
    lr, hr = ridge.pairs(scenes, scale_b, side)
    f_a, f_b = (ridge.features(model, lr, device) for model in (model_a, model_b))
    n = ridge.split(len(lr))
    # Zero padding makes borders alike in any two encoders, whatever they compute; the map is fitted inside of them.
    edge = max(1, side // 8)
    x, y = (z[..., edge:-edge, edge:-edge] for z in (f_b, f_a))
    other = y.roll(len(y) // 2, 0)  # no crop stays where it is
    fits = {
        name: closed_form.fit(ridge.map_equations(x[:n], z[:n]), ridge.map_equations(x[n:], z[n:]))
        for name, z in (("fitted", y), ("images shuffled", other))
    }
    maps = {name: (fit.coefficients.T, fit.intercept) for name, fit in fits.items()}
    if f_a.shape[1] == f_b.shape[1]:
        maps["channels as they are"] = (torch.eye(f_a.shape[1]).double(), torch.zeros(f_a.shape[1]).double())
    equations = spconv_equations(f_b, to_float(hr), scale_b)

    kernel_a, bias_a = (resampled(z, scale_a, scale_b) for z in spconv(model_a, scale_a))
    true, true_bias = spconv(model_b, scale_b)
    smooth, smooth_bias = (resampled(z, scale_b, scale_b) for z in (true, true_bias))
    guesses = {name: composed(kernel_a, bias_a, *affine) for name, affine in maps.items()}
    facts = dict(family=family, model_a=name_a, model_b=name_b, scale_a=scale_a, scale_b=scale_b)
    rows = _correlations(facts, guesses, smooth, true, kernel_a, maps, fits, equations, permutations, seed)

    flat, flat_bias = (z.unflatten(0, (3, -1)).mean(1).repeat_interleave(scale_b**2, 0) for z in (true, true_bias))
    heads = {
        "true": (true, true_bias),
        "true on {1, x, y, xy}": (smooth, smooth_bias),
        "true, constant only": (flat, flat_bias),
        "predicted": guesses["fitted"],
        "predicted, bias refitted": gain_and_bias(guesses["fitted"][0], equations, gain=False),
        "predicted, gain and bias refitted": gain_and_bias(guesses["fitted"][0], equations),
    }
    if "channels as they are" in guesses:
        heads["no map, gain and bias refitted"] = gain_and_bias(guesses["channels as they are"][0], equations)
    heads["images shuffled, gain and bias refitted"] = gain_and_bias(guesses["images shuffled"][0], equations)
    modules = {name: ridge.head(*kernel_and_bias, scale_b) for name, kernel_and_bias in heads.items()}
    tests = ridge.cut_tests(images, scale_b, test_side)
    psnr = ridge.psnr_of_heads(model_b, modules, tests, scale_b, device)
    psnr += [
        dict(head="bicubic", **where, psnr_y_db=psnr_y(bicubic(to_float(low)[None], scale_b)[0], high, scale_b))
        for where, low, high in tests
    ]
    psnr = pd.DataFrame([{**facts, **row} for row in psnr], columns=list(PSNR))
    return with_ceiling(pd.DataFrame(rows, columns=list(COLUMNS))), psnr


def with_ceiling(table: pd.DataFrame) -> pd.DataFrame:
    """`COLUMNS` with ``ceiling``: the cosine that the best kernel of x2's four functions has with the true one, beyond
    which no prediction from x2 can get. The best is the projection of the true kernel, whatever the
    weights of its taps, because the functions are of sub-pixels alone. Tables of older versions have it as a row only.
    """
    key = [name for name in ("family", "scale_a", "scale_b", "compared", "constant") if name in table]
    best = table[table.alignment == MAPS[-1]].set_index(key).value
    found = [best.get(tuple(row), np.nan) for row in table[key].itertuples(index=False)]
    return table.assign(ceiling=np.asarray(found, float))


def _correlations(facts, guesses, smooth, true, kernel_a, maps, fits, equations, permutations, seed) -> list[dict]:
    rows, rng = [], np.random.default_rng(seed)
    covariance = equations.covariances()[0]
    matrix = maps["fitted"][0]
    orders = [torch.from_numpy(rng.permutation(len(matrix))) for _ in range(permutations)]
    mixed = [torch.einsum("ockl,cd->odkl", kernel_a, matrix[order]) for order in orders]
    for compared, weighting in (("kernel", None), ("output", covariance)):
        for constant in (True, False):
            null = np.array([cosine(z, true, constant, weighting) for z in mixed])
            kind = dict(compared=compared, constant="kept" if constant else "removed")
            for name, guess in {**{k: g[0] for k, g in guesses.items()}, MAPS[-1]: smooth}.items():
                row = dict(**facts, alignment=name, **kind, value=cosine(guess, true, constant, weighting))
                if name in fits:
                    row |= dict(map_explained=fits[name].explained, ridge_weight=fits[name].weight)
                if name == "fitted":
                    p = (1 + np.sum(null >= row["value"] - 1e-12)) / (1 + permutations)
                    row |= dict(
                        null_mean=null.mean(), null_q95=np.quantile(null, 0.95), p_value=p, permutations=permutations
                    )
                rows.append(row)
    return rows


def psnr_summary(psnr: pd.DataFrame) -> pd.DataFrame:
    """Means over images per pair of models and head, and the difference to the true kernel with its 95 % interval
    (bootstrap over images): psnr_y_db, difference_db, low_db, high_db, images."""
    key, image = list(PSNR[:5]), ["dataset", "image"]
    rows = []
    for pair, of_pair in psnr.groupby(key, sort=False):
        true = of_pair[of_pair["head"] == "true"].set_index(image).psnr_y_db
        if true.empty:
            raise InputError(f"{pair[0]}: no row of the true kernel, with which the others are compared")
        for name, values in of_pair.groupby("head", sort=False):
            values = values.set_index(image).psnr_y_db
            numbers = mean_interval((values - true.reindex(values.index)).to_numpy())
            rows.append((*pair, name, values.mean(), *numbers, len(values)))
    return pd.DataFrame(rows, columns=[*key, "head", "psnr_y_db", "difference_db", "low_db", "high_db", "images"])
