"""Small networks to convert, whose heads make images: random encoders, SPConvs fitted to photographs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.conversion import closed_form, sums
from igconv.data.resize import downsample


class Plain(nn.Module):
    """IMDN-like, and in no catalogue: plain convolutions, no mean, convolution and shuffle at the end."""

    def __init__(self, scale: int, channels: int = 8, image_skip: bool = False):
        super().__init__()
        self.scale, self.image_skip = scale, image_skip
        self.fea_conv = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.upsampler = nn.Sequential(nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def features(self, x: Tensor) -> Tensor:
        x = self.fea_conv(x)
        return x + self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        sr = self.upsampler(self.features(x))
        return sr + F.interpolate(x, scale_factor=self.scale, mode="nearest") if self.image_skip else sr


@torch.no_grad()
def trained(net: Plain, photographs: Tensor) -> Plain:
    """The network with the SPConv that makes the best of its features on uint8 photographs (N, 3, H, W)."""
    lr, hr = downsample(photographs, net.scale).float() / 255, photographs.float() / 255
    if net.image_skip:
        hr = hr - F.interpolate(lr, scale_factor=net.scale, mode="nearest")
    kernel, bias = closed_form.solve(sums.spconv_equations(net.features(lr), hr, net.scale), 1e-6)
    net.upsampler[0].weight.copy_(kernel.T.unflatten(1, (-1, 3, 3)))
    net.upsampler[0].bias.copy_(bias)
    return net.eval()
