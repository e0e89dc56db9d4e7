"""What a frozen encoder of one scale is worth at all scales, and how near one function comes to the SPConvs of each.

`igconv.conversion` makes networks multi-scale; here that is an experiment about the paper's two observations. For a
network of one scale, every head reads the same features of its frozen encoder:

    SPConvs in closed form          the best a stored convolution can do (weighted squared error, crops of the fit)
    IGConv                          one hyper-network fitted to these, also at scales that were left out of the fit
    the same, symmetric             dihedral averaging; with IGSample beside the bilinear image
    native                          the network's own head, at its own scale
    controls                        an untrained encoder; one SPConv copied to the sub-pixels of the other scales; the
                                    same hyper-network by Adam, for as many passes as the fit took
"""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from igconv.analysis import networks as nets
from igconv.analysis.ridge import cut_tests, psnr_of_heads
from igconv.conversion import closed_form, convert, hyperfit, sums
from igconv.conversion.sources import Source, opened
from igconv.data.images import to_float
from igconv.data.resize import imresize
from igconv.errors import choose
from igconv.evaluation.benchmark import bicubic
from igconv.evaluation.metrics import psnr_y
from igconv.evaluation.statistics import mean_interval
from igconv.models import inference
from igconv.models.super_resolver import build_model
from igconv.models.upsamplers import IGConv
from igconv.study.run import Run

NATIVE, CLOSED, FITTED = "native", "SPConvs in closed form", "IGConv"
SYMMETRIC, FITTED_SYMMETRIC = "SPConvs in closed form, symmetric", "IGConv, symmetric"
SAMPLED = "IGConv+, as converted"
UNTRAINED, COPIED, ADAM = "untrained encoder, SPConvs in closed form", "SPConv of x{} copied", "IGConv by Adam"
BICUBIC, ENLARGED = "bicubic", "native, enlarged by bicubic"
QUALITY = ("network", "family", "encoder_scale", "head", "scale", "fitted", "dataset", "images", "psnr_y_db",
           "difference_db", "low_db", "high_db")  # fmt: skip
ITERATIONS = ("network", "iteration", "relative_error", "scale", "loss_db")
EIGENVALUES = ("network", "features", "of", "index", "eigenvalue")
COSTS = ("network", "part", "scales", "crops", "seconds", "peak_memory_mb")
# Passes of the MLP by Adam for each iteration of the fit, which has values, three backward passes and the trial.
PASSES = 6
MAIN = "SMFANet+ DF2K x4"  # the network looked at as a whole, where it is here
LEAST_SIDE = 16  # px of a LR image that takes part


@dataclass(frozen=True)
class Settings:
    """How networks are converted and measured.

    Args:
        scales: that are fitted. left_out: that the hyper-network is asked for without having seen them.
        crops, side: per scale, LR px. seed: of both crops and hyper-network.
        hidden_dim, num_layers: of the hyper-network.
        device: of the encoder.
    """

    scales: tuple[int, ...] = (2, 3, 4)
    left_out: tuple[int, ...] = ()
    crops: int = 192
    side: int = 48
    seed: int = 0
    hidden_dim: int = 256
    num_layers: int = 4
    device: str = "cpu"


@dataclass(frozen=True)
class Result:
    """Data frames of one network: one row per test image (`QUALITY` without means and intervals), `ITERATIONS`,
    `EIGENVALUES` and `COSTS`."""

    rows: pd.DataFrame
    iterations: pd.DataFrame
    eigenvalues: pd.DataFrame
    costs: pd.DataFrame


def networks_of(profile: str, runs: Sequence[Run]) -> tuple[list[nets.Network], list[str]]:
    """Networks of one scale to convert, and a line for each that is not here: the study's own SPConv runs of the first
    seed, then published ones, where the profile is no demonstration."""
    seed = min(run.seed for run in runs)
    fixed = [run for run in runs if run.upsampler == "spconv" and len(run.scales) == 1 and run.seed == seed]
    own, missing = nets.own_networks(fixed, [], seed)
    known, not_here = nets.published_networks("benchmark" if profile == "cpu" else profile)
    return [*own, *known], [*missing, *not_here]


