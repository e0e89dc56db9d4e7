"""A fixed-scale network, without its reconstruction head, as an encoder: how a user's own model becomes multi-scale.

Super-resolution networks end alike: features of the size of the image, perhaps a convolution, and then layers that
enlarge. The head begins at ``conv_before_upsample`` where a network has one (the SwinIR family), otherwise at the
first layer that enlarges, or at the convolution that makes the channels for it (before a depth-to-space). A trial run
finds it. What runs from there on is removed, and the features are what the head would have been given.
"""

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.errors import InputError, reason
from igconv.models.encoders.edsr import DIV2K_MEAN
from igconv.models.state_files import read_weights

SIDE = 32  # px of the trial image: a multiple of the usual windows; networks with others pad
SAME = 1e-4  # of the range: differences of float32 sums in another order
SPANDREL = ("spandrel", "spandrel_extra_arches")


class Features(Exception):
    """Carries the features from the place of the head out of the network's forward, past what follows the head."""

    def __init__(self, features: Tensor):
        super().__init__("features")
        self.features = features


class Head(nn.Module):
    """Stands where the head was."""

    def forward(self, features: Tensor) -> Tensor:
        raise Features(features)


class Headless(nn.Module):
    """(B, 3, H, W) -> (B, C, H, W): runs ``net`` up to where its head was. Made by `from_spandrel`.

    ``mean`` and ``img_range`` are there when they are the network's own and could be taken out of it. The network's
    own padding stays inside; its features are cut to the size of the image. With ``image_skip`` the image's colours
    follow the features as three more channels.

    ``constant`` is what the head added to each colour whatever the features were: `build_model` gives it to a head that
    has none of its own. ``recipe`` says what the network was, for a file of the model (`rebuilt`).
    """

    mean: tuple[float, ...]
    img_range: float

    def __init__(self, net: nn.Module, channels: int, pad_to: int = 1, image_skip: bool = False):
        super().__init__()
        self.net, self.out_channels, self.pad_to = net, channels + 3 * image_skip, pad_to
        self.image_skip = image_skip
        self.constant: tuple[float, ...] | None = None
        self.recipe: dict | None = None

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.net(x.clone())  # some networks write into their input
        except Features as found:
            features = found.features[..., : x.shape[-2], : x.shape[-1]]
            return torch.cat([features, x.to(features.dtype)], dim=1) if self.image_skip else features
        raise InputError(f"{type(self.net).__name__} no longer reaches its head")


@dataclass(frozen=True)
class Parts:
    """A fixed-scale network taken apart: its encoder, its factor, and its head where that is one SPConv.

    ``head`` is (kernel (3 r^2, C, 3, 3), bias (3 r^2)) on the encoder's features, image skip included: the encoder with
    this SPConv (and the mean, where it was taken out) is the network. None for heads that are more than that.
    """

    encoder: Headless
    scale: int
    head: tuple[Tensor, Tensor] | None
    network: Callable[[Tensor], Tensor]  # the whole of it, as it was, in eval mode


def from_spandrel(model_or_file: nn.Module | str | Path, image_skip: bool = False) -> Headless:
    """Turn a fixed-scale super-resolution network into an encoder that starts from its trained features.

    Args:
        model_or_file: a weight file of an architecture that spandrel knows (.pth, .safetensors, ...), a loaded
            spandrel model, or the bare network. A network given is copied and stays as it is.
        image_skip: give the image's colours as three more features, for networks that add the enlarged image.

    Returns:
        An encoder for `build_model`. Its parameters are the network's without the head; those that get no gradient
        are frozen.

    Raises:
        InputError: an unreadable file or one with code in it, an architecture that spandrel does not know, no colour
            image network, or a head that cannot be told apart.
    """
    return take_apart(model_or_file, image_skip).encoder


