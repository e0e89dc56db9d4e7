"""What a person who explores sees: a window of an image, enlarged by several models, with what can be switched.

A `View` is what the controls say; `panels` computes what is shown for it, on a crop of the image around the window, so
that a look costs the same for every size of image.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.data import resize
from igconv.data.images import to_bytes, to_float
from igconv.errors import choose, positive_integer
from igconv.evaluation.benchmark import bicubic
from igconv.evaluation.metrics import luma, psnr_y, ssim_y
from igconv.models import inference
from igconv.models.arithmetic import exact_arithmetic
from igconv.models.description import limited_to
from igconv.models.hypernetwork import HyperNetwork
from igconv.models.super_resolver import SuperResolver
from igconv.models.upsamplers import IGSample, conv_subpixels

CROP = 128  # LR pixels on a side that models get to see; the window is the middle of them
SHOWN = ("image", "error", "spectrum")


@dataclass(frozen=True)
class View:
    """What to show.

    Args:
        scale: upscaling factor.
        column, row: centre of the window, 0 (left, top) to 1 (right, bottom) of the image.
        side: of the window in LR pixels.
        known: the image is the HR image: it is made small first, and what models make of it is measured. Otherwise the
            image is the LR image.
        show: "image", "error" (|SR - HR|, luma) or "spectrum" (logarithm of the power, luma); the error needs HR.
        igsample: with IGSample's offsets; without them it is bilinear interpolation.
        dihedral: with kernels averaged over flips and rotations, where the model was trained so.
    """

    scale: int = 3
    column: float = 0.5
    row: float = 0.5
    side: int = 32
    known: bool = True
    show: str = "image"
    igsample: bool = True
    dihedral: bool = True


@dataclass(frozen=True)
class Panel:
    """One picture: uint8 (3, h, w), or float (h, w) of an error or a spectrum; PSNR in dB and SSIM, None without HR."""

    title: str
    pixels: Tensor
    psnr_y_db: float | None = None
    ssim_y: float | None = None


@dataclass(frozen=True)
class _Frame:
    """Along one side: the crop in the image's pixels, and the window in the crop, enlarged, in HR pixels."""

    crop: slice
    window: slice


