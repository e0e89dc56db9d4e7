"""How alike are two encoders? Linear CKA with the unbiased HSIC estimator, summed over minibatches.

An example is one LR crop, its features at a stage of the encoder flattened to one vector. For features X, Y with
Gram matrices K = X X', L = Y Y' of n examples,

    HSIC(K, L) = <U(K), U(L)> / (n (n - 3)),      U: diagonal dropped, rows and columns centred without bias,
    CKA        = mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)),     means over minibatches,

which does not grow with the width of the features as the biased estimator does: 13,824 features of 32 examples
look alike to it even when they are independent. Independent features have CKA 0 on average (it can be slightly
negative), features equal up to rotation, offset and one factor have CKA 1.

Sources: Kornblith et al. 2019 (CKA), Song et al. 2012 (the estimator), Nguyen et al. 2021 (minibatches), Szekely
and Rizzo 2014 (its form as an inner product). The paper names CKA and none of these choices.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.data.images import check_finite, to_float
from igconv.errors import InputError, positive_integer
from igconv.models import inference
from igconv.progress import follow_items

COLUMNS = ("setting", "family", "comparison", "model_a", "model_b", "stage_a", "stage_b", "index_a", "index_b", "cka",
           "cka_low", "cka_high", "examples", "minibatch", "units")  # fmt: skip
OUTPUT = "output"  # the stage that the upsampler reads


@dataclass(frozen=True)
class Grams:
    """Centred Gram matrices of one encoder: ``values`` (minibatches, stages, n, n), float64, and stage names.

    ``explained``: of features without their linear part, what share of their variance that part was, per stage.
    """

    stages: tuple[str, ...]
    values: Tensor
    explained: tuple[float, ...] = ()


def scenes(
    images: Sequence[Tensor], side: int, count: int, minibatch: int = 32, seed: int = 0, least_std: float = 2.0
) -> tuple[Tensor, int]:
    """Square crops of uint8 images on grids without overlap, dealt to minibatches by whole images.

    Crops whose grey values have a standard deviation below ``least_std`` levels (black borders, empty sky) are left
    out. Images are dealt to *units*, each a group of one or more consecutive minibatches, so that an image is in one
    unit only and units are independent of each other: as many units as minibatches when there are two images for
    each, otherwise the largest divisor of their number for which there are. Within a unit images take turns, so that
    a large photograph weighs no more than a small one until the small one is used up.

    Returns:
        (count, 3, side, side) uint8, every ``minibatch`` of them one minibatch, and the number of units.

    Raises:
        InputError: ``count`` is no multiple of ``minibatch``, or the images do not hold that many crops.
    """
    side, count, minibatch = (
        positive_integer(n, w) for n, w in ((side, "side"), (count, "count"), (minibatch, "minibatch"))
    )
    if count % minibatch:
        raise InputError(f"{count} examples are no multiple of the minibatch of {minibatch}")
    rng = np.random.default_rng(seed)
    corners = [_cells(image, side, least_std) for image in images]
    queues = [
        [image[:, t : t + side, c : c + side] for t, c in rng.permutation(cells)]
        for image, cells in zip(images, corners, strict=True)
        if len(cells)
    ]
    queues = [queues[i] for i in rng.permutation(len(queues))]
    batches = count // minibatch
    units = max(n for n in range(1, batches + 1) if batches % n == 0 and (n == 1 or 2 * n <= len(queues)))
    each = count // units
    groups: list[list] = [[] for _ in range(units)]
    held = [0] * units
    for queue in sorted(queues, key=lambda queue: -min(len(queue), each)):
        emptiest = int(np.argmin(held))
        groups[emptiest].append(queue)
        held[emptiest] += min(len(queue), each)
    if min(held) < each:
        raise InputError(
            f"{count} crops of {side} px wanted, {each} in each of {units} groups of images; these "
            f"{len(images)} images hold {min(held)} in one of them"
        )
    return torch.stack([crop for group in groups for crop in _turns(group, each, rng)]), units


def _cells(image: Tensor, side: int, least_std: float) -> np.ndarray:
    """(n, 2) corners of the cells of a grid that are not flat."""
    h, w = (n // side for n in image.shape[-2:])
    if not h * w:
        return np.empty((0, 2), int)
    grey = image[:, : h * side, : w * side].float().mean(0).view(h, side, w, side)
    return (grey.permute(0, 2, 1, 3).flatten(2).std(-1) >= least_std).nonzero().numpy() * side


def _turns(group: list[list], count: int, rng: np.random.Generator) -> list[Tensor]:
    rounds = range(max(map(len, group)))
    turns = [cell for turn in rounds for queue in group for cell in queue[turn : turn + 1]]
    return [turns[:count][i] for i in rng.permutation(count)]


def centred_gram(features: Tensor) -> Tensor:
    """U(X X') of features (n, ...), each example flattened: (n, n) float64 with zero diagonal and zero row sums.

    Products are summed in the features' own precision and centred in float64. Raises InputError for fewer than 4
    examples, for features that are the same for every example, and for NaN and infinity.
    """
    n = len(features)
    if n < 4:
        raise InputError(f"the unbiased HSIC needs at least 4 examples in a minibatch, got {n}")
    x = features.detach()
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)  # the order of features is of no account, and this one needs no copy
    x = x.flatten(1)
    # U removes any common offset; taking one example off first keeps the digits of the sums.
    differences = x - x[:1]
    check_finite(x, "features")
    if not differences.square().sum() > (64 * torch.finfo(x.dtype).eps) ** 2 * x.square().sum():
        raise InputError(f"constant features: all {n} examples have the same, so nothing can be compared")
    k = (differences @ differences.T).double().fill_diagonal_(0)
    rows = k.sum(1) / (n - 2)
    return (k - rows[:, None] - rows[None, :] + rows.sum() / (n - 1)).fill_diagonal_(0)


def stage_grams(model, images: Tensor, minibatch: int = 32, device="cpu", grid: int = 0) -> Grams:
    """`stage_views` of one grid."""
    return stage_views(model, images, ((grid, False),), minibatch, device)[0]


def stages_of(model) -> dict[str, nn.Module]:
    """The stages of an encoder, first to last, and at the end its output, which residual connections tell from the last
    stage."""
    return {**model.encoder.stages(), OUTPUT: model.encoder}


def observe(
    model,
    images: Tensor,
    minibatch: int,
    see: Callable[[Tensor, dict[str, Tensor]], None],
    device="cpu",
    label: str = "",
) -> dict[str, int]:
    """Call ``see`` (lr in [0, 1], stage -> features (B, C, h, w)) for every full minibatch of uint8 crops (N, 3, h, w).

    ``label``: with it, progress is shown. Returns the channels of each stage.

    Raises InputError for fewer crops than a minibatch, and for features that are not finite, with their stage.
    """
    minibatch = positive_integer(minibatch, "minibatch")
    if len(images) < minibatch:
        raise InputError(f"{len(images)} examples are fewer than one minibatch of {minibatch}")
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module, inputs, output):
            check_finite(output, f"features of stage {name}")
            found[name] = output

        return hook

    model = inference.prepare(model, device)
    hooks = [module.register_forward_hook(keep(name)) for name, module in stages_of(model).items()]
    starts = range(0, len(images) - minibatch + 1, minibatch)
    try:
        with torch.no_grad(), inference.exact_arithmetic():
            for start in follow_items(starts, len(starts), label) if label else starts:
                lr = to_float(images[start : start + minibatch]).to(device, memory_format=torch.channels_last)
                model.encode(lr)
                see(lr, found)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: features.shape[1] for name, features in found.items()}


def stage_views(
    model, images: Tensor, views: Sequence[tuple[int, bool]], minibatch: int = 32, device="cpu", label: str = ""
) -> list[Grams]:
    """Grams of every stage (`stages_of`) of a `SuperResolver` on uint8 crops (N, 3, h, w), per view.

    Args:
        views: (grid, means removed). Features are resized to grid x grid positions first (bilinear with
            antialiasing), so that features of LR images of different sizes stand for the same places; 0: as they
            are. With means removed, the mean of every channel over the crop is taken off: brightness and colour of a
            crop lead linear CKA otherwise.
        label: with it, progress is shown.

    Examples beyond the last full minibatch are dropped. Raises InputError as `observe`.
    """
    stages = tuple(stages_of(model))
    per_view: list[list[Tensor]] = [[] for _ in views]

    def see(lr: Tensor, features: dict[str, Tensor]) -> None:
        for (grid, removed), grams in zip(views, per_view, strict=True):
            of_stages = []
            for name in stages:
                seen = features[name]
                seen = _resized(seen, grid) if grid and tuple(seen.shape[-2:]) != (grid, grid) else seen
                seen = seen - seen.mean((-2, -1), keepdim=True) if removed else seen
                of_stages.append(centred_gram(seen).cpu())
            grams.append(torch.stack(of_stages))

    observe(model, images, minibatch, see, device, label)
    return [Grams(stages, torch.stack(grams)) for grams in per_view]


def _resized(features: Tensor, grid: int) -> Tensor:
    return F.interpolate(features, (grid, grid), mode="bilinear", antialias=True, align_corners=False)


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
    draws: int = 1000,
    seed: int = 0,
    units: int | None = None,
    family: str = "",
    setting: str = "same LR",
) -> pd.DataFrame:
    """Every stage of one model against every stage of another, for pairs of names in ``grams``.

    Args:
        comparison: what the pairs are, for the column of that name; ``family`` and ``setting`` likewise.
        shuffle: destroy the correspondence of the examples (control).
        draws: bootstrap samples for the 95 % interval ``cka_low`` .. ``cka_high`` (percentiles; NaN for one unit).
        units: consecutive minibatches are grouped into this many units (`scenes`), which the bootstrap resamples: an
            image is in one unit only, so this is a bootstrap over groups of whole images. Default: every minibatch
            is one. The interval covers the choice of images, not that of training seeds.

    Returns:
        `COLUMNS`, one row per pair of stages; ``index_a``, ``index_b`` count stages from 0, first to last.
    """
    rows = []
    for name_a, name_b in pairs:
        a, b = grams[name_a], grams[name_b]
        b = shuffled(b, seed) if shuffle else b
        batches, size = len(a.values), a.values.shape[-1]
        groups = batches if units is None else units
        if batches % groups:
            raise InputError(f"{batches} minibatches cannot be {groups} equal units")
        picks = np.random.default_rng(seed).multinomial(groups, [1 / groups] * groups, draws)
        picks = torch.from_numpy(picks.repeat(batches // groups, axis=1)).double()
        value = cka(a, b)
        low, high = cka(a, b, picks).quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
        if groups == 1:
            low, high = low * torch.nan, high * torch.nan
        facts = (setting, family, comparison, name_a, name_b)
        for i, stage_a in enumerate(a.stages):
            for j, stage_b in enumerate(b.stages):
                numbers = (float(value[i, j]), float(low[i, j]), float(high[i, j]))
                rows.append((*facts, stage_a, stage_b, i, j, *numbers, batches * size, size, groups))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """CKA of equal stages (of pairs of equal depth) per setting, family and comparison: mean, min, max, last stage."""
    kind, pair = ["setting", "family", "comparison"], ["model_a", "model_b"]
    depths = table.groupby(kind + pair)[["index_a", "index_b"]].transform("max")
    table = table.assign(depth_a=depths.index_a, depth_b=depths.index_b, pair=table.model_a + "\n" + table.model_b)
    equal = table[(table.index_a == table.index_b) & (table.depth_a == table.depth_b)]
    equal = equal.assign(last=equal.cka.where(equal.index_a == equal.depth_a))
    summary = equal.groupby(kind, sort=False).agg(
        pairs=("pair", "nunique"),
        mean=("cka", "mean"),
        min=("cka", "min"),
        max=("cka", "max"),
        last=("last", "mean"),
    )
    return summary.reset_index()
