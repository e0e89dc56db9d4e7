"""SwinIR, HAT, ATD, RCAN and PLKSR: spandrel's networks without their heads, as encoders.

spandrel keeps the parameter names of the published weights, and so do these classes. What is changed: the layers of
the reconstruction are deleted, the mean is left to `SuperResolver`, padding is stated instead of done, constant
tables and masks are not part of the state dict, and attention is fused where no gradient is recorded.
Importing this module imports spandrel, which takes seconds; `igconv.models.encoders.ENCODERS` does it on use.

Papers: SwinIR (Liang et al. 2021), HAT (Chen et al. 2023), ATD (Zhang et al. 2024), RCAN (Zhang et al. 2018), PLKSR
(Lee et al. 2024). Licences: spandrel is MIT and holds only networks under permissive licences.
"""

import sys
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from spandrel.architectures.ATD import ATD as SpandrelATD
from spandrel.architectures.HAT import HAT as SpandrelHAT
from spandrel.architectures.PLKSR import PLKSR as SpandrelPLKSR
from spandrel.architectures.RCAN import RCAN as SpandrelRCAN
from spandrel.architectures.SwinIR import SwinIR as SpandrelSwinIR
from torch import Tensor, nn

from igconv.errors import choose
from igconv.models.encoders.attention import WindowEncoder, attend, position_bias, region_mask, shift_regions
from igconv.models.encoders.edsr import DIV2K_MEAN

Mixer = Literal["CCM", "ICCM", "DCCM"]
LargeKernel = Literal["PLK", "SparsePLK", "RectSparsePLK"]

_swinir, _hat = sys.modules[SpandrelSwinIR.__module__], sys.modules[SpandrelHAT.__module__]


class SwinWindows(_swinir.WindowAttention):
    """Self-attention in windows, (images x windows, n, C)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = None if mask is None or not len(mask) else mask
        if torch.is_grad_enabled() or self.training:
            return super().forward(x, mask)
        return _fused(self, self.qkv(x), self.relative_position_index, mask)


class HATWindows(_hat.WindowAttention):
    """The same with the index given."""

    def forward(self, x: Tensor, rpi: Tensor, mask: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() or self.training:
            return super().forward(x, rpi, mask)
        return _fused(self, self.qkv(x), rpi, mask)


def _fused(attention: SwinWindows | HATWindows, qkv: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = qkv.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    bias = position_bias(attention.relative_position_bias_table, index)
    return attention.proj(attend(q, k, v, attention.scale, bias, mask))


class SwinBlock(_swinir.SwinTransformerBlock):
    """A block that makes its mask for other image sizes where the weights are, and none (empty) without a shift."""

    def calculate_mask(self, x_size: tuple[int, int]) -> Tensor:
        device = self.norm1.weight.device
        if not self.shift_size:
            return torch.empty(0, device=device)
        regions = shift_regions(x_size, self.window_size, self.shift_size, device)
        return region_mask(regions, regions)


class SwinIR(WindowEncoder, SpandrelSwinIR):
    """SwinIR: windows of ``window`` px, every second block shifted by half a window.

    Args:
        channels: C, also the width of the tokens.
        depths: blocks of each group.
        heads: attention heads of each group; each number divides ``channels``.
        window: side of the windows in px.
        mlp_ratio: hidden width of the MLPs relative to ``channels``.
        connection: "1conv" or "3conv" (a bottleneck), the end of each group and of the body.
        drop_path: stochastic depth of the last block in training, growing from 0 at the first.
        drop, attention_drop: dropout rates of features and of attention weights.
        img_size: side in px for which masks are stored; a window that is not smaller is not shifted.
        qkv_bias: biases of queries, keys and values.
        qk_scale: factor on queries; None is the head width to the power of -1/2.
        patch_norm: layer normalisation of the tokens before the first group.
        ape: adds a learned position, which ties the encoder to images of ``img_size``.
        img_range, mean: as in `EDSR`.
    """

    exchanged = {_swinir.WindowAttention: SwinWindows, _swinir.SwinTransformerBlock: SwinBlock}  # noqa: RUF012

    def __init__(
        self,
        channels=180,
        depths: Sequence[int] = (6,) * 6,
        heads: Sequence[int] = (6,) * 6,
        window=8,
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


class HAT(WindowEncoder, SpandrelHAT):
    """HAT: SwinIR's windows with channel attention beside them, and an overlapping cross-attention per group.

    Args: as `SwinIR`, without "3conv" ("identity" leaves the convolution out), and

        compress: what the channels of the convolution branch are divided by.
        squeeze: what those of its channel attention are divided by.
        conv_scale: factor on the convolution branch.
        overlap: by how much of its side a cross-attention window is extended.
    """

    connections = ("1conv", "identity")
    exchanged = {_hat.WindowAttention: HATWindows}  # noqa: RUF012

    def __init__(
        self,
        channels=180,
        depths: Sequence[int] = (6,) * 6,
        heads: Sequence[int] = (6,) * 6,
        window=16,
        compress=3,
        squeeze=30,
        conv_scale=0.01,
        overlap=0.5,
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
            compress_ratio=compress,
            squeeze_factor=squeeze,
            conv_scale=conv_scale,
            overlap_ratio=overlap,
        )


class ATD(WindowEncoder, SpandrelATD):
    """ATD: windows, a dictionary of tokens learned per group, and attention within categories of similar pixels.

    Args: as `SwinIR` without dropout, and

        category_size: pixels that attend to each other within a category.
        tokens: size of the dictionary.
        token_channels: width of queries and keys towards the dictionary.
        ffn_kernel_size: of the feed-forward's depth-wise convolution.
    """

    pad_mode = "symmetric"
    exchanged = {}  # noqa: RUF012 (no fused attention: pixels change category at differences of 1e-6)

    def __init__(
        self,
        channels=210,
        depths: Sequence[int] = (6,) * 6,
        heads: Sequence[int] = (6,) * 6,
        window=16,
        category_size=256,
        tokens=128,
        token_channels=20,
        ffn_kernel_size=5,
        mlp_ratio=2.0,
        connection="1conv",
        img_size=64,
        qkv_bias=True,
        patch_norm=True,
        ape=False,
        img_range=1.0,
        mean=DIV2K_MEAN,
    ):
        self._setup(
            mean=mean,
            img_range=img_range,
            embed_dim=channels,
            depths=depths,
            num_heads=heads,
            window_size=window,
            category_size=category_size,
            num_tokens=tokens,
            reducted_dim=token_channels,
            convffn_kernel_size=ffn_kernel_size,
            mlp_ratio=mlp_ratio,
            resi_connection=connection,
            img_size=img_size,
            qkv_bias=qkv_bias,
            patch_norm=patch_norm,
            ape=ape,
        )

    def _body(self, x: Tensor) -> Tensor:
        regions = shift_regions(x.shape[-2:], self.window_size, self.window_size // 2, x.device)
        index = self.relative_position_index_SA
        return self.forward_features(x, {"attn_mask": region_mask(regions, regions), "rpi_sa": index})


class RCAN(SpandrelRCAN):
    """RCAN: residual groups of convolutions with channel attention, (B, 3, H, W) -> (B, channels, H, W), any size.

    Args:
        channels: C.
        groups: number of residual groups.
        blocks: of each group.
        reduction: what the channels are divided by inside the channel attention.
        img_range, mean: as in `EDSR`, but the two normalisations are 1x1 convolutions and trained.
    """

    trained_mean = True

    def __init__(self, channels=64, groups=10, blocks=20, reduction=16, img_range=1.0, mean=DIV2K_MEAN):
        super().__init__(n_feats=channels, n_resgroups=groups, n_resblocks=blocks, reduction=reduction, norm=False)
        del self.tail
        self.out_channels, self.img_range, self.mean = channels, img_range, tuple(mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.body(x) + x

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth of the encoder, first to last (for the analyses)."""
        groups = {f"group {i + 1}": group for i, group in enumerate(self.body[:-1])}
        return {"first conv": self.head, **groups, "last conv": self.body[-1]}


