"""One function through the SPConvs of all scales: the latents of IGConv's hyper-network fitted to given kernels.

Entry i of a kernel (one channel and tap, or the constant) has its own latents, and its kernel values at the S
sub-pixels of all scales are smooth functions of these alone, as long as the MLP, which all entries share, stays as it
started. So the fit falls apart into small nonlinear least squares, one per entry, and Levenberg-Marquardt solves them
side by side. With theta and phi as in `igconv.models.hypernetwork` and D = d out / d phi, which a backward pass of the
MLP per output gives, the Jacobian is

    d out / d amplitude = D * [cos theta; sin theta]
    d out / d Zx        = pi dx * (D_sin * amplitude_sin * cos theta - D_cos * amplitude_cos * sin theta)

(Zy with dy). Where neighbouring scales' kernels cannot all be met, what counts is their images: `refine` goes on with
Gauss-Newton steps in the metric of the features' moments, in which the entries hang together.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from igconv.conversion import closed_form
from igconv.conversion.sums import Normal
from igconv.errors import InputError
from igconv.models.hypernetwork import HyperNetwork, subpixel_centres
from igconv.models.upsamplers import IGConv
from igconv.progress import follow_items

ROWS = 6_000  # kernel entries times sub-pixels whose Jacobian is made at once: 37 MB per 1,000 at width 512
ITERATIONS, FEW, REFINEMENTS = 20, 8, 16
LEAST = 1e-6  # damping: below it, float32 no longer factorises
MEMORY = 2**31  # bytes of a Jacobian that is kept; kernels of larger scales are fitted without
EXACT = 1e-3  # relative error of kernels that counts as met
STALLED = 3  # whole steps one after the other that gain next to nothing: the work is done
PARTS = (1, 1 / 2, 1 / 4, 1 / 8)  # of a Gauss-Newton step that are tried: next to its solution they cost nothing
LEAST_OWN = 1e-3  # share of the variance: the error of its kernels counts as at least that
OWN = 30.0  # weight of the network's own scale beside the others, where not all can be met
# Frequencies at the start. Where latents cannot meet all kernels, smoother functions come nearer to their images in
# fewer steps. Where the kernels themselves are to be met, of all scales or of the network's own, they are further away.
SPREAD, SPREAD_MANY = 0.5, 0.2


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
    """Solutions of positive definite systems (n, m, m) x (n, m); 0 where float32 cannot factorise."""
    factors, failed = torch.linalg.cholesky_ex(matrices)
    found = torch.cholesky_solve(right[..., None], factors)[..., 0]
    return torch.where(failed[:, None] == 0, found, 0)


def levenberg_marquardt(
    entries: Entries,
    targets: Tensor,
    weights: Tensor,
    iterations: int = ITERATIONS,
    enough: float = 1e-5,
    damping: float = 1e-2,
) -> Iterator[float]:
    """Move the latents of every entry towards its targets; yields the relative error before each iteration and after.

    Each entry: step = J' (J J' + damping d)^-1 residual, d the mean diagonal of J J'. An entry that got better has its
    damping divided by 4; one that got worse keeps its latents, and its damping is multiplied by 4.

    Args:
        targets: (n, S outputs).
        weights: (S outputs) of the residuals.
        iterations: at most.
        enough: relative error (root of the summed weighted squares over those of the targets) at which to stop.
    """
    size = (targets * weights).norm()
    errors = ((targets - entries.values()) * weights).norm(dim=1)
    yield float(errors.norm() / size)
    dampings = torch.full_like(errors, damping)
    for _ in range(iterations):
        steps = []
        for part in entries.chunks():
            values, jacobian = entries.jacobian(part)
            jacobian, residual = jacobian * weights[:, None], (targets[part] - values) * weights
            wide = jacobian.shape[1] <= jacobian.shape[2]
            gram = jacobian @ jacobian.mT if wide else jacobian.mT @ jacobian
            diagonal = gram.diagonal(dim1=1, dim2=2)
            diagonal += (dampings[part] * diagonal.mean(1))[:, None]
            right = residual if wide else (jacobian.mT @ residual[..., None])[..., 0]
            found = cholesky_solve(gram, right)
            steps.append((jacobian.mT @ found[..., None])[..., 0] if wide else found)
        moved = entries.latents + torch.cat(steps)
        after = ((targets - entries.values(moved)) * weights).norm(dim=1)
        better = after < errors
        entries.latents = torch.where(better[:, None], moved, entries.latents)
        errors = torch.where(better, after, errors)
        dampings = torch.where(better, dampings / 4, dampings * 4).clamp(min=LEAST)
        yield float(errors.norm() / size)
        if errors.norm() < enough * size:
            return


class Metric:
    """The squared error of images as a function of kernel errors: sum over scales of weight * tr(E' A E).

    Args:
        parts: per scale, in the order of the entries' columns: A (n, n), the moments of features and constant, times
            the weight of the scale; and how many columns it has.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, int]]):
        self.moments, self.widths = [moments.float() for moments, _ in parts], [width for _, width in parts]

    def __call__(self, errors: Tensor) -> Tensor:
        """A E, (n, S outputs)."""
        pairs = zip(self.moments, errors.split(self.widths, dim=1), strict=True)
        return torch.cat([moments @ part for moments, part in pairs], dim=1)

    def diagonal(self) -> Tensor:
        """Of A, for every column: (n, S outputs)."""
        pairs = zip(self.moments, self.widths, strict=True)
        return torch.cat([moments.diagonal()[:, None].expand(-1, width) for moments, width in pairs], dim=1)


