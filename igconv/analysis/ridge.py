"""What an encoder is worth at a scale: SPConvs fitted to its features, and the linear map between two encoders'.

Both are ridge regressions in closed form (`igconv.conversion`), whose weight is the one that has the least error on
crops held out from the fit. `transfer` is the functional control of encoder similarity: an encoder trained for one
scale, frozen, with an SPConv fitted for another.
"""

from collections.abc import Collection

import pandas as pd
import torch
from torch import Tensor, nn

from igconv.conversion.closed_form import Fit, fit, kernel_of
from igconv.conversion.sums import BATCH, Normal, normal_equations, spconv_equations
from igconv.data.images import check_finite, to_float
from igconv.data.resize import downsample
from igconv.errors import InputError
from igconv.evaluation.benchmark import benchmark_pair, bicubic
from igconv.evaluation.metrics import psnr_y
from igconv.evaluation.statistics import mean_interval
from igconv.models import inference
from igconv.progress import follow_items

ROWS = ("family", "encoder", "encoder_scale", "target_scale", "head", "ridge_weight", "dataset", "image",
        "psnr_y_db")  # fmt: skip
TRANSFER = ("family", "encoder", "encoder_scale", "target_scale", "head", "ridge_weight", "psnr_y_db",
            "difference_db", "low_db", "high_db", "images")  # fmt: skip


def map_equations(x: Tensor, y: Tensor) -> Normal:
    """Of a linear map from features (B, C, H, W) to features (B, D, H, W), pixel by pixel."""
    parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
    equations = [normal_equations(*(z.permute(0, 2, 3, 1).flatten(0, 2) for z in pair)) for pair in parts]
    return sum(equations[1:], equations[0])


def head(kernel: Tensor, bias: Tensor, scale: int) -> nn.Module:
    """An SPConv with given kernels: features -> image."""
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], padding=kernel.shape[-1] // 2)
    with torch.no_grad():
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)
    return nn.Sequential(conv, nn.PixelShuffle(scale)).requires_grad_(False)


@torch.no_grad()
def features(model, lr: Tensor, device="cpu") -> Tensor:
    """Last features of a `SuperResolver` for uint8 crops (N, 3, h, w): float32 (N, C, h, w) on the CPU.

    Raises InputError where one of them is not finite.
    """
    model, (h, w) = inference.prepare(model, device), lr.shape[-2:]
    batches = [to_float(part).to(device, memory_format=torch.channels_last) for part in lr.split(BATCH)]
    with inference.exact_arithmetic():
        found = torch.cat([model.encode(batch)[1][..., :h, :w].cpu() for batch in batches]).contiguous()
    check_finite(found, "features of the encoder")
    return found


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
        found.append(
            (dict(dataset=dataset, image=name), *benchmark_pair(image[:, top : top + h, left : left + w], scale))
        )
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
    family: str,
    models: dict[str, tuple],
    natives: dict[int, str],
    scenes: Tensor,
    images: dict,
    side: int,
    test_side: int = 0,
    device="cpu",
    multi_scale: Collection[str] = (),
) -> pd.DataFrame:
    """Every encoder, frozen, with an SPConv fitted for every scale: `ROWS`, one per encoder, head and test image.

    Args:
        models: name -> (`SuperResolver`, scale it was trained for, 0 for none or several).
        natives: target scale -> name of the encoder trained for it, which also appears "as trained".
        multi_scale: names of those trained for every target scale, which appear "as trained", too.
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
        if natives[scale] == name or name in multi_scale:
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
