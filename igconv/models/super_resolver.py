"""SuperResolver: encoder + upsampler (+ sampler), one composition for every pair of the paper."""

import copy
import inspect
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, choose, positive_integer, positive_integers, reason
from igconv.models.encoders import ENCODERS
from igconv.models.liif import LIIF
from igconv.models.upsamplers import IGConv, IGSample, SPConv, SPConvPlus

UPSAMPLERS = ("spconv", "spconv+", "igconv", "igconv+", "liif")
IGCONV_OPTIONS = ("kernel_size", "hidden_dim", "num_layers", "max_scale", "dihedral", "igsample",
                  "sample_kernel_size", "sample_hidden_dim", "sample_num_layers", "initialisation", "bias",
                  "basis")  # fmt: skip


class Affine(nn.Module):
    """Per-colour ``x * factor + shift`` with constants that are not trained and not stored in checkpoints."""

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
            raise InputError(f"an image of {h}x{w} px is too small for this encoder's window: its sides cannot be "
                             f"mirrored to multiples of {multiple} px")  # fmt: skip
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

        Parts that share a scale are upscaled together, so a kernel bank is made once per distinct scale.

        Returns: one (B / n, 3, r H, r W) image batch per scale, in the order given.
        """
        scales = [positive_integer(s, "scale") for s in scales]
        if not scales or lr.shape[0] % len(scales):
            raise InputError(f"a batch of {lr.shape[0]} cannot be split evenly over {len(scales)} scales")
        x, features = self.encode(lr)
        xs, fs = x.chunk(len(scales)), features.chunk(len(scales))
        images: list[Tensor | None] = [None] * len(scales)
        for scale in dict.fromkeys(scales):
            parts = [i for i, s in enumerate(scales) if s == scale]
            x_part, f_part = torch.cat([xs[i] for i in parts]), torch.cat([fs[i] for i in parts])
            sr = self.post(self.upsampler(f_part, scale)).float()
            sr = sr if self.sampler is None else sr + self.sampler(x_part, f_part, scale)
            for i, image in zip(parts, sr.chunk(len(parts)), strict=True):
                images[i] = image[..., : lr.shape[-2] * scale, : lr.shape[-1] * scale]
        return images

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        return self.multi_scale(lr, [scale])[0]

    def instantiate(self, scale: int) -> "FixedScale":
        """A new module (lr) -> sr for one scale: generated kernels become stored convolutions. Shares no weights."""
        return FixedScale(self, positive_integer(scale, "scale"))


class FixedScale(_Composition):
    """A `SuperResolver` frozen to one scale, called as (lr) -> sr. Made by `SuperResolver.instantiate`."""

    def __init__(self, model: SuperResolver, scale: int):
        sampler = None if model.sampler is None else model.sampler.instantiate(scale)
        super().__init__(copy.deepcopy(model.encoder), model.upsampler.instantiate(scale), sampler,
                         copy.deepcopy(model.pre), copy.deepcopy(model.post))  # fmt: skip
        self.scale = scale
        self.train(model.training)

    def forward(self, lr: Tensor) -> Tensor:
        x, features = self.encode(lr)
        sr = self.post(self.upsampler(features)).float()
        sr = sr if self.sampler is None else sr + self.sampler(x, features)
        return sr[..., : lr.shape[-2] * self.scale, : lr.shape[-1] * self.scale]


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
    choose(upsampler, UPSAMPLERS, "upsampler")
    scales = positive_integers(scales, "scales")
    config = dict(encoder=encoder, upsampler=upsampler, scales=list(scales), **options)
    if isinstance(encoder, str):
        choose(encoder, ENCODERS, "encoder")
        constructor, preset = ENCODERS[encoder]
        known = tuple(inspect.signature(constructor).parameters)
        module = constructor(**{**preset, **{k: options.pop(k) for k in known if k in options}})
    else:
        # What cannot be told is left to the caller: a file of such a model is loaded into one like it.
        config = config | dict(encoder=encoder.recipe) if getattr(encoder, "recipe", None) else None
        module, known, encoder = encoder, (), type(encoder).__name__
    channels = module.out_channels if hasattr(module, "out_channels") else _probe(module)

    own = {"spconv": (), "spconv+": ("width",), "liif": ("hidden_dim", "num_layers")}.get(upsampler, IGCONV_OPTIONS)
    for name in options:
        choose(name, (*known, *own), f"option of {encoder} with {upsampler}")
    sampler = None
    if upsampler == "spconv":
        head: nn.Module = SPConv(channels, scales)
    elif upsampler == "spconv+":
        head = SPConvPlus(channels, scales, **options)
    elif upsampler == "liif":
        head = LIIF(channels, **options)
    else:
        plus = upsampler == "igconv+"
        constant = getattr(module, "constant", None)
        o = dict(kernel_size=3, hidden_dim=256, num_layers=4, max_scale=4, dihedral=plus, igsample=plus,
                 initialisation="authors", basis=False, bias="colour" if constant else "none") | options  # fmt: skip
        head = IGConv(channels, o["kernel_size"], o["hidden_dim"], o["num_layers"], o["dihedral"], o["max_scale"],
                      o["initialisation"], o["bias"], o["basis"])  # fmt: skip
        if constant and head.bias is not None:
            head.bias.data.copy_(torch.tensor(constant))
        if o["igsample"]:
            hidden = o.get("sample_hidden_dim", o["hidden_dim"] // 2)
            layers = o.get("sample_num_layers", max(1, o["num_layers"] // 2))
            kernel_size = o.get("sample_kernel_size", o["kernel_size"])
            sampler = IGSample(channels, kernel_size, hidden, layers, o["dihedral"], o["max_scale"])

    pre = post = None
    if hasattr(module, "mean"):
        low, span = module.mean, module.img_range
        shift = MeanShift if getattr(module, "trained_mean", False) else Affine
        pre, post = shift(span, [-m * span for m in low]), shift(1 / span, low)
    model = SuperResolver(module, head, sampler, pre, post)
    model.config = config
    return model


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
        raise InputError(f"no out_channels: an encoder maps (B, 3, H, W) to (B, C, H, W), {name} maps "
                         f"(1, 3, {side}, {side}) to {shape}")  # fmt: skip
    return features.shape[1]
