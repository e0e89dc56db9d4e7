"""Closed-form fits: an SPConv on frozen features, and the linear map between two encoders' features.

Both are ridge regressions with a free constant. Of x (N, p) and y (N, q) only the normal equations are kept, in
float64, so that memory does not grow with the number of crops. With features standardised by their deviation,

    coefficients = argmin  mean |y - x b - c|^2 + weight * |standardised b|^2 * var(y),

where the weight is the one that has the least error on crops held out from the fit; the final fit uses both. A
3x3 SPConv on C channels has 9 C + 1 unknowns per output channel. `transfer` is the functional control of encoder
similarity: an encoder trained for one scale, frozen, with an SPConv fitted for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igconv.data.images import to_float
from igconv.data.resize import downsample
from igconv.errors import InputError
from igconv.evaluation.benchmark import benchmark_pair, bicubic
from igconv.evaluation.metrics import psnr_y
from igconv.evaluation.statistics import mean_interval
from igconv.models import inference
from igconv.progress import follow_items

WEIGHTS = tuple(10.0**e for e in range(-10, 0))
# A channel whose deviation is less than this share of its size is constant; what is left of it is rounding.
CONSTANT = 1e-6
BATCH = 16  # crops that go through an encoder together
ROWS = ("family", "encoder", "encoder_scale", "target_scale", "head", "ridge_weight", "dataset", "image",
        "psnr_y_db")  # fmt: skip
TRANSFER = ("family", "encoder", "encoder_scale", "target_scale", "head", "ridge_weight", "psnr_y_db",
            "difference_db", "low_db", "high_db", "images")  # fmt: skip


@dataclass(frozen=True)
class Normal:
    """Normal equations of y (N, q) on x (N, p): ``count`` N and the sums x (p), y (q), xx (p, p), xy (p, q), yy (q)."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def __add__(self, other: "Normal") -> "Normal":
        return Normal(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """(p, p) of x, (p, q) of x and y, and the variances (q) of y."""
        x, y = self.x / self.count, self.y / self.count
        return (self.xx / self.count - torch.outer(x, x), self.xy / self.count - torch.outer(x, y),
                self.yy / self.count - y.square())  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """y = x @ coefficients (p, q) + intercept (q); the ridge weight and what it explained of held-out variance."""

    coefficients: Tensor
    intercept: Tensor
    weight: float
    explained: float


def normal_equations(x: Tensor, y: Tensor) -> Normal:
    """Of x (N, p) and y (N, q)."""
    if len(x) != len(y):
        raise InputError(f"features and targets must be of the same pixels, got {len(x)} and {len(y)}")
    x, y = x.detach().double(), y.detach().double()
    return Normal(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y, y.square().sum(0))


def solve(normal: Normal, weight: float) -> tuple[Tensor, Tensor]:
    """(coefficients (p, q), intercept (q)) at one ridge weight. Channels that are constant get coefficient 0.

    Raises InputError for fewer equations than unknowns, and where every feature is constant.
    """
    unknowns = len(normal.x) + 1
    if normal.count < unknowns:
        raise InputError(f"{normal.count} pixels are fewer than the {unknowns} unknowns of the fit; give more crops")
    xx, xy, _ = normal.covariances()
    spread = xx.diagonal().clamp(min=0).sqrt()
    varies = spread > CONSTANT * (normal.xx.diagonal() / normal.count).sqrt()
    if not varies.any():
        raise InputError(f"constant features: all {normal.count} pixels have the same, so nothing can be fitted")
    scale = torch.where(varies, 1 / spread, 0)
    system = scale[:, None] * xx * scale + weight * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    coefficients = scale[:, None] * torch.linalg.solve(system, scale[:, None] * xy)
    return coefficients, (normal.y - normal.x @ coefficients) / normal.count


def error(normal: Normal, coefficients: Tensor, intercept: Tensor) -> Tensor:
    """Mean squared error of each output (q) of a linear map on the pixels of normal equations."""
    xx, xy, yy = normal.covariances()
    offset = (normal.y - normal.x @ coefficients) / normal.count - intercept
    return yy - 2 * (coefficients * xy).sum(0) + (coefficients * (xx @ coefficients)).sum(0) + offset.square()


def fit(training: Normal, held_out: Normal, weights: Sequence[float] = WEIGHTS) -> Fit:
    """Ridge regression whose weight is chosen by the error on held-out crops, then fitted on both."""
    errors = [float(error(held_out, *solve(training, weight)).mean()) for weight in weights]
    best = int(np.argmin(errors))
    explained = 1 - errors[best] / float(held_out.covariances()[2].mean())
    return Fit(*solve(training + held_out, weights[best]), weights[best], explained)


def taps(features: Tensor) -> Tensor:
    """What a 3x3 convolution with zero padding sees of (B, C, H, W): (B H W, 9 C), ordered channel, row, column."""
    return F.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1)


