"""What it costs: latency, parameters, memory and FLOPs of upsamplers, of their kernels and of whole models.

Conventions: latency is the median over repeats after warm-up, CUDA events on a GPU and the wall clock on a CPU,
batch 1, float32, no gradients, PyTorch's default precision settings. FLOPs count 2 per multiply-add of convolutions
and matrix products (``torch.utils.flop_counter``; sampling and elementwise work is not counted). Peak memory is the
largest sum of the inputs, the weights and the tensors that the forward holds at a time, in MiB: on a GPU by the
caching allocator's counter (scratch space of the convolutions included), on a CPU by counting tensors (scratch space
inside an operation unseen).
IGConv in eval mode reuses its kernels. The form "as trained" is any call but the first, "as trained, first call" has
no kernels yet, "instantiated" has them stored. What the hyper-network takes alone is `generation_time`.
FLOPs and memory depend on shapes only. For whole models of every encoder (`encoder_costs`) they are counted on fake
tensors, which have shapes and no values: the same numbers as of a run (tested) without its time.

Source of the set-up: the paper's Figure 1(a), 64 channels at 640x360, x2; the authors' ``test_direct_metrics``.
"""

import copy
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from igconv.errors import positive_integer
from igconv.models.arithmetic import exact_arithmetic
from igconv.models.super_resolver import build_model
from igconv.models.upsamplers import IGConv, IGSample, SPConv, SPConvPlus
from igconv.study import results
from igconv.study.labels import NAMES

MIB = 2**20
# Selective scans make thousands of small operations. As fake tensors they would take minutes, so the encoders that
# have them are run, at this side in px.
SCANS = {"mambair": 16, "mambair_light": 16, "mambair_light_baseline": 16}
FIRST_CALL = "as trained, first call"
COSTS = ("latency_ms", "latency_q25_ms", "latency_q75_ms", "repeats", "parameters", "peak_memory_mib", "flops",
         "device", "threads")  # fmt: skip


class Head(nn.Module):
    """An upsampler with its optional sampler at one scale, called as (features[, lr]) -> image."""

    def __init__(self, upsampler: nn.Module, sampler: nn.Module | None, scale: int | None):
        super().__init__()
        self.upsampler, self.sampler, self.scale = upsampler, sampler, scale

    def forward(self, features: Tensor, lr: Tensor | None = None) -> Tensor:
        scale = () if self.scale is None else (self.scale,)
        image = self.upsampler(features, *scale)
        return image if self.sampler is None else image + self.sampler(lr, features, *scale)


def heads(channels: int = 64, scale: int = 2) -> dict[tuple[str, str], Head]:
    """The paper's four upsamplers by (name, form), random weights.

    Form "as trained" keeps the hyper-network (eval mode), "instantiated" has stored kernels. IGConv+ is IGConv with
    dihedral averaging and IGSample.
    """
    by_form: dict[tuple[str, str], Head] = {}
    for name, cls in (("SPConv", SPConv), ("SPConv+", SPConvPlus)):
        by_form[name, "as trained"] = Head(cls(channels, (scale,)), None, scale)
    for name, plus in (("IGConv", False), ("IGConv+", True)):
        upsampler, sampler = IGConv(channels, dihedral=plus), IGSample(channels) if plus else None
        by_form[name, "as trained"] = Head(upsampler, sampler, scale)
        by_form[name, "instantiated"] = Head(upsampler.instantiate(scale), sampler and sampler.instantiate(scale), None)
    return {key: head.eval() for key, head in by_form.items()}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, 2 per multiply-add of convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def latencies(calls: Sequence[Callable[[], object]], device="cpu", seconds: float = 1.5) -> list[list[float]]:
    """Milliseconds of repeated calls, a list per call: at least 3 rounds, at most 100, as many as fit into ``seconds``
    per call.

    Calls take turns, so that an allocator that warms up, or a machine that slows down, favours none of them. A GPU is
    warmed up by 20 rounds first, a CPU by none: call once before.
    """
    on_gpu, times = torch.device(device).type == "cuda", [[] for _ in calls]
    with exact_arithmetic():  # the tables say float32
        for call in list(calls) * (20 if on_gpu else 0):
            call()
        end = time.perf_counter() + seconds * len(calls)
        while len(times[0]) < 3 or (time.perf_counter() < end and len(times[0]) < 100):
            for call, its_times in zip(calls, times, strict=True):
                its_times.append(_milliseconds(call, on_gpu))
    return times


