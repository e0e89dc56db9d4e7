"""Figures of encoder similarity."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.reporting.figures.style import GREY, SERIES, styled, subplots

MARKS = "os^Dv<>p"
DASHES = ("-", "-", "--", ":", "-.", "-", "-", "-")


@styled
def cka_maps(similarity: pd.DataFrame, columns: int = 4) -> Figure:
    """Heat map of every stage against every stage, a panel per comparison and pair; one colour scale up to 1."""
    groups = list(similarity.groupby(["setting", "family", "comparison", "model_a", "model_b"], sort=False))
    if not groups:
        raise InputError("nothing to draw: no pair of encoders was compared")
    columns = min(columns, len(groups))
    least = np.floor(10 * similarity.cka.min().clip(0, 0.9)) / 10  # what is alike would be of one colour from 0
    settings = similarity.setting.nunique() > 1
    figure, axes = subplots(-(-len(groups) // columns), columns, 2.7, 2.7)
    for axis in axes.ravel()[len(groups) :]:
        axis.set_axis_off()
    for axis, ((setting, _family, comparison, a, b), part) in zip(axes.ravel(), groups, strict=False):
        table = part.pivot(index="index_a", columns="index_b", values="cka")[::-1]
        sns.heatmap(
            table,
            vmin=least,
            vmax=1,
            cmap="cividis",
            square=True,
            cbar=False,
            annot=table.size <= 64,
            fmt=".2f",
            annot_kws=dict(fontsize=6.5),
            ax=axis,
        )
        for ticks, side in ((axis.set_xticks, "b"), (axis.set_yticks, "a")):
            stages = part.drop_duplicates(f"index_{side}").sort_values(f"index_{side}")[f"stage_{side}"].tolist()
            places = np.arange(len(stages)) + 0.5
            short = [stage.removeprefix("block ") if len(stages) > 8 else stage for stage in stages]
            options = dict(rotation=60, ha="right", rotation_mode="anchor") if side == "b" else dict(rotation=0)
            ticks(places if side == "b" else places[::-1], short, fontsize=6.5, **options)
        axis.tick_params(length=2)
        axis.set_xlabel(f"{b}: stage", fontsize=7)
        axis.set_ylabel(f"{a}: stage", fontsize=7)
        axis.set_title(f"{comparison}, {setting}" if settings else comparison, fontsize=8)
    figure.colorbar(axes.flat[0].collections[0], ax=axes, label="linear CKA", shrink=0.6)
    return figure


@styled
def cka_depth(similarity: pd.DataFrame) -> Figure:
    """CKA of equal stages against depth with its bootstrap interval, a panel per family and setting.

    A line per pair, a colour per comparison. Families without encoders of equal depth have no panel.
    """
    pair = ["setting", "family", "model_a", "model_b", "comparison"]
    ends = similarity.groupby(pair)[["index_a", "index_b"]].transform("max")
    same = similarity[(similarity.index_a == similarity.index_b) & (ends.index_a == ends.index_b)]
    if same.empty:
        raise InputError("nothing to draw: no pair of encoders of equal depth was compared")
    panels = list(same.groupby(["family", "setting"], sort=False))
    kinds = list(same.comparison.unique())
    columns = min(3, len(panels))
    figure, axes = subplots(-(-len(panels) // columns), columns, 3.2, 2.5, sharey=True)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, ((family, setting), panel) in zip(axes.ravel(), panels, strict=False):
        for comparison, group in panel.groupby("comparison", sort=False):
            n = kinds.index(comparison) % len(SERIES)
            for i, (_, part) in enumerate(group.groupby(["model_a", "model_b"], sort=False)):
                axis.fill_between(part.index_a, part.cka_low, part.cka_high, color=SERIES[n], alpha=0.15, lw=0)
                axis.plot(part.index_a, part.cka, color=SERIES[n], ls=DASHES[n], marker=MARKS[i % 8], ms=3, lw=1.1)
        stages = panel.drop_duplicates("index_a").sort_values("index_a")
        names = stages.stage_a.str.removeprefix("block ") if len(stages) > 8 else stages.stage_a
        axis.set_xticks(stages.index_a, names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
        axis.set(ylim=(min(-0.05, same.cka_low.min()), 1.02), title=f"{family},\n{setting}")
        axis.grid(axis="y")
    for axis in axes[:, 0]:
        axis.set_ylabel("linear CKA of\nequal stages")
    figure.supxlabel("stage of the encoder; bands: 95 % bootstrap over groups of images", fontsize=8)
    lines = [
        axes.flat[0].plot([], [], color=SERIES[i % len(SERIES)], ls=DASHES[i % len(DASHES)])[0]
        for i in range(len(kinds))
    ]
    figure.legend(lines, kinds, loc="outside upper center", ncols=min(3, len(kinds)))
    return figure


@styled
def transfer_loss(functional: pd.DataFrame) -> Figure:
    """PSNR-Y of frozen encoders with fitted SPConvs against the native encoder's, a panel per family.

    The summary of `igconv.analysis.encoders.transferred`: a group per target scale, a dot per encoder with its
    interval. The axis is logarithmic below 0.1 dB, so that losses of hundredths and of decibels are both seen.
    """
    if functional.empty:
        raise InputError("nothing to draw: no SPConv was fitted")
    families = list(functional.groupby("family", sort=False))
    figure, (axes,) = subplots(1, len(families), 3.1, 3.1, sharey=True)
    labels: dict[str, tuple] = {}
    for axis, (_family, part) in zip(axes, families, strict=True):
        scales = sorted(part.target_scale.unique())
        for i, scale in enumerate(scales):
            at = part[(part.target_scale == scale)]
            for j, row in enumerate(at.to_dict("records")):
                label = _who(row)
                colour, mark = labels.setdefault(label, _look(label, len(labels)))
                x = i + 0.8 * (j + 0.5) / len(at) - 0.4
                axis.plot([x, x], [row["low_db"], row["high_db"]], color=colour, lw=1.4)
                axis.plot(x, row["difference_db"], mark, color=colour, ms=5)
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(scales)), [f"x{scale}" for scale in scales])
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set(xlabel="scale the SPConv is fitted for", title=_family)
        axis.grid(axis="y")
    ticks = [
        t
        for t in (-10, -5, -2, -1, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1)
        if functional.low_db.min() * 1.3 - 0.05 <= t <= functional.high_db.max() * 1.3 + 0.05
    ]
    axes[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[0].minorticks_off()
    axes[0].set_ylabel("PSNR-Y minus native encoder's\nwith fitted SPConv (dB)")
    handles = [axes[0].plot([], [], mark, color=colour)[0] for colour, mark in labels.values()]
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _who(row: dict) -> str:
    if row["head"] == "bicubic":
        return "bicubic"
    if not row["trained"]:
        return "untrained encoder"
    if row["head"] == "as trained":
        return "native model as trained" if row["encoder_scale"] else f"{row['encoder']} as trained"
    return f"encoder of x{row['encoder_scale']}" if row["encoder_scale"] else f"{row['encoder']}'s encoder"


def _look(label: str, number: int) -> tuple[str, str]:
    fixed = {"bicubic": (GREY, "x"), "untrained encoder": (GREY, "s"), "native model as trained": (SERIES[6], "*")}
    if label.endswith(" as trained") and label not in fixed:
        return SERIES[5], "*"
    return fixed.get(label, (SERIES[number % 6], MARKS[number % 8]))
