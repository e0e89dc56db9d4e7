"""A model on whole images: arithmetic, memory layout, self-ensemble, tiles.

Every function here takes and returns a callable (lr, scale) -> sr on float RGB batches, so they nest:
``upscale(self_ensemble(tiled(model, 128)), lr, 4)``.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv import progress
from igconv.data.images import check_finite, to_float
from igconv.errors import InputError, positive_integer, reason
from igconv.models import strips
from igconv.models.arithmetic import exact_arithmetic

Upscaler = Callable[[Tensor, int], Tensor]

# LR pixels that tiles overlap beyond the reach of the convolutions when the model has an IGSample: it reads the LR
# image at learned positions, which are a pixel or two away.
SAMPLER_MARGIN = 8
# LR pixels that are worked on at once unless a caller says otherwise, and the tiles of larger images. Tiles of encoders
# with a reach are exact, and so are SMFANet's strips (`igconv.models.strips`). Tiles of other encoders that see the
# whole image differ from it, the less the larger they are.
WHOLE, TILE = 512 * 512, 256
WHOLE_SEEN, TILE_SEEN, HALO_SEEN = 1024 * 1024, 512, 32


def prepare(model: Upscaler, device="cpu") -> Upscaler:
    """The model itself, put into eval mode on a device, channels last; plain functions come back as they are.

    On a CPU channels-last convolutions with an allocator that keeps its memory are about three times as fast on
    large images (`benchmarks/inference.py`); the allocator belongs to whoever owns the process (`keep_freed_memory`).
    """
    return model.eval().to(device).to(memory_format=torch.channels_last) if isinstance(model, nn.Module) else model


def keep_freed_memory() -> None:
    """Have glibc's malloc keep freed blocks for the next tensors, for the rest of the process; no effect elsewhere.

    For programs, not for library calls: it cannot be undone. The command line calls it, and the kernels of the
    notebooks get the same by environment (`igconv.workflow.forkserver.ENVIRONMENT`).
    By default every tensor above 32 MB is mapped, filled with zero pages and unmapped again at each operation.
    `upscale` gives the memory back after each image: blocks of images of many sizes would not fit into each other.
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    mallopt = _libc("mallopt")
    if mallopt:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


@cache
def _libc(name: str):
    """A function of the C library, None where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:
        return None


@torch.no_grad()
def upscale(model: Upscaler, lr: Tensor, scale: int, device="cpu") -> tuple[Tensor, float]:
    """(sr, seconds): an LR image (3, h, w), uint8 or float in [0, 1], -> float32 (3, r h, r w) on the CPU, not clamped.

    Raises InputError where a value of the result is not a number, or where the memory does not suffice.
    """
    x = (lr if lr.is_floating_point() else to_float(lr))[None].to(device, memory_format=torch.channels_last)
    start = time.perf_counter()
    try:
        with exact_arithmetic():
            sr = model(x, scale)[0].float().cpu()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        size = f"{lr.shape[2]}x{lr.shape[1]} pixels at x{scale}"
        raise InputError(
            f"not enough memory for {size} ({reason(error, 80)}); use smaller tiles (--tile 128)"
        ) from None
    seconds = time.perf_counter() - start
    check_finite(sr, f"the result of the model at x{scale}")
    malloc_trim = _libc("malloc_trim")
    if malloc_trim:
        malloc_trim(0)
    return sr, seconds


def self_ensemble(model: Upscaler) -> Upscaler:
    """x8: the mean of the model's results on the eight flips and rotations of the input, each turned back."""

    def averaged(lr: Tensor, scale: int) -> Tensor:
        total: Tensor | float = 0.0
        for turns in range(4):
            for flips in ((), (-1,)):
                sr = model(lr.rot90(turns, (-2, -1)).flip(flips), scale)
                total = total + sr.flip(flips).rot90(-turns, (-2, -1))
        return torch.as_tensor(total) / 8

    return averaged


