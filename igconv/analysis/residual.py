"""What is alike in two encoders beyond what both take over from the image.

A convolutional network that learned nothing is close to a linear map of its input, so any two of them are alike, and
trained ones are too as far as they pass the image on. Here that part is taken off: each channel of a stage is
predicted by its least-squares 7 x 7 filter of the LR image (3 x 49 taps and a constant, one filter for all crops), and
what is left is compared by CKA. Pixels whose window would leave the crop are dropped, because zero padding is no
linear filter. The estimator is ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from igconv.analysis.similarity import Grams, centred_gram, observe, stages_of
from igconv.conversion.closed_form import error, solve
from igconv.conversion.sums import Normal, normal_equations
from igconv.errors import InputError

SIDE = 7  # of the filter, in LR pixels
RIDGE = 1e-10  # neighbouring pixels are nearly the same thing
LEAST = 1e-8  # share of the variance that has to be left; rounding and the ridge leave less of a linear filter


def windows(lr: Tensor, side: int = SIDE) -> Tensor:
    """What a filter of ``side`` x ``side`` sees of (B, 3, h, w): (B (h - side + 1) (w - side + 1), 3 side^2) float64.

    Raises InputError for images smaller than the filter.
    """
    if min(lr.shape[-2:]) < side:
        raise InputError(f"images of {tuple(lr.shape[-2:])} px are smaller than the filter of {side} px")
    return F.unfold(lr.double(), side).transpose(1, 2).flatten(0, 1)


def inside(features: Tensor, lr: Tensor, side: int = SIDE) -> Tensor:
    """Features (B, C, H, W) at the pixels of `windows`; beyond the LR image's size they are padding."""
    edge, (h, w) = side // 2, lr.shape[-2:]
    return features[..., edge : h - edge, edge : w - edge]


def residual_grams(
    model, images: Tensor, minibatch: int = 32, device="cpu", side: int = SIDE, label: str = ""
) -> Grams:
    """Grams of every stage without its linear part, on uint8 LR crops (N, 3, h, w); see the module.

    Stages of which nothing is left (a first convolution is a linear filter) are left out. Raises InputError as
    `igconv.analysis.similarity.observe`, and when nothing is left of any stage.
    """
    parts: list[Normal] = []

    def add(lr: Tensor, features: dict[str, Tensor]) -> None:
        parts.append(normal_equations(windows(lr, side), _pixels(features, names, lr, side)))

    names = tuple(stages_of(model))
    widths = observe(model, images, minibatch, add, device)
    sums = sum(parts[1:], parts[0])
    coefficients, intercept = solve(sums, RIDGE)
    unexplained = error(sums, coefficients, intercept).split([widths[name] for name in names])
    variance = sums.covariances()[2].split([widths[name] for name in names])
    left = {name: float(e.sum() / v.sum()) for name, e, v in zip(names, unexplained, variance, strict=True)}
    stages = tuple(name for name in names if left[name] > LEAST)
    if not stages:
        raise InputError("every stage of the encoder is a linear filter of its input, so nothing is left to compare")
    grams: list[Tensor] = []

    def see(lr: Tensor, features: dict[str, Tensor]) -> None:
        beyond = _pixels(features, names, lr, side) - (windows(lr, side) @ coefficients + intercept)
        of_stages = dict(zip(names, beyond.split([widths[name] for name in names], dim=1), strict=True))
        grams.append(torch.stack([centred_gram(of_stages[name].unflatten(0, (len(lr), -1))).cpu() for name in stages]))

    observe(model, images, minibatch, see, device, label)
    return Grams(stages, torch.stack(grams), tuple(1 - left[name] for name in stages))


def _pixels(features: dict[str, Tensor], names: tuple[str, ...], lr: Tensor, side: int) -> Tensor:
    """(pixels of `windows`, channels of all stages) float64."""
    inner = [inside(features[name], lr, side).permute(0, 2, 3, 1).flatten(0, 2) for name in names]
    return torch.cat(inner, dim=1).double()