def all_of(
    networks: Sequence[nets.Network], main: str, left_out: tuple[int, ...], pictures: list, images: dict,
    main_images: dict, settings: Settings,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """`converted` for every network, the one named ``main`` (without a name `MAIN`, or the last) as a whole, at the
    scales ``left_out`` as well and on ``main_images``.

    Returns the tables quality, iterations, eigenvalues and costs.
    """
    if not networks:
        columns = dict(quality=QUALITY, iterations=ITERATIONS, eigenvalues=EIGENVALUES, costs=COSTS)
        return {name: pd.DataFrame(columns=list(of)) for name, of in columns.items()}
    by_name = {network.name: network for network in networks}
    main = choose(main or (MAIN if MAIN in by_name else networks[-1].name), by_name, "network")
    found = []
    for network in networks:
        whole = network.name == main
        asked = replace(settings, left_out=left_out) if whole else settings
        found.append(converted(network, pictures, main_images if whole else images, asked, whole))
        print(f"{network.name}: converted", flush=True)
    parts = {name: pd.concat([getattr(result, name) for result in found], ignore_index=True)
             for name in ("rows", "iterations", "eigenvalues", "costs")}  # fmt: skip
    return dict(quality=summary(parts.pop("rows")), **parts)


def converted(network: nets.Network, pictures: list, images: dict, settings: Settings, whole: bool = False) -> Result:
    """Convert a network in all ways and measure every head on test images.

    Args:
        pictures: uint8 (H, W, 3), to fit on.
        images: (dataset, name) -> uint8 test image (3, H, W).
        whole: with the heads of IGConv+ and the controls, not SPConvs, IGConv and the native head alone.
    """
    work = _Work(opened(network.model), network, pictures, settings)
    asked, of = (*settings.scales, *settings.left_out), coefficients_of
    raw = work.timed("statistics", asked, lambda: work.sums(work.model, asked))
    basis = sums.whitening(sums.channel_covariance(raw))
    white = {scale: normal.in_basis(basis) for scale, normal in raw.items()}
    ridge = convert.RIDGE if len(settings.scales) <= 3 else convert.RIDGE_MANY
    closed = convert.solved(white, ridge)
    iterations = _Iterations(network.name, closed, white, settings.scales)
    fitted = work.timed("fit", settings.scales, lambda: work.fit(basis, closed, white, ridge, iterations.note))
    kernels = {CLOSED: closed, FITTED: of(fitted, asked)}
    if whole:
        symmetric = convert.solved(white, ridge, symmetric=True)
        kernels |= {SYMMETRIC: symmetric,
                    FITTED_SYMMETRIC: of(work.fit(basis, symmetric, white, ridge, dihedral=True), asked)}  # fmt: skip
        least = settings.scales[0]
        kernels[COPIED.format(least)] = {s: copied(closed[least], least, s) for s in asked}
        passes = PASSES * max(iterations.count, 1)
        by_adam = work.timed("the same passes by Adam", settings.scales,
                             lambda: adam(work.fresh(basis), closed, white, settings, passes))  # fmt: skip
        kernels[ADAM] = of(by_adam, asked)
    frames = [work.measured(kernels, basis, images, asked)]
    if whole:
        frames += [work.sampled(images), work.untrained(images)]
    return Result(
        work.table(pd.concat(frames, ignore_index=True)), iterations.table(), eigenvalues(network.name, raw, basis),
        pd.DataFrame(work.costs, columns=list(COSTS)),
    )  # fmt: skip


class _Work:
    """One network on its way: what is given, and what was spent."""

    def __init__(self, source: Source, network: nets.Network, pictures: list, settings: Settings):
        self.source, self.network, self.pictures, self.settings = source, network, pictures, settings
        self.costs: list[tuple] = []
        self.model = self.build()

    def build(self, **options):
        s = self.settings
        model = self.source.build(
            "igconv", s.scales, max_scale=max(4, *s.scales), bias="subpixel", basis=True,
            hidden_dim=s.hidden_dim, num_layers=s.num_layers, **options,
        )  # fmt: skip
        return inference.prepare(model, s.device)

    def fresh(self, basis: Tensor, **options) -> IGConv:
        upsampler = self.build(**options).cpu().upsampler
        with torch.no_grad():
            upsampler.basis.copy_(basis)
        return upsampler

    def timed(self, part: str, scales: Sequence[int], work):
        begin = time.perf_counter()
        result = work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = time.perf_counter() - begin
        texts = " ".join(map(str, scales))
        self.costs.append((self.network.name, part, texts, self.settings.crops, seconds, peak))
        return result

    def sums(self, model, scales: Sequence[int], source: Source | None = None) -> dict[int, sums.Normal]:
        s = self.settings
        source = source or self.source
        return convert.gathered(model, source, scales, self.pictures, s.crops, s.side, s.seed, "hr", s.device)

    def fit(self, basis, closed, white, ridge, note=None, **options) -> IGConv:
        scales, upsampler = self.settings.scales, self.fresh(basis, **options)
        targets = {scale: closed[scale] for scale in scales}
        hyperfit.fit(upsampler, targets, white, None, ridge, self.settings.seed, note)
        return upsampler

    def measured(self, kernels: dict, basis: Tensor, images: dict, scales: Sequence[int]) -> pd.DataFrame:
        """Heads of kernels on whitened features, the native one, bicubic, and the native image enlarged."""
        rows = []
        for scale in scales:
            heads: dict[str, nn.Module | None] = {
                name: nn.Sequential(convert.spconv_of(of_scales[scale], basis, scale), self.model.post)
                for name, of_scales in kernels.items()
            }
            tests = _tests(images, scale)
            rows += [
                dict(scale=scale, **row) for row in psnr_of_heads(self.model, heads, tests, scale, self.settings.device)
            ]
            rows += [dict(scale=scale, **row) for row in self.beside(tests, scale)]
        return pd.DataFrame(rows)

    @torch.no_grad()
    def beside(self, tests: list, scale: int) -> list[dict]:
        own, rows = self.source.scale, []
        for facts, lr, hr in tests:
            images = {BICUBIC: bicubic(to_float(lr)[None], scale)}
            if scale >= own:
                with inference.exact_arithmetic():
                    sr = self.source.network(to_float(lr)[None])
                larger = scale > own
                images[ENLARGED if larger else NATIVE] = (
                    imresize(sr, scale / own, "matlab", quantize=False) if larger else sr
                )
            rows += [dict(head=name, **facts, psnr_y_db=psnr_y(sr[0], hr, scale)) for name, sr in images.items()]
        return rows

    def sampled(self, images: dict) -> pd.DataFrame:
        """IGConv+ as it leaves the conversion: symmetric kernels beside the bilinear image."""
        s, model = self.settings, self.build(dihedral=True, igsample=True)
        convert.without_offsets(model.sampler)
        raw = self.sums(model, s.scales)
        basis = sums.whitening(sums.channel_covariance(raw))
        white = {scale: normal.in_basis(basis) for scale, normal in raw.items()}
        model.cpu()
        with torch.no_grad():
            model.upsampler.basis.copy_(basis)
        hyperfit.fit(model.upsampler, convert.solved(white, convert.RIDGE, True), white, None, convert.RIDGE, s.seed)
        rows = []
        for scale in s.scales:
            found = psnr_of_heads(model, {SAMPLED: None}, _tests(images, scale), scale, s.device)
            rows += [dict(scale=scale, **row) for row in found]
        return pd.DataFrame(rows)

    def untrained(self, images: dict) -> pd.DataFrame:
        """SPConvs in closed form on the features of the same encoder with random weights."""
        s = self.settings
        torch.manual_seed(1000 + s.seed)  # a seed that no run has
        options = {k: v for k, v in self.source.options.items() if k != "width"}
        source = opened(build_model(self.network.architecture, "spconv", scales=(self.source.scale,), **options))
        model = inference.prepare(source.build("spconv", s.scales), s.device)
        raw = self.sums(model, s.scales, source)
        basis = sums.whitening(sums.channel_covariance(raw))
        closed = convert.solved({scale: normal.in_basis(basis) for scale, normal in raw.items()}, convert.RIDGE)
        rows = []
        for scale in s.scales:
            heads = {UNTRAINED: nn.Sequential(convert.spconv_of(closed[scale], basis, scale), model.post)}
            found = psnr_of_heads(model, heads, _tests(images, scale), scale, s.device)
            rows += [dict(scale=scale, **row) for row in found]
        return pd.DataFrame(rows)

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        network = self.network
        facts = dict(network=network.name, family=network.family, encoder_scale=network.scale)
        return rows.assign(**facts, fitted=rows.scale.isin(self.settings.scales))


class _Iterations:
    """Relative error of kernels after each iteration of the fit, and what it costs in dB on the crops of the fit."""

    def __init__(self, name: str, closed: dict[int, Tensor], white: dict[int, sums.Normal], scales: Sequence[int]):
        self.name, self.closed, self.white, self.scales = name, closed, white, scales
        self.rows: list[tuple] = []
        self.count = -1  # of iterations; the first note is of the start

    def note(self, upsampler: IGConv, error: float) -> None:
        self.count += 1
        for scale, coefficients in coefficients_of(upsampler, self.scales).items():
            loss = loss_db(self.white[scale], coefficients, self.closed[scale])
            self.rows.append((self.name, self.count, error, scale, loss))

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(ITERATIONS))


