"""HiT-SRF's encoder (Zhang et al., ECCV 2024, arXiv 2407.05878): correlations in windows that grow from block to block.

Written from sections 3.2 to 3.4 of the paper. Parameter names are those of the published weights, which are
Apache-2.0 (XiangZ-0/HiT-SR). There is no softmax in this attention, and two sums are therefore reordered here, with
the same result up to rounding:

- spatial correlation (q s' / d + bias) s: q (s' s) / d + bias s, where s are the M cells of a window that summarise
  its L pixels. The L x M map of every window and head (64^2 x 64 in the largest) is never made.
- the position bias of a cell is the mean over its pixels, which is a box filter on the table of relative positions
  and a strided view of it, in place of an L x L table (67 MB per head in the largest window).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, positive_integer
from igconv.models.encoders.edsr import DIV2K_MEAN
from igconv.models.encoders.residual_groups import GroupEncoder, check_sizes, drop_rates, stochastic_depth


def mirrored(side: int, length: int, device=None) -> Tensor:
    """Indices that extend ``side`` samples to ``length`` >= side by reflection, as often as needed: 0 1 2 1 0 1 2."""
    period = max(1, 2 * side - 2)
    index = torch.arange(length, device=device) % period
    return torch.where(index < side, index, period - index)


class DualFeatures(nn.Module):
    """Bottleneck of convolutions times a point-wise map (the paper's dual feature extraction), (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = channels // 5
        self.conv = nn.Sequential(
            nn.Conv2d(channels, narrow, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, channels, 1),
        )
        self.linear = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.linear(x)


class PositionBias(nn.Module):
    """A small network from relative position to one bias per head (dynamic position bias of CrossFormer)."""

    def __init__(self, width: int, heads: int):
        super().__init__()

        def layer(outputs: int) -> nn.Module:
            return nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, outputs))

        self.pos_proj = nn.Linear(2, width)
        self.pos1, self.pos2, self.pos3 = layer(width), layer(width), layer(heads)

    def forward(self, window: tuple[int, int], cell: tuple[int, int]) -> Tensor:
        """(heads, L, M): bias of the L pixels of a window against its M cells of cell[0] x cell[1] pixels."""
        y, x = (torch.arange(1 - side, side, device=self.pos_proj.weight.device) for side in window)
        offsets = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).to(self.pos_proj.weight.dtype)
        table = self.pos3(self.pos2(self.pos1(self.pos_proj(offsets)))).permute(2, 0, 1)
        means = F.avg_pool2d(table, cell, stride=1)
        # means[k] belongs to pixel i and cell a with k = i - a * cell + window - cell: the last cell comes first.
        views = means.unfold(1, window[0], cell[0]).unfold(2, window[1], cell[1]).flip(1, 2)
        return views.flatten(3).flatten(1, 2).transpose(1, 2)


