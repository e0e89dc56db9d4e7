"""Where a training step goes: encoder, kernel bank, upsampler, sampler, loss (forward and backward), optimiser, moving
average, data; and how far the step is from what matrix products reach on this device.

The graph is cut between the parts, so that each has a backward pass of its own; the gradients are those of the whole.
On a GPU the device is waited for after every part: the shares are right, the sum is above that of a real step.

python benchmarks/profile_step.py [--device cuda --precision bf16-mixed]
"""

import copy
import time
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import tyro
from step import random_batch, training_step
from timing import RESULTS, report, settle, timed
from torch import Tensor

from igconv import build_model
from igconv.analysis.efficiency import flops
from igconv.data.patches import PatchSource
from igconv.models.hypernetwork import conv_subpixels
from igconv.models.super_resolver import SuperResolver
from igconv.models.upsamplers import sample_lr
from igconv.training.feed import make_feed
from igconv.training.losses import frequency_l1, l1


class Clock:
    """Milliseconds per (part, phase), one entry per step."""

    def __init__(self, device):
        self.device, self.spent = device, defaultdict(list)

    @contextmanager
    def __call__(self, part: str, phase: str):
        settle(self.device)
        start = time.perf_counter()
        yield
        settle(self.device)
        self.spent[part, phase].append((time.perf_counter() - start) * 1000)


def cut(x: Tensor) -> Tensor:
    """The same values as a leaf of a graph of its own."""
    return x.detach().requires_grad_()


class Profiler:
    """One step of one scale, part by part."""

    def __init__(self, model: SuperResolver, scale: int, feed, frequency_weight: float, precision: str):
        self.model, self.scale, self.feed, self.weight = model, scale, feed, frequency_weight
        self.device = next(model.parameters()).device
        self.half = precision == "bf16-mixed"
        self.weights = list(model.parameters())
        self.ema = list(copy.deepcopy(model).requires_grad_(False).parameters())
        self.adam = torch.optim.Adam(self.weights, lr=1e-4, betas=(0.9, 0.99), fused=True)

    def precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    def step(self, number: int, clock: Clock) -> None:
        model, scale = self.model, self.scale
        hyper = getattr(model.upsampler, "hyper", None)  # SPConv has none
        sampler = model.sampler and model.sampler.hyper
        with clock("data", "forward"):
            batch = self.feed.batch(number)
        with clock("encoder", "forward"), self.precision():
            x, features = model.encode(batch.lr)
        f, bank = cut(features), hyper
        banks, image_parts = [], []
        if hyper:
            with clock("kernel bank", "forward"):
                banks = [h.generate(scale) for h in (hyper, sampler) if h]
            bank, *sample_bank = (cut(b) for b in banks)
        with clock("upsampler", "forward"), self.precision():
            image = F.pixel_shuffle(conv_subpixels(f, bank), scale) if hyper else model.upsampler(f, scale)
            image_parts.append(("upsampler", model.post(image).float()))
        if sampler:
            with clock("sampler", "forward"), self.precision():
                image_parts.append(("sampler", sample_lr(x, conv_subpixels(f, sample_bank[0]), scale)))
        sr = [cut(part) for _, part in image_parts]
        with clock("loss", "forward"):
            total = sum(sr)
            loss = l1(total, batch.hr[0])
            if self.weight:
                loss = loss + self.weight * frequency_l1(total, batch.hr[0])
        with clock("loss", "backward"):
            loss.backward()
        for (part, image), leaf in reversed(list(zip(image_parts, sr, strict=True))):
            with clock(part, "backward"):
                image.backward(leaf.grad)
        if hyper:
            with clock("kernel bank", "backward"):
                torch.autograd.backward(banks, [bank.grad, *(b.grad for b in sample_bank)])
        with clock("encoder", "backward"):
            features.backward(f.grad)
        with clock("optimiser", "update"):
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
        with clock("moving average", "update"), torch.no_grad():
            torch._foreach_lerp_(self.ema, self.weights, 0.001)


def matrix_peak(device, precision: str) -> float:
    """GFLOP/s of the best of ten products of square matrices in the step's arithmetic."""
    side = 8192 if torch.device(device).type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    timed(lambda: a @ b, device)
    return 2 * side**3 / min(timed(lambda: a @ b, device)[0] for _ in range(10)) / 1e6


def patch_feed(scale: int, batch: int, lr_patch: int, device):
    """The trainer's feed over four random images."""
    side = max(512, 2 * scale * lr_patch)
    images = list(np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8))
    return make_feed(PatchSource(images, (scale,), lr_patch, batch, seed=0), [0], torch.device(device))


def main(
    device: str = "cpu",
    encoder: str = "edsr_baseline",
    scale: int = 4,
    batch: int = 4,
    lr_patch: int = 48,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    threads: int = 2,
    steps: int = 10,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Shares of a step with SPConv, IGConv and IGConv+.

    Args:
        batch: samples of the step.
        threads: of the CPU.
        steps: that are counted, after two.
        quick: a tiny encoder and patch, numbers without meaning.
    """
    torch.set_num_threads(threads)
    if quick:
        encoder, batch, lr_patch, steps = "edsr_tiny", 1, 8, 2
        torch.set_num_threads(1)
    tables, peak = [], matrix_peak(device, precision)
    for upsampler, weight in (("spconv", 0.0), ("igconv", 0.0), ("igconv+", 0.05)):
        torch.manual_seed(0)
        model = build_model(encoder, upsampler, scales=(scale,)).to(device).train()
        model = model.to(memory_format=torch.channels_last)
        noise = random_batch((scale,), batch, lr_patch, device)
        whole = partial(training_step(model, weight, precision), noise)
        gflop = flops(whole) / 1e9
        feed, clock = patch_feed(scale, batch, lr_patch, device), Clock(device)
        profiler = Profiler(model, scale, feed, weight, precision)
        for number in range(steps + 2):
            if number == 2:
                clock.spent.clear()
            profiler.step(number, clock)
        feed.close()
        wholes = [timed(whole, device)[0] for _ in range(steps)]
        table = pd.DataFrame([dict(part=part, phase=phase, ms=np.median(ms))
                              for (part, phase), ms in clock.spent.items()])  # fmt: skip
        table["share"] = table.ms / table.ms.sum()
        # The step as it is trained, in one piece; its FLOPs are those of convolutions and matrix products.
        speed = dict(part="whole step", phase="", ms=np.median(wholes), gflop=gflop,
                     gflop_per_s=1000 * gflop / np.median(wholes), peak_gflop_per_s=peak)  # fmt: skip
        table = pd.concat([table, pd.DataFrame([speed | dict(of_peak=speed["gflop_per_s"] / peak)])])
        table.insert(0, "upsampler", upsampler)
        tables.append(table)
    facts = dict(encoder=encoder, scale=scale, batch=batch, lr_patch=lr_patch, precision=precision)
    report(pd.concat(tables).assign(**facts), "profile_step", device, out)


if __name__ == "__main__":
    tyro.cli(main)
