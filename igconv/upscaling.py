"""Upscale an image in one call, with the model that comes with the package or one of yours."""

import copy
import glob
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from igconv import files
from igconv.data import memory, picture_files
from igconv.data.images import OF_PEOPLE, Picture, check_finite, picture_of, read_picture, to_pillow
from igconv.data.sizes import Size, to_size
from igconv.errors import InputError, positive_integer
from igconv.models import checkpoints, inference
from igconv.models.arithmetic import chosen_device
from igconv.models.description import describe, limited_to
from igconv.models.super_resolver import SuperResolver

if TYPE_CHECKING:
    from PIL import Image

# In half precision; where they come from and their licence are in the file (README beside it).
DEFAULT_WEIGHTS = Path(__file__).parent / "pretrained" / "multi_scale.safetensors"

ROWS = 256  # of a result, turned into integers at once
BYTES_AT_ONCE = 4100  # of features per LR pixel that is in work: the default model at x2, measured


Weights = str | Path | SuperResolver | None


@overload
def upscale(
    image: Tensor, scale: int, weights: Weights = None, *, device: Any = "cpu", self_ensemble: bool = False,
    tile: int | None = None, halo: int | None = None,
) -> Tensor: ...  # fmt: skip


@overload
def upscale(
    image: "Image.Image", scale: int, weights: Weights = None, *, device: Any = "cpu", self_ensemble: bool = False,
    tile: int | None = None, halo: int | None = None,
) -> "Image.Image": ...  # fmt: skip


@overload
def upscale(
    image: str | Path | np.ndarray, scale: int, weights: Weights = None, *, device: Any = "cpu",
    self_ensemble: bool = False, tile: int | None = None, halo: int | None = None,
) -> np.ndarray: ...  # fmt: skip


def upscale(
    image: Any,
    scale: int,
    weights: Weights = None,
    *,
    device: Any = "cpu",
    self_ensemble: bool = False,
    tile: int | None = None,
    halo: int | None = None,
) -> Any:
    """Upscale an image by an integer factor, with its transparency and in its depth; the same kind comes back.

    Nothing of the caller's is changed, neither an image, nor a model, nor the process.

    >>> large = igconv.upscale("photo.png", 3)
    >>> PIL.Image.fromarray(large).save("large.png")

    On a CPU large images are about three times as fast in a program that calls
    `igconv.models.inference.keep_freed_memory` first, as the command line does.

    Args:
        image: path of an image (docs/images.md says which), a Pillow image, pixels as an array (H, W) or (H, W, C)
            of uint8 or uint16, or of floats in [0, 1], which take 16 bits on the way, with C = 1 grey, 2 grey and
            alpha, 3 RGB, 4 RGB and alpha; or a tensor (3, H, W) or (N, 3, H, W) of RGB images of floats in [0, 1].
        scale: the factor, an integer >= 1. The default model has 2 to 8.
        weights: a ``model.safetensors`` of a run, or a model; None takes the weights that come with the package.
        device: "cpu", "cuda" or "mps", for the work.
        self_ensemble: mean over the eight flips and rotations of the input: slower, and a little better.
        tile: side of tiles in input pixels; 0 works on the whole image, None on tiles where the image is large.
        halo: input pixels that a tile sees of its surroundings. Needed with ``tile`` for encoders that see the whole
            image, as the default model's does.

    Returns:
        For an array the same with sides ``scale`` times as long, in its depth and with its channels; for a path such an
        array (scale H, scale W, C). For a Pillow image one with its profile, upright. Palettes and CMYK become RGB.
        For a tensor one of its type, on its device, clamped to [0, 1] and without gradients.

    Raises:
        InputError: not such an image, scale, weights, halo or device; too little memory; a result that is not finite.
    """
    scale, device = positive_integer(scale, "scale"), chosen_device(device)
    check_scale(weights, scale)
    if isinstance(image, Tensor):
        _check_tensor(image)
        return _upscale_tensor(upscaler(weights, device, self_ensemble, tile, halo), image, scale, device, tile)
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        values = np.ascontiguousarray(image, np.float64)  # of any byte order and direction
        _check_range(torch.as_tensor(values), "the array")
        deep = np.round(values * 65535).astype(np.uint16)
        large = upscale(deep, scale, weights, device=device, self_ensemble=self_ensemble, tile=tile, halo=halo)
        return (large / 65535).astype(image.dtype)
    picture = read_picture(image, tiles=tile != 0) if isinstance(image, str | Path) else picture_of(image)
    large, _ = upscale_picture(upscaler(weights, device, self_ensemble, tile, halo), picture, scale, device, tile)
    if hasattr(image, "getexif"):  # Pillow's
        return to_pillow(large)
    flat = large.pixels.shape[2] == 1 and getattr(image, "ndim", 2) == 2
    return large.pixels[..., 0] if flat else large.pixels


