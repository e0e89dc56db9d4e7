"""A network of one scale in, one of all scales out. Read this first (entrance: `igconv.training.converting`).

features of LR crops                      -> sums (x'x, x'y per scale)          `sums`
whitened channels, without centring       -> IGConv's basis                     `sums.whitening`
ridge regression per scale                -> an SPConv each, in closed form     `closed_form`
the network's own kernels at its own scale, where its head is an SPConv
one hyper-network through all of them     -> IGConv                             `hyperfit`
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from igconv.conversion import closed_form, hyperfit, sums
from igconv.conversion.sources import Source
from igconv.data import cache, leaks
from igconv.data.patches import PatchSource
from igconv.data.resize import imresize
from igconv.errors import InputError, choose, positive_integer, positive_integers
from igconv.evaluation.benchmark import bicubic
from igconv.evaluation.metrics import psnr_y
from igconv.models import inference
from igconv.models.super_resolver import Affine, SuperResolver
from igconv.models.upsamplers import sample_lr

BUNDLED, BUNDLED_TEST = ("sample_train",), ("sample_test",)
LARGEST = 32  # scale
SIDE = 48  # px of the LR crops
HELD_OUT = 8  # every eighth image is held out, where the images are the user's
HELD_OUT_CROPS = 32
PIXELS_PER_UNKNOWN = 4  # at least, for a fit worth the name
# Ridge weights in whitened coordinates. Kernels of many scales differ by noise in weak directions, which one function
# cannot follow; a heavier weight takes it away at 0.003 dB (SMFANet+ on Set5, x2 and x3).
RIDGE, RIDGE_MANY = 1e-6, 1e-4
TARGETS = ("hr", "network")
COLUMNS = ("scale", "crops", "bicubic_db", "converted_db", "closed_form_db", "network_db")


@dataclass(frozen=True)
class Conversion:
    """A converted model and what was measured on the way.

    Args:
        model: for every scale, in eval mode.
        table: `COLUMNS`, one row per scale: PSNR-Y in dB, mean over held-out crops.
        basis: (C, C) float64, which whitens the encoder's channels.
        closed: scale -> (9 C + 1, 3 r^2) coefficients and constants on whitened features, what the model was fitted to.
        equations: scale -> sums over the crops, on whitened features.
        errors: relative error of the kernels, before the fit and after each iteration.
        fitted: False where the fit failed, and the model has the closed-form SPConvs.
    """

    model: SuperResolver
    table: pd.DataFrame
    basis: Tensor
    closed: dict[int, Tensor]
    equations: dict[int, sums.Normal]
    errors: list[float]
    fitted: bool


def conversion(
    source: Source,
    scales: Sequence[int] = (2, 3, 4),
    *,
    images: Sequence[str] = BUNDLED,
    crops: int = 512,
    seed: int = 0,
    target: str = "hr",
    device="cpu",
    side: int = SIDE,
    ridge: float | None = None,
    held_out: Sequence[str] | None = None,
    keep_own: bool = True,
    dihedral: bool = False,
    igsample: bool = False,
    hidden_dim: int = 256,
    num_layers: int = 4,
) -> Conversion:
    """`igconv.training.converting.convert` without a training, with what it measured.

    Args:
        source: of `sources.opened`.
        side: of the LR crops.
        ridge: weight of the closed form; None: 1e-6, and 1e-4 for more scales than three.
        held_out: image sets for the table; None: every eighth of ``images``, or the bundled test photographs.
        keep_own: fit to the network's own kernels at its scale, where there are such that the upsampler can have.
        dihedral: symmetric kernels.
        igsample: fit to what the bilinear image lacks, and add an IGSample whose offsets are zero, ready to be trained.
        hidden_dim, num_layers: of the hyper-network.
    """
    scales = _checked(scales, crops, target, images)
    if target == "network" and source.scale < 2:
        raise InputError(f"{source.name} is a network of x1, whose images cannot teach larger ones")
    model = source.build(
        "igconv",
        scales,
        max_scale=max(4, *scales),
        bias="subpixel",
        basis=True,
        dihedral=dihedral,
        igsample=igsample,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
    )
    if igsample:
        without_offsets(model.sampler)
    fitting, testing = fitting_and_held_out(images, held_out)
    inference.prepare(model, device)
    channels = model.upsampler.basis.shape[0]
    needed = math.ceil(PIXELS_PER_UNKNOWN * (sums.TAPS * channels + 1) / side**2)
    if crops < needed:
        raise InputError(f"{crops} crops are too few for {channels} channels; give at least {needed}")

    for pictures, what in ((fitting, "training image"), (testing, "held-out image")):
        try:  # now, and not behind minutes of work
            PatchSource(pictures, scales, side, sums.BATCH, seed)
        except InputError as error:
            raise InputError(str(error).replace("training image", what)) from None
    raw = gathered(model, source, scales, fitting, crops, side, seed, target, device)
    basis = sums.whitening(sums.channel_covariance(raw))
    white = {scale: normal.in_basis(basis) for scale, normal in raw.items()}
    weight = ridge if ridge is not None else RIDGE if len(scales) <= 3 else RIDGE_MANY
    closed = solved(white, weight, dihedral)
    possible = keep_own and source.head is not None and not dihedral and not igsample
    own = source.scale if possible and source.scale in scales else None
    if own:
        closed[own] = own_kernels(source.head, basis)
    with torch.no_grad():
        model.upsampler.basis.copy_(basis)
    errors = hyperfit.fit(model.cpu().upsampler, closed, white, own, weight, seed)
    spconvs = with_spconvs(source, closed, basis, model.sampler)
    finite = all(parameter.isfinite().all() for parameter in model.upsampler.parameters())
    heads = {"closed_form_db": spconvs, "converted_db": model if finite else spconvs}
    table = measured(heads, source, scales, testing, side, seed, device)
    lost = (table.closed_form_db - table.converted_db).max()
    fitted = finite and bool(np.isfinite(lost) and lost < 1)
    if not fitted:
        if igsample:
            raise InputError("the fit of the hyper-network did not converge; give more crops, or convert to igconv")
        print("the fit of the hyper-network did not converge; the model keeps the SPConvs in closed form", flush=True)
        model = spconvs
        table["converted_db"] = table.closed_form_db
    return Conversion(model.cpu(), table, basis, closed, white, errors, fitted)


def gathered(
    model: SuperResolver, source: Source, scales, pictures, crops: int, side: int, seed: int, target: str, device
) -> dict[int, sums.Normal]:
    """Scale -> sums over LR crops of pictures (H, W, 3): the model's features, and what its upsampler is to add."""
    return {
        scale: sums.gather(
            _encoder(model, device),
            _batches(PatchSource(pictures, (scale,), side, sums.BATCH, seed, "matlab"), source, scale, target, model),
            math.ceil(crops / sums.BATCH),
            scale,
        )
        for scale in scales
    }


