"""SMFANet on large images: the whole image's result, strip by strip.

Each of its blocks reads two things of the whole image, the variance of the context and its maxima over a grid of cells.
Tiles of their own have others, so a tile's result is off by several grey levels in places, with seams. Here all strips
pass a block before any passes the next: what is kept of the whole image are the features before one block.
"""

from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from igconv import progress
from igconv.data import memory
from igconv.models.encoders.smfanet import POOLING, SMFA, FeatureMixing, SMFANet, deviations
from igconv.models.super_resolver import SuperResolver

PIXELS, LEAST_ROWS = 1 << 16, 16  # LR pixels of a strip, and its rows where the image is wider than that
COPIES = 8  # of a strip's features, while a block works on it
BLOCK_HALO = 2  # rows that one block's 3x3 convolutions see beyond a strip: one in SMFA, one in PCFN


def fits(model) -> TypeGuard[SuperResolver]:
    """Whether `in_strips` takes a model."""
    return isinstance(model, SuperResolver) and type(model.encoder) is SMFANet


def in_strips(model: SuperResolver, head_halo: int, pixels: int = PIXELS) -> Callable[[Tensor, int], Tensor]:
    """(lr, scale) -> sr on float RGB batches (B, 3, H, W), equal to ``model(lr, scale)`` up to rounding.

    Beside the result, memory is that of the features, 4 bytes x channels for each LR pixel, and of one strip.

    Args:
        model: one that `fits`, in eval mode.
        head_halo: LR rows that the upsampler and the sampler see beyond a strip.
        pixels: LR pixels of a strip.

    Raises InputError, before the work, where features, result and a strip do not fit into a CPU's memory together.
    """

    @torch.no_grad()
    def run(lr: Tensor, scale: int) -> Tensor:
        batch, _, height, width = lr.shape
        rows = max(LEAST_ROWS, pixels // width)
        channels = model.encoder.out_channels
        if lr.device.type == "cpu":
            # With all that is there at the same time: the result as floats and as an image, and a strip at work.
            results = 2 * 3 * scale**2 * height * width
            size = 4 * batch * (channels * (height + COPIES * min(rows, height)) * width + results)
            advice = "; tiles that do not keep features (--tile 512 --halo 32) give nearly the same"
            memory.require(size, f"{width}x{height} pixels at x{scale} with the features of all", advice)
        x = lr.new_empty(batch, channels, height, width).contiguous(memory_format=torch.channels_last)
        for top, bottom in _strips(height, rows):
            x[..., top:bottom, :] = _first(model, lr, top, bottom)
        for block in progress.parts(list(model.encoder.feats), "block"):
            _pass_block(block, x, rows)
        sr = lr.new_empty(batch, 3, height * scale, width * scale)
        for top, bottom in progress.parts(list(_strips(height, rows)), "strip"):
            start, stop = max(0, top - head_halo), min(height, bottom + head_halo)
            features = x[..., start:stop, :] + _first(model, lr, start, stop)
            part = model.image(lr[..., start:stop, :], features, scale)
            sr[..., top * scale : bottom * scale, :] = part[..., (top - start) * scale : (bottom - start) * scale, :]
        return sr

    return run


def _strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _first(model: SuperResolver, lr: Tensor, top: int, bottom: int) -> Tensor:
    """Rows of the encoder's first convolution."""
    start = max(0, top - 1)
    return model.encoder.to_feat(model.pre(lr[..., start : bottom + 1, :]))[..., top - start : bottom - start, :]


def _pass_block(block: FeatureMixing, x: Tensor, rows: int) -> None:
    """Replace features (B, C, H, W) by those after a block."""
    height, width = x.shape[-2:]
    gate = _gate(block.smfa, x, rows)
    cells = gate.permute(0, 2, 3, 1).flatten(1, 2)
    row_of, column_of = (
        _nearest(n, side).to(x.device) for n, side in zip(gate.shape[-2:], (height, width), strict=True)
    )
    above = x[..., :0, :]  # the last rows of the strip before, as they were
    for top, bottom in _strips(height, rows):
        part = torch.cat([above, x[..., top : bottom + BLOCK_HALO, :]], dim=-2)
        start = top - above.shape[-2]
        above = x[..., max(0, bottom - BLOCK_HALO) : bottom, :].clone()
        detail, context = block.smfa.linear_0(F.normalize(part)).chunk(2, dim=1)
        cell_of = row_of[start : start + part.shape[-2], None] * gate.shape[-1] + column_of
        # Whole pixels of channels are copied, in the memory format of the features.
        spread = cells.index_select(1, cell_of.flatten()).unflatten(1, cell_of.shape).permute(0, 3, 1, 2)
        context = context * spread
        part = part + block.smfa.linear_2(context + block.smfa.lde(detail))
        part = part + block.pcfn(F.normalize(part))
        x[..., top:bottom, :] = part[..., top - start : bottom - start, :]


def _gate(smfa: SMFA, x: Tensor, rows: int) -> Tensor:
    """(B, C, max(1, H // 8), max(1, W // 8)): what scales the context, from variance and maxima of the whole image."""
    height, width = x.shape[-2:]
    cells = max(1, height // POOLING), max(1, width // POOLING)
    parts, maxima = [], []
    # Of the two that the block has, the context alone.
    weight, bias = (smfa.linear_0.get_parameter(name).chunk(2)[1] for name in ("weight", "bias"))
    for top, bottom in _strips(height, rows):
        context = F.conv2d(F.normalize(x[..., top:bottom, :]), weight, bias)
        moments = deviations(context)
        parts.append([width * (bottom - top), *(value.cpu().double() for value in moments)])  # MPS has no float64
        maxima.append(F.adaptive_max_pool2d(context, (bottom - top, cells[1])))  # maxima of maxima: columns, then rows
    summary = smfa.dw_conv(F.adaptive_max_pool2d(torch.cat(maxima, dim=-2), cells))
    count = height * width
    means, squares = (torch.stack([part[i] for part in parts]) for i in (1, 2))
    pixels = torch.tensor([part[0] for part in parts]).reshape(-1, 1, 1, 1, 1)
    mean = (pixels * means).sum(0) / count
    total = (squares + pixels * (means - mean).square()).sum(0)
    variance = (total / max(1, count - 1)).to(x)
    return F.gelu(smfa.linear_1(summary * smfa.alpha + variance * smfa.belt))


def _nearest(cells: int, side: int) -> Tensor:
    """For each of ``side`` pixels the cell that nearest-neighbour interpolation takes, by PyTorch's own arithmetic."""
    numbers = torch.arange(cells, dtype=torch.float32)[None, None]
    return F.interpolate(numbers, size=side, mode="nearest")[0, 0].long()
