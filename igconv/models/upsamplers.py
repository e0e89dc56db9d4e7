"""Features -> image, by a given integer factor: the paper's idea. Read this file first.

A sub-pixel convolution (SPConv) upscales by r with one convolution to 3 r^2 channels and a depth-to-space
shuffle. Its kernels exist for one r only, so every scale needs a network of its own. IGConv computes them from
sub-pixel coordinates (`igconv.models.hypernetwork`) and serves every integer scale with one set of weights:

    K(r) = hyper-network on an r x r grid                   (3 r^2, C, k, k)
    SR   = depth_to_space_r( conv(F, K(r)) )                (B, 3, r H, r W)

IGConv+ is no class. It is IGConv with ``dihedral=True``, an `IGSample` beside it and the frequency loss.
All modules here take features (B, C, H, W) and a scale, and return float images (B, 3, r H, r W).
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, choose, positive_integer, positive_integers
from igconv.models.hypernetwork import GroupedLinear, HyperNetwork, cell_centres, conv_subpixels
from igconv.models.strict import REQUIRED, load_strict, with_defaults

# Constructor arguments of the authors' modules that have a default, and `dim`, which has none.
OFFICIAL_DEFAULTS = dict(dim=REQUIRED, implicit_dim=256, latent_layers=4, geo_ensemble=True, max_s=4)

BIASES = ("none", "colour", "subpixel")


def prime_stages(scale: int) -> list[int]:
    """Prime factors of ``scale``, ascending: the x2 / x3 stages SPConv+ is built of (x4 is two x2 stages)."""
    factors, p = [], 2
    while scale > 1:
        while scale % p == 0:
            factors.append(p)
            scale //= p
        p += 1
    return factors


class _FixedHeads(nn.Module):
    """One stored head per scale, ``heads.<scale>``. With several scales this is MDSR's way of being multi-scale."""

    def __init__(self, heads: dict[int, nn.Module]):
        super().__init__()
        self.heads = nn.ModuleDict({str(scale): head for scale, head in heads.items()})

    def forward(self, features: Tensor, scale: int) -> Tensor:
        return self._of(scale)(features)

    def instantiate(self, scale: int) -> nn.Module:
        """A copy of the stored head for ``scale``, called as (features) -> image."""
        return copy.deepcopy(self._of(scale))

    def _of(self, scale: int) -> nn.Module:
        key = str(positive_integer(scale, "scale"))
        if key not in self.heads:
            raise InputError(f"this model has no head for x{scale}; it was built for x{', x'.join(self.heads)}")
        return self.heads[key]


class SPConv(_FixedHeads):
    """Sub-pixel convolution: conv k3 C -> 3 r^2 (with bias), depth-to-space(r). 27 C r^2 + 3 r^2 parameters.

    Args: ``channels`` C of the features, ``scales`` the factors that get a head.
    """

    def __init__(self, channels: int, scales):
        super().__init__(
            {
                s: nn.Sequential(nn.Conv2d(channels, 3 * s**2, 3, padding=1), nn.PixelShuffle(s))
                for s in positive_integers(scales, "scales")
            }
        )


class SPConvPlus(_FixedHeads):
    """SPConv+: per prime factor s of r a conv k3 C -> C s^2 and depth-to-space(s), then conv k3 C -> 3.

    x4 is two x2 stages. ``width`` puts a conv C -> width and a LeakyReLU first and works with that many
    channels, as the fixed-scale heads of the SwinIR family do.
    """

    def __init__(self, channels: int, scales, width: int | None = None):
        c = width or channels
        entry = [nn.Conv2d(channels, c, 3, padding=1), nn.LeakyReLU()] if width else []
        heads = {}
        for scale in positive_integers(scales, "scales"):
            layers = copy.deepcopy(entry)
            for s in prime_stages(scale):
                layers += [nn.Conv2d(c, c * s**2, 3, padding=1), nn.PixelShuffle(s)]
            heads[scale] = nn.Sequential(*layers, nn.Conv2d(c, 3, 3, padding=1))
        super().__init__(heads)


