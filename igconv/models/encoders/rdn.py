"""RDN's encoder (Zhang et al., CVPR 2018, arXiv 1802.08797): dense blocks whose outputs are all fused at the end.

Written from sections 3 and 4 of the paper. Parameter names are those of the published weights, whose repository
(yulunzhang/RDN) states no licence; the PyTorch ports they come from are MIT.
"""

import torch
from torch import Tensor, nn

from igconv.errors import InputError, positive_integer


class DenseLayer(nn.Module):
    """[x, relu(conv3(x))]: (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, growth, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], dim=1)


class ResidualDenseBlock(nn.Module):
    """x + fusion(dense layers(x)): local feature fusion and local residual learning (section 3.2)."""

    def __init__(self, channels: int, layers: int, growth: int):
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))
        self.LFF = nn.Conv2d(channels + layers * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.LFF(self.convs(x))


class RDN(nn.Module):
    """(B, 3, H, W) -> (B, channels, H, W); any image size. The image is used as it is: no mean is subtracted.

    Args:
        channels: G0, the width between the blocks and of the features.
        blocks, layers, growth: D residual dense blocks of C layers that add G channels each. (16, 8, 64) is
            configuration B of the paper's implementation, (20, 6, 32) is A.
        outer_kernel_size: odd side of the two first convolutions and of the last; the blocks always use 3, as in
            the authors' class.

    Raises:
        InputError: an option that is no positive integer, or an even ``outer_kernel_size``.
    """

    def __init__(self, channels=64, blocks=16, layers=8, growth=64, outer_kernel_size=3):
        super().__init__()
        for value, name in (
            (channels, "channels"),
            (blocks, "blocks"),
            (layers, "layers"),
            (growth, "growth"),
            (outer_kernel_size, "outer_kernel_size"),
        ):
            positive_integer(value, name)
        if outer_kernel_size % 2 == 0:
            raise InputError(f"outer_kernel_size must be odd, got {outer_kernel_size}")
        k, same = outer_kernel_size, outer_kernel_size // 2
        self.out_channels = channels
        self.reach = 3 * same + blocks * layers  # pixels seen in each direction
        self.SFENet1 = nn.Conv2d(3, channels, k, padding=same)
        self.SFENet2 = nn.Conv2d(channels, channels, k, padding=same)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(channels, layers, growth) for _ in range(blocks))
        self.GFF = nn.Sequential(
            nn.Conv2d(blocks * channels, channels, 1), nn.Conv2d(channels, channels, k, padding=same)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.SFENet1(x)
        x, outputs = self.SFENet2(first), []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        return self.GFF(torch.cat(outputs, dim=1)) + first

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth of the encoder, first to last (for the analyses)."""
        blocks = {f"block {i + 1}": block for i, block in enumerate(self.RDBs)}
        return {"first conv": self.SFENet1, **blocks, "last conv": self.GFF}
