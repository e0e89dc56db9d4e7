"""The frame that HiT-SRF and MambaIR share with SwinIR: residual groups of token blocks between two convolutions.

    f0 = conv(x);   t = norm(f0);   t = t + conv(blocks(t)) for each group;   features = f0 + conv(norm(t))

Blocks take and return tokens in image layout, (B, H, W, C). Groups take and return (B, C, H, W) so that every stage
of the encoder looks alike from outside; both views share their memory. Source: SwinIR (Liang et al. 2021),
section 3; parameter names are those of the published weights.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from igconv.errors import InputError, choose, positive_integer
from igconv.models.encoders.edsr import DIV2K_MEAN

CONNECTIONS = ("1conv", "3conv")


def connection_conv(channels: int, kind: str) -> nn.Module:
    """The convolution before a residual sum: one k3, or a bottleneck of a quarter of the channels (k3, k1, k3)."""
    if choose(kind, CONNECTIONS, "connection") == "1conv":
        return nn.Conv2d(channels, channels, 3, padding=1)
    narrow = max(1, channels // 4)
    return nn.Sequential(
        nn.Conv2d(channels, narrow, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, narrow, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, channels, 3, padding=1),
    )


def stochastic_depth(rate: float) -> nn.Module:
    """Drops a residual branch for whole samples with probability ``rate`` in training, rescaling those that stay."""
    if rate == 0:
        return nn.Identity()
    from torchvision.ops import StochasticDepth

    return StochasticDepth(rate, mode="row")


def drop_rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Per group and block: rates that grow linearly from 0 at the first block to ``last`` at the last one."""
    if not 0 <= last < 1:
        raise InputError(f"drop_path must be at least 0 and below 1, got {last}")
    blocks = iter(range(sum(depths)))
    return [[last * next(blocks) / max(1, sum(depths) - 1) for _ in range(depth)] for depth in depths]


def check_sizes(values: Sequence[int], what: str) -> tuple[int, ...]:
    """``values`` as a tuple of integers >= 1 (repeats allowed), at least one; otherwise InputError."""
    if isinstance(values, str) or not hasattr(values, "__iter__") or not (values := tuple(values)):
        raise InputError(f"{what} must be a list of integers >= 1, got {values!r}")
    return tuple(positive_integer(value, f"each of {what}") for value in values)


class ResidualGroup(nn.Module):
    """x + conv(blocks(x)) on (B, C, H, W)."""

    def __init__(self, channels: int, blocks: Sequence[nn.Module], connection: str):
        super().__init__()
        self.residual_group = nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))
        self.conv = connection_conv(channels, connection)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class GroupEncoder(nn.Module):
    """(B, 3, H, W) -> (B, channels, H, W) by residual groups of the given blocks.

    Args:
        channels: width of the features.
        groups: blocks (B, H, W, C) -> (B, H, W, C), group by group.
        connection: "1conv" or "3conv", the convolution that ends each group and the body.
        img_range, mean: as in `EDSR`: `SuperResolver` gives the encoder ``(image - mean) * img_range``.
    """

    def __init__(
        self, channels: int, groups: Sequence[Sequence[nn.Module]], connection="1conv", img_range=1.0, mean=DIV2K_MEAN
    ):
        super().__init__()
        self.out_channels, self.img_range, self.mean = channels, img_range, tuple(mean)
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.patch_embed = nn.Sequential(OrderedDict(norm=nn.LayerNorm(channels)))
        self.layers = nn.Sequential(*(ResidualGroup(channels, blocks, connection) for blocks in groups))
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = connection_conv(channels, connection)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(x)
        x = self.patch_embed(first.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.norm(self.layers(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.conv_after_body(x) + first

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth of the encoder, first to last (for the analyses)."""
        groups = {f"group {i + 1}": group for i, group in enumerate(self.layers)}
        return {"first conv": self.conv_first, **groups, "last conv": self.conv_after_body}