class IGConv(nn.Module):
    """Implicit grid convolution: one hyper-network in place of one SPConv per scale; any integer scale >= 1.

    Args:
        channels: C of the features.
        kernel_size, hidden_dim, num_layers, max_scale: of the `HyperNetwork`; the paper's are 3, 256, 4, 4.
        dihedral: average the kernels over flips and rotations before the one convolution (IGConv+).
        initialisation: "authors", or "spconv" for kernels that start like stored ones.
        bias: the constant of the image. "none" as in the paper, whose encoders learn to put one into their features;
            "colour", three stored values; "subpixel", these and an entry of the hyper-network, which makes one for
            every sub-pixel as it makes kernels.
        basis: the hyper-network's kernels read features that a stored matrix (C, C) mixes. It is multiplied into the
            kernels, so that the convolution costs what it did; `igconv.conversion` whitens with it.

    Without a bias, frozen features that hold no constant cannot make an image of the right brightness.
    """

    def __init__(
        self,
        channels,
        kernel_size=3,
        hidden_dim=256,
        num_layers=4,
        dihedral=False,
        max_scale=4,
        initialisation="authors",
        bias="none",
        basis=False,
    ):
        super().__init__()
        choose(bias, BIASES, "bias of IGConv")
        self.hyper = HyperNetwork(
            channels,
            3,
            kernel_size,
            hidden_dim,
            num_layers,
            dihedral=dihedral,
            max_scale=max_scale,
            initialisation=initialisation,
        )
        self.basis = nn.Parameter(torch.eye(channels)) if basis else None
        self.bias = nn.Parameter(torch.zeros(3)) if bias != "none" else None
        if bias == "subpixel":
            self.bias_freq, self.bias_amplitude = (nn.Parameter(torch.randn(1, hidden_dim) * 0.02) for _ in "fa")

    def kernel_bank(self, scale: int) -> Tensor:
        """(3 r^2, C, k, k), ordered colour, sub-row, sub-column."""
        bank = self.hyper(scale)
        if self.basis is None:
            return bank
        with torch.autocast(bank.device.type, enabled=False):
            return (self.basis.T @ bank.flatten(2)).view_as(bank)

    def constants(self, scale: int) -> Tensor | None:
        """(3 r^2), ordered like the kernels; None without a bias."""
        if self.bias is None:
            return None
        constants = self.bias.repeat_interleave(positive_integer(scale, "scale") ** 2)
        if not hasattr(self, "bias_freq"):
            return constants
        with torch.autocast(constants.device.type, enabled=False):
            return constants + self.hyper.entries(self.bias_freq, self.bias_amplitude, scale).flatten()

    def forward(self, features: Tensor, scale: int) -> Tensor:
        """features (B, C, H, W) -> (B, 3, r H, r W)."""
        return F.pixel_shuffle(conv_subpixels(features, self.kernel_bank(scale), self.constants(scale)), scale)

    @torch.no_grad()
    def instantiate(self, scale: int) -> nn.Module:
        """A fixed-scale module (features) -> image with an ordinary convolution, 27 C r^2 parameters and its bias."""
        return nn.Sequential(_stored_conv(self.kernel_bank(scale), self.constants(scale)), nn.PixelShuffle(scale))

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **kwargs) -> "IGConv":
        """The authors' ``IGConv`` from its state dict and constructor arguments (their names and defaults)."""
        return _from_official(cls, state, {**OFFICIAL_DEFAULTS, "kernel_size": REQUIRED}, kwargs)