class PLKSR(SpandrelPLKSR):
    """PLKSR: blocks with one large kernel on part of the channels, (B, 3, H, W) -> (B, channels, H, W), any size.

    Args:
        channels: C.
        blocks: their number.
        mixer: "CCM", "ICCM" or "DCCM", the channel mixer with 3x3 convolutions first, last or both.
        large_kernel_size: side of the large kernel.
        split_ratio: share of the channels that it works on.
        kind: "PLK" (one kernel), "SparsePLK" (several dilated ones), "RectSparsePLK" (stripes).
        use_max_kernel: the large kernel beside those of "SparsePLK".
        sparse_kernels, sparse_dilations: sides and dilations of the kernels of "SparsePLK".
        with_identity: add the input of the large kernel to its output.
        attention: element-wise attention at the end of a block.
    """

    def __init__(
        self,
        channels=64,
        blocks=28,
        mixer: Mixer = "DCCM",
        large_kernel_size=17,
        split_ratio=0.25,
        kind: LargeKernel = "PLK",
        use_max_kernel=False,
        sparse_kernels: Sequence[int] = (5, 5, 5, 5),
        sparse_dilations: Sequence[int] = (1, 2, 3, 4),
        with_identity=False,
        attention=True,
    ):
        choose(mixer, get_args(Mixer), "mixer")
        choose(kind, get_args(LargeKernel), "kind")
        super().__init__(
            dim=channels,
            n_blocks=blocks,
            upscaling_factor=1,
            ccm_type=mixer,
            kernel_size=large_kernel_size,
            split_ratio=split_ratio,
            lk_type=kind,
            use_max_kernel=use_max_kernel,
            sparse_kernels=sparse_kernels,
            sparse_dilations=sparse_dilations,
            with_idt=with_identity,
            use_ea=attention,
        )
        self.feats = self.feats[:-1]
        del self.to_img, self.repeat_op
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.feats(x)

    def stages(self) -> dict[str, nn.Module]:
        """Modules whose outputs stand for the depth of the encoder, first to last (for the analyses)."""
        return {"first conv": self.feats[0], **{f"block {i}": self.feats[i] for i in range(1, len(self.feats))}}
