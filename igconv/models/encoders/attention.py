"""What the window-attention encoders share: position bias, masks of shifted windows, fused attention, their frame.

Attention is fused only where no gradient is recorded. In training the authors' steps are kept: the position bias has
a gradient, and PyTorch's fused kernels for the CPU give none for it; the general path they fall back to is slower
than the authors' steps (DECISIONS.md).
"""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, choose


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Relative position bias (heads, queries, keys) of a table (positions, heads) and its index (queries, keys)."""
    return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)


def shift_regions(size: Sequence[int], window: int, shift: int, device=None) -> Tensor:
    """Region numbers (windows, window^2) of an image of ``size`` rolled by ``shift``.

    Windows at the far border of a rolled image hold pixels that were never neighbours. Only pixels with the same
    number may attend to each other.
    """
    rows, columns = (
        (torch.arange(side, device=device) >= side - window).int() + (torch.arange(side, device=device) >= side - shift)
        for side in size
    )
    regions = rows[:, None] * 3 + columns
    return regions.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).reshape(-1, window**2)


def region_mask(queries: Tensor, keys: Tensor) -> Tensor:
    """(windows, n), (windows, m) region numbers -> (windows, n, m): 0 in the same region, -100 across."""
    return (queries[:, :, None] != keys[:, None, :]) * -100.0


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(scale q k' + bias + mask) v by PyTorch's fused attention.

    Args:
        q, k, v: (images x windows, heads, n or m, d), windows fastest.
        bias: (heads, n, m). mask: (windows, n, m), or None.

    Returns: (images x windows, n, heads x d).
    """
    if mask is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype), scale=scale)
    else:
        # Fused kernels take one bias per head and image: windows become heads, images stay the batch.
        windows = len(mask)
        bias = (bias + mask[:, None]).flatten(0, 1)[None].to(q.dtype)
        q, k, v = (t.reshape(-1, windows * t.shape[1], *t.shape[2:]) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        out = out.unflatten(1, (windows, -1)).flatten(0, 1)
    return out.transpose(1, 2).flatten(2)


# Buffers that follow from the options. Published weights hold them, ours do not.
CONSTANTS = (
    "attn_mask",
    "relative_position_index",
    "aligned_relative_position_index",
    "relative_position_index_SA",
    "relative_position_index_OCA",
)


class WindowEncoder(nn.Module):
    """What SwinIR, HAT, ATD and SRFormer have in common; to be named before spandrel's class, as the first base.

    (B, 3, H, W) -> (B, channels, H, W): conv, groups of transformer blocks, conv, long skip. H and W must be
    multiples of the window; `SuperResolver` pads.
    """

    pad_mode = "reflect"
    connections = ("1conv", "3conv")
    exchanged: dict[type, type]  # classes of modules -> subclasses with other methods
    # What spandrel's classes have.
    conv_first: nn.Module
    layers: nn.ModuleList
    conv_after_body: nn.Module
    forward_features: Callable[..., Tensor]

    def _setup(
        self,
        *,
        mean: Sequence[float],
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        resi_connection: str,
        **options,
    ) -> None:
        """Build spandrel's network, with its own names of the options, and make an encoder of it."""
        if len(depths) != len(num_heads) or any(embed_dim % heads for heads in num_heads):
            raise InputError(
                "each group needs a depth and a number of heads that divides its channels, got depths "
                f"{tuple(depths)}, heads {tuple(num_heads)}, channels {embed_dim}"
            )
        choose(resi_connection, self.connections, "connection")
        with warnings.catch_warnings(action="ignore"):  # spandrel's, about torch.meshgrid
            super().__init__(
                embed_dim=embed_dim,
                depths=depths,
                num_heads=num_heads,
                window_size=window_size,
                resi_connection=resi_connection,
                upsampler="",
                **options,
            )
        if hasattr(self, "conv_last"):
            del self.conv_last  # the head that most of them add when none is asked for
        self.out_channels, self.pad_to, self.mean = embed_dim, window_size, tuple(mean)
        for module in self.modules():
            module.__class__ = self.exchanged.get(type(module), type(module))
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name in CONSTANTS:
                    delattr(module, name)
                    module.register_buffer(name, buffer, persistent=False)

    def _body(self, x: Tensor) -> Tensor:
        return self.forward_features(x)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.pad_to or x.shape[-1] % self.pad_to:
            raise InputError(f"image sides must be multiples of the window, {self.pad_to} px, got {tuple(x.shape)}")
        x = self.conv_first(x)
        return self.conv_after_body(self._body(x)) + x

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth, first to last; those of groups are tokens (B, H W, channels)."""
        groups = {f"group {i + 1}": group for i, group in enumerate(self.layers)}
        return {"first conv": self.conv_first, **groups, "last conv": self.conv_after_body}