def solved(white: dict[int, sums.Normal], weight: float, symmetric: bool = False) -> dict[int, Tensor]:
    """Scale -> SPConv in closed form: (9 C + 1, 3 r^2) coefficients and constants."""
    solve = closed_form.solve_symmetric if symmetric else closed_form.solve
    return {
        scale: torch.cat([coefficients, constants[None]])
        for scale, (coefficients, constants) in ((scale, solve(normal, weight)) for scale, normal in white.items())
    }


@torch.no_grad()
def without_offsets(sampler: nn.Module) -> None:
    """An IGSample's last layer without offsets: the LR image by bilinear interpolation, until it is trained."""
    sampler.hyper.query_kernel[-1].weight[:6] = 0


def own_kernels(head: tuple[Tensor, Tensor], basis: Tensor) -> Tensor:
    """(9 C + 1, 3 r^2): an SPConv's kernels on whitened features, and its biases."""
    kernel, bias = (part.cpu().double() for part in head)
    kernel = torch.einsum("ocyx,cd->odyx", kernel, torch.linalg.inv(basis))
    return torch.cat([kernel.flatten(1).T, bias[None]])


def spconv_of(coefficients: Tensor, basis: Tensor, scale: int) -> nn.Sequential:
    """The SPConv on raw features of (9 C + 1, 3 r^2) coefficients and constants on whitened ones."""
    kernel = coefficients[:-1].T.unflatten(1, (-1, 3, 3))
    conv = nn.utils.skip_init(nn.Conv2d, len(basis), len(kernel), 3, padding=1)
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("odyx,dc->ocyx", kernel, basis))
        conv.bias.copy_(coefficients[-1])
    return nn.Sequential(conv, nn.PixelShuffle(scale)).requires_grad_(False)


def _checked(scales, crops, target, images) -> tuple[int, ...]:
    scales = positive_integers(scales, "scales")
    for scale in scales:
        if not 2 <= scale <= LARGEST:
            raise InputError(f"scales are integers of 2 to {LARGEST}, got {scale}")
    positive_integer(crops, "crops")
    choose(target, TARGETS, "target")
    if isinstance(images, str | Path) or not isinstance(images, Sequence) or not images:
        raise InputError(f"images must be a list of image sets or folders, got {images!r}")
    return tuple(sorted(scales))


