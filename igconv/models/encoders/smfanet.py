"""SMFANet's encoder (Zheng et al., ECCV 2024): self-modulation by pooled context beside local detail.

Written from the paper; parameter names equal those of the published weights, which are Apache-2.0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLING = 8  # the context branch works on an (H // 8, W // 8) summary of the features


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
        h, w = x.shape[-2:]
        detail, context = self.linear_0(x).chunk(2, dim=1)
        # The authors pool to (h // 8, w // 8), which is empty below 8 pixels; one cell is its natural limit.
        summary = self.dw_conv(F.adaptive_max_pool2d(context, (max(1, h // POOLING), max(1, w // POOLING))))
        # The variance of one pixel is 0 / 0.
        variance = context.var(dim=(-2, -1), keepdim=True) if h * w > 1 else torch.zeros_like(context)
        gate = F.gelu(self.linear_1(summary * self.alpha + variance * self.belt))
        context = context * F.interpolate(gate, size=(h, w), mode="nearest")
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
