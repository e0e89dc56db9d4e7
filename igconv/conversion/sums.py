"""What a linear fit needs to know of images: sums over crops, in float64, so that memory does not grow with them.

x (N, p) is what a 3x3 convolution sees of the features at each of N pixels, y (N, q) what it is to return there. The
normal equations of y on x, with a free constant, hold all of a least-squares fit; the sums of two sets of crops add up.

What models are judged by is a mean of PSNR, to which an easy crop counts as much as a busy one. To squared errors it
does not: busy crops have nearly all of them. So crops have weights (`crop_weights`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from igconv.errors import InputError
from igconv.progress import follow_items

BATCH = 16  # crops that go through an encoder together
TAPS = 9  # of a 3x3 convolution
# A feature whose deviation is less than this share of its size is constant; what is left of it is rounding.
CONSTANT = 1e-6
# Variance of six grey levels: crops with less detail than that are equally easy. Much less, and a few flat crops decide
# alone; images are no such crops. From one to six levels closed forms of SMFANet+ are equally good.
FLAT = (6 / 255) ** 2


@dataclass(frozen=True)
class Normal:
    """Normal equations of y (N, q) on x (N, p): ``count`` N, ``weight``, which is the sum of the pixels' weights, and
    the weighted sums x (p), y (q), xx (p, p), xy (p, q), yy (q)."""

    count: int
    weight: float
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def __add__(self, other: "Normal") -> "Normal":
        return Normal(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """(p, p) of x, (p, q) of x and y, and the variances (q) of y."""
        x, y = self.means()
        return (
            self.xx / self.weight - torch.outer(x, x),
            self.xy / self.weight - torch.outer(x, y),
            self.yy / self.weight - y.square(),
        )

    def means(self) -> tuple[Tensor, Tensor]:
        """(p) of x and (q) of y."""
        return self.x / self.weight, self.y / self.weight

    def moments(self) -> Tensor:
        """Means of the products of (x, 1): (p + 1, p + 1), the metric in which errors of a fit are squared errors."""
        rows = torch.cat([self.xx, self.x[:, None]], dim=1)
        last = torch.cat([self.x, self.x.new_tensor([self.weight])])
        return torch.cat([rows, last[None]]) / self.weight

    def mixed(self, mix: Tensor) -> "Normal":
        """The same pixels seen as ``mix`` (m, p) x."""
        mix = mix.to(self.xx)
        xx = mix @ self.xx @ mix.T
        return Normal(self.count, self.weight, mix @ self.x, self.y, xx, mix @ self.xy, self.yy)

    def in_basis(self, basis: Tensor) -> "Normal":
        """The same pixels with features that a 1x1 convolution ``basis`` (C, C) has mixed."""
        return self.mixed(torch.kron(basis.to(self.xx), torch.eye(TAPS, dtype=self.xx.dtype, device=self.xx.device)))


def normal_equations(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Normal:
    """Of x (N, p) and y (N, q), and of weights (N) of the pixels, which are one where none are given."""
    if len(x) != len(y):
        raise InputError(f"features and targets must be of the same pixels, got {len(x)} and {len(y)}")
    x, y = x.detach().double(), y.detach().double()
    w = x.new_ones(len(x)) if weights is None else weights.detach().double()
    weighted = w[:, None] * x
    return Normal(len(x), float(w.sum()), weighted.sum(0), w @ y, weighted.T @ x, weighted.T @ y, w @ y.square())


def crop_weights(wanted: Tensor, scale: int) -> Tensor:
    """Weights in (0, 1] of float crops (B, 3, r H, r W) of images in [0, 1]: (B).

    d PSNR / d error is in inverse proportion to the squared error of a crop. How large that will be goes with what LR
    pixels do not say: the variance of the crop within them, mean over pixels and channels, d. The weight is
    `FLAT` / (`FLAT` + d).
    """
    within = F.pixel_unshuffle(wanted, scale).unflatten(1, (3, -1)).var(2, correction=0)
    return FLAT / (FLAT + within.mean((1, 2, 3)))


def taps(features: Tensor) -> Tensor:
    """What a 3x3 convolution with zero padding sees of (B, C, H, W): (B H W, 9 C), ordered channel, row, column."""
    return F.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1)


def spconv_equations(features: Tensor, hr: Tensor, scale: int, weights: Tensor | None = None) -> Normal:
    """Of an SPConv that makes float images (B, 3, r H, r W) from features (B, C, H, W), images with weights (B)."""
    expected = (len(features), 3, *(scale * n for n in features.shape[-2:]))
    if tuple(hr.shape) != expected:
        raise InputError(f"features {tuple(features.shape)} at x{scale} need images {expected}, got {tuple(hr.shape)}")
    equations = []
    for part in (slice(start, start + BATCH) for start in range(0, len(features), BATCH)):
        y = F.pixel_unshuffle(hr[part], scale).permute(0, 2, 3, 1)
        of_pixels = None if weights is None else weights[part].repeat_interleave(y.shape[1] * y.shape[2])
        equations.append(normal_equations(taps(features[part]), y.flatten(0, 2), of_pixels))
    return sum(equations[1:], equations[0])


@torch.no_grad()
def gather(
    features: Callable[[Tensor], Tensor],
    batches: Callable[[int], tuple[Tensor, Tensor, Tensor]],
    count: int,
    scale: int,
) -> Normal:
    """Sums over ``count`` batches of weighted crops.

    Args:
        features: LR images (B, 3, h, w) in [0, 1] -> features (B, C, h, w).
        batches: index -> (lr, what the head is to return for them (B, 3, r h, r w), weights (B)).

    Raises InputError for features that are not finite.
    """
    total = None
    for index in follow_items(range(count), count, f"statistics of x{scale}"):
        lr, wanted, weights = batches(index)
        part = spconv_equations(features(lr), wanted, scale, weights)
        total = part if total is None else total + part
    if not total.xx.isfinite().all():
        raise InputError(f"the features of the encoder are not finite at x{scale}")
    return total


def channel_covariance(sums: dict[int, Normal]) -> Tensor:
    """Covariance (C, C) of the features, pooled over the crops of all scales (scale -> `spconv_equations`).

    Raises InputError for features that are constant.
    """
    centre = slice(TAPS // 2, None, TAPS)
    weight = sum(s.weight for s in sums.values())
    mean = sum(s.x[centre] for s in sums.values()) / weight
    squares = sum(s.xx[centre, centre] for s in sums.values()) / weight
    covariance = squares - torch.outer(mean, mean)
    if not covariance.trace() > CONSTANT**2 * squares.trace():
        count = sum(s.count for s in sums.values())
        raise InputError(f"constant features: all {count} pixels have the same, so nothing can be fitted")
    return covariance


def whitening(covariance: Tensor, least: float = 1e-10) -> Tensor:
    """W (C, C) = L^(-1/2) U' of a covariance U L U', float64: W f has uncorrelated channels of variance 1.

    Nothing is subtracted: on centred features the zeros around an image would no longer be the network's own.
    Eigenvalues below the share ``least`` of the largest count as that, so that W can be inverted.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors / values.clamp(min=least * values[-1]).sqrt()).T