def _milliseconds(call: Callable[[], object], on_gpu: bool) -> float:
    if not on_gpu:
        start_s = time.perf_counter()
        call()
        return (time.perf_counter() - start_s) * 1000
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def allocated_peak(call: Callable[[], object], device="cpu") -> float:
    """Largest number of bytes that a call holds in new tensors at a time, without what was there before."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    with _LiveTensors() as live:
        call()
    return float(live.peak)


class _LiveTensors(TorchDispatchMode):
    """Counts bytes of storages that operations make, until they are freed. ``peak`` is the largest sum."""

    def __init__(self):
        super().__init__()
        self.peak, self.live = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = [x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if not any(storage is known for known in inputs):  # views share the storage they look at
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return output

    def _free(self, count: int) -> None:
        self.live -= count


@torch.no_grad()
def cost(
    module: nn.Module, inputs: Sequence[Tensor | int], device="cpu", seconds: float = 1.5, first_call: bool = False
) -> dict:
    """`COSTS` of ``module(*inputs)`` with kernels that are there already, or with ``first_call`` made in every call."""
    return costs([(module, inputs, first_call)], device, seconds)[0]


@torch.no_grad()
def costs(cases: Sequence[tuple[nn.Module, Sequence, bool]], device="cpu", seconds: float = 1.5) -> list[dict]:
    """`cost` of several (module, inputs, first_call), whose latencies are measured in turns."""
    calls, counted_once = [], []
    for module, inputs, first_call in cases:
        module = module.to(device).eval()
        inputs = [x.to(device) if isinstance(x, Tensor) else x for x in inputs]

        def call(module=module, inputs=inputs, first_call=first_call):
            if first_call:
                module.eval()  # hyper-networks forget their kernels
            return module(*inputs)

        count: list[int] = []
        if not first_call:  # on a GPU kernels that are there already would count as there before
            call()
        peak = allocated_peak(lambda call=call, count=count: count.append(flops(call)), device)
        there = sum(t.numel() * t.element_size() for t in (*inputs, *module.parameters()) if isinstance(t, Tensor))
        calls.append(call)
        counted_once.append(
            dict(
                parameters=parameters(module),
                peak_memory_mib=(there + peak) / MIB,
                flops=count[0],
                device=results.device_name(device),
                threads=torch.get_num_threads(),
            )
        )
    rows = []
    for counts, times in zip(counted_once, latencies(calls, device, seconds), strict=True):
        times = pd.Series(times)
        rows.append(
            {
                column: (
                    dict(
                        latency_ms=times.median(),
                        latency_q25_ms=times.quantile(0.25),
                        latency_q75_ms=times.quantile(0.75),
                        repeats=len(times),
                    )
                    | counts
                )[column]
                for column in COSTS
            }
        )
    return rows


def upsampler_costs(
    height: int = 360, width: int = 640, channels: int = 64, scale: int = 2, device="cpu", seconds: float = 1.5
) -> pd.DataFrame:
    """The four upsamplers alone: upsampler, form, channels, scale, lr_height_px, lr_width_px and `COSTS`.

    IGConv and IGConv+ come in the forms "as trained, first call", "as trained" (later calls) and "instantiated".
    """
    lr, features = torch.rand(1, 3, height, width), torch.randn(1, channels, height, width)
    facts = dict(channels=channels, scale=scale, lr_height_px=height, lr_width_px=width)
    kinds, cases = [], []
    for (name, form), head in heads(channels, positive_integer(scale, "scale")).items():
        inputs = (features,) if head.sampler is None else (features, lr)
        if form == "as trained" and hasattr(head.upsampler, "kernel_bank"):
            kinds.append((name, FIRST_CALL))
            cases.append((copy.deepcopy(head), inputs, True))  # the other keeps its kernels
        kinds.append((name, form))
        cases.append((head, inputs, False))
    return pd.DataFrame(
        [
            dict(upsampler=name, form=form, **facts, **row)
            for (name, form), row in zip(kinds, costs(cases, device, seconds), strict=True)
        ]
    )


def sweep_points(
    sizes: Sequence[tuple[int, int]], scales: Sequence[int], at: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """(LR height, LR width, scale) of a sweep over sizes at x2 and one over scales at one size; each point once."""
    return list(dict.fromkeys([(h, w, 2) for h, w in sizes] + [(*at, positive_integer(s, "scale")) for s in scales]))


def model_costs(
    models: dict[str, tuple[nn.Module, int]], height: int, width: int, device="cpu", seconds: float = 0.5
) -> pd.DataFrame:
    """Whole models, name -> (model, scale), as trained and instantiated, at one LR size.

    Columns: model, form, scale, lr_height_px, lr_width_px, `COSTS`. Fixed heads are the same in both forms and
    listed once.
    """
    rows = []
    for name, (model, scale) in models.items():
        lr, facts = torch.rand(1, 3, height, width), dict(scale=scale, lr_height_px=height, lr_width_px=width)
        rows.append(dict(model=name, form="as trained", **facts, **cost(model, (lr, scale), device, seconds)))
        if hasattr(model.upsampler, "kernel_bank"):
            fixed = model.instantiate(scale)
            rows.append(dict(model=name, form="instantiated", **facts, **cost(fixed, (lr,), device, seconds)))
    return pd.DataFrame(rows, columns=["model", "form", "scale", "lr_height_px", "lr_width_px", *COSTS])


@torch.no_grad()
def counted(call: Callable[[Tensor], object], height: int, width: int, fake: bool = True) -> tuple[int, float]:
    """(FLOPs, most bytes in new tensors at a time) of ``call(lr)``, lr (1, 3, height, width) on the CPU.

    On fake tensors unless ``fake`` is False. Memory is that of the code for the CPU.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    count: list[int] = []
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext():
        lr = torch.zeros(1, 3, height, width)
        peak = allocated_peak(lambda: count.append(flops(lambda: call(lr))))
    return count[0], peak


