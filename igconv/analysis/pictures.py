"""Crops of results to look at: what several upscalers make of the same image, beside each other."""

from collections.abc import Mapping

from torch import Tensor

from igconv.data import images, resize
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