class IGSample(nn.Module):
    """Input-dependent upsampling of the LR image: the colour planes are read at positions that features shift.

    A two-branch hyper-network gives a kernel bank for offsets and one for their scope, 6 r^2 channels each
    (axis x then y, colour, sub-row, sub-column). Every HR pixel of a colour reads the LR plane, bilinearly, at

        centre of the pixel + 0.5 * offset * sigmoid(scope)      (in LR pixels)

    so that zero offsets are bilinear interpolation. The result is added to the output of IGConv.

    Args: as in `IGConv`; ``hidden_dim`` is per branch; the paper's are 128 and 2 layers.
    """

    def __init__(self, channels, kernel_size=3, hidden_dim=128, num_layers=2, dihedral=True, max_scale=4):
        super().__init__()
        self.hyper = HyperNetwork(
            channels,
            12,
            kernel_size,
            hidden_dim,
            num_layers,
            groups=2,
            output_bias=False,
            dihedral=dihedral,
            max_scale=max_scale,
        )
        with torch.no_grad():
            for parameter in self.hyper.query_kernel.parameters():
                nn.init.trunc_normal_(parameter, std=0.01)
            # Scope rows zero: sigmoid(0) / 2 = 0.25 of the offset at the start, as in DySample. The two offset
            # rows are repeated over (axis, colour) as the authors do, which gives G the axes swapped.
            last = self.hyper.query_kernel[-1]
            assert isinstance(last, GroupedLinear)
            last.weight[:6], last.weight[6:] = last.weight[:2].repeat(3, 1), 0

    def kernel_bank(self, scale: int) -> Tensor:
        """(12 r^2, C, k, k): first the 6 r^2 offset kernels, then the 6 r^2 scope kernels."""
        return self.hyper(scale)

    def forward(self, lr: Tensor, features: Tensor, scale: int) -> Tensor:
        """lr (B, 3, H, W) and features (B, C, H, W) -> (B, 3, r H, r W)."""
        return sample_lr(lr, conv_subpixels(features, self.kernel_bank(scale)), scale)

    @torch.no_grad()
    def instantiate(self, scale: int) -> "FixedSample":
        """A fixed-scale module (lr, features) -> image with one stored convolution, 108 C r^2 parameters."""
        return FixedSample(_stored_conv(self.kernel_bank(scale)), scale)

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **kwargs) -> "IGSample":
        """The authors' ``IGSample`` from its state dict and constructor arguments (their names and defaults)."""
        defaults = {**OFFICIAL_DEFAULTS, "kernel_size": 3, "implicit_dim": 128, "latent_layers": 2}
        return _from_official(
            cls, {key.removeprefix("convs."): value for key, value in state.items()}, defaults, kwargs
        )


class FixedSample(nn.Module):
    """`IGSample` for one scale, with its kernels stored."""

    def __init__(self, conv: nn.Conv2d, scale: int):
        super().__init__()
        self.conv, self.scale = conv, scale

    def forward(self, lr: Tensor, features: Tensor) -> Tensor:
        return sample_lr(lr, self.conv(features), self.scale)


def _from_official(cls, state: dict[str, Tensor], defaults: dict, kwargs: dict):
    o = with_defaults(kwargs, defaults, cls.__name__)
    module = cls(o["dim"], o["kernel_size"], o["implicit_dim"], o["latent_layers"], o["geo_ensemble"], o["max_s"])
    load_strict(module, {f"hyper.{key}": value for key, value in state.items()}, cls.__name__)
    return module


def sample_lr(lr: Tensor, fields: Tensor, scale: int) -> Tensor:
    """Sample each colour plane of ``lr`` (B, 3, H, W) with its own field.

    ``fields`` (B, 12 r^2, H, W) are offsets and scopes before the sigmoid. Border padding; positions are
    computed in float32, because bfloat16 cannot tell the pixels of a wide image apart.
    """
    b, _, h, w = lr.shape
    offset, scope = fields.float().chunk(2, dim=1)
    shift = offset * scope.sigmoid()  # (B, 6 r^2, H, W): twice the shift in LR pixels
    if _backward_would_crash(shift):
        shift = shift.nan_to_num()
    x, y = F.pixel_shuffle(shift, scale).chunk(2, dim=1)  # (B, 3 colours, rH, rW) each
    # In the coordinates of grid_sample the image is [-1, 1] wide: HR pixels are cells of it, an LR pixel is 2 / W.
    columns, rows = cell_centres(scale * w, lr.device), cell_centres(scale * h, lr.device)[:, None]
    grid = torch.stack([torch.add(columns, x, alpha=1 / w), torch.add(rows, y, alpha=1 / h)], dim=-1)
    planes = lr.float().reshape(b * 3, 1, h, w)
    sampled = F.grid_sample(planes, grid.flatten(0, 1), mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.view(b, 3, h * scale, w * scale)


def _backward_would_crash(shift: Tensor) -> bool:
    """On the CPU, grid_sample's backward at NaN positions ends the process; the trainer finds broken weights later.

    Looking at values costs less than nan_to_num and its backward at every step, and on a CPU nothing has to wait.
    """
    looks = shift.requires_grad and not shift.is_cuda and not torch.compiler.is_compiling()
    return looks and not shift.detach().sum().isfinite()


def _stored_conv(bank: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    out_channels, channels, k, _ = bank.shape
    conv = nn.Conv2d(channels, out_channels, k, padding=k // 2, bias=False, device=bank.device, dtype=bank.dtype)
    conv.weight = nn.Parameter(bank.detach().clone())
    conv.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return conv