def _check_tensor(images: Tensor) -> None:
    """Raises InputError for what is no RGB image or batch of them in [0, 1]."""
    shape = tuple(images.shape)
    if not images.is_floating_point() or len(shape) not in (3, 4) or shape[-3] != 3 or 0 in shape:
        raise InputError(
            f"expected a tensor (3, H, W) or (N, 3, H, W) of floats from 0 to 1, got {shape} of {images.dtype}; "
            "pixels of uint8 and uint16 are given as arrays (H, W, C)"
        )
    _check_range(images, "the tensor")


def _check_range(images: Tensor, what: str) -> None:
    """Raises InputError for values that are not finite or not in [0, 1]."""
    check_finite(images, what)
    low, high = (value.item() for value in images.detach().aminmax()) if images.numel() else (0, 0)
    if low < 0 or high > 1:
        raise InputError(f"{what} must hold floats from 0 to 1, got values from {low:.4g} to {high:.4g}")


def _upscale_tensor(model, images: Tensor, scale: int, device, tile: int | None) -> Tensor:
    """(3, H, W) or (N, 3, H, W) in [0, 1], one image after the other through the model."""
    batch = images.detach() if images.ndim == 4 else images.detach()[None]
    height, width = batch.shape[2:]
    floats = np.broadcast_to(np.float32(0), (len(batch) * height, width, 3))  # what a result takes, and no memory
    _check_memory(Picture(floats), scale, device, tile)
    large = batch.new_empty(len(batch), 3, scale * height, scale * width)
    for one, result in zip(batch, large, strict=True):
        result.copy_(inference.upscale(model, one.float(), scale, device)[0].clamp_(0, 1))
    return large if images.ndim == 4 else large[0]


def upscaler(
    weights: Weights = None,
    device="cpu",
    self_ensemble: bool = False,
    tile: int | None = None,
    halo: int | None = None,
) -> Callable[[Tensor, int], Tensor]:
    """(lr, scale) -> sr on float RGB batches, as `upscale` describes it."""
    if weights is None and torch.device(device).type == "cpu":
        model = default_model()
    elif weights is None or isinstance(weights, SuperResolver):
        model = copy.deepcopy(weights or default_model())  # mode, device and memory layout of theirs stay
    else:
        model = checkpoints.load(weights)
    model = inference.prepare(model, device)
    if tile != 0:
        model = inference.tiled_by_size(model, halo) if tile is None else inference.tiled(model, tile, halo)
    return inference.self_ensemble(model) if self_ensemble else model


def check_scale(weights: Weights, scale: int) -> None:
    """Raises InputError that names the scales of a model that has fixed ones (`limited_to`), if this is none of them.

    Read from the head of a file, before images and weights are.
    """
    limit = scales_of(weights)
    if limit is not None and scale not in limit:
        wanted = " ".join(map(str, sorted({*limit, scale})))
        advice = f"; `igconv convert --scales {wanted}` makes one for more" if 2 <= scale <= 32 else ""
        raise InputError(f"this model was made for scale {', '.join(map(str, limit))}, not {scale}{advice}")


