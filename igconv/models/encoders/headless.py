"""A fixed-scale network, without its reconstruction head, as an encoder: how a user's own model becomes multi-scale.

Super-resolution networks end alike: features of the size of the image, perhaps a convolution, and then layers that
enlarge. The head begins at ``conv_before_upsample`` where a network has one (the SwinIR family), otherwise at the
first layer that enlarges, or at the convolution that makes the channels for it (before a depth-to-space). A trial run
finds it. What runs from there on is removed, and the features are what the head would have been given.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igconv.errors import InputError, reason
from igconv.models.state_files import read_pickle, read_weights

SIDE = 32  # px of the trial image: a multiple of the usual windows; networks with others pad


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
    own padding stays inside; its features are cut to the size of the image.
    """

    mean: tuple[float, ...]
    img_range: float

    def __init__(self, net: nn.Module, channels: int, pad_to: int = 1):
        super().__init__()
        self.net, self.out_channels, self.pad_to = net, channels, pad_to

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.net(x.clone())  # some networks write into their input
        except Features as found:
            return found.features[..., : x.shape[-2], : x.shape[-1]]
        raise InputError(f"{type(self.net).__name__} no longer reaches its head")


def from_spandrel(model_or_file: nn.Module | str | Path) -> Headless:
    """Turn a fixed-scale super-resolution network into an encoder that starts from its trained features.

    Args:
        model_or_file: a weight file of an architecture that spandrel knows (.pth, .safetensors, ...), a loaded
            spandrel model, or the bare network. A network given is copied and stays as it is.

    Returns:
        An encoder for `build_model`. Its parameters are the network's without the head; those that get no gradient
        are frozen.

    Raises:
        InputError: an unreadable file or one with code in it, an architecture that spandrel does not know, no colour
            image network, or a head that cannot be told apart.
    """
    given = _loaded(model_or_file) if isinstance(model_or_file, str | Path) else model_or_file
    needs = getattr(given, "size_requirements", None)  # spandrel's models have it and the network as ``model``
    net = given if isinstance(given, nn.Module) else getattr(given, "model", given)
    if not isinstance(net, nn.Module):
        raise InputError(f"from_spandrel takes a file, a spandrel model or a network, got {type(net).__name__}")
    net = copy.deepcopy(net).float().eval()
    device = next(net.parameters(), torch.empty(0)).device
    image = torch.rand(1, 3, SIDE, SIDE, device=device, generator=torch.Generator(device).manual_seed(0))
    _cut(net, image)
    with torch.no_grad():
        features = _features(net, image)
        encoder = Headless(net, features.shape[1], getattr(needs, "multiple_of", 1))
        _take_out_mean(encoder, image, features)
    _freeze_unused(encoder, image)
    return encoder.train()


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
        state = read_weights(path) if Path(path).suffix == ".safetensors" else read_pickle(path)
        try:
            return ModelLoader().load_from_state_dict(canonicalize_state_dict(state))
        except UnsupportedModelError:
            raise InputError(f"spandrel knows no architecture with the weights of {path} "
                             '(SRFormer needs the extra "srformer")') from None  # fmt: skip
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            raise InputError(f"spandrel cannot load {path}: {reason(error)}") from None


def _cut(net: nn.Module, image: Tensor) -> None:
    """Put `Head` where the head of ``net`` begins and remove what only runs after it."""
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
    body = {name for name, _, _ in calls[:start]}
    for name in {name for name, _, _ in calls[start:]} - body:
        _put(net, name, nn.Identity())
    _put(net, entry, Head())


def _calls(net: nn.Module, image: Tensor) -> list[tuple[str, int, int]]:
    """Leaf modules in the order in which they run: name, side of the input, side of the output (0: not square)."""

    def side(value) -> int:
        square = isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == value.shape[-2]
        return value.shape[-1] if square else 0

    calls, hooks = [], []
    for name, module in net.named_modules():
        if not any(module.children()):
            hooks.append(module.register_forward_hook(
                lambda _, inputs, output, name=name: calls.append((name, side(inputs[0]), side(output)))
            ))  # fmt: skip
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
            raise InputError(f"{type(net).__name__} works on {h}x{w} features of a {SIDE}x{SIDE} image; an encoder's "
                             "are as large as the image") from None  # fmt: skip
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
