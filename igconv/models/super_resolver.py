"""SuperResolver: encoder + upsampler (+ sampler), one composition for every pair of the paper."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, choose, positive_integer, positive_integers, reason
from igconv.models.encoders import ENCODERS
from igconv.models.hypernetwork import HyperNetwork
from igconv.models.liif import LIIF
from igconv.models.upsamplers import IGConv, IGSample, SPConv, SPConvPlus


class Affine(nn.Module):
    """Per-colour ``x * factor + shift`` with constants that are not trained and not stored in checkpoints."""

    shift: Tensor

    def __init__(self, factor: float, shift: Sequence[float]):
        super().__init__()
        self.factor = factor
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift


class MeanShift(nn.Conv2d):
    """`Affine` as a 1x1 convolution over the colours that starts there and is trained (RCAN's normalisation)."""

    def __init__(self, factor: float, shift: Sequence[float]):
        super().__init__(3, 3, 1)
        assert self.bias is not None
        with torch.no_grad():
            self.weight.copy_(factor * torch.eye(3)[:, :, None, None])
            self.bias.copy_(torch.tensor(shift))


def pad_to_multiple(image: Tensor, multiple: int, mode: str = "reflect") -> Tensor:
    """(B, C, H, W) extended at the bottom and right to sides that are multiples of ``multiple``.

    Args:
        mode: "reflect" mirrors about the last pixel, "symmetric" about its far edge (the last pixel comes twice),
            "replicate" repeats it, "constant" adds zeros.

    Raises:
        InputError: a side that is too short to be mirrored that far.
    """
    h, w = image.shape[-2:]
    bottom, right = -h % multiple, -w % multiple
    if mode in ("reflect", "symmetric"):
        least = 1 if mode == "reflect" else 0
        if h < bottom + least or w < right + least:
            raise InputError(
                f"an image of {h}x{w} px is too small for this encoder's window: its sides cannot be "
                f"mirrored to multiples of {multiple} px"
            )
    if mode == "symmetric":
        image = torch.cat([image, image[..., h - bottom :, :].flip(-2)], dim=-2)
        return torch.cat([image, image[..., w - right :].flip(-1)], dim=-1)
    return F.pad(image, (0, right, 0, bottom), mode=mode) if bottom or right else image


class _Composition(nn.Module):
    """The parts of a model and what happens before its upsampler."""

    def __init__(self, encoder, upsampler, sampler, pre: nn.Module | None, post: nn.Module | None):
        super().__init__()
        self.encoder, self.upsampler, self.sampler = encoder, upsampler, sampler
        self.pre, self.post = pre or nn.Identity(), post or nn.Identity()

    def encode(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """(padded lr, features of it). Padding is the encoder's wish; most have none."""
        if lr.ndim != 4 or lr.shape[1] != 3 or not lr.is_floating_point():
            raise InputError(f"expected a float image batch (B, 3, H, W), got {tuple(lr.shape)} of {lr.dtype}")
        lr = pad_to_multiple(lr, getattr(self.encoder, "pad_to", 1), getattr(self.encoder, "pad_mode", "reflect"))
        return lr, self.encoder(self.pre(lr))


class SuperResolver(_Composition):
    """sr = post(upsampler(f, r)) + sampler(x, f, r),  f = encoder(pre(x)),  x = pad(lr); cropped to (r H, r W).

    Args:
        encoder: ``nn.Module`` (B, 3, H, W) -> (B, C, H, W); see `igconv.models.encoders` for its optional attributes.
        upsampler: called as (features, scale) -> (B, 3, r H, r W), with ``instantiate(scale)``.
        sampler: called as (lr, features, scale) -> (B, 3, r H, r W), added to the upsampler's image; or None.
        pre, post: normalisation of the encoder's input and of the upsampler's output.

    ``model(lr, scale)`` takes float RGB (B, 3, H, W) in [0, 1] and returns float32 (B, 3, r H, r W), not clamped.
    """

    def __init__(self, encoder, upsampler, sampler=None, pre: nn.Module | None = None, post: nn.Module | None = None):
        super().__init__(encoder, upsampler, sampler, pre, post)
        self.config: dict | None = None  # arguments of build_model; what a checkpoint needs to rebuild the model

    def multi_scale(self, lr: Tensor, scales: Sequence[int]) -> list[Tensor]:
        """Upscale equal consecutive parts of a batch, part i by ``scales[i]``: one encoder pass for all of them.

        Returns: one (B / n, 3, r H, r W) image batch per scale, in the order given.
        """
        images = {scale: iter(sr.chunk(list(scales).count(scale))) for scale, sr in self.by_scale(lr, scales).items()}
        return [next(images[scale]) for scale in scales]

    def by_scale(self, lr: Tensor, scales: Sequence[int]) -> dict[int, Tensor]:
        """`multi_scale` with one batch of images per distinct scale, ascending: all parts with that scale, in order.

        They are upscaled together, so a kernel bank is made once per distinct scale.
        """
        scales = [positive_integer(s, "scale") for s in scales]
        if not scales or lr.shape[0] % len(scales):
            raise InputError(f"a batch of {lr.shape[0]} cannot be split evenly over {len(scales)} scales")
        x, features = self.encode(lr)
        order = sorted(range(len(scales)), key=scales.__getitem__)
        if order != list(range(len(scales))):
            x, features = (torch.cat([whole.chunk(len(scales))[i] for i in order]) for whole in (x, features))
        distinct, part = sorted(set(scales)), lr.shape[0] // len(scales)
        sizes = [part * scales.count(scale) for scale in distinct]
        images: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for module in (self.upsampler, self.sampler):
                if isinstance(hyper := getattr(module, "hyper", None), HyperNetwork):
                    stack.enter_context(hyper.jointly(distinct))
            for scale, x_part, f_part in zip(distinct, x.split(sizes), features.split(sizes), strict=True):
                sr = self.image(x_part, f_part, scale)
                if sr.shape[-2:] != (lr.shape[-2] * scale, lr.shape[-1] * scale):
                    sr = sr[..., : lr.shape[-2] * scale, : lr.shape[-1] * scale]  # of a padded image
                images[scale] = sr
        return images

    def image(self, lr: Tensor, features: Tensor, scale: int) -> Tensor:
        """The image (B, 3, r H, r W) from what `encode` returns."""
        sr = self.post(self.upsampler(features, scale)).float()
        return sr if self.sampler is None else sr + self.sampler(lr, features, scale)

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        return self.multi_scale(lr, [scale])[0]

    def instantiate(self, scale: int) -> "FixedScale":
        """A new module (lr) -> sr for one scale: generated kernels become stored convolutions. Shares no weights."""
        return FixedScale(self, positive_integer(scale, "scale"))


class FixedScale(_Composition):
    """A `SuperResolver` frozen to one scale, called as (lr) -> sr. Made by `SuperResolver.instantiate`."""

    def __init__(self, model: SuperResolver, scale: int):
        sampler = None if model.sampler is None else model.sampler.instantiate(scale)
        super().__init__(
            copy.deepcopy(model.encoder),
            model.upsampler.instantiate(scale),
            sampler,
            copy.deepcopy(model.pre),
            copy.deepcopy(model.post),
        )
        self.scale = scale
        self.train(model.training)

    def forward(self, lr: Tensor) -> Tensor:
        x, features = self.encode(lr)
        sr = self.post(self.upsampler(features)).float()
        sr = sr if self.sampler is None else sr + self.sampler(x, features)
        return sr[..., : lr.shape[-2] * self.scale, : lr.shape[-1] * self.scale]


def _spconv(channels: int, scales: list[int]) -> tuple[nn.Module, None]:
    return SPConv(channels, scales), None


def _spconv_plus(channels: int, scales: list[int], *, width: int | None) -> tuple[nn.Module, None]:
    return SPConvPlus(channels, scales, width), None


def _liif(channels: int, scales: list[int], *, hidden_dim: int, num_layers: int) -> tuple[nn.Module, None]:
    return LIIF(channels, hidden_dim, num_layers), None


def _igconv(
    channels: int,
    scales: list[int],
    *,
    kernel_size: int,
    hidden_dim: int,
    num_layers: int,
    max_scale: int,
    dihedral: bool,
    igsample: bool,
    sample_kernel_size: int | None,
    sample_hidden_dim: int | None,
    sample_num_layers: int | None,
    initialisation: str,
    bias: str,
    basis: bool,
) -> tuple[nn.Module, nn.Module | None]:
    upsampler = IGConv(channels, kernel_size, hidden_dim, num_layers, dihedral, max_scale, initialisation, bias, basis)
    if not igsample:
        return upsampler, None
    if sample_kernel_size is None:
        sample_kernel_size = kernel_size
    if sample_hidden_dim is None:
        sample_hidden_dim = hidden_dim // 2
    if sample_num_layers is None:
        sample_num_layers = max(1, num_layers // 2)
    return upsampler, IGSample(channels, sample_kernel_size, sample_hidden_dim, sample_num_layers, dihedral, max_scale)


_IGCONV = dict(
    kernel_size=3,
    hidden_dim=256,
    num_layers=4,
    max_scale=4,
    dihedral=False,
    igsample=False,
    sample_kernel_size=None,
    sample_hidden_dim=None,
    sample_num_layers=None,
    initialisation="authors",
    bias="none",
    basis=False,
)

# name -> function (channels, scales, options) -> (upsampler, sampler or None), and all its options with their defaults.
UPSAMPLERS: dict[str, tuple[Callable[..., tuple[nn.Module, nn.Module | None]], dict]] = {
    "spconv": (_spconv, {}),
    "spconv+": (_spconv_plus, dict(width=None)),
    "igconv": (_igconv, _IGCONV),
    "igconv+": (_igconv, _IGCONV | dict(dihedral=True, igsample=True)),
    "liif": (_liif, dict(hidden_dim=256, num_layers=4)),
}


def build_model(encoder: str | nn.Module, upsampler: str, *, scales: Sequence[int], **options) -> SuperResolver:
    """Compose a model.

    Args:
        encoder: a name in `igconv.models.encoders.ENCODERS`, or any module (B, 3, H, W) -> (B, C, H, W). C is its
            attribute ``out_channels`` or else found by running it once on a small black image.
        upsampler: "spconv", "spconv+", "igconv", "igconv+" or "liif". "igconv+" is "igconv" with ``dihedral=True`` and
            ``igsample=True``, which either of them may be given to change.
        scales: the factors to be trained. Fixed heads exist for these; IGConv and LIIF take any other one as well.
        options: of the encoder (see its class; for EDSR channels, blocks, res_scale, img_range, mean); of SPConv+
            ``width``; of LIIF hidden_dim (256) and num_layers (4); of IGConv kernel_size, hidden_dim (256),
            num_layers (4), max_scale (4), dihedral, igsample, initialisation ("authors"), basis (False), bias ("none";
            for an encoder with the attribute ``constant`` "colour", which starts there), and for IGSample
            sample_kernel_size (IGConv's), sample_hidden_dim and sample_num_layers (half of IGConv's).

    Raises:
        InputError: an unknown name or option, or a scale that is not a positive integer.
    """
    make_upsampler, defaults = UPSAMPLERS[choose(upsampler, UPSAMPLERS, "upsampler")]
    scales = positive_integers(scales, "scales")
    if not isinstance(encoder, str):
        for option in options:
            choose(option, defaults, f"option of {type(encoder).__name__} with {upsampler}")
        constant, recipe = getattr(encoder, "constant", None), getattr(encoder, "recipe", None)
        if constant is not None and "bias" in defaults:
            options = dict(bias="colour") | options
        model = _compose(encoder, *make_upsampler(_channels(encoder), scales, **defaults | options))
        if constant is not None and getattr(model.upsampler, "bias", None) is not None:
            model.upsampler.bias.data.copy_(torch.tensor(constant))
        # Without a recipe a file of the model can only be loaded into one like it.
        model.config = recipe and dict(encoder=recipe, upsampler=upsampler, scales=list(scales), **options)
        return model

    constructor, preset = ENCODERS[choose(encoder, ENCODERS, "encoder")]
    encoder_options = signature(constructor).parameters
    for option in options:
        choose(option, (*encoder_options, *defaults), f"option of {encoder} with {upsampler}")
    for_encoder = {option: value for option, value in options.items() if option in encoder_options}
    for_upsampler = {option: value for option, value in options.items() if option not in encoder_options}
    module = constructor(**preset | for_encoder)
    model = _compose(module, *make_upsampler(_channels(module), scales, **defaults | for_upsampler))
    model.config = dict(encoder=encoder, upsampler=upsampler, scales=list(scales), **options)
    return model


def _compose(encoder: nn.Module, upsampler: nn.Module, sampler: nn.Module | None) -> SuperResolver:
    """With the normalisation that the encoder wants."""
    mean, img_range = getattr(encoder, "mean", None), getattr(encoder, "img_range", 1.0)
    if mean is None:
        return SuperResolver(encoder, upsampler, sampler)
    shift = MeanShift if getattr(encoder, "trained_mean", False) else Affine
    pre = shift(img_range, [-colour * img_range for colour in mean])
    post = shift(1 / img_range, mean)
    return SuperResolver(encoder, upsampler, sampler, pre, post)


def _channels(encoder: nn.Module) -> int:
    channels = getattr(encoder, "out_channels", None)
    return _probe(encoder) if channels is None else channels


@torch.no_grad()
def _probe(encoder: nn.Module) -> int:
    """Channels of the features of a module that does not say. Raises InputError if they have not the image's size."""
    if not isinstance(encoder, nn.Module):
        raise InputError(f"an encoder is a name or an nn.Module, got {type(encoder).__name__}")
    side = 64 + -64 % getattr(encoder, "pad_to", 1)
    name, like = type(encoder).__name__, next(encoder.parameters(), torch.empty(0))
    modes = {module: module.training for module in encoder.modules()}
    try:
        features = encoder.eval()(like.new_zeros(1, 3, side, side))
    except Exception as error:  # whatever a module can raise
        why = reason(error)
        raise InputError(f"no out_channels: {name} does not take an image (1, 3, {side}, {side}): {why}") from None
    finally:
        for module, training in modes.items():
            module.training = training
    shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[2:] != (side, side):
        raise InputError(
            f"no out_channels: an encoder maps (B, 3, H, W) to (B, C, H, W), {name} maps "
            f"(1, 3, {side}, {side}) to {shape}"
        )
    return features.shape[1]
