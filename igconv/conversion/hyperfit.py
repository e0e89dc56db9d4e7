"""One function through the SPConvs of all scales: the latents of IGConv's hyper-network fitted to given kernels.

Entry i of a kernel (one channel and tap, or the constant) has its own latents, and its kernel values at the S
sub-pixels of all scales are smooth functions of these alone, as long as the MLP, which all entries share, stays as it
started. So the fit falls apart into small nonlinear least squares, one per entry, and Levenberg-Marquardt solves them
side by side. With theta and phi as in `igconv.hypernetwork` and D = d out / d phi, which a backward pass of the MLP
per output gives, the Jacobian is

    d out / d amplitude = D * [cos theta; sin theta]
    d out / d Zx        = pi dx * (D_sin * amplitude_sin * cos theta - D_cos * amplitude_cos * sin theta)

(Zy with dy). Where neighbouring scales' kernels cannot all be met, what counts is their images: `refine` goes on with
Gauss-Newton steps in the metric of the features' moments, in which the entries hang together.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from igconv.errors import InputError
from igconv.models.hypernetwork import HyperNetwork, subpixel_centres

ROWS = 6_000  # kernel entries times sub-pixels whose Jacobian is made at once; 1.5 MB each 1,000 at width 256


class Entries:
    """Kernel entries of a hyper-network as functions of their latents, at the sub-pixels of several scales.

    Args:
        hyper: of one branch; its MLP and phase are read, not changed.
        freq, amplitude: (n, width) latents of the entries.
        scales: whose sub-pixels follow one another, row by row: S of them.
    """

    def __init__(self, hyper: HyperNetwork, freq: Tensor, amplitude: Tensor, scales: Sequence[int]):
        if hyper.groups > 1:
            raise InputError("only a hyper-network of one branch can be fitted")
        self.latents = torch.cat([freq, amplitude], dim=1).detach().clone()
        self.layers = [(layer.weight.detach(), layer.bias.detach()) for layer in hyper.query_kernel[::2]]
        self.half, self.outputs = freq.shape[1] // 2, hyper.out_channels
        where, phases = [], []
        for scale in scales:
            c = subpixel_centres(scale, freq.device, freq.dtype)
            where.append(torch.stack([c.repeat(scale), c.repeat_interleave(scale)], dim=1))
            phase = hyper.phase(freq.new_full((1,), 2.0 / min(scale, hyper.max_scale))).detach()
            phases.append(phase.expand(scale**2, -1))
        self.delta, self.phase = torch.cat(where), torch.cat(phases)  # (S, 2) of dx, dy; (S, width / 2)

    def chunks(self) -> Iterator[slice]:
        """Entries, as many at a time as `ROWS` allows."""
        step = max(1, ROWS // len(self.delta))
        return (slice(start, start + step) for start in range(0, len(self.latents), step))

    def _forward(self, latents: Tensor) -> tuple[Tensor, Tensor, list[Tensor], tuple[Tensor, Tensor]]:
        """(values (n, S, outputs), [cos; sin] (n, S, width), signs of the hidden layers, amplitudes)."""
        zx, zy, amp = latents[:, None].split([self.half, self.half, 2 * self.half], dim=-1)
        theta = math.pi * (zx * self.delta[:, :1] + zy * self.delta[:, 1:] + self.phase)
        waves = torch.cat([theta.cos(), theta.sin()], dim=-1)
        x, signs = (amp * waves).flatten(0, 1), []
        for weight, bias in self.layers[:-1]:
            x = torch.addmm(bias, x, weight.T)
            signs.append(x > 0)
            x = x.relu_()
        weight, bias = self.layers[-1]
        return torch.addmm(bias, x, weight.T).unflatten(0, (len(latents), -1)), waves, signs, amp

    def values(self, latents: Tensor | None = None) -> Tensor:
        """(n, S outputs), of given latents or the entries' own."""
        latents = self.latents if latents is None else latents
        return torch.cat([self._forward(latents[part])[0].flatten(1) for part in self.chunks()])

    def jacobian(self, part: slice) -> tuple[Tensor, Tensor]:
        """(values (m, S outputs), their derivatives (m, S outputs, 2 width) by the latents) of some entries."""
        values, waves, signs, amp = self._forward(self.latents[part])
        d = self.layers[-1][0].expand(len(waves) * len(self.delta), -1, -1)
        for (weight, _), sign in zip(self.layers[-2::-1], signs[::-1], strict=True):
            d = (d * sign[:, None]) @ weight
        d = d.unflatten(0, waves.shape[:2])  # (m, S, outputs, width)
        waves, amp = waves[:, :, None], amp[:, :, None]
        cos, sin = waves.split(self.half, dim=-1)
        of_theta = torch.cat([-sin, cos], dim=-1) * amp * d
        of_theta = math.pi * (of_theta[..., : self.half] + of_theta[..., self.half :])
        dx, dy = self.delta[:, 0, None, None], self.delta[:, 1, None, None]
        return values.flatten(1), torch.cat([dx * of_theta, dy * of_theta, d * waves], dim=-1).flatten(1, 2)


def cholesky_solve(matrices: Tensor, right: Tensor) -> Tensor:
    """Solutions of positive definite systems (n, m, m) x (n, m)."""
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(matrices))[..., 0]


def levenberg_marquardt(
    entries: Entries, targets: Tensor, weights: Tensor, iterations: int = 30, enough: float = 1e-4, damping: float = 1e-2
) -> Iterator[float]:
    """Move the latents of every entry towards its targets; yields the relative error before each iteration and after.

    Each entry: step = J' (J J' + damping d)^-1 residual, d the mean diagonal of J J'. Entries that got worse keep
    their latents; the damping is divided by 4 when more than 80 % got better, else multiplied by 4.

    Args:
        targets: (n, S outputs).
        weights: (S outputs) of the residuals.
        iterations: at most.
        enough: relative error (root of the summed weighted squares over those of the targets) at which to stop.
    """
    size = (targets * weights).norm()
    errors = ((targets - entries.values()) * weights).norm(dim=1)
    yield float(errors.norm() / size)
    for _ in range(iterations):
        steps = []
        for part in entries.chunks():
            values, jacobian = entries.jacobian(part)
            jacobian, residual = jacobian * weights[:, None], (targets[part] - values) * weights
            wide = jacobian.shape[1] <= jacobian.shape[2]
            gram = jacobian @ jacobian.mT if wide else jacobian.mT @ jacobian
            diagonal = gram.diagonal(dim1=1, dim2=2)
            diagonal += damping * diagonal.mean(1, keepdim=True)
            right = residual if wide else (jacobian.mT @ residual[..., None])[..., 0]
            found = cholesky_solve(gram, right)
            steps.append((jacobian.mT @ found[..., None])[..., 0] if wide else found)
        moved = entries.latents + torch.cat(steps)
        after = ((targets - entries.values(moved)) * weights).norm(dim=1)
        better = after < errors
        entries.latents = torch.where(better[:, None], moved, entries.latents)
        errors = torch.where(better, after, errors)
        damping = damping / 4 if better.float().mean() > 0.8 else damping * 4
        yield float(errors.norm() / size)
        if errors.norm() < enough * size or damping > 1e6:
            return