def take_apart(model_or_file: nn.Module | str | Path, image_skip: bool | None = None) -> Parts:
    """The parts of a fixed-scale network; arguments and errors as `from_spandrel`.

    ``image_skip`` None looks whether the network adds the enlarged image to what its head makes.
    """
    given = _loaded(model_or_file) if isinstance(model_or_file, str | Path) else model_or_file
    needs = getattr(given, "size_requirements", None)  # spandrel's models have it and the network as ``model``
    net = given if isinstance(given, nn.Module) else getattr(given, "model", given)
    if not isinstance(net, nn.Module):
        raise InputError(f"from_spandrel takes a file, a spandrel model or a network, got {type(net).__name__}")
    whole = copy.deepcopy(net).float().eval().requires_grad_(False)
    net = copy.deepcopy(net).float().eval()
    device = next(net.parameters(), torch.empty(0)).device
    image = torch.rand(1, 3, SIDE, SIDE, device=device, generator=torch.Generator(device).manual_seed(0))
    last = _cut(net, image)
    with torch.no_grad():
        features, sr = _features(net, image), whole(image.clone())
        encoder = Headless(net, features.shape[1], getattr(needs, "multiple_of", 1), bool(image_skip))
        _take_out_mean(encoder, image, features)
        scale = _scale_of(whole, sr)
        head, skip = _spconv(encoder, last, features, image, sr, scale)
    if image_skip is None and skip:
        encoder.image_skip, encoder.out_channels = True, encoder.out_channels + 3
    _freeze_unused(encoder, image)
    encoder.constant = _constant(encoder, head)
    encoder.recipe = _recipe(whole, encoder)
    if head is not None and skip and encoder.image_skip:
        head = (torch.cat([head[0], _nearest(scale, head[0])], dim=1), head[1])
    elif skip:
        head = None
    return Parts(encoder.train(), scale, head, whole)


def _scale_of(net: nn.Module, sr) -> int:
    """Factor of a network that made ``sr`` of an image of side `SIDE`."""
    shape = tuple(sr.shape) if isinstance(sr, Tensor) else ()
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] % SIDE:
        raise InputError(
            f"{type(net).__name__} makes {shape or type(sr).__name__} of a {SIDE}x{SIDE} image; expected a colour "
            "image enlarged by an integer factor"
        )
    return shape[2] // SIDE