def spconv_equations(features: Tensor, hr: Tensor, scale: int) -> Normal:
    """Of an SPConv that makes float images (B, 3, r H, r W) from features (B, C, H, W)."""
    expected = (len(features), 3, *(scale * n for n in features.shape[-2:]))
    if tuple(hr.shape) != expected:
        raise InputError(f"features {tuple(features.shape)} at x{scale} need images {expected}, got {tuple(hr.shape)}")
    parts = zip(features.split(BATCH), hr.split(BATCH), strict=True)
    equations = [
        normal_equations(taps(f), F.pixel_unshuffle(y, scale).permute(0, 2, 3, 1).flatten(0, 2)) for f, y in parts
    ]
    return sum(equations[1:], equations[0])


def map_equations(x: Tensor, y: Tensor) -> Normal:
    """Of a linear map from features (B, C, H, W) to features (B, D, H, W), pixel by pixel."""
    parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
    equations = [normal_equations(*(z.permute(0, 2, 3, 1).flatten(0, 2) for z in pair)) for pair in parts]
    return sum(equations[1:], equations[0])


def kernel_of(found: Fit) -> tuple[Tensor, Tensor]:
    """(kernels (3 r^2, C, 3, 3), biases (3 r^2)) of a fit to `spconv_equations`."""
    return found.coefficients.T.unflatten(1, (-1, 3, 3)), found.intercept


def head(kernel: Tensor, bias: Tensor, scale: int) -> nn.Module:
    """An SPConv with given kernels: features -> image."""
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], padding=kernel.shape[-1] // 2)
    with torch.no_grad():
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)
    return nn.Sequential(conv, nn.PixelShuffle(scale)).requires_grad_(False)


@torch.no_grad()
def features(model, lr: Tensor, device="cpu") -> Tensor:
    """Last features of a `SuperResolver` for uint8 crops (N, 3, h, w): float32 (N, C, h, w) on the CPU."""
    model, (h, w) = inference.prepare(model, device), lr.shape[-2:]
    batches = [to_float(part).to(device, memory_format=torch.channels_last) for part in lr.split(BATCH)]
    with inference.exact_arithmetic():
        return torch.cat([model.encode(batch)[1][..., :h, :w].cpu() for batch in batches]).contiguous()