class SpatialChannelCorrelation(nn.Module):
    """Half of the output from correlations between positions, half from correlations between channels.

    Tokens (B, H, W, C) are extended by reflection to whole windows, and cropped afterwards.

    Args:
        channels: C; each half, queries and values, has C / 2 channels.
        heads: of the spatial part; the channel part has one.
        window: (height, width) in pixels.
        base_window: the largest grid of cells (height, width) a window is summarised to.
    """

    def __init__(self, channels: int, heads: int, window: tuple[int, int], base_window: tuple[int, int]):
        super().__init__()
        self.heads, self.window = heads, window
        if any(side > base and side % base for side, base in zip(window, base_window, strict=True)):
            raise InputError(f"a window of {window} px is no whole multiple of the base window {base_window}")
        self.cell = tuple(max(1, side // base) for side, base in zip(window, base_window, strict=True))
        self.qv = DualFeatures(channels)
        self.proj = nn.Linear(channels, channels)
        self.spatial_linear = nn.Linear(self.cell[0] * self.cell[1], 1)
        self.pos = PositionBias(channels // 16, heads)

    def forward(self, x: Tensor) -> Tensor:
        (h, w), (wh, ww) = x.shape[1:3], self.window
        rows, columns = -(-h // wh), -(-w // ww)
        if (rows * wh, columns * ww) != (h, w):
            x = x.index_select(1, mirrored(h, rows * wh, x.device)).index_select(2, mirrored(w, columns * ww, x.device))
        qv = self.qv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        qv = qv.unflatten(2, (columns, ww)).unflatten(1, (rows, wh)).transpose(2, 3)  # (B, rows, columns, wh, ww, C)
        q, v = qv.flatten(3, 4).flatten(0, 2).chunk(2, dim=-1)  # (windows, L, C / 2) each
        x = torch.cat([self.spatial(q, v), self.channel(q, v)], dim=-1)
        x = x.view(-1, rows, columns, wh, ww, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return self.proj(x[:, :h, :w])

    def spatial(self, q: Tensor, v: Tensor) -> Tensor:
        """(q s' / d + bias) s per head of d channels, with s the cells of v; (windows, L, C / 2)."""
        (wh, ww), (ch, cw) = self.window, self.cell
        cells = v.unflatten(1, (wh // ch, ch, ww // cw, cw)).permute(0, 1, 3, 5, 2, 4).flatten(-2)
        s = self.spatial_linear(cells).squeeze(-1).flatten(1, 2)  # (windows, M, C / 2)
        d = s.shape[-1] // self.heads
        # One product over all channels, with the blocks between different heads set to zero, beats tiny ones per head.
        head = torch.arange(s.shape[-1], device=s.device) // d
        gram = (s.transpose(1, 2) @ s) * ((head[:, None] == head) / d).to(s.dtype)
        bias = self.pos(self.window, self.cell)  # (heads, L, M)
        placed = bias @ s.unflatten(-1, (self.heads, d)).permute(2, 1, 0, 3).flatten(2)  # (heads, L, windows * d)
        return q @ gram + placed.unflatten(-1, (-1, d)).permute(2, 1, 0, 3).flatten(2)

    def channel(self, q: Tensor, v: Tensor) -> Tensor:
        """(q' v / L) v': every channel as a mixture of the channels it correlates with; (windows, L, C / 2)."""
        return v @ (v.transpose(1, 2) @ q / q.shape[1])


class DepthwiseConv(nn.Module):
    """gelu(depth-wise 5x5) on tokens (B, H, W, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise_conv = nn.Sequential(nn.Conv2d(channels, channels, 5, padding=2, groups=channels), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvFeedForward(nn.Module):
    """Linear, GELU, plus the depth-wise convolution of the result, linear; tokens (B, H, W, C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


class HierarchicalBlock(nn.Module):
    """x + norm(correlation(x)), then x + norm(feed-forward(x)): normalisation after each branch."""

    def __init__(self, channels: int, hidden: int, correlation: nn.Module, drop_path: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.correlation = correlation
        self.mlp = ConvFeedForward(channels, hidden)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.norm1(self.correlation(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class HiTSRF(GroupEncoder):
    """(B, 3, H, W) -> (B, channels, H, W); any image size, because each block extends its input to whole windows.

    Args:
        channels: width, at least 16, even and divisible by twice each of ``heads``.
        depths: blocks per group. heads: heads per group.
        base_window, window_ratios: block i of every group has windows of int(base_window * window_ratios[i]) pixels.
            Ratios above 1 must make whole multiples of the base window. Ratios beyond a group's depth are not used.
        mlp_ratio: hidden width of the feed-forward networks, relative to ``channels``.
        connection: "1conv" or "3conv", the convolution that ends each group.
        drop_path: stochastic depth of the last block in training, growing linearly from 0 at the first.
        img_range, mean: as in `EDSR`.

    Raises:
        InputError: options that do not fit together.
    """

    def __init__(
        self,
        channels=60,
        depths: Sequence[int] = (6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6),
        base_window: Sequence[int] = (8, 8),
        window_ratios: Sequence[float] = (0.5, 1, 2, 4, 6, 8),
        mlp_ratio=2.0,
        connection="1conv",
        drop_path=0.0,
        img_range=1.0,
        mean=DIV2K_MEAN,
    ):
        positive_integer(channels, "channels")
        depths, heads = check_sizes(depths, "depths"), check_sizes(heads, "heads")
        base = check_sizes(base_window, "base_window")
        if len(depths) != len(heads) or len(base) != 2:
            raise InputError(f"depths and heads must be as many and base_window two, got {depths}, {heads}, {base}")
        if channels < 16 or any(channels % (2 * n) for n in heads):
            raise InputError(f"channels must be at least 16 and a multiple of 2 x heads, got {channels} and {heads}")
        windows = [(int(base[0] * ratio), int(base[1] * ratio)) for ratio in window_ratios]
        if max(depths) > len(windows) or any(side < 1 for window in windows for side in window):
            raise InputError(f"window_ratios must hold one ratio per block that leaves a pixel, got {window_ratios}")
        hidden = positive_integer(int(channels * mlp_ratio), "mlp_ratio x channels")
        groups = []
        for count, rates in zip(heads, drop_rates(depths, drop_path), strict=True):
            groups.append(
                [
                    HierarchicalBlock(channels, hidden, SpatialChannelCorrelation(channels, count, window, base), rate)
                    for window, rate in zip(windows, rates, strict=False)
                ]
            )
        super().__init__(channels, groups, connection, img_range, mean)