def _spconv(encoder: Headless, last: nn.Module, features: Tensor, image: Tensor, sr: Tensor, scale: int):
    """((kernel, bias) of a head that is one convolution and a shuffle, else None; whether the network adds the image).

    The head is taken at its word only if it makes the network's output from the features.
    """
    if not isinstance(last, nn.Conv2d) or last.out_channels != 3 * scale**2:
        return None, False
    plain = (last.stride, last.dilation, last.groups, last.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
    if last.kernel_size not in ((3, 3), (1, 1)):
        return None, False
    reach = last.kernel_size[0] // 2
    if not plain or last.padding not in ((reach, reach), "same"):
        return None, False
    kernel = F.pad(last.weight.detach(), (1 - reach,) * 4)
    bias = last.weight.new_zeros(len(kernel)) if last.bias is None else last.bias.detach()
    made = F.pixel_shuffle(F.conv2d(features, kernel, bias, padding=1), scale)
    if hasattr(encoder, "mean"):
        made = made / encoder.img_range + image.new_tensor(encoder.mean).view(1, 3, 1, 1)
    rest = (sr - made[..., : sr.shape[-2], : sr.shape[-1]]).abs()
    if rest.max() < SAME:
        return (kernel, bias), False
    rest = (sr - made - F.interpolate(image, scale_factor=scale, mode="nearest")).abs()
    return ((kernel, bias), True) if rest.max() < SAME else (None, False)


def _nearest(scale: int, like: Tensor) -> Tensor:
    """(3 r^2, 3, 3, 3): a convolution whose shuffled output is each pixel repeated r x r times."""
    kernel = like.new_zeros(3, scale**2, 3, 3, 3)
    for colour in range(3):
        kernel[colour, :, colour, 1, 1] = 1
    return kernel.flatten(0, 1)


def _constant(encoder: Headless, head) -> tuple[float, ...]:
    """What the head adds to each colour: the mean of its biases; an average brightness where that cannot be read."""
    if head is not None:
        return tuple(head[1].unflatten(0, (3, -1)).mean(1).tolist())
    return (0.0,) * 3 if hasattr(encoder, "mean") or encoder.image_skip else DIV2K_MEAN


def _recipe(net: nn.Module, encoder: Headless) -> dict:
    """What a file of the model needs to say of the network, in JSON values: spandrel's class and its options, where it
    is one; else its name, for a message."""
    recipe = dict(network=type(net).__name__, pad_to=encoder.pad_to, image_skip=encoder.image_skip)
    package, options = ".".join(type(net).__module__.split(".")[:3]), getattr(net, "hyperparameters", None)
    if package.split(".")[0] in SPANDREL and isinstance(options, dict):
        public = [name for name, value in vars(import_module(package)).items() if value is type(net)]
        options = {key: value for key, value in options.items() if not callable(value)}  # defaults, such as layers
        with suppress(TypeError, IndexError):  # an option that JSON cannot hold, no public name: it has to be given
            recipe |= dict(package=package, network=public[0], options=json.loads(json.dumps(options)))
    return recipe


def rebuilt(recipe: dict, network: nn.Module | None = None) -> Headless:
    """The encoder of a recipe, with fresh weights or those of the bare ``network`` it was made of.

    Raises InputError where spandrel's class of that name is not here, and without a network that is the user's own.
    """
    name, package = recipe["network"], recipe.get("package", "")
    if network is None:
        if package.split(".")[0] not in SPANDREL:
            raise InputError(f"it was converted from a network of yours; give it: igconv.load(path, network), a {name}")
        try:
            kind = getattr(import_module(package), name)
            if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # files are not to call what they like
                raise TypeError("not a network")
            network = kind(**recipe["options"])
        except (ImportError, AttributeError, TypeError) as error:
            raise InputError(f"this spandrel cannot rebuild {name} ({error})") from None
    assert network is not None
    encoder = take_apart(network, bool(recipe["image_skip"])).encoder
    encoder.pad_to = recipe["pad_to"]
    encoder.recipe = {**(encoder.recipe or {}), "pad_to": recipe["pad_to"]}
    return encoder


def _loaded(path: str | Path):
    """spandrel's model in a file; pickles are read by PyTorch's safe reader."""
    import warnings

    with warnings.catch_warnings(action="ignore"):
        from spandrel import MAIN_REGISTRY, ModelLoader, UnsupportedModelError, canonicalize_state_dict

        try:
            from spandrel_extra_arches import EXTRA_REGISTRY
        except ImportError:
            EXTRA_REGISTRY = ()
        MAIN_REGISTRY.add(*EXTRA_REGISTRY, ignore_duplicates=True)
        state = read_weights(path)
        try:
            return ModelLoader().load_from_state_dict(canonicalize_state_dict(state))
        except UnsupportedModelError:
            raise InputError(
                f'spandrel knows no architecture with the weights of {path} (SRFormer needs the extra "srformer")'
            ) from None
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            raise InputError(f"spandrel cannot load {path}: {reason(error)}") from None


def _cut(net: nn.Module, image: Tensor) -> nn.Module:
    """Put `Head` where the head of ``net`` begins and remove what only runs after it. Returns the head's entry."""
    kind, calls = type(net).__name__, _calls(net, image)
    start = next((i for i, (name, _, _) in enumerate(calls) if name.startswith("conv_before_upsample")), None)
    entry = "conv_before_upsample"
    if start is None:
        start = next((i for i, (_, before, after) in enumerate(calls) if after > SIDE >= before > 0), None)
        if start is None:
            raise InputError(f"cannot tell the head of {kind} apart: no layer of it enlarges the image")
        if isinstance(net.get_submodule(calls[start][0]), nn.PixelShuffle):
            start -= 1  # the convolution that makes the channels
        entry = calls[start][0]
    if not isinstance(net.get_submodule(calls[start][0]), nn.Conv2d | nn.Upsample | nn.ConvTranspose2d):
        raise InputError(f"cannot tell the head of {kind} apart: it begins at {calls[start][0]}")
    head, body = net.get_submodule(entry), {name for name, _, _ in calls[:start]}
    for name in {name for name, _, _ in calls[start:]} - body:
        _put(net, name, nn.Identity())
    _put(net, entry, Head())
    return head


def _calls(net: nn.Module, image: Tensor) -> list[tuple[str, int, int]]:
    """Leaf modules in the order in which they run: name, side of the input, side of the output (0: not square)."""

    def side(value) -> int:
        square = isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == value.shape[-2]
        return value.shape[-1] if square else 0

    calls, hooks = [], []
    for name, module in net.named_modules():
        if not any(module.children()):
            hooks.append(
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: calls.append((name, side(inputs[0]), side(output)))
                )
            )
    try:
        with torch.no_grad():
            net(image.clone())
    except Exception as error:
        raise InputError(f"{type(net).__name__} does not take an image {tuple(image.shape)}: {reason(error)}") from None
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _put(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, module)


