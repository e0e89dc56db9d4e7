"""SRFormer's encoder, from spandrel-extra-arches.

Licence: SRFormer (HVision-NKU/SRFormer) is CC BY-NC 4.0, non-commercial use only, and so is what runs here. That is
why the package is an optional extra, ``pip install "igconv[srformer]"``, and why nothing of it is copied.
Paper: Zhou et al. 2023, arXiv 2303.09735.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from igconv.errors import InputError
from igconv.models.encoders.attention import WindowEncoder, attend, position_bias, region_mask, shift_regions
from igconv.models.encoders.edsr import DIV2K_MEAN

try:
    from spandrel_extra_arches.architectures.SRFormer import SRFormer as SpandrelSRFormer
except ImportError:
    raise InputError(
        'SRFormer needs the extra "srformer": pip install "igconv[srformer]" '
        "(its code is CC BY-NC 4.0: non-commercial use only)"
    ) from None

_srformer = sys.modules[SpandrelSRFormer.__module__]


class PermutedWindows(_srformer.PSA):
    """Self-attention in windows whose keys and values are 2x2 blocks of pixels with a quarter of the channels each."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = None if mask is None or not len(mask) else mask
        if torch.is_grad_enabled() or self.training:
            return super().forward(x, mask)
        rows, columns = self.permuted_window_size
        # (block row, row, block column, column, key or value, channels / 4): the four pixels of a block side by side
        kv = self.kv(x).view(len(x), rows, 2, columns, 2, 2, -1).permute(5, 0, 1, 3, 2, 4, 6).flatten(4)
        k, v = kv.flatten(2, 3).unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        bias = position_bias(self.relative_position_bias_table, self.aligned_relative_position_index)
        return self.proj(attend(q, k, v, self.scale, bias, mask))


class PermutedBlock(_srformer.PSA_Block):
    """A block that makes its mask for other image sizes where the weights are, and none (empty) without a shift."""

    def calculate_mask(self, x_size: tuple[int, int]) -> Tensor:
        device = self.norm1.weight.device
        if not self.shift_size:
            return torch.empty(0, device=device)
        pixels = shift_regions(x_size, self.window_size, self.shift_size, device)
        # Of blocks that a shift by an odd number cuts, the authors count the half as shifted.
        half = (x_size[0] // 2, x_size[1] // 2)
        blocks = shift_regions(half, self.permuted_window_size, -(-self.shift_size // 2), device)
        return region_mask(pixels, blocks)


class SRFormer(WindowEncoder, SpandrelSRFormer):
    """SRFormer: large windows with permuted self-attention. (B, 3, H, W) -> (B, channels, H, W).

    Args: as `igconv.models.encoders.zoo.SwinIR`; ``window`` must be even and ``channels`` a multiple of 4.
    """

    exchanged = {_srformer.PSA: PermutedWindows, _srformer.PSA_Block: PermutedBlock}  # noqa: RUF012

    def __init__(
        self,
        channels=180,
        depths: Sequence[int] = (6,) * 6,
        heads: Sequence[int] = (6,) * 6,
        window=22,
        mlp_ratio=2.0,
        connection="1conv",
        drop_path=0.1,
        drop=0.0,
        attention_drop=0.0,
        img_size=64,
        qkv_bias=True,
        qk_scale=None,
        patch_norm=True,
        ape=False,
        img_range=1.0,
        mean=DIV2K_MEAN,
    ):
        if window % 2 or channels % 4:
            raise InputError(f"SRFormer needs an even window and channels in fours, got {window} and {channels}")
        self._setup(
            mean=mean,
            img_range=img_range,
            embed_dim=channels,
            depths=depths,
            num_heads=heads,
            window_size=window,
            mlp_ratio=mlp_ratio,
            resi_connection=connection,
            drop_path_rate=drop_path,
            drop_rate=drop,
            attn_drop_rate=attention_drop,
            img_size=img_size,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            patch_norm=patch_norm,
            ape=ape,
        )
