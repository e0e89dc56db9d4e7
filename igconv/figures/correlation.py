"""Figures of the correlation of SPConvs across scales."""

import pandas as pd
from matplotlib.figure import Figure

from igconv.figures.style import BLACK, ORANGE, SKY, styled, subplots


@styled
def kernel_patterns(patterns: pd.DataFrame) -> Figure:
    """Sub-pixel patterns, a row per model and scale and a column per channel, each with its own colour range."""
    rows = list(patterns.groupby(["model", "scale"], sort=False))
    channels = sorted(patterns.channel.unique())
    figure, axes = subplots(len(rows), len(channels), 0.62, 0.64)
    for i, ((model, scale), part) in enumerate(rows):
        for axis, channel in zip(axes[i], channels, strict=True):
            axis.set(xticks=[], yticks=[])
            table = part[part.channel == channel].pivot(index="sub_row", columns="sub_col", values="value")
            axis.imshow(table, cmap="inferno", interpolation="nearest")
            axis.spines[["top", "right"]].set_visible(True)
            if i == 0:
                axis.set_title(str(channel), fontsize=7)
        name = f"x{scale}" if patterns.model.nunique() == 1 else f"{model.removesuffix(f' x{scale}')} x{scale}"
        axes[i, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.supxlabel("input channel (number above); each picture is one low-resolution pixel", fontsize=8)
    return figure


@styled
def correlation_bars(correlation: pd.DataFrame) -> Figure:
    """Correlation of kernels across scales, panels statistic x constant term: the value as a bar, the range of
    chance (mean to 95 % quantile of each null distribution) beside it as a line, and the largest p-value above.

    Pairs are named after ``model_a`` and the two scales."""
    statistics, constants = list(correlation.statistic.unique()), ["kept", "removed"]
    key = ["model_a", "model_b", "scale_a", "scale_b"]
    pairs = list(correlation.groupby(key, sort=False).groups)
    tests = dict(list(correlation.groupby([*key, "constant", "statistic"])))
    figure, axes = subplots(2, len(statistics), 0.9 + 0.36 * len(pairs), 2.0, sharey=True, sharex=True)
    for (i, constant), (j, statistic) in ((r, c) for r in enumerate(constants) for c in enumerate(statistics)):
        axis = axes[i, j]
        for k, pair in enumerate(pairs):
            part = tests[*pair, constant, statistic]
            value = part.value.iloc[0]
            axis.bar(k - 0.12, value, width=0.55, color=SKY if pair[0] == pair[1] else ORANGE)
            for n, (mean, high) in enumerate(zip(part.null_mean, part.null_q95, strict=True)):
                axis.plot([k + 0.26 + 0.16 * n] * 2, [mean, high], color=BLACK, lw=1.6, marker="_", ms=5)
            p = part.p_value.max()
            axis.text(k, 1.04, f"{p:.2f}" if p >= 0.005 else f"{p:.3f}", ha="center", fontsize=6.5)
        axis.axhline(0, color="black", lw=0.8)
        axis.set_ylim(min(-0.2, correlation.value.min() - 0.1, correlation.null_mean.min()), 1.15)
        axis.set_xticks(range(len(pairs)), [f"{a.removesuffix(f' x{r}')} x{r}–x{s}" for a, b, r, s in pairs],
                        rotation=50, ha="right", rotation_mode="anchor")  # fmt: skip
        axis.set_title(statistic if i == 0 else "", fontsize=9)
        axis.grid(axis="y")
        if j == 0:
            axis.set_ylabel(f"mean cosine,\nconstant {constant}")
    figure.supxlabel("black lines: chance, from mean to 95 % quantile; numbers: p-value (the largest)", fontsize=8)
    return figure
