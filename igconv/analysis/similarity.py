"""How alike are two encoders? Linear CKA with the unbiased HSIC estimator, summed over minibatches.

An example is one LR crop, its features at a stage of the encoder flattened to one vector. For features X, Y with
Gram matrices K = X X', L = Y Y' of n examples,

    HSIC(K, L) = <U(K), U(L)> / (n (n - 3)),      U: diagonal dropped, rows and columns centred without bias,
    CKA        = mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)),     means over minibatches,

which does not grow with the width of the features as the biased estimator does: 13,824 features of 32 examples
look alike to it even when they are independent. Independent features have CKA 0 on average (it can be slightly
negative), features equal up to rotation, offset and one factor have CKA 1.

Sources: Kornblith et al. 2019 (CKA), Song et al. 2012 (the estimator), Nguyen et al. 2021 (minibatches), Szekely
and Rizzo 2014 (its form as an inner product). The paper names CKA and none of these choices (FACTS 1.2).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from igconv.errors import InputError, positive_integer
from igconv.images import to_float
from igconv.metrics import luma

COLUMNS = ("comparison", "model_a", "model_b", "stage_a", "stage_b", "index_a", "index_b", "cka", "cka_low",
           "cka_high", "examples", "minibatch")  # fmt: skip


@dataclass(frozen=True)
class Grams:
    """Centred Gram matrices of one encoder: ``values`` (minibatches, stages, n, n), float64, and stage names."""

    stages: tuple[str, ...]
    values: Tensor


def crops(images: Sequence[Tensor], side: int, count: int, seed: int = 0, least_std: float = 2.0) -> Tensor:
    """Square crops of uint8 images on grids without overlap: (count, 3, side, side) uint8, in random order.

    Images take turns, so that a large photograph weighs no more than a small one until the small one is used up.
    Crops whose luma has a standard deviation below ``least_std`` grey levels (black borders, empty sky) are left
    out. Raises InputError when fewer than ``count`` crops remain.
    """
    side, count = positive_integer(side, "side"), positive_integer(count, "count")
    rng = np.random.default_rng(seed)
    queues = []
    for image in images:
        h, w = image.shape[-2:]
        corners = [(top, left) for top in range(0, h - side + 1, side) for left in range(0, w - side + 1, side)]
        cells = [image[:, top : top + side, left : left + side] for top, left in corners]
        cells = [cell for cell in cells if luma(cell).std() >= least_std]
        queues.append([cells[i] for i in rng.permutation(len(cells))])
    if sum(map(len, queues)) < count:
        raise InputError(f"{count} crops of {side} px wanted, these {len(images)} images hold {sum(map(len, queues))}")
    rounds = range(max(map(len, queues)))
    turns = [cell for turn in rounds for queue in queues for cell in queue[turn : turn + 1]]
    return torch.stack([turns[:count][i] for i in rng.permutation(count)])


def centred_gram(features: Tensor) -> Tensor:
    """U(X X') of features (n, ...), each example flattened: (n, n) float64 with zero diagonal and zero row sums.

    Raises InputError for fewer than 4 examples and for features that are the same for every example.
    """
    x = features.detach().flatten(1).double()
    n = len(x)
    if n < 4:
        raise InputError(f"the unbiased HSIC needs at least 4 examples in a minibatch, got {n}")
    total = x.square().sum()
    x = x - x.mean(0)  # U removes offsets anyway; without them the sums keep their digits
    if not x.square().sum() > 1e-20 * total:
        raise InputError(f"constant features: all {n} examples have the same, so nothing can be compared")
    k = (x @ x.T).fill_diagonal_(0)
    rows = k.sum(1) / (n - 2)
    return (k - rows[:, None] - rows[None, :] + rows.sum() / (n - 1)).fill_diagonal_(0)


def stage_grams(model, images: Tensor, minibatch: int = 32, device="cpu") -> Grams:
    """Grams of every stage (``model.encoder.stages()``) of a `SuperResolver` on uint8 crops (N, 3, h, w).

    Examples beyond the last full minibatch are dropped. Raises InputError for fewer than one minibatch.
    """
    minibatch = positive_integer(minibatch, "minibatch")
    if len(images) < minibatch:
        raise InputError(f"{len(images)} examples are fewer than one minibatch of {minibatch}")
    stages = model.encoder.stages()
    found: dict[str, list[Tensor]] = {name: [] for name in stages}

    def keep(name: str):
        return lambda module, inputs, output: found[name].append(centred_gram(output).cpu())

    model = model.to(device).eval()
    hooks = [module.register_forward_hook(keep(name)) for name, module in stages.items()]
    try:
        with torch.no_grad():
            for start in range(0, len(images) - minibatch + 1, minibatch):
                model.encode(to_float(images[start : start + minibatch]).to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return Grams(tuple(stages), torch.stack([torch.stack(grams) for grams in found.values()], dim=1))


def shuffled(grams: Grams, seed: int = 0) -> Grams:
    """The same Grams with the examples of every minibatch in another order: the control whose CKA is 0 on average."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(grams.values.shape[-1], generator=generator) for _ in grams.values]
    values = [g[:, order][:, :, order] for g, order in zip(grams.values, orders, strict=True)]
    return Grams(grams.stages, torch.stack(values))


def hsic(a: Grams, b: Grams) -> Tensor:
    """Unbiased HSIC of every stage with every stage, per minibatch: (minibatches, stages of a, stages of b)."""
    if a.values.shape[0] != b.values.shape[0] or a.values.shape[-1] != b.values.shape[-1]:
        raise InputError(
            f"the encoders saw {a.values.shape[0]} x {a.values.shape[-1]} and {b.values.shape[0]} x "
            f"{b.values.shape[-1]} examples; give both the same"
        )
    n = a.values.shape[-1]
    return a.values.flatten(2) @ b.values.flatten(2).transpose(1, 2) / (n * (n - 3))


def cka(a: Grams, b: Grams, weights: Tensor | None = None) -> Tensor:
    """CKA of every stage of a with every stage of b, (stages of a, stages of b).

    ``weights`` (..., minibatches): how often each minibatch counts (for the bootstrap); leading axes are kept.
    """
    if weights is None:
        weights = a.values.new_ones(len(a.values))
    ab = torch.einsum("...m,mij->...ij", weights, hsic(a, b))
    aa, bb = (torch.einsum("...m,mi->...i", weights, g.values.flatten(2).square().sum(-1)) for g in (a, b))
    n = a.values.shape[-1]
    return ab * (n * (n - 3)) / (aa[..., :, None] * bb[..., None, :]).sqrt()


def linear_cka(x: Tensor, y: Tensor, minibatch: int | None = None) -> float:
    """CKA of two feature arrays (N, ...), (N, ...) of the same examples; widths may differ."""
    if len(x) != len(y):
        raise InputError(f"both features must be of the same examples, got {len(x)} and {len(y)}")
    size = minibatch or len(x)
    if len(x) < size:
        raise InputError(f"{len(x)} examples are fewer than one minibatch of {size}")
    starts = range(0, len(x) - size + 1, size)
    a, b = (Grams(("",), torch.stack([centred_gram(z[s : s + size])[None] for s in starts])) for z in (x, y))
    return float(cka(a, b))


def compare(
    grams: dict[str, Grams],
    pairs: Iterable[tuple[str, str]],
    comparison: str,
    shuffle: bool = False,
    draws: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Every stage of one model against every stage of another, for pairs of names in ``grams``.

    Args:
        comparison: what the pairs are, for the column of that name.
        shuffle: destroy the correspondence of the examples (control).
        draws: bootstrap samples of the minibatches for the 95 % interval ``cka_low`` .. ``cka_high`` (percentiles;
            NaN for a single minibatch). It covers the choice of crops, not that of training seeds.

    Returns:
        `COLUMNS`, one row per pair of stages; ``index_a``, ``index_b`` count stages from 0, first to last.
    """
    rows = []
    for name_a, name_b in pairs:
        a, b = grams[name_a], grams[name_b]
        b = shuffled(b, seed) if shuffle else b
        batches, size = len(a.values), a.values.shape[-1]
        picks = np.random.default_rng(seed).multinomial(batches, [1 / batches] * batches, draws)
        value = cka(a, b)
        low, high = cka(a, b, torch.from_numpy(picks).double()).quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
        if batches == 1:
            low, high = low * torch.nan, high * torch.nan
        for i, stage_a in enumerate(a.stages):
            for j, stage_b in enumerate(b.stages):
                numbers = (float(value[i, j]), float(low[i, j]), float(high[i, j]))
                rows.append((comparison, name_a, name_b, stage_a, stage_b, i, j, *numbers, batches * size, size))
    return pd.DataFrame(rows, columns=list(COLUMNS))