def scales_of(weights: Weights) -> tuple[int, ...] | None:
    """The only scales of a file's model or of a model, None where it takes any (`limited_to`). None: the package's."""
    weights = DEFAULT_WEIGHTS if weights is None else weights
    if not isinstance(weights, str | Path | SuperResolver):
        raise InputError(f"weights must be a file or a SuperResolver, got {type(weights).__name__}")
    config = checkpoints.metadata(weights).get("config") if isinstance(weights, str | Path) else None
    return limited_to(getattr(weights, "config", None) or config)


@cache
def default_model() -> SuperResolver:
    """The model that comes with the package, in eval mode; the same one at every call."""
    return checkpoints.load(DEFAULT_WEIGHTS)


def exported_facts(weights: str | Path) -> dict[str, str]:
    """What goes into a file made of another: model, licence, and the sha256 of where it comes from."""
    facts = describe(weights)
    return dict(
        encoder=facts["encoder"],
        upsampler=facts["upsampler"],
        licence=facts["licence"] or "not stated in the file that this was made from",
        made_from=Path(weights).name,
        made_from_sha256=files.sha256(weights),
        written_by="igconv export",
    )


def upscale_picture(
    model: Callable[[Tensor, int], Tensor], picture: Picture, scale: int, device="cpu", tile: int | None = None
) -> tuple[Picture, float]:
    """(picture, seconds): colours through the model; grey as equal colours, whose mean it becomes; alpha like grey.

    Where alpha is equal in the 5x5 pixels around, it stays exactly that: opaque stays opaque. Pixels that cannot be
    seen take the colour of the nearest ones that can before the work, so that no dark rim comes in.

    Args:
        model: (lr, scale) -> sr, as `upscaler` makes it.
        tile: as the model was made with, for the estimate of the memory.
    """
    height, width, channels = picture.pixels.shape
    _check_memory(picture, scale, device, tile)
    large = np.empty((scale * height, scale * width, channels), picture.pixels.dtype)
    alpha = picture.pixels[..., -1] if picture.has_alpha else None
    colours = picture.pixels[..., :-1] if picture.has_alpha else picture.pixels
    seconds = _through(model, colours if alpha is None else _fill(colours, alpha), scale, device, large)
    if alpha is not None:
        seconds += _through_alpha(model, alpha, scale, device, large)
    return Picture(large, picture.profile, picture.kind), seconds


def upscale_file(
    model: Callable[[Tensor, int], Tensor],
    source: Path,
    target: Path,
    wanted: int | Size,
    device,
    tile: int | None,
    quality: int | None = None,
    scales: Sequence[int] | None = None,
) -> dict:
    """From file to file, by a factor or to a size; what the target's format cannot hold is refused before the work.

    Returns: JSON values: source, output, width, height, scale, seconds.
    """
    picture = read_picture(source, tiles=tile != 0)
    quality = quality if picture_files.is_lossy(target) else None
    height, width = picture.pixels.shape[:2]
    if isinstance(wanted, int):
        scale, size = wanted, (wanted * height, wanted * width)
    else:
        scale, size = wanted.of(height, width, scales)
    picture_files.check_format(target, picture, size)
    large, seconds = upscale_picture(model, picture, scale, device, tile)
    if large.pixels.shape[:2] != size:
        large = Picture(to_size(large.pixels, *size), large.profile, large.kind)
    picture_files.write_picture(large, target, quality)
    return dict(source=str(source), output=str(target), width=size[1], height=size[0], scale=scale, seconds=seconds)