def refine(
    entries: Entries,
    targets: Tensor,
    metric: Metric,
    iterations: int = REFINEMENTS,
    inner: int = 60,
    damping: float = 1e-3,
    enough: float = 0.01,
) -> Iterator[float]:
    """Move all latents towards the least squared error in a metric; yields it before each iteration and after.

    A Gauss-Newton step solves (J' A J + damping D) step = -J' A E by conjugate gradients, preconditioned by what it
    would be if entries did not hang together; D is the mean diagonal of each entry's block. Of a step that does not
    help a part is taken (`PARTS`), or none, and the damping grows.

    Args:
        targets: (n, S outputs).
        iterations, inner: at most, of Gauss-Newton and of conjugate gradients within it.
        enough: stop when `STALLED` whole steps, one after the other, gain less than this share of the error each. A
            single one may have been damped too much.
    """

    def squared(latents: Tensor) -> tuple[Tensor, float]:
        errors = entries.values(latents) - targets
        return errors, float((errors * metric(errors)).sum())

    errors, value = squared(entries.latents)
    yield value
    diagonal, (n, width) = metric.diagonal(), entries.latents.shape
    jacobian, inverses = targets.new_empty(n, targets.shape[1], width), targets.new_empty(n, width, width)
    mean, stalled = targets.new_empty(n, 1), 0
    for _ in range(iterations):
        for part in entries.chunks():
            jacobian[part] = entries.jacobian(part)[1]
            block = jacobian[part].mT @ (jacobian[part] * diagonal[part, :, None])
            own = block.diagonal(dim1=1, dim2=2)
            mean[part] = own.mean(1, keepdim=True)
            own += damping * mean[part]
            factors, failed = torch.linalg.cholesky_ex(block)
            # Where float32 cannot factorise, the diagonal does: it is a preconditioner only.
            factors = torch.where(failed[:, None, None] == 0, factors, torch.diag_embed(own.sqrt()))
            inverses[part] = torch.cholesky_inverse(factors)

        def product(step: Tensor) -> Tensor:
            made = (jacobian @ step[..., None])[..., 0]  # all within this iteration
            return (jacobian.mT @ metric(made)[..., None])[..., 0] + damping * mean * step  # noqa: B023

        def preconditioned(residual: Tensor) -> Tensor:
            return (inverses @ residual[..., None])[..., 0]

        right = -(jacobian.mT @ metric(errors)[..., None])[..., 0]
        step = conjugate_gradients(product, preconditioned, right, inner)
        part_taken, moved, (after, error) = 1, entries.latents, (errors, math.inf)
        for part_taken in PARTS:
            moved = entries.latents + part_taken * step
            after, error = squared(moved)
            if error < value:
                break
        if error < value:
            gained, entries.latents, errors, value = 1 - error / value, moved, after, error
            damping *= 1 / 4 if part_taken == 1 else 2
            yield value
            if part_taken == 1:  # a part gains little because its step is bad, not because the work is done
                stalled = stalled + 1 if gained < enough else 0
            if stalled == STALLED:
                return
        else:
            damping *= 8
            yield value
            if damping > 1e3:
                return


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    preconditioned: Callable[[Tensor], Tensor],
    right: Tensor,
    iterations: int,
    enough: float = 1e-3,
) -> Tensor:
    """x with product(x) = right, as far as ``iterations`` or a residual of the share ``enough`` (squared) lead."""
    x, residual = torch.zeros_like(right), right
    z = direction = preconditioned(residual)
    size = first = (residual * z).sum()
    for _ in range(iterations):
        image = product(direction)
        step = size / (direction * image).sum()
        x, residual = x + step * direction, residual - step * image
        z = preconditioned(residual)
        size, before = (residual * z).sum(), size
        if size < enough * first:
            break
        direction = z + size / before * direction
    return x