class _Stub(nn.Module):
    """Stands for an encoder whose cost is known: features of its shape, made of nothing."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.out_channels = encoder.out_channels
        self.pad_to, self.pad_mode = getattr(encoder, "pad_to", 1), getattr(encoder, "pad_mode", "reflect")

    def forward(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), self.out_channels, *x.shape[-2:])


def encoder_costs(encoder: str, side: int, scale: int = 2, upsamplers=("spconv", "igconv", "igconv+")) -> pd.DataFrame:
    """Whole models of one encoder, instantiated, for an LR image of side x side px: a row per upsampler.

    Columns: encoder, upsampler, form, scale, lr_height_px, lr_width_px, encoder_parameters, parameters, flops,
    peak_memory_mib. The encoder is counted once; FLOPs add up, memory is that of the larger half of the forward.
    Encoders of `SCANS` have a side of their own. Raises InputError for an unknown encoder and for one whose optional
    package is missing.
    """
    rows, module, fake, side = [], encoder, encoder not in SCANS, SCANS.get(encoder, side)
    for name in upsamplers:
        model = build_model(module, name, scales=(scale,)).eval()
        if not rows:
            module = model.encoder  # made once
            encoder_flops, encoder_peak = counted(model.encode, side, side, fake)
        model.encoder = _Stub(module)
        fixed = model.instantiate(scale)
        head_flops, head_peak = counted(fixed, side, side, fake)
        own, total = parameters(module), parameters(module) + parameters(fixed)
        there = 4 * (3 * side**2 + total)
        rows.append(
            dict(
                encoder=encoder,
                upsampler=NAMES[name],
                form="instantiated",
                scale=scale,
                lr_height_px=side,
                lr_width_px=side,
                encoder_parameters=own,
                parameters=total,
                flops=encoder_flops + head_flops,
                peak_memory_mib=(there + max(encoder_peak, head_peak)) / MIB,
            )
        )
    return pd.DataFrame(rows)


@torch.no_grad()
def generation_time(
    upsampler: IGConv, scales: Sequence[int] = (2, 3, 4, 8, 16, 32), device="cpu", seconds: float = 0.5
) -> pd.DataFrame:
    """Time to make a kernel bank: scale, kernels (3 r^2 C), generation_ms (median), repeats, flops, device, threads."""
    upsampler = upsampler.to(device).eval()
    rows = []
    for scale in scales:
        call = lambda scale=scale: upsampler.hyper.generate(scale)  # noqa: E731
        count = flops(call)
        times = pd.Series(latencies([call], device, seconds)[0])
        rows.append(
            dict(
                scale=scale,
                kernels=3 * scale**2 * upsampler.hyper.in_channels,
                generation_ms=times.median(),
                repeats=len(times),
                flops=count,
                device=results.device_name(device),
                threads=torch.get_num_threads(),
            )
        )
    return pd.DataFrame(rows)
