"""MambaIR's encoder (Guo et al., ECCV 2024, arXiv 2402.15648): selective scans over the image in four directions.

Written from section 3 of the paper, its reference [Mamba] and VMamba (Liu et al. 2024) for the four-directional
scan. Parameter names are those of the published weights, which are Apache-2.0 (csguoh/MambaIR). The scan needs
mambapy or mamba_ssm (the extra ``mamba``); they are imported at its first use.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, positive_integer
from igconv.models.encoders.edsr import DIV2K_MEAN
from igconv.models.encoders.residual_groups import GroupEncoder, check_sizes, drop_rates, stochastic_depth
from igconv.models.encoders.selective_scan import require_backend, selective_scan

DIRECTIONS = 4  # rows, columns, rows backwards, columns backwards
STEP_RANGE = (1e-3, 1e-1)  # of the step sizes at the start (Mamba, section 3.6)


class ChannelAttention(nn.Module):
    """x * sigmoid(bottleneck(mean of x over the image)), (B, C, H, W), as in RCAN."""

    def __init__(self, channels: int, squeeze: int):
        super().__init__()
        narrow = max(1, channels // squeeze)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, narrow, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class ConvAttentionBlock(nn.Module):
    """Two convolutions through channels / compression, then channel attention; tokens (B, H, W, C)."""

    def __init__(self, channels: int, compression: int, squeeze: int):
        super().__init__()
        narrow = channels // compression
        self.cab = nn.Sequential(
            nn.Conv2d(channels, narrow, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(narrow, channels, 3, padding=1),
            ChannelAttention(channels, squeeze),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SelectiveScan2D(nn.Module):
    """Gated selective scan (the paper's vision state-space module, SS2D); tokens (B, H, W, C), any image size.

    Every direction has its own A, D and projections to step sizes (through a bottleneck), B and C. The four results
    are summed, normalised, gated and projected.

    Args: ``channels`` C, ``state_dim`` n states per channel, ``inner`` channels that are scanned.
    """

    def __init__(self, channels: int, state_dim: int, inner: int):
        super().__init__()
        rank = math.ceil(channels / 16)
        self.split = (rank, state_dim, state_dim)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        # Starts as in Mamba: step sizes log-uniform in STEP_RANGE through softplus, A = -1 ... -n, D = 1.
        low, high = map(math.log, STEP_RANGE)
        steps = torch.exp(low + (high - low) * torch.rand(DIRECTIONS, inner))
        self.x_proj_weight = _uniform(inner**-0.5, DIRECTIONS, sum(self.split), inner)
        self.dt_projs_weight = _uniform(rank**-0.5, DIRECTIONS, inner, rank)
        self.dt_projs_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.A_logs = nn.Parameter(torch.arange(1.0, state_dim + 1).log().repeat(DIRECTIONS * inner, 1))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y = self.out_norm(self.scan(x).to(self.out_norm.weight.dtype))
        return self.out_proj(y * F.silu(gate))

    def scan(self, x: Tensor) -> Tensor:
        """Sum of the scans in four directions, (B, H, W, inner) -> the same, at least float32."""
        h, w = x.shape[1:3]
        lines = torch.stack([x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)], dim=1)
        u = torch.cat([lines, lines.flip(2)], dim=1)  # (B, direction, L, inner)
        low_rank, B, C = (u @ self.x_proj_weight.transpose(1, 2)).split(self.split, dim=-1)
        step = low_rank @ self.dt_projs_weight.transpose(1, 2)
        A = -self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32)).exp()
        y = selective_scan(
            u, step, self.dt_projs_bias, A.unflatten(0, (DIRECTIONS, -1)), B, C, self.Ds.unflatten(0, (DIRECTIONS, -1))
        )
        rows, columns = (y[:, :2] + y[:, 2:].flip(2)).unbind(1)
        return rows.unflatten(1, (h, w)) + columns.unflatten(1, (w, h)).transpose(1, 2)


def _uniform(bound: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class ResidualStateSpaceBlock(nn.Module):
    """x = s1 x + scan(norm(x)), then x = s2 x + convolutions(norm(x)), with trained factors per channel."""

    def __init__(self, channels, state_dim, inner, compression, squeeze, drop_path):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.self_attention = SelectiveScan2D(channels, state_dim, inner)
        self.conv_blk = ConvAttentionBlock(channels, compression, squeeze)
        self.skip_scale, self.skip_scale2 = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(channels))
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.skip_scale + self.drop_path(self.self_attention(self.ln_1(x)))
        return x * self.skip_scale2 + self.conv_blk(self.ln_2(x))


class MambaIR(GroupEncoder):
    """(B, 3, H, W) -> (B, channels, H, W); any image size, without padding.

    180 channels, six groups and expand 2 are MambaIR; 60 channels, four groups and expand 1.5 MambaIR-light. The
    light model's fixed-scale baseline has compression 6, with IGConv the authors train it with 3 (19 % larger).

    Args:
        channels: width. depths: blocks per group.
        state_dim: states per channel (the authors' ``d_state``).
        expand: channels that are scanned, relative to ``channels`` (the authors' ``mlp_ratio``).
        compression, squeeze: divisors of ``channels`` within the convolutions and the attention of a block.
        connection: "1conv" or "3conv", the convolution that ends each group.
        drop_path: stochastic depth of the last block in training, growing linearly from 0 at the first.
        img_range, mean: as in `EDSR`.

    Raises:
        InputError: options that do not fit together; neither mambapy nor mamba_ssm installed.
    """

    def __init__(
        self,
        channels=180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        state_dim=16,
        expand=2.0,
        compression=3,
        squeeze=30,
        connection="1conv",
        drop_path=0.1,
        img_range=1.0,
        mean=DIV2K_MEAN,
    ):
        for value, name in (
            (channels, "channels"),
            (state_dim, "state_dim"),
            (compression, "compression"),
            (squeeze, "squeeze"),
        ):
            positive_integer(value, name)
        if compression > channels:
            raise InputError(f"compression must not exceed the {channels} channels, got {compression}")
        inner = positive_integer(int(channels * expand), "expand x channels")
        require_backend()
        groups = [
            [ResidualStateSpaceBlock(channels, state_dim, inner, compression, squeeze, rate) for rate in rates]
            for rates in drop_rates(check_sizes(depths, "depths"), drop_path)
        ]
        super().__init__(channels, groups, connection, img_range, mean)
