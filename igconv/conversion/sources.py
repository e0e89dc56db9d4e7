"""What can be converted: networks of one scale, from files, by name or as they are; in parts, encoder and head."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from igconv.errors import InputError
from igconv.models import checkpoints, published, state_files
from igconv.models.encoders.edsr import DIV2K_MEAN
from igconv.models.strict import load_strict
from igconv.models.super_resolver import SuperResolver, build_model, pad_to_multiple
from igconv.models.upsamplers import SPConv, SPConvPlus

RANGES = (1.0, 255.0)  # of EDSR's input; its files do not say


@dataclass(frozen=True)
class Source:
    """A network of one scale.

    Args:
        name: for people.
        encoder, options: what `build_model` makes its encoder of.
        state: weights of encoder, pre and post by their names in a `SuperResolver`; empty where the module has them.
        scale: the factor it was trained for.
        head: (kernel (3 r^2, C, 3, 3), bias (3 r^2)) where it is one SPConv, else None.
        network: (lr) -> sr, the whole of it.
    """

    name: str
    encoder: str | nn.Module
    scale: int
    head: tuple[Tensor, Tensor] | None
    network: Callable[[Tensor], Tensor]
    options: dict = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def build(self, upsampler: str, scales, **options) -> SuperResolver:
        """The network's encoder with a new upsampler, in eval mode."""
        encoder = copy.deepcopy(self.encoder)
        with torch.random.fork_rng(devices=[]):  # what starts at random is the caller's business
            model = build_model(encoder, upsampler, scales=scales, **self.options, **options)
        if self.state:
            load_strict(model, {**model.state_dict(), **self.state}, self.name)
        return model.eval()


def opened(network) -> Source:
    """A `Source` of what `igconv.convert` takes; see there. Raises InputError for everything else."""
    with torch.random.fork_rng(devices=[]):
        return _opened(network)


def _opened(network) -> Source:
    if isinstance(network, SuperResolver):
        return _of_ours(network, "the model")
    if isinstance(network, str | Path):
        path = Path(network)
        if path.is_file():
            return _of_file(path)
        if str(network) in published.runnable():
            return _of_ours(published.load(str(network)), str(network))
        raise InputError(
            f"no file at {network}, and no published model of that name that can be run here; those are "
            f"{', '.join(published.runnable())}"
        )
    return _of_foreign(network, type(getattr(network, "model", network)).__name__)


def _of_ours(model: SuperResolver, name: str) -> Source:
    heads = getattr(model.upsampler, "heads", {})
    if not isinstance(model.upsampler, SPConv | SPConvPlus) or len(heads) != 1:
        raise InputError(
            f"{name} already is multi-scale ({type(model.upsampler).__name__}); give a network of one scale"
        )
    model = copy.deepcopy(model).float().eval().requires_grad_(False)
    ((scale, head),) = ((int(key), value) for key, value in heads.items())
    is_spconv = isinstance(model.upsampler, SPConv)
    config = model.config if model.config and isinstance(model.config["encoder"], str) else None
    options = {k: v for k, v in (config or {}).items() if k not in ("encoder", "upsampler", "scales", "width")}
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("upsampler.")}
    return Source(
        name,
        config["encoder"] if config else model.encoder,
        scale,
        (head[0].weight.detach(), head[0].bias.detach()) if is_spconv else None,
        lambda lr: model(lr, scale),
        options,
        state,
    )


def _of_foreign(network, name: str) -> Source:
    from igconv.models.encoders.headless import take_apart

    parts = take_apart(network)
    pad_to = parts.encoder.pad_to

    def whole(lr: Tensor) -> Tensor:
        sr = parts.network(pad_to_multiple(lr, pad_to).clone())
        return sr[..., : lr.shape[-2] * parts.scale, : lr.shape[-1] * parts.scale]

    return Source(name, parts.encoder, parts.scale, parts.head, whole)


def _of_file(path: Path) -> Source:
    if state_files.kind_of(path) == "safetensors" and "config" in checkpoints.metadata(path):
        return _of_ours(checkpoints.load(path), str(path))
    state = state_files.read_weights(path)
    for reader in (_smfanet, _edsr):  # spandrel does not know them
        model = reader(state, str(path))
        if model is not None:
            return _of_ours(model, str(path))
    return _of_foreign(path, path.name)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are: prefix.0, prefix.1, ..."""
    numbers = (key.split(".")[1] for key in state if key.startswith(f"{prefix}."))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _factor(channels: int, name: str) -> int:
    scale = math.isqrt(channels // 3)
    if channels != 3 * scale**2:
        raise InputError(f"{name}: a head of {channels} channels makes no colour image of any scale")
    return scale


def _smfanet(state: Mapping[str, Tensor], name: str) -> SuperResolver | None:
    """SMFANet's published files: ``to_feat``, ``feats``, ``to_img.0``."""
    if not {"to_feat.weight", "to_img.0.weight", "feats.0.pcfn.conv_0.weight"} <= state.keys():
        return None
    channels, blocks = state["to_feat.weight"].shape[0], _count(state, "feats")
    scale = _factor(state["to_img.0.weight"].shape[0], name)
    growth = state["feats.0.pcfn.conv_0.weight"].shape[0] / channels
    model = build_model("smfanet", "spconv", scales=(scale,), channels=channels, blocks=blocks, ffn_scale=growth)
    ours = f"upsampler.heads.{scale}.0."
    load_strict(
        model,
        {
            ours + k.removeprefix("to_img.0.") if k.startswith("to_img.0.") else f"encoder.{k}": v
            for k, v in state.items()
        },
        name,
    )
    return model


def _edsr(state: Mapping[str, Tensor], name: str) -> SuperResolver | None:
    """EDSR as BasicSR stores it, with its SPConv+ head (``upsample``, ``conv_last``) or an SPConv (``upsample.0``)."""
    if not {"conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "upsample.0.weight"} <= state.keys():
        return None
    channels, blocks, plus = state["conv_first.weight"].shape[0], _count(state, "body"), "conv_last.weight" in state
    stages = [k for k in state if k.startswith("upsample.") and k.endswith(".weight")]
    scale = math.prod(math.isqrt(state[k].shape[0] // channels) for k in stages)
    scale = scale if plus else _factor(state["upsample.0.weight"].shape[0], name)
    heads, last = f"upsampler.heads.{scale}.", 2 * len(stages)
    renamed = {"upsample.": heads, "conv_last.": f"{heads}{last}."}

    def ours(key: str) -> str:
        return next(
            (new + key.removeprefix(old) for old, new in renamed.items() if key.startswith(old)), f"encoder.{key}"
        )

    tried = []
    for span in RANGES:
        model = build_model(
            "edsr",
            "spconv+" if plus else "spconv",
            scales=(scale,),
            channels=channels,
            blocks=blocks,
            res_scale=0.1 if channels >= 256 else 1.0,
            img_range=span,
            mean=DIV2K_MEAN,
        )
        load_strict(model, {ours(k): v for k, v in state.items() if not k.startswith("mean")}, name)
        tried.append((_off_brightness(model.eval(), scale), span, model))
    return min(tried, key=lambda one: one[:2])[-1]


@torch.no_grad()
def _off_brightness(model: SuperResolver, scale: int) -> float:
    """How far the network's image of a ramp is from the ramp: tells apart which range its input had."""
    ramp = torch.linspace(0, 1, 24).expand(1, 3, 24, 24)
    large = nn.functional.interpolate(ramp, scale_factor=scale, mode="bilinear", align_corners=False)
    off = (model(ramp, scale) - large).abs().mean()
    return float(off) if off.isfinite() else math.inf
