"""What a training carries from step to step, and its file ``last.ckpt``."""

import copy
import io
from pathlib import Path

import torch
from torch import nn

from igconv.errors import InputError, reason
from igconv.files import write
from igconv.models import state_files
from igconv.models.super_resolver import SuperResolver
from igconv.study.runs import Run
from igconv.training.identity import changed

CHECKPOINT_FORMAT = 3  # of last.ckpt; to be raised when its content changes


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, all tensors in one call; it starts as a copy of the model."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


class State:
    """Weights, their moving average, the optimiser, and what was recorded so far.

    Attributes:
        step: optimiser steps done.
        records, bands: rows of record.csv and bands.csv.
        raw: the weights that the optimiser moves.
        ema: their moving average; the start for a run without one.
        meter: what was measured after the last record when the checkpoint was made (`Meter.so_far`).
        model: `raw` as Fabric wraps it, for the forward pass.
    """

    def __init__(self, run: Run, fabric, model: SuperResolver, identity: dict, rate_on_device: bool = False):
        """A start from ``model``. With ``rate_on_device`` a recorded step can read the learning rate.

        ``identity``: of `igconv.training.identity.identity`, kept in checkpoints.
        """
        self.run, self.fabric, self.raw, self.identity = run, fabric, model, identity
        self.meter = {}
        self.step, self.records, self.bands = 0, [], []
        device = fabric.device
        self.ema = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        adam = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad],
            lr=run.learning_rate,
            betas=run.betas,
            # With fp16 Fabric unscales gradients before they are clipped, and a fused Adam would do it again.
            fused=(device.type in ("cpu", "cuda") and run.precision != "16-mixed") or None,
            capturable=rate_on_device,
        )
        if rate_on_device:
            for group in adam.param_groups:
                group["lr"] = torch.tensor(run.learning_rate, device=device)
        self.model, self.optimizer = fabric.setup(model, adam)
        self.model.mark_forward_method("by_scale")
        # Behind DDP Fabric would round images to half precision first, on one device it does not; IGSample reads them.
        fabric.strategy.precision.convert_input = lambda data: data

    @property
    def result(self) -> SuperResolver:
        """The weights that the run gives: the moving average if it has one."""
        return self.ema if self.run.ema else self.raw

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else rate

    def is_finite(self) -> bool:
        """Whether all weights are. Waits for the device."""
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(list(self.raw.parameters())))).all())

    def save(self, path: Path, meter: dict | None = None) -> None:
        """``meter``: of `Meter.so_far`, between two records."""
        state = dict(
            format=CHECKPOINT_FORMAT,
            **self.identity,
            meter=meter or {},
            step=self.step,
            steps=self.run.steps,
            records=self.records,
            bands=self.bands,
            model=self.raw.state_dict(),
            ema=self.ema.state_dict(),
            optimizer=self.optimizer.state_dict(),
            precision=self.fabric.strategy.precision.state_dict(),
        )
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write(path, buffer.getvalue())

    def resume(self, path: Path) -> None:
        """Take everything from a checkpoint; without one, the state stays at its start.

        Raises InputError for a checkpoint of an unfinished training under other settings, of another format, or
        that cannot be read.
        """
        if not path.is_file():
            return
        run, stored = self.run, state_files.read_pickle(path)
        if stored.get("config_hash") != run.config_hash():
            if stored.get("step") is not None and stored["step"] == stored.get("steps"):
                return  # a finished training under other settings: nothing is lost by starting anew
            raise InputError(f"{path} belongs to other settings of {run.name}; move it away to start again")
        other = changed(run, self.identity, stored)
        if other and stored.get("step") == stored.get("steps"):
            return  # finished, and its result was taken away: nothing is lost either
        if other:
            raise InputError(f"{path} cannot be continued: {other}; move it away to start again")
        if stored.get("format") != CHECKPOINT_FORMAT:
            raise InputError(f"{path} was written by another version of igconv; move it away to start again")
        # How Adam runs depends on this process's device, not on the one that wrote the checkpoint.
        groups = self.optimizer.param_groups
        here = [{key: group[key] for key in ("lr", "fused", "capturable", "foreach")} for group in groups]
        try:
            self.raw.load_state_dict(stored["model"])
            self.ema.load_state_dict(stored["ema"])
            self.optimizer.load_state_dict(stored["optimizer"])
            self.fabric.strategy.precision.load_state_dict(stored["precision"])
            for group, options in zip(self.optimizer.param_groups, here, strict=True):
                group.update(options)
            self.step, self.records, self.bands = stored["step"], stored["records"], stored["bands"]
            self.meter = stored.get("meter", {})
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} does not fit {run.name}: {reason(error)}") from None
        for model in (self.raw, self.ema):
            state_files.check_finite(model.state_dict(), str(path))