def plan(
    inputs: Sequence[Path], output: Path, overwrite: bool = False, quality: int | None = None
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """What to read and where to write it, and lines about what is left out.

    One file goes to the file ``output``, or into it if it is a folder. Several files, and the images of folders, go
    into the folder ``output`` under their own names (.gif, which is not written, as .png).

    Raises InputError for a place that cannot or must not be written, and for two inputs with one output name.
    """
    sources, skipped = [], []
    inputs = [path for given in inputs for path in _matching(given)]
    for given in inputs:
        is_folder = os.path.isdir(given)
        for path in _entries(given) if is_folder else [given]:
            if is_folder and (os.path.isdir(path) or path.suffix.lower() not in (*OF_PEOPLE, ".gif")):
                skipped.append(f"{path}: not an image file")
            else:
                sources.append(path)
    if not sources:
        raise InputError(f"no images in {', '.join(map(str, inputs)) or 'nothing'}")
    if len(inputs) == 1 and sources == list(inputs) and not os.path.isdir(output):
        picture_files.check_name(output, quality)
        picture_files.check_target(output, sources, overwrite)
        picture_files.check_place(output)
        return [(sources[0], output)], []
    picture_files.check_name("any.jpg", quality)
    if os.path.lexists(output) and not os.path.isdir(output):
        raise InputError(f"cannot write {len(sources)} images into {output}: it is not a folder")
    work: dict[str, tuple[Path, Path]] = {}  # by names in small letters: some file systems take A and a for one
    for source in sources:
        name = source.with_suffix(".png").name if source.suffix.lower() == ".gif" else source.name
        other, _ = work.setdefault(name.lower(), (source, output / name))
        if other is not source:
            raise InputError(f"{other} and {source} would both be written to {output / name}")
    picture_files.check_place(output / min(work, key=len))
    for name, (_, target) in list(work.items()):
        try:
            picture_files.check_name(target)
            picture_files.check_target(target, sources, overwrite)
        except InputError as error:
            skipped.append(str(error))
            del work[name]
    return list(work.values()), skipped


def _matching(given: Path) -> list[Path]:
    """The files of a pattern that no shell has expanded (Windows', or quoted); other names as they are."""
    if os.path.lexists(given) or not glob.has_magic(str(given)):
        return [given]
    return [Path(name) for name in sorted(glob.glob(str(given)))] or [given]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None


def _through(model, pixels: np.ndarray, scale: int, device, large: np.ndarray) -> float:
    """Grey or RGB pixels (H, W, 1 or 3) through the model into the first channels of ``large``; seconds."""
    white = np.iinfo(pixels.dtype).max
    lr = torch.from_numpy(pixels.astype(np.float32)).div_(white).permute(2, 0, 1)
    sr, seconds = inference.upscale(model, lr.expand(3, -1, -1), scale, device)
    for row in range(0, sr.shape[1], ROWS):  # in parts: temporary floats of the whole are large
        part = sr[:, row : row + ROWS]
        part = (part if pixels.shape[2] == 3 else part.mean(0, keepdim=True)).clamp(0, 1).mul(white).round()
        large[row : row + ROWS, :, : pixels.shape[2]] = part.permute(1, 2, 0).numpy().astype(large.dtype)
    return seconds


def _through_alpha(model, alpha: np.ndarray, scale: int, device, large: np.ndarray) -> float:
    """Alpha (H, W) through the model into the last channel of ``large``, except where it is constant; seconds."""
    from scipy.ndimage import maximum_filter, minimum_filter

    flat = maximum_filter(alpha, 5, mode="nearest") == minimum_filter(alpha, 5, mode="nearest")
    seconds = 0.0 if flat.all() else _through(model, alpha[..., None], scale, device, large[..., -1:])
    known, same = (array.repeat(scale, 0).repeat(scale, 1) for array in (alpha, flat))
    large[..., -1][same] = known[same]
    return seconds


def _fill(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (H, W, 1 or 3) with those of invisible pixels replaced by the nearest visible ones."""
    from scipy.ndimage import distance_transform_edt

    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colours
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return colours[rows, columns]


def _check_memory(picture: Picture, scale: int, device, tile: int | None) -> None:
    """Raises InputError if the image will not fit; the estimate is of the order of what was measured."""
    height, width, channels = picture.pixels.shape
    at_once = height * width
    if tile or (tile is None and at_once > inference.WHOLE):
        at_once = min(at_once, (tile or inference.TILE_SEEN) ** 2)
    size = height * width * (12 + scale**2 * (12 + channels * picture.pixels.itemsize))
    if torch.device(device).type == "cpu":
        size += at_once * BYTES_AT_ONCE
    advice = "" if tile else "; work in tiles (--tile 256 --halo 32)"
    memory.require(size, f"{width}x{height} pixels at x{scale}", advice)
