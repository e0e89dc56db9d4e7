"""SPConvs in closed form: ridge regressions from the sums of `igconv.conversion.sums`.

With features standardised by their deviation,

    coefficients = argmin  mean |y - x b - c|^2 + weight * |standardised b|^2 * var(y),

with a free constant c. Where crops are held out from the fit, the weight is the one that has the least error on them,
and the final fit uses both. A 3x3 SPConv on C channels has 9 C + 1 unknowns per output channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from igconv.conversion.sums import CONSTANT, TAPS, Normal
from igconv.errors import InputError

WEIGHTS = tuple(10.0**e for e in range(-10, 0))


@dataclass(frozen=True)
class Fit:
    """y = x @ coefficients (p, q) + intercept (q); the ridge weight and what it explained of held-out variance."""

    coefficients: Tensor
    intercept: Tensor
    weight: float
    explained: float


def solve(normal: Normal, weight: float) -> tuple[Tensor, Tensor]:
    """(coefficients (p, q), intercept (q)) at one ridge weight. Channels that are constant get coefficient 0.

    Raises InputError for fewer equations than unknowns, and where every feature is constant.
    """
    unknowns = len(normal.x) + 1
    if normal.count < unknowns:
        raise InputError(f"{normal.count} pixels are fewer than the {unknowns} unknowns of the fit; give more crops")
    xx, xy, _ = normal.covariances()
    spread = xx.diagonal().clamp(min=0).sqrt()
    varies = spread > CONSTANT * (normal.xx.diagonal() / normal.weight).sqrt()
    if not varies.any():
        raise InputError(f"constant features: all {normal.count} pixels have the same, so nothing can be fitted")
    scale = torch.where(varies, 1 / spread, 0)
    system = scale[:, None] * xx * scale + weight * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    coefficients = scale[:, None] * torch.linalg.solve(system, scale[:, None] * xy)
    x, y = normal.means()
    return coefficients, y - x @ coefficients


# Taps of a 3x3 kernel that flips and rotations carry into one another: the corners, the edges, the centre.
ORBITS = torch.tensor([[1, 0, 1, 0, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0]]).double()


def solve_symmetric(normal: Normal, weight: float) -> tuple[Tensor, Tensor]:
    """`solve` among the kernels that are the mean of their own flips and rotations (IGConv+'s dihedral averaging)."""
    mix = torch.kron(torch.eye(len(normal.x) // TAPS, dtype=torch.float64), ORBITS)
    coefficients, constants = solve(normal.mixed(mix), weight)
    return mix.T @ coefficients, constants


def error(normal: Normal, coefficients: Tensor, intercept: Tensor) -> Tensor:
    """Mean squared error of each output (q) of a linear map on the pixels of normal equations, with their weights."""
    xx, xy, yy = normal.covariances()
    x, y = normal.means()
    offset = y - x @ coefficients - intercept
    return yy - 2 * (coefficients * xy).sum(0) + (coefficients * (xx @ coefficients)).sum(0) + offset.square()


def fit(training: Normal, held_out: Normal, weights: Sequence[float] = WEIGHTS) -> Fit:
    """Ridge regression whose weight is chosen by the error on held-out crops, then fitted on both."""
    errors = [float(error(held_out, *solve(training, weight)).mean()) for weight in weights]
    best = int(np.argmin(errors))
    explained = 1 - errors[best] / float(held_out.covariances()[2].mean())
    return Fit(*solve(training + held_out, weights[best]), weights[best], explained)


def kernel_of(found: Fit) -> tuple[Tensor, Tensor]:
    """(kernels (3 r^2, C, 3, 3), biases (3 r^2)) of a fit to `sums.spconv_equations`."""
    return found.coefficients.T.unflatten(1, (-1, 3, 3)), found.intercept