def reach(model: Upscaler) -> int:
    """LR pixels that one output pixel sees in each direction.

    Raises InputError for an encoder that sees the whole image (attention, pooling): it has no attribute ``reach``.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is None or not hasattr(encoder, "reach"):
        raise InputError(
            f"{type(encoder or model).__name__} may see the whole image, so its tiles cannot equal the whole image's "
            "result; give the halo yourself to accept that"
        )
    return encoder.reach + _head_reach(model)


def _head_reach(model: Upscaler) -> int:
    head = 3  # SPConv and IGConv have one 3x3 convolution, SPConv+ has up to two beside those at higher resolution
    return head + (0 if getattr(model, "sampler", None) is None else SAMPLER_MARGIN)


def tiled(model: Upscaler, tile: int, halo: int | None = None) -> Upscaler:
    """Work on tiles of ``tile`` x ``tile`` LR pixels, each seen with ``halo`` pixels of its surroundings.

    Memory is that of one tile. With ``halo >= reach(model)``, the default, the result is the whole image's.
    """
    positive_integer(tile, "tile")
    margin = reach(model) if halo is None else halo
    if not isinstance(margin, int) or margin < 0:
        raise InputError(f"halo must be an integer >= 0, got {margin!r}")
    return lambda lr, scale: _by_tiles(model, lr, scale, (tile, tile), (margin, margin))


def tiled_by_size(model: Upscaler, halo: int | None = None) -> Upscaler:
    """Images up to `WHOLE` pixels at once, larger ones in tiles of `TILE`: memory that does not grow with the image.

    With the halo `reach(model)` the result is the whole image's, and so is SMFANet's unless a halo asks for tiles: it
    is worked on in strips, and its features are kept. Other encoders that see the whole image have larger limits
    (`WHOLE_SEEN`, `TILE_SEEN`, `HALO_SEEN`), and their tiles differ from it by several grey levels in places.
    """
    if hasattr(getattr(model, "encoder", None), "reach"):
        whole, in_tiles = WHOLE, tiled(model, TILE, halo)
    elif halo is None and strips.fits(model):
        whole, in_tiles = WHOLE, strips.in_strips(model, _head_reach(model))
    else:
        whole, in_tiles = WHOLE_SEEN, tiled(model, TILE_SEEN, HALO_SEEN if halo is None else halo)
    return lambda lr, scale: (model if lr.shape[-2] * lr.shape[-1] <= whole else in_tiles)(lr, scale)


def authors_tiles(model: Upscaler) -> Upscaler:
    """The authors' test of MambaIR and HiT-SRF (their ``MambaMSModel``): side // 200 + 1 tiles per axis.

    The image is padded by reflection to a multiple of the number of tiles; tiles overlap by a tenth of their side.
    An image with both sides under 200 pixels is one tile.
    """

    def on_tiles(lr: Tensor, scale: int) -> Tensor:
        sides = lr.shape[-2:]
        pieces = [side // 200 + 1 for side in sides]
        bottom, right = (-side % n for side, n in zip(sides, pieces, strict=True))
        x = F.pad(lr, (0, right, 0, bottom), mode="reflect") if bottom or right else lr
        tile = tuple(side // n for side, n in zip(x.shape[-2:], pieces, strict=True))
        sr = _by_tiles(model, x, scale, tile, tuple(side // 10 for side in tile))
        return sr[..., : sides[0] * scale, : sides[1] * scale]

    return on_tiles


def _by_tiles(model: Upscaler, lr: Tensor, scale: int, tile: Sequence[int], halo: Sequence[int]) -> Tensor:
    height, width = lr.shape[-2:]
    sr = lr.new_empty(*lr.shape[:-2], height * scale, width * scale)
    corners = [(top, left) for top in range(0, height, tile[0]) for left in range(0, width, tile[1])]
    for top, left in progress.parts(corners, "tile"):
        bottom, right = min(top + tile[0], height), min(left + tile[1], width)
        y, x = max(0, top - halo[0]), max(0, left - halo[1])
        part = model(lr[..., y : bottom + halo[0], x : right + halo[1]], scale)
        rows = slice((top - y) * scale, (bottom - y) * scale)
        columns = slice((left - x) * scale, (right - x) * scale)
        sr[..., top * scale : bottom * scale, left * scale : right * scale] = part[..., rows, columns]
    return sr
