"""What a training step sees: the micro-batches of one process, on its device, from either of two places.

`DeviceFeed` keeps all training pixels on the device and cuts, turns and degrades patches there. `HostFeed` cuts them
from the mapped cache in a thread, one step ahead. Both give the same patches, because both follow `PatchSource.draw`.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from igconv.data.patches import Draw, PatchSource

RESERVED_BYTES = 8 << 30  # of the device's memory that training pixels leave free


@dataclass(frozen=True)
class Batch:
    """Micro-batches of one step, ascending by scale, float32 RGB in [0, 1], channels last.

    ``scales`` has the scale of each, ``lr`` (n B, 3, p, p) holds all of them, ``hr`` those of each distinct scale,
    (m B, 3, r p, r p).
    """

    scales: tuple[int, ...]
    lr: Tensor
    hr: tuple[Tensor, ...]


@dataclass(frozen=True)
class Sent:
    """What goes to the device for one step, and of which the device makes a `Batch`: tensors of fixed shapes per
    combination of ``scales`` (one per micro-batch, ascending)."""

    scales: tuple[int, ...]
    tensors: tuple[Tensor, ...]


def make_feed(patches: PatchSource, indices: Sequence[int], device: torch.device) -> "HostFeed | DeviceFeed":
    """A `DeviceFeed` on a GPU with room for the pixels, else a `HostFeed`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if 3 * int(patches.sides.prod(axis=1).sum()) < free - RESERVED_BYTES:
            return DeviceFeed(patches, indices, device)
    return HostFeed(patches, indices, device)


class _Feed:
    def __init__(self, patches: PatchSource, indices: Sequence[int], device: torch.device):
        """``indices``: the micro-batches of every step that are this process's."""
        self.patches, self.indices, self.device = patches, tuple(indices), torch.device(device)

    def draws(self, step: int) -> list[Draw]:
        return sorted((self.patches.draw(step, index) for index in self.indices), key=lambda draw: draw.scale)

    def send(self, step: int) -> Sent:
        """What a step needs, on its way to the device. Nothing waits for the device."""
        raise NotImplementedError

    def pixels(self, sent: Sent) -> list[Tensor]:
        """HR patches of each distinct scale, (m B, 3, r p, r p) uint8, on the device."""
        raise NotImplementedError

    def make(self, sent: Sent) -> Batch:
        """The batch, by operations of the device alone, so that they can be recorded in a CUDA graph."""
        pairs = zip(sorted(set(sent.scales)), self.pixels(sent), strict=True)
        lr, hr = zip(*(self.patches.degrade(pixels, scale) for scale, pixels in pairs), strict=True)
        return Batch(sent.scales, torch.cat(lr).contiguous(memory_format=torch.channels_last), hr)

    def batch(self, step: int) -> Batch:
        """Micro-batches of a step."""
        return self.make(self.send(step))


class HostFeed(_Feed):
    """Patches cut on the CPU, one step ahead in a thread of their own."""

    def __init__(self, patches: PatchSource, indices: Sequence[int], device: torch.device):
        super().__init__(patches, indices, device)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="patches")
        self.ahead: dict[int, Future] = {}

    def send(self, step: int) -> Sent:
        """Patches of a step; those of the next step are cut while this one is used."""
        now = self.ahead.pop(step, None) or self.worker.submit(self._cut, step)
        self.ahead = {step + 1: self.worker.submit(self._cut, step + 1)}
        scales, pixels = now.result()
        return Sent(scales, tuple(p.to(self.device, non_blocking=True) for p in pixels))

    def pixels(self, sent: Sent) -> list[Tensor]:
        return list(sent.tensors)

    def close(self) -> None:
        self.worker.shutdown(wait=True, cancel_futures=True)

    def _cut(self, step: int) -> tuple[tuple[int, ...], list[Tensor]]:
        draws = self.draws(step)
        by_scale = [list(group) for _, group in groupby(draws, key=lambda draw: draw.scale)]
        pixels = [torch.cat([self.patches.crop(draw) for draw in group]) for group in by_scale]
        # Only pinned memory is copied without waiting for the device.
        pixels = [p.pin_memory() for p in pixels] if self.device.type == "cuda" else pixels
        return tuple(draw.scale for draw in draws), pixels


class DeviceFeed(_Feed):
    """All training pixels on the device as one list of RGB bytes; a patch is an affine set of positions in it.

    Pixel (y, x) of a patch, cut, flipped and transposed, is pixel ``origin + y * down + x * right`` of the list, so
    three integers per sample are all that has to be sent to the device.
    """

    def __init__(self, patches: PatchSource, indices: Sequence[int], device: torch.device):
        super().__init__(patches, indices, device)
        sizes = patches.sides.prod(axis=1)
        self.starts = np.cumsum(sizes) - sizes
        self.all = torch.empty(int(sizes.sum()), 3, dtype=torch.uint8, device=self.device)
        for start, size, image in zip(self.starts, sizes, patches.images, strict=True):
            rgb = np.array(image[..., None].view(np.uint8).reshape(-1, 3))  # a copy: the map is read-only
            self.all[start : start + size] = torch.from_numpy(rgb).to(self.device)

    def send(self, step: int) -> Sent:
        """Places of a step's patches: (micro-batches, 3, B) int64."""
        draws = self.draws(step)
        places = torch.from_numpy(np.stack([self._places(draw) for draw in draws]))
        if self.device.type == "cuda":
            places = places.pin_memory()
        return Sent(tuple(draw.scale for draw in draws), (places.to(self.device, non_blocking=True),))

    def pixels(self, sent: Sent) -> list[Tensor]:
        distinct = sorted(set(sent.scales))
        parts = sent.tensors[0].split([sent.scales.count(scale) for scale in distinct])
        return [self._cut(scale, part.transpose(0, 1).flatten(1)) for scale, part in zip(distinct, parts, strict=True)]

    def close(self) -> None:
        del self.all

    def _places(self, draw: Draw) -> np.ndarray:
        """(origin, down, right) of every sample, (3, B) int64."""
        last = draw.scale * self.patches.lr_patch - 1
        width = self.patches.sides[draw.image, 1]
        origin = self.starts[draw.image] + draw.top * width + draw.left
        row, column = np.where(draw.flip_rows, -width, width), np.where(draw.flip_columns, -1, 1)
        origin = origin + np.where(draw.flip_rows, last * width, 0) + np.where(draw.flip_columns, last, 0)
        return np.stack([origin, np.where(draw.transpose, column, row), np.where(draw.transpose, row, column)])

    def _cut(self, scale: int, places: Tensor) -> Tensor:
        origin, down, right = places[:, :, None, None]
        along = torch.arange(scale * self.patches.lr_patch, device=self.device)
        return self.all[origin + down * along[:, None] + right * along].permute(0, 3, 1, 2)
