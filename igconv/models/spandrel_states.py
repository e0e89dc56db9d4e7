"""A model of one scale as the fixed-scale network that its encoder was taken from, for programs that know that one.

An IGConv at one scale is an SPConv. Where a spandrel network ends in one convolution and a depth-to-space, or has a
variant that does (SwinIR's "pixelshuffledirect"), its encoder with these kernels is such a network, and its weights
load into every program that loads weights by spandrel.
"""

import io
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igconv.errors import InputError, reason
from igconv.models.encoders.headless import SPANDREL, Headless
from igconv.models.exports import TOLERANCE
from igconv.models.super_resolver import Affine, SuperResolver

SCALE_OPTIONS = ("upscale", "scale", "upscaling", "upscale_factor", "upscaling_factor", "sr_rate")
DIRECT = "pixelshuffledirect"  # the variant of the SwinIR family that ends in one convolution
SIDES = ((32, 48), (64, 32))  # of images to compare with: multiples of windows, as padding differs at borders
ONNX = "export it with --format onnx"


def to_spandrel(model: SuperResolver, scale: int) -> tuple[dict[str, Tensor], float]:
    """(weights by the network's own names, largest difference of the network that spandrel makes of them).

    Args:
        model: IGConv or SPConv, without IGSample, on an encoder that `igconv.models.encoders.from_spandrel` or a
            conversion has taken out of a spandrel network; in eval mode.
        scale: one that the model has.

    At sides that the network pads, the last pixels differ: its head sees the padding, ours zeros.

    Raises:
        InputError: another encoder, an IGSample or another upsampler, a network without such a head, and one of which
            spandrel makes something else.
    """
    encoder, conv = model.encoder, _stored_conv(model, scale)
    recipe = getattr(encoder, "recipe", None) or {}
    if not isinstance(encoder, Headless) or recipe.get("package", "").split(".")[0] not in SPANDREL:
        raise InputError(f"spandrel knows no network with the encoder {_name(encoder)}; {ONNX}")
    network = _network(recipe, scale)
    own = _own_state(encoder, network)
    entry = _entry(network, own, conv, recipe["network"])
    fixed, tried = model.instantiate(scale).eval(), []
    for weight, bias in _variants(conv, model.post):
        state = {**own, f"{entry}.weight": weight}
        if f"{entry}.bias" in network.state_dict():
            state[f"{entry}.bias"] = bias
        tried.append(_difference(state, fixed, scale))
        if tried[-1] <= TOLERANCE:
            return state, tried[-1]
    raise InputError(f"{recipe['network']} cannot be this model (difference {min(tried):.1e} of the range); {ONNX}")


def encoded(state: Mapping[str, Tensor], path: Path, facts: Mapping[str, str]) -> bytes:
    """Weights in the format of a name: .safetensors with facts as its metadata, or .pth as training tools write it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        return save({name: value.contiguous() for name, value in state.items()}, metadata=dict(facts))
    content = io.BytesIO()
    torch.save({"params": dict(state)}, content)
    return content.getvalue()


def _name(encoder: nn.Module) -> str:
    recipe = getattr(encoder, "recipe", None) or {}
    return recipe.get("network") or type(encoder).__name__


def _stored_conv(model: SuperResolver, scale: int) -> nn.Conv2d:
    if model.sampler is not None:
        raise InputError(f"IGSample has no place in a network that spandrel knows; {ONNX}")
    upsampler = model.upsampler.instantiate(scale)
    if not isinstance(upsampler, nn.Sequential) or [type(part) for part in upsampler] != [nn.Conv2d, nn.PixelShuffle]:
        raise InputError(f"{type(model.upsampler).__name__} is not one convolution; {ONNX}")
    conv = upsampler[0]
    assert isinstance(conv, nn.Conv2d)
    return conv


def _network(recipe: Mapping[str, Any], scale: int) -> nn.Module:
    """The recipe's network for another scale, with its simplest head."""
    options, name = dict(recipe["options"]), recipe["network"]
    option = next((option for option in SCALE_OPTIONS if option in options), None)
    if option is None:
        raise InputError(f"{name} has no option for its scale; {ONNX}")
    options[option] = scale
    if "upsampler" in options:
        options["upsampler"] = DIRECT
    try:
        return getattr(import_module(recipe["package"]), name)(**options).eval()
    except Exception as error:  # whatever a constructor can raise
        raise InputError(f"{name} cannot be made for x{scale} ({reason(error, 120)}); {ONNX}") from None


def _own_state(encoder: Headless, network: nn.Module) -> dict[str, Tensor]:
    """What encoder and network share, by the network's names."""
    wanted = network.state_dict()
    state = {name: value.detach().cpu() for name, value in encoder.net.state_dict().items()}
    return {name: value.clone() for name, value in state.items()
            if name in wanted and wanted[name].shape == value.shape}  # fmt: skip


def _entry(network: nn.Module, own: Mapping[str, Tensor], conv: nn.Conv2d, name: str) -> str:
    """Name of the convolution in ``network`` that is all it has beside the encoder."""
    missing = network.state_dict().keys() - own.keys()
    entries = {key.rpartition(".")[0] for key in missing}
    head = network.get_submodule(entries.pop()) if len(entries) == 1 else None
    if not isinstance(head, nn.Conv2d) or head.weight.shape != conv.weight.shape:
        raise InputError(f"the head of {name} is more than one convolution of this size; {ONNX}")
    return next(iter(missing)).rpartition(".")[0]


def _variants(conv: nn.Conv2d, post: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(kernel, bias) for networks that undo the normalisation of their input behind the head, and for others."""
    weight = conv.weight.detach()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    variants = [(weight, bias)]
    if isinstance(post, Affine):
        shift = post.shift.flatten().repeat_interleave(len(weight) // 3)
        variants.append((weight * post.factor, bias * post.factor + shift))
    return variants


@torch.no_grad()
def _difference(state: Mapping[str, Tensor], fixed: nn.Module, scale: int) -> float:
    """Largest difference of what spandrel loads to the model; infinite if that has another scale."""
    from spandrel import ModelLoader

    with warnings.catch_warnings(action="ignore"):
        try:
            loaded = ModelLoader().load_from_state_dict(dict(state))
        except Exception as error:  # of spandrel's and of the network's
            raise InputError(f"spandrel does not load this ({reason(error, 120)}); {ONNX}") from None
    if loaded.scale != scale:
        return float("inf")
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 3, *side, generator=generator) for side in SIDES]
    return max((loaded.model.eval()(lr.clone()) - fixed(lr)).abs().max().item() for lr in images)
