"""SMFANet's encoder (Zheng et al., ECCV 2024): self-modulation by pooled context beside local detail.

Written from the paper; parameter names equal those of the published weights, which are Apache-2.0.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLING = 8  # the context branch works on an (H // 8, W // 8) summary of the features
LARGEST_CELL = 2 * POOLING - 1  # pixels along a side of which one cell is made, at most


def cell_maxima(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, max(1, H // 8), max(1, W // 8)): adaptive max pooling.

    The authors pool to (h // 8, w // 8), which is empty below 8 pixels; one cell is its natural limit.

    A graph that is exported for images of any size has no pooling whose size is a variable: there the same pixels are
    gathered. Its result has zeros around, as a convolution sees them: sizes that may be 1 would be taken for constants.
    """
    if torch.compiler.is_compiling():
        return _ringed_maxima(_ringed_maxima(x, 2), 3)
    h, w = x.shape[-2:]
    return F.adaptive_max_pool2d(x, (max(1, h // POOLING), max(1, w // POOLING)))


def _ringed_maxima(x: Tensor, dim: int) -> Tensor:
    """Maxima of n cells along a side of L pixels, between two zeros.

    Cell i has the pixels from floor(i L / n) up to ceil((i + 1) L / n), the last one excluded.
    """
    length = x.shape[dim]
    cells: Any = torch.sym_max(1, length // POOLING)  # an integer, or one of a graph
    numbers = torch.arange(cells + 2, device=x.device) - 1
    inside = numbers.clamp(0, cells - 1)
    first, last = inside * length // cells, ((inside + 1) * length + cells - 1) // cells - 1
    pixels = first[:, None] + torch.arange(LARGEST_CELL, device=x.device)  # of smaller cells, the last one repeatedly
    gathered = x.index_select(dim, pixels.minimum(last[:, None]).flatten())
    maxima = gathered.unflatten(dim, (cells + 2, LARGEST_CELL)).amax(dim + 1)
    is_cell = (numbers == inside).to(x.dtype)
    return maxima * (is_cell[:, None] if dim == 2 else is_cell)


def deviations(x: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, sum of squared deviations from it) of each channel: (B, C, H, W) -> twice (B, C, 1, 1).

    Two passes over pixels x channels: on a CPU `torch.var` of channels-last features takes seven times as long.
    """
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    mean = pixels.mean(1, keepdim=True)
    squares = (pixels - mean).square().sum(1, keepdim=True)
    return mean.mT[..., None], squares.mT[..., None]


def variance(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1): the unbiased variance; of one pixel, where that is 0 / 0, zero."""
    count = x.shape[-2] * x.shape[-1]
    if torch.compiler.is_compiling():  # without a choice by size, which an exported graph could not make
        freedom: Any = torch.sym_max(1, count - 1)
        return deviations(x)[1] / freedom
    if count > 1 and (x.device.type, x.dtype) != ("cpu", torch.float32):  # sums in float32 whatever the type of x
        return x.var(dim=(-2, -1), keepdim=True)
    return deviations(x)[1] / max(1, count - 1)


def spread(gate: Tensor, like: Tensor) -> Tensor:
    """Values of cells (`cell_maxima`) at the size of ``like`` (B, C, H, W): each pixel has that of its cell."""
    if torch.compiler.is_compiling():  # exported interpolation may round positions in another way
        for dim in (2, 3):
            cells, length = gate.shape[dim] - 2, like.shape[dim]
            positions = torch.arange(length, device=gate.device, dtype=torch.float32) * (cells / length)
            gate = gate.index_select(dim, positions.long().clamp(max=cells - 1) + 1)
        return gate
    return F.interpolate(gate, size=like.shape[-2:], mode="nearest")


class LocalDetail(nn.Module):
    """Local detail estimation: depth-wise 3x3 and point-wise expansion, GELU, point-wise reduction."""

    def __init__(self, channels: int, growth: int = 2):
        super().__init__()
        hidden = channels * growth
        self.conv_0 = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, groups=channels), nn.Conv2d(hidden, hidden, 1)
        )
        self.conv_1 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_1(F.gelu(self.conv_0(x)))


class SMFA(nn.Module):
    """Self-modulation feature aggregation: context = gelu(W(alpha pool(x) + beta var(x))) scales x; detail is added."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear_0 = nn.Conv2d(channels, 2 * channels, 1)
        self.linear_1 = nn.Conv2d(channels, channels, 1)
        self.linear_2 = nn.Conv2d(channels, channels, 1)
        self.lde = LocalDetail(channels)
        self.dw_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.belt = nn.Parameter(torch.zeros(1, channels, 1, 1))  # beta; spelt as in the published weights

    def forward(self, x: Tensor) -> Tensor:
        detail, context = self.linear_0(x).chunk(2, dim=1)
        summary = self.dw_conv(cell_maxima(context))
        gate = F.gelu(self.linear_1(summary * self.alpha + variance(context) * self.belt))
        context = context * spread(gate, context)
        return self.linear_2(context + self.lde(detail))


class PCFN(nn.Module):
    """Partial-convolution feed-forward network: a 3x3 convolution on the first quarter of the hidden channels."""

    def __init__(self, channels: int, growth: float, share: float = 0.25):
        super().__init__()
        hidden = int(channels * growth)
        self.split = int(hidden * share)
        self.conv_0 = nn.Conv2d(channels, hidden, 1)
        self.conv_1 = nn.Conv2d(self.split, self.split, 3, padding=1)
        self.conv_2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv_0(x))
        mixed = F.gelu(self.conv_1(x[:, : self.split]))
        return self.conv_2(torch.cat([mixed, x[:, self.split :]], dim=1))


class FeatureMixing(nn.Module):
    """SMFA, then PCFN, each on features of unit length per pixel and with a skip."""

    def __init__(self, channels: int, ffn_scale: float):
        super().__init__()
        self.smfa = SMFA(channels)
        self.pcfn = PCFN(channels, ffn_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.smfa(F.normalize(x))
        return x + self.pcfn(F.normalize(x))


class SMFANet(nn.Module):
    """(B, 3, H, W) -> (B, channels, H, W). 36 x 8 is SMFANet, 48 x 12 is SMFANet+; sides of at least 8 px.

    Args: ``channels``, ``blocks``, and ``ffn_scale``, the growth of the feed-forward network.
    """

    def __init__(self, channels=36, blocks=8, ffn_scale=2.0):
        super().__init__()
        self.out_channels = channels
        self.to_feat = nn.Conv2d(3, channels, 3, padding=1)
        self.feats = nn.Sequential(*(FeatureMixing(channels, ffn_scale) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_feat(x)
        return self.feats(x) + x

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth of the encoder, first to last (for the analyses)."""
        return {"first conv": self.to_feat, **{f"block {i + 1}": block for i, block in enumerate(self.feats)}}