def start(upsampler: IGConv, seed: int, spread: float = SPREAD) -> None:
    """Weights from which latents alone reach given kernels: SPConv's start, with frequencies ``spread`` wide.

    With the authors' 0.02 theta hardly changes over the cell, and all sub-pixels get the same kernel.
    """
    hyper = upsampler.hyper
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        hyper.phase.reset_parameters()
        for freq, amplitude in _latents(upsampler):
            freq.normal_(0, spread)
            amplitude.normal_(0, 0.02)
        hyper.start_like_spconv()


def fit(
    upsampler: IGConv,
    kernels: dict[int, Tensor],
    equations: dict[int, Normal],
    own: int | None,
    ridge: float,
    seed: int,
    note: Callable[[IGConv, float], None] | None = None,
) -> list[float]:
    """Fit an IGConv with a basis and sub-pixel constants to the SPConvs of several scales.

    Args:
        upsampler: its basis is set; the rest is started anew.
        kernels: scale -> (9 C + 1, 3 r^2) coefficients on whitened features, and constants.
        equations: scale -> sums on whitened features.
        own: the scale whose kernels have to be met; None: none.
        ridge: weight of the closed form.
        note: called with the upsampler and the relative error, before the fit and after each iteration on kernels.

    Returns:
        relative error of the kernels before the fit and after each iteration, the residuals of x r weighted by 1 / r.
    """
    scales, hyper = tuple(kernels), upsampler.hyper
    outputs, latents = sum(3 * r**2 for r in scales), sum(part.shape[1] for part in _latents(upsampler)[0])
    few = 2 * outputs <= latents  # so that kernels can all be met
    start(upsampler, seed, SPREAD if few or own else SPREAD_MANY)
    with torch.no_grad():
        colours = torch.stack([k[-1].unflatten(0, (3, -1)).mean(1) for k in kernels.values()]).mean(0)
        upsampler.bias.copy_(colours)
    freq, amplitude = (torch.cat(pair).detach() for pair in zip(*_latents(upsampler), strict=True))
    entries = Entries(hyper, freq, amplitude, scales)
    targets = torch.cat([_columns(kernels[r], upsampler.bias.detach()) for r in scales], dim=1).float()
    weights = torch.cat([targets.new_full((3 * r**2,), 1 / r) for r in scales])
    # Where kernels cannot all be met, a few steps lead to where a metric helps.
    large = 4 * targets.numel() * latents > MEMORY
    count = ITERATIONS if large or few else FEW
    errors = []
    for error in follow_items(levenberg_marquardt(entries, targets, weights, count), count + 1, "fit of kernels"):
        errors.append(error)
        if note:
            _store(entries, upsampler)
            note(upsampler, error)
    if errors[-1] > EXACT and not large:  # more than latents can follow: what counts is the images
        parts = []
        for r in scales:
            moments, own_weight = equations[r].moments(), OWN if r == own else 1.0
            moments.diagonal()[:-1] += ridge
            least = closed_form.error(equations[r], kernels[r][:-1], kernels[r][-1]).sum()
            if r == own:  # nothing, where the target is what these kernels return
                least = least.clamp(min=LEAST_OWN * equations[r].covariances()[2].sum())
            parts.append((moments * own_weight / least, 3 * r**2))
        steps = refine(entries, targets, Metric(parts))
        list(follow_items(steps, REFINEMENTS + 1, "fit of images"))
        if own:  # the shortest way from there to the network's own kernels
            alone = Entries(hyper, freq, amplitude, (own,))
            alone.latents = entries.latents
            wanted = targets.split([3 * r**2 for r in scales], dim=1)[scales.index(own)]
            list(levenberg_marquardt(alone, wanted, torch.ones_like(wanted[0])))
            entries.latents = alone.latents
        errors.append(float(((targets - entries.values()) * weights).norm() / (targets * weights).norm()))
    _store(entries, upsampler)
    return errors


@torch.no_grad()
def _store(entries: Entries, upsampler: IGConv) -> None:
    """The latents of `Entries` into the upsampler they were made of."""
    place = 0
    for freq, amplitude in _latents(upsampler):
        found = entries.latents[place : place + len(freq)]
        freq.copy_(found[:, : freq.shape[1]])
        amplitude.copy_(found[:, freq.shape[1] :])
        place += len(freq)


def _latents(upsampler: IGConv) -> list[tuple[Tensor, Tensor]]:
    """(freq, amplitude) of the kernels' entries, and of the constant's."""
    return [(upsampler.hyper.freq, upsampler.hyper.amplitude), (upsampler.bias_freq, upsampler.bias_amplitude)]


def _columns(kernels: Tensor, colours: Tensor) -> Tensor:
    """(n, 3 r^2) ordered colour, sub-pixel -> what `Entries` return: sub-pixel, colour, the constants without the
    colours' own."""
    values = kernels.unflatten(1, (3, -1)).clone()
    values[-1] -= colours.to(values)[:, None]
    return values.transpose(1, 2).flatten(1)