def _frame(length: int, place: float, view: View) -> _Frame:
    scale = positive_integer(view.scale, "scale")
    unit, enlarge = (scale, 1) if view.known else (1, scale)  # of the image's pixels
    crop = min(CROP * unit, length // unit * unit)
    start = min(max(0, round(place * length - crop / 2)), length - crop)
    side = min(view.side * scale, crop * enlarge)
    first = min(max(0, round((place * length - start) * enlarge - side / 2)), crop * enlarge - side)
    return _Frame(slice(start, start + crop), slice(first, first + side))


def _frames(image: Tensor, view: View) -> tuple[_Frame, _Frame]:
    return _frame(image.shape[-2], view.row, view), _frame(image.shape[-1], view.column, view)


def cropped(image: Tensor, view: View) -> tuple[Tensor, Tensor | None]:
    """(LR, HR or None) of the crop around the window, uint8 (3, H, W); HR has ``view.scale`` times LR's sides."""
    rows, columns = _frames(image, view)
    crop = image[:, rows.crop, columns.crop]
    return (resize.downsample(crop, view.scale), crop) if view.known else (crop, None)


def _window(pixels: Tensor, image: Tensor, view: View) -> Tensor:
    """The window's pixels out of an enlarged crop (..., H, W) of an image."""
    rows, columns = _frames(image, view)
    return pixels[..., rows.window, columns.window]


def panels(models: Mapping[str, SuperResolver], image: Tensor, view: View) -> list[Panel]:
    """LR, bicubic, every model and, where it is known, HR: the window of ``view`` in a uint8 image (3, H, W).

    Models that lack the scale are left out. PSNR and SSIM are of the crop the models saw, luma, without a border of
    ``scale`` pixels.
    """
    choose(view.show, SHOWN, "picture")
    lr, hr = cropped(image, view)
    small = F.interpolate(to_float(lr)[None], scale_factor=view.scale, mode="nearest")[0]
    shown = [("LR", small), ("bicubic", inference.upscale(bicubic, lr, view.scale)[0])]
    for name, model in models.items():
        if serves(model, view.scale):
            with switched(model, view.igsample, view.dihedral):
                shown.append((name, inference.upscale(model, lr, view.scale)[0]))
    if hr is not None:
        shown.append(("HR", to_float(hr)))
    found, of_hr = [], None if hr is None else _window(hr, image, view)
    for title, picture in shown:
        pixels = to_bytes(picture)
        measured = hr is not None and title not in ("LR", "HR")
        psnr, ssim = (psnr_y(pixels, hr, view.scale), ssim_y(pixels, hr, view.scale)) if measured else (None, None)
        found.append(Panel(title, _drawn(_window(pixels, image, view), of_hr, view.show), psnr, ssim))
    return found


def serves(model: SuperResolver, scale: int) -> bool:
    """Whether the model has kernels for the scale."""
    scales = limited_to(model.config)
    return scales is None or scale in scales


def has_igsample(model: SuperResolver) -> bool:
    return isinstance(model.sampler, IGSample)


def has_dihedral(model: SuperResolver) -> bool:
    """Whether the model averages its kernels over flips and rotations."""
    return any(module.dihedral for module in model.modules() if isinstance(module, HyperNetwork))


def _drawn(window: Tensor, of_hr: Tensor | None, show: str) -> Tensor:
    """A window uint8 (3, h, w) as it is, its error beside HR's, or its spectrum, (h, w)."""
    if show == "image" or (show == "error" and of_hr is None):
        return window
    y = torch.from_numpy(luma(window)).double()
    if show == "error":
        assert of_hr is not None
        return (y - torch.from_numpy(luma(of_hr))).abs().float()
    weight = torch.hann_window(y.shape[0], False)[:, None] * torch.hann_window(y.shape[1], False)
    power = torch.fft.fftshift(torch.fft.fft2((y - y.mean()) * weight).abs().square())
    return (power + 1e-3).log10().float()


class _Bilinear(nn.Module):
    """IGSample with zero offsets."""

    def forward(self, lr: Tensor, features: Tensor, scale: int) -> Tensor:
        return F.interpolate(lr.float(), scale_factor=scale, mode="bilinear", align_corners=False)


@contextmanager
def switched(model: SuperResolver, igsample: bool, dihedral: bool) -> Iterator[None]:
    """The model with parts of IGConv+ switched off for a while; what it does not have stays off."""
    hypers = [module for module in model.modules() if isinstance(module, HyperNetwork)]
    sampler, averaged = model.sampler, [hyper.dihedral for hyper in hypers]
    try:
        if sampler is not None and not igsample:
            model.sampler = _Bilinear()
        for hyper in hypers:
            hyper.dihedral = hyper.dihedral and dihedral
        yield
    finally:
        model.sampler = sampler
        for hyper, before in zip(hypers, averaged, strict=True):
            hyper.dihedral = before


@torch.no_grad()
def offsets(model: SuperResolver, image: Tensor, view: View) -> tuple[Tensor, Tensor] | None:
    """(window, uint8 (3, h, w) of LR; shifts (2, r h, r w) of its HR pixels, x then y, in LR pixels) of IGSample.

    The mean over the three colours; None for a model without IGSample.
    """
    if not has_igsample(model):
        return None
    lr, _ = cropped(image, view)
    with exact_arithmetic():
        _, features = model.encode(to_float(lr)[None])
        fields = conv_subpixels(features, model.sampler.kernel_bank(view.scale)).float()
    offset, scope = fields.chunk(2, dim=1)
    shift = F.pixel_shuffle(0.5 * offset * scope.sigmoid(), view.scale)[0]
    shift = shift[:, : lr.shape[1] * view.scale, : lr.shape[2] * view.scale]
    shift = torch.stack([part.mean(0) for part in shift.chunk(2)])
    small = F.interpolate(lr[None].float(), scale_factor=view.scale, mode="nearest")[0].to(torch.uint8)
    return _window(small, image, view), _window(shift, image, view)
