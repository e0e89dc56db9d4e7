"""How do upsamplers start? Kernel banks before the first step, and what they let through to the encoder.

A stored SPConv starts with independent kernel entries of mean 0 and standard deviation 1 / sqrt(3 N), N = C k^2 the
entries that an output reads. With the authors' initialisation the hyper-network returns nearly the bias of its last
layer for every entry. Then each output is that number times the sum of all features, whatever they are,
and the gradient that reaches the encoder is the same for every feature channel, so that all channels are pushed the
same way. `effective_rank` of the bank counts the independent combinations of features that are read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from igconv.analysis.correlation import kernel
from igconv.data.images import to_float
from igconv.errors import InputError
from igconv.evaluation.benchmark import benchmark_pair
from igconv.evaluation.statistics import paired_difference
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.study.labels import NAMES
from igconv.study.run import Run

COLUMNS = ("model", "scale", "seed", "entry_mean", "entry_std", "subpixel_std", "effective_rank", "outputs",
           "gradient_rank", "channels")  # fmt: skip


def effective_rank(matrix: Tensor) -> float:
    """(sum s^2)^2 / sum s^4 over the singular values s: between 1 and the smaller side of the matrix.

    Raises InputError for a matrix of zeros.
    """
    power = torch.linalg.svdvals(matrix.detach().double()).square()
    if not power.sum() > 0:
        raise InputError("a matrix of zeros has no effective rank")
    return float(power.sum() ** 2 / power.square().sum())


def bank_statistics(bank: Tensor, scale: int) -> dict:
    """Of a kernel bank (3 r^2, C, k, k):

    entry_mean: root mean square over outputs of the mean over entries; entry_std: the same of the standard deviation
    over entries; subpixel_std: root mean square over entries of the standard deviation over the sub-pixels (0 at r =
    1); effective_rank of the (3 r^2, C k^2) matrix, at most ``outputs`` = 3 r^2.
    """
    bank = bank.detach().double()
    rms = lambda x: float(x.square().mean().sqrt())  # noqa: E731
    by_output = bank.flatten(1)
    subpixels = bank.unflatten(0, (3, scale**2))
    return dict(
        entry_mean=rms(by_output.mean(1)),
        entry_std=rms(by_output.std(1, correction=0)),
        subpixel_std=rms(subpixels.std(1, correction=0)),
        effective_rank=effective_rank(by_output),
        outputs=len(bank),
    )


def gradient_rank(model: SuperResolver, lr: Tensor, hr: Tensor, scale: int) -> float:
    """`effective_rank` of the gradient of L1 by the features, pixels x channels: how differently channels are pushed.

    lr (B, 3, H, W), hr (B, 3, r H, r W), float in [0, 1].
    """
    _, features = model.encode(lr)
    features = features.detach().requires_grad_()
    loss = (model.post(model.upsampler(features, scale)) - hr).abs().mean()
    (gradient,) = torch.autograd.grad(loss, features)
    return effective_rank(gradient.transpose(0, 1).flatten(1).T)


def starts(
    models: Iterable[tuple[str, int, SuperResolver]], scales: Sequence[int], pairs: dict[int, tuple[Tensor, Tensor]]
) -> pd.DataFrame:
    """`COLUMNS` of untrained models (name, seed, model), a row per scale; ``pairs``: scale -> (lr, hr) batches."""
    rows = []
    for name, seed, model in models:
        for scale in scales:
            bank = kernel(model, scale)
            rank = gradient_rank(model, *pairs[scale], scale)
            rows.append(
                dict(
                    model=name,
                    scale=scale,
                    seed=seed,
                    **bank_statistics(bank, scale),
                    gradient_rank=rank,
                    channels=bank.shape[1],
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def untrained(base: Run, seeds: int) -> list[tuple[str, int, SuperResolver]]:
    """(name, seed, model) of SPConv and of IGConv with both starts, otherwise as a run of IGConv."""
    kinds = {
        "SPConv": replace(base, upsampler="spconv"),
        "IGConv, the authors' start": replace(base, initialisation="authors"),
        "IGConv, SPConv's start": replace(base, initialisation="spconv"),
    }
    models = []
    for seed in range(seeds):
        for name, run in kinds.items():
            torch.manual_seed(seed)
            models.append((name, seed, build_model(run.encoder, run.upsampler, **run.model_options())))
    return models


def batches(image: Tensor, scales: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Scale -> (lr, hr) float batches of one: a corner of a uint8 image (3, H, W), at most 96 px, a multiple of 12."""
    side = 12 * (min(96, *image.shape[1:]) // 12)
    corner = image[:, :side, :side]
    return {scale: tuple(to_float(z)[None] for z in benchmark_pair(corner, scale)) for scale in scales}


def start_conclusion(start: pd.DataFrame) -> str:
    """What `starts` says, a line per kind of model."""
    means = start.groupby("model", sort=False)[["entry_mean", "entry_std", "gradient_rank"]].mean()
    return "\n".join(
        f"{name}: entries {row.entry_std / row.entry_mean:.3g} of their mean apart, their spread "
        f"{row.entry_std / means.entry_std['SPConv']:.3g} of SPConv's; gradient rank {row.gradient_rank:.2f} of "
        f"{start.channels.max()}"
        for name, row in means.iterrows()
    )


def difference(rows: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Runs with SPConv's start minus those that differ in the start alone: model, scale, steps, and the columns of
    `igconv.evaluation.statistics.paired_difference`."""
    lines = []
    for run in runs:
        if run.initialisation != "spconv":
            continue
        same = [other.name for other in runs if other.initialisation == "authors" and _all_but_start(other, run)]
        for scale in run.scales:
            paired = paired_difference(rows, [run.name], same, scale)
            lines.append(dict(model=NAMES[run.upsampler], scale=scale, steps=run.steps, **paired))
    return pd.DataFrame(lines)


def _all_but_start(a: Run, b: Run) -> bool:
    """Whether two runs have the same settings but for the start of the kernels, which is in the variant's name too."""
    settings = ({**run.config(), "initialisation": None, "variant": None} for run in (a, b))
    return next(settings) == next(settings)


def conclusion(table: pd.DataFrame) -> str:
    """What `difference` says, a line per model and scale."""
    known = table[table.images > 0] if len(table) else table
    if known.empty:
        return "Runs with both starts: not run."
    return "\n".join(
        f"{row.model} x{row.scale}: SPConv's start minus the authors' {row.difference_db:+.3f} dB ({row.low_db:+.3f} "
        f"to {row.high_db:+.3f}, {row.images} images, {row.seeds} seed(s)) after {row.steps} steps"
        for row in known.itertuples()
    )