def loss_db(equations: sums.Normal, coefficients: Tensor, reference: Tensor) -> float:
    """By how much the PSNR (all colours, on the pixels of the sums) of (9 C + 1, 3 r^2) coefficients and constants is
    below that of others, in dB."""
    errors = [float(closed_form.error(equations, k[:-1], k[-1]).mean()) for k in (coefficients, reference)]
    return 10 * math.log10(errors[0] / errors[1])


@torch.no_grad()
def coefficients_of(upsampler: IGConv, scales: Sequence[int]) -> dict[int, Tensor]:
    """Scale -> (9 C + 1, 3 r^2) coefficients and constants on whitened features, of an IGConv with a basis."""
    upsampler.eval()
    return {
        scale: torch.cat([upsampler.hyper(scale).flatten(1).T, upsampler.constants(scale)[None]]).double()
        for scale in scales
    }


def copied(coefficients: Tensor, scale: int, other: int) -> Tensor:
    """(9 C + 1, 3 r^2) of one scale as (9 C + 1, 3 s^2) of another: every sub-pixel has the nearest one's kernel."""
    nearest = ((torch.arange(other) + 0.5) * scale / other).long()
    grid = coefficients.unflatten(1, (3, scale, scale))
    return grid[:, :, nearest[:, None], nearest].flatten(1)


