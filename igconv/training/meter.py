"""What is measured while a training runs: means of losses, time, waiting for data, memory."""

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Meter:
    """Sums over the steps since the last record, and a clock that only runs while training.

    Sums live on the device and are read only for a record, so that no step in between waits for the device. `add` and
    `watch` can be recorded in a CUDA graph: they read the number of the step from the device, too.
    """

    def __init__(self, device: torch.device, step: int, seconds: float):
        """``step`` and ``seconds`` of training behind this one, not 0 after an interruption."""
        self.device, self.seconds = device, seconds
        self.sums = torch.zeros(3, device=device)  # L1, frequency L1, norm of the gradient
        self.step = torch.zeros((), device=device)
        self.broken_at = torch.full((), math.inf, device=device)  # the first step with a loss that is not finite
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begin a new record after ``step``."""
        self.since, self.waited, self.clock = step, 0.0, time.perf_counter()
        self.sums.zero_()

    def so_far(self) -> dict:
        """What was measured since the last record, for `go_on` in another process."""
        elapsed = time.perf_counter() - self.clock
        return dict(since=self.since, sums=self.sums.cpu(), waited=self.waited, elapsed=elapsed)

    def go_on(self, measured: dict) -> None:
        """Take over what `so_far` gave, if it gave something."""
        if measured:
            self.since, self.waited = measured["since"], measured["waited"]
            self.clock = time.perf_counter() - measured["elapsed"]
            self.sums.copy_(measured["sums"])

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count as training."""
        start = time.perf_counter()
        yield
        self.clock += time.perf_counter() - start

    def watch(self, loss: Tensor) -> None:
        """Remember the current step if its loss is the first one that is not finite."""
        first = torch.minimum(self.broken_at, self.step)
        self.broken_at.copy_(torch.where(torch.isfinite(loss), self.broken_at, first))

    def add(self, pixel: Tensor, frequency: Tensor, norm: Tensor) -> None:
        """Add the losses and the norm of the gradient of one step."""
        self.sums.add_(torch.stack([pixel, frequency, norm]))

    def read(self, step: int, batch: int, mean=lambda sums: sums) -> dict:
        """Means and times of the steps since the last record; waits for the device.

        Args:
            step: steps done, more than at the last record.
            batch: samples per step.
            mean: sums of this process -> their mean over all processes.
        """
        steps = step - self.since
        pixel, frequency, norm = (mean(self.sums) / steps).tolist()
        seconds = time.perf_counter() - self.clock
        self.seconds += seconds
        return {
            "l1": pixel,
            "frequency_l1": frequency,
            "gradient_norm": norm,
            "images_per_s": steps * batch / seconds,
            "data_wait_share": self.waited / seconds,
            "seconds": self.seconds,
            "peak_memory_mb": _peak_memory_mb(self.device),
        }


def _peak_memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
