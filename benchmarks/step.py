"""Time of a training step: IGConv and IGConv+ against SPConv over the same encoder, and what FLOPs alone predict.

python benchmarks/step.py                                        # CPU: batch 4, LR 48, x2, x3, x4 and mixed scales
python benchmarks/step.py --device cuda --precision bf16-mixed --graphs
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import tyro
from timing import RESULTS, interleaved, report, summary

from igconv import build_model
from igconv.analysis.efficiency import flops
from igconv.models.arithmetic import training_arithmetic
from igconv.models.super_resolver import SuperResolver
from igconv.training.feed import Batch, Sent
from igconv.training.halves import HalfWeights
from igconv.training.loop import _losses

# Upsampler, its options, weight of the frequency loss.
CASES = {
    "SPConv": ("spconv", {}, 0.0),
    "IGConv": ("igconv", {}, 0.0),
    "IGConv, dihedral": ("igconv", dict(dihedral=True), 0.0),
    "IGConv+": ("igconv+", {}, 0.05),
}
# The micro-batches of a step. The mixed one stands for four draws of three scales.
SCALES = {"x2": (2,), "x3": (3,), "x4": (4,), "2-3-4": (2, 3, 3, 4)}


def random_batch(scales, size: int, side: int, device) -> Batch:
    """Noise in the shape of a step's micro-batches of ``size`` samples."""
    lr = torch.rand(size * len(scales), 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    counts = {scale: list(scales).count(scale) for scale in sorted(set(scales))}
    hr = tuple(torch.rand(size * n, 3, s * side, s * side, device=device) for s, n in counts.items())
    return Batch(tuple(scales), lr, hr)


def training_step(
    model: SuperResolver, frequency_weight: float, precision: str = "32-true", graphs: bool = False
) -> Callable[[Batch], None]:
    """One optimiser step as `igconv.training.loop` makes it: losses, backward, fused Adam, moving average."""
    device = next(model.parameters()).device
    weights, ema = list(model.parameters()), list(copy.deepcopy(model).requires_grad_(False).parameters())
    rate = torch.tensor(1e-4, device=device) if graphs else 1e-4
    adam = torch.optim.Adam(weights, lr=rate, betas=(0.9, 0.99), fused=True, capturable=graphs)
    half = precision == "bf16-mixed"
    halves = HalfWeights(model.encoder) if half else None

    def step(sent: Sent) -> None:
        batch = Batch(sent.scales, sent.tensors[0], sent.tensors[1:])
        with halves.in_use() if halves else nullcontext():
            with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
                images = model.by_scale(batch.lr, batch.scales)
            pixel, frequency = _losses(images, batch, frequency_weight)
            (pixel + frequency_weight * frequency).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, weights, 0.001)

    stepped = step
    if graphs:
        from igconv.training.graphs import StepGraphs

        stepped = StepGraphs(step)
    return lambda batch: stepped(Sent(batch.scales, (batch.lr, *batch.hr)))


def measure(encoder, scales, size, side, device, precision, graphs, rounds) -> pd.DataFrame:
    """`summary` of the four cases for one step, with GFLOP and their ratio to SPConv's."""
    torch.manual_seed(0)
    batch, calls, gflop = random_batch(scales, size, side, device), {}, {}
    for name, (upsampler, options, weight) in CASES.items():
        model = build_model(encoder, upsampler, scales=sorted(set(scales)), **options).to(device).train()
        model = model.to(memory_format=torch.channels_last)
        gflop[name] = flops(partial(training_step(model, weight), batch)) / 1e9
        calls[name] = partial(training_step(model, weight, precision, graphs), batch)
    on_gpu = torch.device(device).type == "cuda"
    with training_arithmetic(precision):
        times = interleaved(calls, device, rounds, warmup=3 if on_gpu else 2, calls=20 if on_gpu else 1)
    table = summary(times, "SPConv")
    table["steps_per_s"] = 1000 / table.ms
    table["gflop"] = table.case.map(gflop)
    return table.assign(flop_ratio=table.gflop / gflop["SPConv"])


def main(
    device: str = "cpu",
    encoder: str = "edsr_baseline",
    kinds: tuple[str, ...] = tuple(SCALES),
    batch: int = 4,
    lr_patch: int = 48,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    graphs: bool = False,
    threads: int = 2,
    rounds: int = 15,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Training-step times; ratio is to SPConv within the same round.

    Args:
        kinds: of steps, by their scales.
        batch: samples per micro-batch; a step of one scale is one micro-batch, a mixed one four.
        graphs: launch steps as CUDA graphs, as ``igconv train --graphs`` does.
        threads: of the CPU.
        quick: seconds instead of minutes, numbers without meaning.
    """
    torch.set_num_threads(threads)
    if quick:
        encoder, kinds, batch, lr_patch, rounds = "edsr_tiny", ("x4", "2-3-4"), 1, 8, 2
        torch.set_num_threads(1)
    tables = []
    for kind in kinds:
        table = measure(encoder, SCALES[kind], batch, lr_patch, device, precision, graphs, rounds)
        table.insert(0, "scales", kind)
        tables.append(table)
    facts = dict(encoder=encoder, micro_batch=batch, lr_patch=lr_patch, precision=precision, graphs=graphs)
    report(pd.concat(tables).assign(**facts), "step", device, out)


if __name__ == "__main__":
    tyro.cli(main)
