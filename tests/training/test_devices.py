"""One training whatever the device and the precision: what Fabric is asked for, and what a small memory says."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import fake_gpu
import pytest
import torch
from torch import nn

from igconv.errors import out_of_memory
from igconv.models import arithmetic
from igconv.models.super_resolver import SuperResolver
from igconv.study import results
from igconv.training import loop
from igconv.training.loop import TrainingError, train
from igconv.training.start import starting_model
from igconv.training.state import State


def chained() -> RuntimeError:
    """A failed allocation while a graph was recorded, hidden by the error of the recording's end."""
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
    except RuntimeError as error:
        return error


SHAPES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("NCCL error: ncclUnhandledCudaError. Last error: Cuda failure 2 'out of memory'"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    MemoryError(),
    chained(),
]


@pytest.mark.parametrize("error", SHAPES, ids=[f"{i}-{type(e).__name__}" for i, e in enumerate(SHAPES)])
@pytest.mark.parametrize("where", ["_losses", "make_feed", "validation_psnr"])
def test_a_small_memory_is_one_line_in_every_shape(tiny_run, monkeypatch, where, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(loop, where, fail)
    with pytest.raises(TrainingError, match=r"out of memory .*micro_batch_size \(1\) or lr_patch \(8\)"):
        list(train(tiny_run, accelerator="cpu"))


def test_a_mac_trains_on_its_cpu(tiny_run, monkeypatch):
    """Where "auto" evaluates and analyses, it trains: Fabric's own "auto" would take Apple's GPU."""
    from lightning_fabric.accelerators.mps import MPSAccelerator

    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = []
    monkeypatch.setattr(loop, "_checked", lambda run, fabric, *_: asked.append(fabric.device.type) or iter([]))
    assert list(train(tiny_run)) == []
    assert asked == ["cpu"]


def test_other_errors_stay_what_they_are(tiny_run, monkeypatch):
    assert out_of_memory(RuntimeError("shapes do not match")) == ""
    monkeypatch.setattr(loop, "_losses", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match") as caught:
        list(train(tiny_run, accelerator="cpu"))
    assert not isinstance(caught.value, TrainingError)


class Wrapped(nn.Module):
    """In the place of DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **options):
        return self.module(*inputs, **options)


def test_behind_ddp_the_image_stays_float32(tiny_run, monkeypatch):
    """On one device it does, so on several it has to: IGSample reads it, and bf16 is off by half a grey level."""

    from lightning_fabric import Fabric

    run = replace(tiny_run, precision="bf16-mixed")
    fabric = Fabric(accelerator="cpu", precision=run.precision)
    fabric.launch()
    monkeypatch.setattr(fabric.strategy, "setup_module", Wrapped)
    monkeypatch.setattr(fabric.strategy, "setup_module_and_optimizers", lambda module, optimizers, *_: (
        Wrapped(module), optimizers, *([None] if _ else [])))  # fmt: skip
    seen = []
    original = SuperResolver.by_scale
    monkeypatch.setattr(
        SuperResolver, "by_scale", lambda self, lr, scales: seen.append(lr.dtype) or original(self, lr, scales)
    )

    state = State(run, fabric, starting_model(run), {})
    assert isinstance(state.model._forward_module, Wrapped)
    state.model.by_scale(torch.rand(2, 3, 8, 8), (2, 3))
    assert seen == [torch.float32]


@pytest.mark.parametrize(("precision", "fused"), [("16-mixed", False), ("bf16-mixed", True), ("32-true", True)])
def test_fp16_is_clipped_by_fabric(tiny_run, precision, fused):
    """With a fused Adam Fabric's fp16 raises at the first step, because the norm needs gradients without the scale."""

    from lightning_fabric.plugins.precision.amp import MixedPrecision

    state = State(replace(tiny_run, precision=precision), fake_gpu.fabric("cpu"), nn.Conv2d(3, 3, 1), {})
    assert bool(state.optimizer.param_groups[0]["fused"]) == fused
    if precision == "16-mixed":
        MixedPrecision("16-mixed", "cuda", scaler=torch.amp.GradScaler("cpu", enabled=False)).unscale_gradients(
            state.optimizer
        )


def test_graphs_are_the_default_on_one_gpu_alone(tiny_run, monkeypatch):

    seen = []
    monkeypatch.setattr(loop, "_train", lambda run, fabric, folder, graphs, model: seen.append(graphs) or iter(()))

    def asked(device="cuda", world_size=1, precision="bf16-mixed", graphs=None):
        fabric = SimpleNamespace(device=torch.device(device), world_size=world_size, global_rank=0)
        list(loop._checked(replace(tiny_run, precision=precision), fabric, False, graphs, None))
        return seen.pop()

    assert asked() is True
    assert asked(precision="32-true") is True
    assert asked(graphs=False) is False
    assert asked(device="cpu") is False
    assert asked(world_size=2) is False
    assert asked(precision="16-mixed") is False


def test_the_norm_is_that_before_clipping(shrink, go, tiny_run):
    """Recorded with and without a limit, and without one nothing is multiplied."""

    free, clipped = (go(replace(tiny_run, steps=2, clip_norm=norm, validate_every=0, variant=f"c{norm:g}"))
                     for norm in (0.0, 1e9))  # fmt: skip
    assert free[-1]["gradient_norm"] == pytest.approx(clipped[-1]["gradient_norm"], rel=1e-6)
    assert math.isfinite(free[-1]["gradient_norm"])


def test_the_arithmetic_holds_while_training_and_is_written_down(tiny_run, monkeypatch):
    original, inside = loop._losses, set()

    def settings():
        cudnn = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic

    def losses(*inputs):
        inside.add(settings())
        return original(*inputs)

    monkeypatch.setattr(loop, "_losses", losses)
    outside = settings()
    for _ in train(tiny_run, accelerator="cpu"):
        assert settings() == outside
    assert inside == {("highest", False, True)}
    stored = json.loads((results.run_folder(tiny_run.profile, tiny_run.name) / "provenance.json").read_text())
    assert stored["graphs"] is False
    assert {key: stored[key] for key in arithmetic.facts("32-true")} == arithmetic.facts("32-true")
