"""Training patches: every micro-batch is a pure function of (seed, step, index).

Nothing is remembered between steps, so a resumed run, another worker or another number of devices sees the same
patches. Source of the augmentation and of the LR images: the authors' ``rs_downsample_dataset.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from igconv.errors import InputError
from igconv.resize import downsample


@dataclass(frozen=True)
class MicroBatch:
    """Samples that share one scale: ``lr`` (B, 3, p, p) and ``hr`` (B, 3, r p, r p), float32 RGB in [0, 1]."""

    scale: int
    lr: Tensor
    hr: Tensor


class PatchSource:
    """Draws micro-batches from decoded images.

    Args:
        images: (3, H, W) uint8 each. An image smaller than the patch at some scale is left out at that scale.
        scales: drawn uniformly, one per micro-batch.
        lr_patch: side of the LR patch, the same at every scale; the HR patch is ``scale`` times as large.
        size: samples per micro-batch.
        seed: of the run.
        method: how LR is made from the HR patch; the authors train on "pil" and test on "matlab".
    """

    def __init__(self, images: Sequence[Tensor], scales, lr_patch: int, size: int, seed: int, method: str = "pil"):
        self.images, self.scales, self.lr_patch = list(images), tuple(scales), lr_patch
        self.size, self.seed, self.method = size, seed, method
        self.usable = {s: [i for i, x in enumerate(images) if min(x.shape[-2:]) >= s * lr_patch] for s in self.scales}
        for scale, usable in self.usable.items():
            if not usable:
                largest = max((min(x.shape[-2:]) for x in images), default=0)
                raise InputError(
                    f"no training image fits a patch of {scale * lr_patch} px (x{scale} of {lr_patch}); "
                    f"the largest has a short side of {largest} px"
                )

    def left_out(self) -> str:
        """One line on images too small at some scale, empty if there are none."""
        short = {s: len(self.images) - len(usable) for s, usable in self.usable.items()}
        parts = [f"{n} at x{s} (short side under {s * self.lr_patch} px)" for s, n in short.items() if n]
        return f"of {len(self.images)} training images left out: {', '.join(parts)}" if parts else ""

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        """The ``index``-th micro-batch of optimiser step ``step``: random scale, crops, flips, transposition."""
        rng = np.random.default_rng([self.seed, step, index])
        scale = int(rng.choice(self.scales))
        side = scale * self.lr_patch
        patches = []
        for image_index in rng.choice(self.usable[scale], self.size):
            image = self.images[image_index]
            top, left = (rng.integers(0, n - side + 1) for n in image.shape[-2:])
            patch = image[:, top : top + side, left : left + side]
            for dims in ((-1,), (-2,)):
                patch = patch.flip(dims) if rng.random() < 0.5 else patch
            patches.append(patch.transpose(-1, -2) if rng.random() < 0.5 else patch)
        hr = torch.stack(patches)
        # LR comes from the patch, not from the photograph, so the border of the patch is the border of the filter.
        return MicroBatch(scale, downsample(hr, scale, self.method).float() / 255, hr.float() / 255)