def adam(
    upsampler: IGConv, closed: dict[int, Tensor], white: dict[int, sums.Normal], settings: Settings, passes: int
) -> IGConv:
    """The same hyper-network by Adam on the same sums: everything trains, the squared error of images over that of the
    closed form, added up over the scales. ``passes`` of the MLP; a step is three (forward, and backward for two)."""
    hyperfit.start(upsampler, settings.seed)
    upsampler.requires_grad_(True)
    upsampler.basis.requires_grad_(False)
    metric = {scale: white[scale].moments().float() for scale in settings.scales}
    least = {s: float(closed_form.error(white[s], closed[s][:-1], closed[s][-1]).sum()) for s in settings.scales}
    optimiser = torch.optim.Adam([p for p in upsampler.parameters() if p.requires_grad], 4e-3)
    upsampler.train()
    for _ in range(max(1, passes // 3)):
        optimiser.zero_grad()
        for scale in settings.scales:
            made = torch.cat([upsampler.hyper(scale).flatten(1).T, upsampler.constants(scale)[None]])
            off = made - closed[scale].float()
            ((off * (metric[scale] @ off)).sum() / least[scale]).backward()
        optimiser.step()
    return upsampler.requires_grad_(False)


def eigenvalues(name: str, raw: dict[int, sums.Normal], basis: Tensor) -> pd.DataFrame:
    """Of the covariances of features, pooled over scales: of the channels, and of what a 3x3 kernel sees of them,
    before and after whitening; descending."""
    weight, x, xx = (sum(getattr(normal, name) for normal in raw.values()) for name in ("weight", "x", "xx"))
    seen = xx / weight - torch.outer(x / weight, x / weight)
    mix, rows = torch.kron(basis, torch.eye(sums.TAPS).double()), []
    for features, covariance in (("raw", seen), ("whitened", mix @ seen @ mix.T)):
        centre = slice(sums.TAPS // 2, None, sums.TAPS)
        for of, part in (("channels", covariance[centre, centre]), ("channels and taps", covariance)):
            values = torch.linalg.eigvalsh(part).flip(0).clamp(min=0).tolist()
            rows += [(name, features, of, index, value) for index, value in enumerate(values)]
    return pd.DataFrame(rows, columns=list(EIGENVALUES))


def _tests(images: dict, scale: int) -> list:
    """(facts, lr, hr) of the images that are large enough at a scale."""
    return [test for test in cut_tests(images, scale) if min(test[1].shape[-2:]) >= LEAST_SIDE]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """`QUALITY`: means per network, head, scale and set, and the difference to the SPConvs in closed form on the same
    encoder (95 % bootstrap over images)."""
    table, image = [], ["dataset", "image"]
    for (network, scale, dataset), part in rows.groupby(["network", "scale", "dataset"], sort=False):
        reference = part[part["head"] == CLOSED].set_index(image).psnr_y_db
        for name, of_head in part.groupby("head", sort=False):
            values = of_head.set_index(image).psnr_y_db
            numbers = mean_interval((values - reference.reindex(values.index)).to_numpy())
            first = of_head.iloc[0]
            table.append((network, first.family, first.encoder_scale, name, scale, first.fitted, dataset, len(values),
                          values.mean(), *numbers))  # fmt: skip
    return pd.DataFrame(table, columns=list(QUALITY))


def conclusion(quality: pd.DataFrame, costs: pd.DataFrame) -> str:
    """What came out, in a few sentences."""
    fitted = quality[quality.fitted]
    if fitted.empty:
        return "not run: no network of one scale is here"
    closest = fitted[fitted["head"] == FITTED]
    lines = [
        f"One IGConv instead of {fitted.scale.nunique()} SPConvs in closed form costs "
        f"{0 - round(closest.difference_db.mean(), 3):.3f} dB on average over {closest.network.nunique()} encoders and "
        f"{closest.dataset.nunique()} sets, at most {0 - round(closest.difference_db.min(), 3):.3f} dB."
    ]
    key = ["family", "scale", "dataset"]
    others = fitted[(fitted["head"] == CLOSED) & (fitted.scale != fitted.encoder_scale)]
    native = quality[quality["head"] == NATIVE][[*key, "psnr_y_db"]].rename(columns={"psnr_y_db": "native_db"})
    pairs = others.merge(native, on=key)
    if len(pairs):
        gains = pairs.psnr_y_db - pairs.native_db
        lines.append(
            "Frozen encoders at scales they were not trained for, with SPConvs in closed form, minus the network that "
            f"was trained for that scale: {gains.median():+.2f} dB in the median, {gains.min():+.2f} to "
            f"{gains.max():+.2f}."
        )
    unseen = quality[~quality.fitted & (quality["head"] == FITTED)]
    if len(unseen):
        scales = ", ".join(f"x{scale}" for scale in sorted(unseen.scale.unique()))
        lines.append(
            f"At scales that were left out of the fit ({scales}) it is {-unseen.difference_db.mean():.2f} dB below "
            "SPConvs fitted there."
        )
    spent = costs.groupby("part", sort=False).seconds.mean()
    lines.append("Seconds per network: " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in spent.items()) + ".")
    return "\n".join(lines)
