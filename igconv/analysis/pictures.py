"""Crops of results to look at: what several upscalers make of the same image, beside each other."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from igconv.data import images, resize
from igconv.evaluation import metrics
from igconv.evaluation.benchmark import benchmark_pair, bicubic
from igconv.models import inference
from igconv.models.inference import Upscaler

Titled = list[tuple[str, Tensor]]  # title and uint8 (3, h, w), as `igconv.reporting.figures.image_grid` takes them


def centre(image: Tensor, side: int) -> Tensor:
    """The central side x side pixels of an image (..., H, W), or all of a side that has fewer."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def side_by_side(
    upscalers: Mapping[str, Upscaler], hr: Tensor, name: str, scale: int, side: int = 96, device="cpu"
) -> Titled:
    """The centre of a uint8 test image (3, H, W) and of what bicubic and every upscaler make of its LR image."""
    lr, hr = benchmark_pair(hr, scale)
    shown = [(f"HR, {name}", centre(hr, side))]
    for title, upscaler in {"bicubic": bicubic, **upscalers}.items():
        sr = inference.upscale(inference.prepare(upscaler, device), lr, scale, device)[0]
        shown.append((title, centre(images.to_bytes(sr), side)))
    return shown


def at_scales(
    upscalers: Mapping[str, Mapping[int, Upscaler]], hr: Tensor, name: str, side: int = 96, device="cpu"
) -> Titled:
    """One crop of a uint8 test image (3, H, W), and of what bicubic and every upscaler make of its LR images.

    A row per scale: HR, bicubic, then the upscalers, each with the PSNR-Y of the crop. The crop is the one that
    `where_they_differ` finds at the largest scale.

    Args:
        upscalers: title -> scale -> what enlarges at it; all have the same scales.
        name: of the image, for the title.
    """
    shown: dict[int, Titled] = {}
    place: tuple[int, int] | None = None
    for scale in sorted(next(iter(upscalers.values())), reverse=True):
        lr, whole = benchmark_pair(hr, scale)
        made = [inference.upscale(inference.prepare(of[scale], device), lr, scale, device)[0] for of in
                ({scale: bicubic}, *upscalers.values())]  # fmt: skip
        made = [images.to_bytes(sr) for sr in made]
        top, left = place = place or where_they_differ(made[1:], side)
        reference, *crops = (image[..., top : top + side, left : left + side] for image in (whole, *made))
        shown[scale] = [(f"{name}, HR", reference)]
        for title, crop in zip(("bicubic", *upscalers), crops, strict=True):
            shown[scale].append((f"{title} ×{scale}: {metrics.psnr_y(crop, reference, 0):.2f} dB", crop))
    return [one for scale in sorted(shown) for one in shown[scale]]


def where_they_differ(results: Sequence[Tensor], side: int) -> tuple[int, int]:
    """(top, left) of the side x side pixels where images (3, H, W) differ most: largest mean variance of the values."""
    variance = torch.stack([image.float() for image in results]).var(0, correction=0).mean(0)
    window = tuple(min(side, length) for length in variance.shape)
    means = functional.avg_pool2d(variance[None].double(), window, stride=1)[0]
    top, left = divmod(int(means.argmax()), means.shape[1])
    return top, left


def enlarged(model: Upscaler, image: Tensor, scales, side: int) -> Titled:
    """The centre of a uint8 image (3, H, W) taken as the LR image, enlarged by bicubic and by a model."""
    small = centre(image, side)
    shown = [("input", small)]
    for scale in scales:
        for title, upscaler in (("bicubic", bicubic), ("model", model)):
            sr = inference.upscale(upscaler, small, scale)[0]
            shown.append((f"{title} ×{scale}", images.to_bytes(sr)))
    return shown


def degradations(hr: Tensor, scale: int = 4, side: int = 128) -> Titled:
    """The centre of a uint8 image, of its LR images by every method, and of their bicubic enlargements."""
    _, hr = benchmark_pair(hr, scale)
    views = [("HR", centre(hr, side))]
    for method in resize.METHODS:
        lr = resize.downsample(hr, scale, method)
        views.append((f"LR ×{scale}, {method}", centre(lr, side // scale)))
        views.append((f"bicubic of it, {method}", centre(resize.imresize(lr, scale), side)))
    return views
