"""Figures of encoder similarity."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.figures.style import SERIES, styled, subplots


@styled
def cka_maps(similarity: pd.DataFrame, columns: int = 3) -> Figure:
    """Heat map of every stage against every stage, a panel per comparison and pair; one colour scale, 0 to 1."""
    groups = list(similarity.groupby(["comparison", "model_a", "model_b"], sort=False))
    if not groups:
        raise InputError("nothing to draw: no pair of encoders was compared")
    figure, axes = subplots(-(-len(groups) // columns), columns, 2.6, 2.5)
    for axis in axes.ravel()[len(groups) :]:
        axis.set_axis_off()
    for axis, ((comparison, a, b), part) in zip(axes.ravel(), groups, strict=False):
        table = part.pivot(index="stage_a", columns="stage_b", values="cka")
        table = table.loc[part.stage_a.unique(), part.stage_b.unique()][::-1]
        sns.heatmap(table, vmin=0, vmax=1, cmap="cividis", square=True, cbar=False, annot=table.size <= 64, fmt=".2f",
                    annot_kws=dict(fontsize=6.5), ax=axis)  # fmt: skip
        axis.set_xticklabels(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(labelsize=6.5)
        axis.set_xlabel(b, fontsize=8)
        axis.set_ylabel(a, fontsize=8)
        axis.set_title(comparison, fontsize=8)
    figure.colorbar(axes.flat[0].collections[0], ax=axes, label="linear CKA", shrink=0.6, extend="min")
    return figure


@styled
def cka_depth(similarity: pd.DataFrame) -> Figure:
    """CKA of equal stages against depth with its bootstrap interval: a line per pair, a colour per comparison."""
    same = similarity[similarity.stage_a == similarity.stage_b]
    figure, ((axis,),) = subplots(1, 1, 6.4, 3.2)
    for (comparison, group), colour, dash in zip(
        same.groupby("comparison", sort=False), SERIES, ("-", "-", "--", ":", "-.", "-", "-", "-"), strict=False
    ):
        for i, (_, part) in enumerate(group.groupby(["model_a", "model_b"], sort=False)):
            axis.fill_between(part.index_a, part.cka_low, part.cka_high, color=colour, alpha=0.15, lw=0)
            axis.plot(part.index_a, part.cka, color=colour, ls=dash, marker="os^Dv<>p"[i % 8], ms=4, lw=1.2,
                      label=comparison if i == 0 else None)  # fmt: skip
    stages = same.drop_duplicates("index_a").sort_values("index_a")
    axis.set_xticks(stages.index_a, stages.stage_a, rotation=30, ha="right", rotation_mode="anchor")
    axis.set(ylabel="linear CKA of equal stages", ylim=(min(-0.05, same.cka_low.min()), 1.02), xlabel="stage")
    axis.grid(axis="y")
    figure.legend(loc="outside right center")
    return figure
