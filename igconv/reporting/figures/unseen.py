"""Figure of scales that nobody trained on."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.reporting.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, styled, subplots
from igconv.study.labels import run_label

# (method, clamp) -> colour and marker; a clamp of 0 stands for none.
LOOKS = {("direct", 4): (BLUE, "o"), ("direct", 8): (ORANGE, "s"), ("direct", 0): (BLUE, "D")}
OTHERS = ((GREEN, "^"), (PURPLE, "v"))


@styled
def unseen_scales(summary: pd.DataFrame, against: str = "bicubic", trained: int = 4) -> Figure:
    """PSNR-Y over a baseline against the scale with 95 % intervals: a panel per kind of model, a line per method.

    Args:
        summary: of `igconv.analysis.unseen.summary`.
        against: "bicubic" or the model's own x4 image enlarged by bicubic, as ``summary`` names it.
        trained: largest trained scale; what is right of the dashed line was never trained.
    """
    part = summary[summary.against == against]
    if part.empty:
        raise InputError(f"nothing to draw: no method is compared with {against!r}")
    part = part.assign(
        label=[run_label(u, v) for u, v in zip(part.upsampler, part.variant, strict=True)],
        clamp=part.max_scale.fillna(0).astype(int),
    )
    labels, scales = list(dict.fromkeys(part.label)), sorted(part.scale.unique())
    columns = min(len(labels), 4)
    figure, axes = subplots(-(-len(labels) // columns), columns, 3.0, 2.7, sharex=True, sharey=True)
    others, lines = iter(OTHERS), {}
    looks = dict(LOOKS)
    for axis in axes.ravel()[len(labels) :]:
        axis.set_axis_off()
    for axis, label in zip(axes.ravel(), labels, strict=False):
        for (method, clamp), line in part[part.label == label].groupby(["method", "clamp"], sort=False):
            if (method, clamp) not in looks:
                looks[method, clamp] = next(others)
            (colour, marker), line = looks[method, clamp], line.sort_values("scale")
            spread = np.nan_to_num([line.difference_db - line.low_db, line.high_db - line.difference_db])
            shift = 1.012 ** (list(looks).index((method, clamp)) - 1)
            name = f"{method}, phase clamp {clamp}" if clamp else method
            lines[name] = axis.errorbar(
                line.scale * shift,
                line.difference_db,
                yerr=spread,
                color=colour,
                marker=marker,
                ms=4,
                lw=1.2,
                elinewidth=0.9,
                capsize=2,
            )
        axis.axvline(trained * 1.06, color=GREY, ls="--", lw=1)
        axis.axhline(0, color=BLACK, lw=0.8)
        axis.set_xscale("log", base=2)
        axis.set_xticks(scales, [f"x{scale}" for scale in scales])
        axis.minorticks_off()
        axis.set_title(label)
        axis.grid(axis="y")
    figure.supylabel(f"PSNR-Y over {against} (dB)", fontsize=9)
    figure.supxlabel("scale", fontsize=9)
    figure.legend(list(lines.values()), list(lines), loc="outside right center")
    return figure
