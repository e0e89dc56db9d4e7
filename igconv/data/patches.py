"""Training patches: every micro-batch is a pure function of (seed, step, index).

Nothing is remembered between steps, so a resumed run, another worker or another number of devices sees the same
patches. Source of the augmentation and of the LR images: the authors' ``rs_downsample_dataset.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from igconv.data.resize import axis_matrix, downsample
from igconv.errors import InputError


@dataclass(frozen=True)
class Draw:
    """Where the samples of one micro-batch are cut: arrays with an entry per sample."""

    scale: int
    image: np.ndarray  # index of the image
    top: np.ndarray  # of the patch, in pixels
    left: np.ndarray
    flip_rows: np.ndarray  # bool; flips come before the transposition
    flip_columns: np.ndarray
    transpose: np.ndarray


@dataclass(frozen=True)
class MicroBatch:
    """Samples that share one scale: ``lr`` (B, 3, p, p) and ``hr`` (B, 3, r p, r p), float32 RGB in [0, 1]."""

    scale: int
    lr: Tensor
    hr: Tensor


class PatchSource:
    """Draws micro-batches from decoded images.

    Args:
        images: (H, W, 3) uint8 each (of `igconv.data.cache.decoded`; only the pixels of a patch are read). An image
            smaller than the patch at some scale is left out at that scale.
        scales: drawn uniformly, one per micro-batch.
        lr_patch: side of the LR patch, the same at every scale; the HR patch is ``scale`` times as large.
        size: samples per micro-batch.
        seed: of the run.
        method: how LR is made from the HR patch; the authors train on "pil" and test on "matlab".
    """

    def __init__(self, images: Sequence[np.ndarray], scales, lr_patch: int, size: int, seed: int, method: str = "pil"):
        # A pixel is one element of three bytes, so that flipping and transposing move whole pixels.
        self.images = [np.asarray(image).view("V3")[..., 0] for image in images]
        self.sides = np.array([image.shape for image in self.images], dtype=int).reshape(-1, 2)
        self.scales, self.lr_patch, self.size, self.seed, self.method = tuple(scales), lr_patch, size, seed, method
        self.matrices = cache(axis_matrix)  # nothing is dropped: a captured CUDA graph goes on reading them
        self.usable = {s: np.flatnonzero(self.sides.min(axis=1) >= s * lr_patch) for s in self.scales}
        for scale, usable in self.usable.items():
            if not len(usable):
                largest = self.sides.min(axis=1).max(initial=0)
                raise InputError(
                    f"no training image fits a patch of {scale * lr_patch} px (x{scale} of {lr_patch}); "
                    f"the largest has a short side of {largest} px"
                )

    def left_out(self) -> str:
        """One line on images too small at some scale, empty if there are none."""
        short = {s: len(self.images) - len(usable) for s, usable in self.usable.items()}
        parts = [f"{n} at x{s} (short side under {s * self.lr_patch} px)" for s, n in short.items() if n]
        return f"of {len(self.images)} training images left out: {', '.join(parts)}" if parts else ""

    def draw(self, step: int, index: int) -> Draw:
        """Scale, images, positions and orientations of the ``index``-th micro-batch of optimiser step ``step``."""
        rng = np.random.default_rng([self.seed, step, index])
        scale = self.scales[rng.integers(len(self.scales))]
        uniform = rng.random((6, self.size))
        usable = self.usable[scale]
        image = usable[(uniform[0] * len(usable)).astype(int)]
        places = self.sides[image].T - scale * self.lr_patch + 1  # how many there are along each axis
        top, left = (uniform[1:3] * places).astype(int)
        return Draw(scale, image, top, left, *(uniform[3:] < 0.5))

    def crop(self, draw: Draw) -> Tensor:
        """HR patches of a draw, (B, 3, r p, r p) uint8, channels last in memory."""
        side = draw.scale * self.lr_patch
        patches = np.empty((self.size, side, side), "V3")
        for i, image in enumerate(draw.image):
            patch = self.images[image][draw.top[i] :, draw.left[i] :][:side, :side]
            patch = patch[::-1] if draw.flip_rows[i] else patch
            patch = patch[:, ::-1] if draw.flip_columns[i] else patch
            patches[i] = patch.T if draw.transpose[i] else patch
        return torch.from_numpy(patches[..., None].view(np.uint8)).permute(0, 3, 1, 2)

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        """The ``index``-th micro-batch of optimiser step ``step``; `igconv.training.feed` gives the same faster."""
        draw = self.draw(step, index)
        return MicroBatch(draw.scale, *self.degrade(self.crop(draw), draw.scale))

    def degrade(self, hr: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """(lr, hr) in [0, 1] of uint8 HR patches, on their device."""
        # LR comes from the patch, not from the photograph, so the border of the patch is the border of the filter.
        return downsample(hr, scale, self.method, self.matrices).float().div(255), hr.float().div(255)