def _features(net: nn.Module, image: Tensor) -> Tensor:
    try:
        net(image.clone())
    except Features as found:
        h, w = found.features.shape[-2:]
        if min(h, w) < SIDE or max(h, w) >= 2 * SIDE:
            raise InputError(
                f"{type(net).__name__} works on {h}x{w} features of a {SIDE}x{SIDE} image; an encoder's "
                "are as large as the image"
            ) from None
        return found.features
    raise InputError(f"cannot tell the head of {type(net).__name__} apart")


def _take_out_mean(encoder: Headless, image: Tensor, features: Tensor) -> None:
    """Leave the normalisation to `SuperResolver`, which also undoes it, if that changes no feature.

    Two ways are known: attributes ``mean`` and ``img_range`` (the SwinIR family), and a convolution ``sub_mean`` with
    ``rgb_range`` (RCAN and EDSR), when it only shifts.
    """
    net: Any = encoder.net
    plain: Any = copy.deepcopy(encoder.net)
    mean, span = getattr(net, "mean", None), getattr(net, "img_range", None)
    if isinstance(mean, Tensor) and mean.numel() == 3 and isinstance(span, int | float):
        plain.mean, plain.img_range = torch.zeros_like(mean), 1.0
        mean = mean.flatten().tolist()
    elif isinstance(getattr(net, "sub_mean", None), nn.Conv2d) and isinstance(getattr(net, "rgb_range", None), int):
        span = net.rgb_range
        mean = (-net.sub_mean.bias / span).tolist()
        plain.sub_mean, plain.rgb_range = nn.Identity(), 1
    else:
        return
    low = torch.tensor(mean, device=image.device).view(1, 3, 1, 1)
    if torch.allclose(_features(plain, (image - low) * span), features, atol=1e-4, rtol=1e-4):
        encoder.net, encoder.mean, encoder.img_range = plain, tuple(mean), float(span)


def _freeze_unused(encoder: Headless, image: Tensor) -> None:
    """No gradient for parameters that take no part in training, so that distributed training need not search them."""
    trial = copy.deepcopy(encoder).train().requires_grad_(True)
    with torch.enable_grad():
        trial(image.repeat(2, 1, 1, 1)).sum().backward()  # two, for batch normalisation of 1x1 features
    for ours, tried in zip(encoder.parameters(), trial.parameters(), strict=True):
        ours.requires_grad_(ours.requires_grad and tried.grad is not None)