def pairs(scenes: Tensor, scale: int, side: int) -> tuple[Tensor, Tensor]:
    """(lr (N, 3, side, side), hr) uint8 of the centres of HR scenes (N, 3, H, W), LR by MATLAB's bicubic."""
    inner = side * scale
    if min(scenes.shape[-2:]) < inner:
        raise InputError(f"LR crops of {side} px at x{scale} need scenes of {inner} px, got {tuple(scenes.shape[-2:])}")
    top, left = ((n - inner) // 2 for n in scenes.shape[-2:])
    hr = scenes[..., top : top + inner, left : left + inner]
    return downsample(hr, scale), hr


def split(count: int, held_out: float = 0.25) -> int:
    """How many of ``count`` crops are for fitting; the others are held out. Raises InputError for fewer than 4."""
    if count < 4:
        raise InputError(f"{count} crops cannot be split into those to fit and those held out; give at least 4")
    return count - max(1, round(count * held_out))


def spconv_fit(x: Tensor, hr: Tensor, scale: int) -> Fit:
    """SPConv from features (N, C, h, w) of crops to their uint8 HR (N, 3, r h, r w), the last quarter held out."""
    n = split(len(x))
    return fit(*(spconv_equations(x[part], to_float(hr[part]), scale) for part in (slice(n), slice(n, None))))


def native(model, x: Tensor, features: Tensor, scale: int) -> Tensor:
    """The image that a `SuperResolver` makes of its features (B, C, H, W) of the padded LR image x."""
    sr = model.post(model.upsampler(features, scale)).float()
    return sr if model.sampler is None else sr + model.sampler(x, features, scale)


def cut_tests(images: dict[tuple[str, str], Tensor], scale: int, side: int = 0) -> list[tuple[dict, Tensor, Tensor]]:
    """(facts, lr, hr) of (dataset, name) -> uint8 images; with ``side`` of their central side x side HR pixels."""
    found = []
    for (dataset, name), image in images.items():
        h, w = (min(n, side) if side else n for n in image.shape[-2:])
        top, left = (image.shape[-2] - h) // 2, (image.shape[-1] - w) // 2
        found.append((dict(dataset=dataset, image=name),
                      *benchmark_pair(image[:, top : top + h, left : left + w], scale)))  # fmt: skip
    return found


@torch.no_grad()
def psnr_of_heads(model, heads: dict, tests: list, scale: int, device="cpu") -> list[dict]:
    """PSNR-Y of several heads on the features of one encoder: rows head, dataset, image, psnr_y_db.

    Args:
        heads: name -> module (features) -> image, or None for the model as it is.
        tests: (facts, lr, hr) as `cut_tests` gives.
    """
    model = inference.prepare(model, device)
    heads = {name: module and module.to(device) for name, module in heads.items()}
    rows = []
    for facts, lr, hr in tests:
        with inference.exact_arithmetic():
            x, f = model.encode(to_float(lr)[None].to(device, memory_format=torch.channels_last))
            for name, module in heads.items():
                sr = native(model, x, f, scale) if module is None else module(f)
                sr = sr[0, :, : hr.shape[-2], : hr.shape[-1]].cpu()
                rows.append(dict(head=name, **facts, psnr_y_db=psnr_y(sr, hr, scale)))
    return rows


def transfer(
    family: str, models: dict[str, tuple], natives: dict[int, str], scenes: Tensor, images: dict, side: int,
    test_side: int = 0, device="cpu",
) -> pd.DataFrame:  # fmt: skip
    """Every encoder, frozen, with an SPConv fitted for every scale: `ROWS`, one per encoder, head and test image.

    Args:
        models: name -> (`SuperResolver`, scale it was trained for, 0 for none or several).
        natives: target scale -> name of the encoder trained for it, which also appears "as trained".
        scenes: uint8 HR scenes (N, 3, H, W) for the fits, not among the test images.
        images: (dataset, name) -> uint8 test image.
        side: of the LR crops of the fits, at every scale.
        test_side: central part of the test images in HR pixels; 0: whole images.

    Raises InputError for a scale whose native encoder is not among the models.
    """
    for scale, name in natives.items():
        if name not in models:
            raise InputError(f"{family}: no encoder trained for x{scale}, so there is nothing to compare with")
    rows = []
    jobs = [(scale, name) for scale in natives for name in models]
    for scale, name in follow_items(jobs, len(jobs), f"SPConvs on {family}"):
        model, trained = models[name]
        lr, hr = pairs(scenes, scale, side)
        found = spconv_fit(features(model, lr, device), hr, scale)
        heads = {"refitted": head(*kernel_of(found), scale)}
        if natives[scale] == name:
            heads["as trained"] = None
        tests = cut_tests(images, scale, test_side)
        facts = dict(family=family, encoder=name, encoder_scale=trained, target_scale=scale)
        for row in psnr_of_heads(model, heads, tests, scale, device):
            rows.append({**facts, "ridge_weight": found.weight if row["head"] == "refitted" else None, **row})
        if natives[scale] == name:
            facts |= dict(encoder="", encoder_scale=0, head="bicubic", ridge_weight=None)
            for where, low, high in tests:
                psnr = psnr_y(bicubic(to_float(low)[None], scale)[0], high, scale)
                rows.append(dict(**facts, **where, psnr_y_db=psnr))
    return pd.DataFrame(rows, columns=list(ROWS))


def transfer_summary(rows: pd.DataFrame, natives: dict[int, str]) -> pd.DataFrame:
    """`TRANSFER`: means over images, and the difference to the native encoder refitted with its interval (95 %).

    The bootstrap resamples images, the same for both sides of a difference.
    """
    table = []
    for scale, name in natives.items():
        at = rows[rows.target_scale == scale]
        reference = at[(at.encoder == name) & (at["head"] == "refitted")].set_index(["dataset", "image"]).psnr_y_db
        key = ["family", "encoder", "encoder_scale", "target_scale", "head"]
        for facts, part in at.groupby(key, sort=False):
            values = part.set_index(["dataset", "image"]).psnr_y_db
            mean, low, high = mean_interval((values - reference.reindex(values.index)).to_numpy())
            table.append((*facts, part.ridge_weight.iloc[0], values.mean(), mean, low, high, len(values)))
    return pd.DataFrame(table, columns=list(TRANSFER))
