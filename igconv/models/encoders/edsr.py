"""EDSR's encoder (Lim et al. 2017, arXiv 1707.02921): residual blocks without batch normalisation."""

from torch import Tensor, nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class ResidualBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))). Kaiming weights times 0.1 and zero biases, as BasicSR starts it."""

    def __init__(self, channels: int, res_scale: float):
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.relu(self.conv1(x)))
        return x + (residual if self.res_scale == 1 else self.res_scale * residual)


class EDSR(nn.Module):
    """(B, 3, H, W) -> (B, channels, H, W): conv, residual blocks, conv, long skip.

    Args:
        channels, blocks: width and depth (64 x 16 is the baseline, 256 x 32 the full model).
        res_scale: factor on every residual branch (0.1 in the full model).
        img_range, mean: the image is given to the encoder as ``(image - mean) * img_range`` and the upsampler's
            output returned as ``output / img_range + mean`` (`SuperResolver` does both; they are constants).
    """

    def __init__(self, channels=64, blocks=16, res_scale=1.0, img_range=1.0, mean=DIV2K_MEAN):
        super().__init__()
        self.out_channels, self.img_range, self.mean = channels, img_range, tuple(mean)
        self.reach = 2 * blocks + 2  # pixels seen in each direction
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels, res_scale) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        return self.conv_after_body(self.body(x)) + x

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth of the encoder, first to last (for the analyses)."""
        blocks = {f"block {i + 1}": block for i, block in enumerate(self.body)}
        return {"first conv": self.conv_first, **blocks, "last conv": self.conv_after_body}