def fitting_and_held_out(images: Sequence[str], held_out: Sequence[str] | None = None) -> tuple[list, list]:
    """Pixels (H, W, 3) to fit on, and others to measure on."""
    names = [str(name) for name in images]
    pictures = leaks.training_images(names)
    if held_out is None and tuple(names) == BUNDLED:
        held_out = BUNDLED_TEST
    if held_out is not None:
        return pictures, [image for name in held_out for image in cache.decoded(str(name)).images]
    if len(pictures) < 2:
        raise InputError(f"{', '.join(names)}: {len(pictures)} image is too few; 2 are needed, one to measure on")
    testing = pictures[HELD_OUT - 1 :: HELD_OUT] or pictures[-1:]
    fitting = [image for index, image in enumerate(pictures) if index % HELD_OUT != HELD_OUT - 1]
    return (fitting if len(pictures) >= HELD_OUT else pictures[:-1]), testing


def _encoder(model: SuperResolver, device) -> Callable[[Tensor], Tensor]:
    """(lr) -> features of its size, on the CPU."""

    def features(lr: Tensor) -> Tensor:
        h, w = lr.shape[-2:]
        with inference.exact_arithmetic():
            found = model.encode(lr.to(device, memory_format=torch.channels_last))[1]
        return found[..., :h, :w].float().contiguous().cpu()

    return features


def _batches(patches: PatchSource, source: Source, scale: int, target: str, model: SuperResolver):
    """index -> (lr, what the upsampler has to return: the image without the sampler's, before ``post``; weights)."""

    def batch(index: int) -> tuple[Tensor, Tensor, Tensor]:
        part = patches.micro_batch(index, 0)
        image = part.hr if target == "hr" else network_image(source, part.lr, scale)
        if model.sampler is not None:
            b, _, h, w = part.lr.shape
            image = image - sample_lr(part.lr, part.lr.new_zeros(b, 12 * scale**2, h, w), scale)
        # Weights are of images: what an upsampler returns may have another range.
        return part.lr, before_post(model.post, image), sums.crop_weights(image, scale)

    return batch


@torch.no_grad()
def network_image(source: Source, lr: Tensor, scale: int) -> Tensor:
    """What the network makes of LR images, at another scale: its output, once more where it is too small, resized."""
    sr, factor = source.network(lr), source.scale
    while factor < scale:
        sr, factor = source.network(sr.clamp(0, 1)), factor * source.scale
    return sr if factor == scale else imresize(sr, scale / factor, "matlab", quantize=False)


def before_post(post: nn.Module, image: Tensor) -> Tensor:
    """The upsampler's output that ``post`` turns into an image (B, 3, H, W)."""
    if isinstance(post, Affine):
        return (image - post.shift.cpu()) / post.factor
    if isinstance(post, nn.Conv2d):  # a trained 1x1 convolution over the colours
        inverse = torch.linalg.inv(post.weight.detach()[:, :, 0, 0].cpu().double())
        centred = image.double() - post.bias.detach().cpu().double()[:, None, None]
        return torch.einsum("oc,bchw->bohw", inverse, centred)
    return image


def with_spconvs(
    source: Source, closed: dict[int, Tensor], basis: Tensor, sampler: nn.Module | None = None
) -> SuperResolver:
    """The source's encoder with SPConvs of `solved` in place of the IGConv, beside the same sampler."""
    model = source.build("spconv", tuple(closed))
    model.sampler = sampler
    for scale, coefficients in closed.items():
        model.upsampler.heads[str(scale)] = spconv_of(coefficients, basis, scale)
    return model


@torch.no_grad()
def measured(
    models: dict[str, SuperResolver], source: Source, scales: Sequence[int], pictures, side: int, seed: int, device
) -> pd.DataFrame:
    """PSNR-Y of models with the source's encoder on crops of pictures that were held out, as in `COLUMNS`."""
    rows = []
    for model in models.values():
        inference.prepare(model, device)
    for scale in scales:
        patches, values = PatchSource(pictures, (scale,), side, sums.BATCH, seed, "matlab"), []
        for index in range(HELD_OUT_CROPS // sums.BATCH):
            part = patches.micro_batch(index, 1)
            lr = part.lr.to(device, memory_format=torch.channels_last)
            with inference.exact_arithmetic():
                made = {name: model(lr, scale).cpu() for name, model in models.items()}
                made["bicubic_db"] = bicubic(part.lr, scale)
                if scale == source.scale:
                    made["network_db"] = source.network(part.lr)
            values += [{name: psnr_y(sr[i], hr, scale) for name, sr in made.items()} for i, hr in enumerate(part.hr)]
        rows.append(dict(scale=scale, crops=len(values)) | pd.DataFrame(values).mean().to_dict())
    return pd.DataFrame(rows, columns=list(dict.fromkeys((*COLUMNS, *models))))
