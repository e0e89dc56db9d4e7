"""Figures of the correlation of SPConvs across scales."""

import pandas as pd
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.reporting.figures.style import SERIES, styled, subplots


@styled
def kernel_patterns(patterns: pd.DataFrame) -> Figure:
    """Sub-pixel patterns, a row per model and scale and a column per channel, each with its own colour range."""
    rows = list(patterns.groupby(["model", "scale"], sort=False))
    channels = sorted(patterns.channel.unique())
    figure, axes = subplots(len(rows), len(channels), 0.62, 0.64)
    for i, ((model, scale), of_row) in enumerate(rows):
        for axis, channel in zip(axes[i], channels, strict=True):
            axis.set(xticks=[], yticks=[])
            table = of_row[of_row.channel == channel].pivot(index="sub_row", columns="sub_col", values="value")
            axis.imshow(table, cmap="inferno", interpolation="nearest")
            axis.spines[["top", "right"]].set_visible(True)
            if i == 0:
                axis.set_title(str(channel), fontsize=7)
        axes[i, 0].set_ylabel(f"{model} x{scale}", rotation=0, ha="right", va="center", fontsize=8)
    figure.supxlabel("input channel (number above); each picture is one low-resolution pixel", fontsize=8)
    return figure


@styled
def correlation_bars(correlation: pd.DataFrame) -> Figure:
    """Correlation of kernels across scales, panels constant term x statistic, a line per pair of kernels.

    A dot is the value with its 95 % interval over channels, filled where it is beyond chance under every null
    hypothesis that applies (p < 0.05; Holm's where the table has ``p_holm``); grey bars reach from the mean to the
    95 % quantile of what chance gives. Colours are comparisons.
    """
    if correlation.empty:
        raise InputError("nothing to draw: no pair of kernels was compared")
    statistics, constants = list(correlation.statistic.unique()), ["kept", "removed"]
    key = ["comparison", "model_a", "model_b", "scale_a", "scale_b"]
    pairs, kinds = list(correlation.groupby(key, sort=False).groups), list(correlation.comparison.unique())
    tests = dict(list(correlation.groupby([*key, "constant", "statistic"])))
    p_value = "p_holm" if "p_holm" in correlation else "p_value"
    figure, axes = subplots(2, len(statistics), 2.3, 0.7 + 0.17 * len(pairs), sharey=True, sharex=True)
    for (i, constant), (j, statistic) in ((r, c) for r in enumerate(constants) for c in enumerate(statistics)):
        axis = axes[i, j]
        for k, pair in enumerate(pairs):
            part, colour = tests[*pair, constant, statistic], SERIES[kinds.index(pair[0]) % len(SERIES)]
            axis.barh(k, part.null_q95.max() - part.null_mean.min(), left=part.null_mean.min(), color="#D0D0D0")
            first = part.iloc[0]
            axis.plot([first.value_low, first.value_high], [k, k], color=colour, lw=1.2)
            beyond = (part[p_value] < 0.05).all()
            axis.plot(first.value, k, "o", ms=4, color=colour, mfc=colour if beyond else "white")
        axis.axvline(0, color="black", lw=0.8)
        axis.set_xlim(min(-0.2, correlation.value_low.min() - 0.05), 1.05)
        axis.set_yticks(range(len(pairs)), [_pair_name(*pair[1:]) for pair in pairs], fontsize=6.5)
        axis.set_title(f"{statistic},\nconstant {constant}", fontsize=8)
        axis.grid(axis="x")
    axes[0, 0].invert_yaxis()
    figure.supxlabel(
        "mean cosine of channels, with 95 % interval; grey: chance, mean to 95 % quantile;\n"
        f"filled: beyond chance ({p_value} < 0.05)",
        fontsize=8,
    )
    lines = [axes[0, 0].plot([], [], "o-", color=SERIES[i % len(SERIES)])[0] for i in range(len(kinds))]
    if any(kinds):
        figure.legend(lines, kinds, loc="outside upper center", ncols=min(3, len(kinds)))
    return figure


def _pair_name(a: str, b: str, scale_a: int, scale_b: int) -> str:
    return f"{a} x{scale_a}–x{scale_b}" if a == b else f"{a} x{scale_a}–{b} x{scale_b}"


@styled
def alignment_bars(alignment: pd.DataFrame, psnr: pd.DataFrame) -> Figure:
    """SPConvs predicted from another scale's: correlation with the true kernel, and what the prediction costs in dB.

    ``alignment``: rows of `igconv.analysis.alignment.align`; the black line is chance (mean to 95 % quantile of maps
    with permuted rows). ``psnr``: `igconv.analysis.alignment.psnr_summary`; intervals are over test images.
    """
    if alignment.empty or psnr.empty:
        raise InputError("nothing to draw: no SPConv was predicted")
    key = ["model_a", "model_b", "scale_a", "scale_b"]
    pairs = list(alignment.groupby(key, sort=False).groups)
    of_pair = dict(list(alignment.groupby(key, sort=False)))
    psnr_of_pair = dict(list(psnr.groupby(key, sort=False)))
    kinds = [(c, k) for c in ("kernel", "output") for k in ("kept", "removed")]
    maps, heads = list(alignment.alignment.unique()), [h for h in psnr["head"].unique() if h != "true"]
    figure, axes = subplots(2, 1, 2.0 + 1.3 * len(pairs), 3.2)
    upper, lower = axes[:, 0]
    names = ["\n".join(_pair_name(*pair).rsplit(" ", 1)) for pair in pairs]
    groups = [(pair, kind) for pair in pairs for kind in kinds]
    for x, (pair, (compared, constant)) in enumerate(groups):
        at = of_pair[pair]
        at = at[(at.compared == compared) & (at.constant == constant)]
        for row in at.itertuples():
            n = maps.index(row.alignment)
            upper.plot(x, row.value, "os^D"[n % 4], ms=4.5, color=SERIES[n], mfc=SERIES[n] if n == 0 else "white")
            if row.permutations > 0:
                upper.plot([x + 0.3] * 2, [row.null_mean, row.null_q95], color="black", lw=1.6, marker="_", ms=5)
    upper.set_xticks(
        range(len(groups)),
        [f"{c}, {k}" for _, (c, k) in groups],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        fontsize=6.5,
    )
    for i, name in enumerate(names):
        upper.text(4 * i + 1.5, 1.08, name, ha="center", fontsize=6.5)
        upper.axvline(4 * i - 0.5, color="#BBBBBB", lw=0.8)
    upper.axhline(0, color="black", lw=0.8)
    upper.set(
        ylim=(min(-0.2, alignment.value.min() - 0.05), 1.3),
        yticks=(0, 0.25, 0.5, 0.75, 1),
        ylabel="cosine with the true SPConv",
    )
    marks = [
        upper.plot([], [], "os^D"[n % 4], color=SERIES[n], mfc=SERIES[n] if n == 0 else "white")[0]
        for n in range(len(maps))
    ]
    upper.legend(marks, maps, loc="center left", bbox_to_anchor=(1, 0.5), title="map of the channels")
    for i, pair in enumerate(pairs):
        at = psnr_of_pair[pair].set_index("head")
        for n, head in enumerate(heads):
            if head in at.index:
                x, row = i + 0.8 * (n + 0.5) / len(heads) - 0.4, at.loc[head]
                lower.plot([x, x], [row.low_db, row.high_db], color=SERIES[n % 8], lw=1.4)
                lower.plot(x, row.difference_db, "os^Dv<>p"[n % 8], color=SERIES[n % 8], ms=4.5)
    lower.axhline(0, color="black", lw=0.8)
    lower.set_yscale("symlog", linthresh=1)
    ticks = [t for t in (-20, -10, -5, -2, -1, -0.5, 0) if t >= psnr.low_db.min() * 1.2 - 0.05]
    lower.set_yticks(ticks, [f"{t:g}" for t in ticks])
    lower.minorticks_off()
    lower.set_xticks(range(len(pairs)), names, fontsize=6.5)
    lower.set_ylabel("PSNR-Y minus that with\nthe true SPConv (dB)")
    lower.grid(axis="y")
    dots = [lower.plot([], [], "os^Dv<>p"[n % 8], color=SERIES[n % 8])[0] for n in range(len(heads))]
    lower.legend(dots, heads, loc="center left", bbox_to_anchor=(1, 0.5), title="SPConv on native features")
    return figure


@styled
def pattern_continuity(continuity: pd.DataFrame) -> Figure:
    """How continuous the kernels of multi-scale models are: left the correlation with the finest scale's pattern
    averaged down, right the total variation; medians over channels with the 5-95 % range, against the scale."""
    if continuity.empty:
        raise InputError("nothing to draw: no multi-scale model")
    figure, ((left, right),) = subplots(1, 2, 3.6, 2.9)
    columns = ((left, "correlation", "-"), (right, "total_variation", "-"), (right, "total_variation_shuffled", ":"))
    for (name, part), colour in zip(continuity.groupby("model", sort=False), SERIES, strict=False):
        for axis, column, dash in columns:
            found = part.groupby("scale")[column].quantile([0.05, 0.5, 0.95]).unstack()
            axis.fill_between(found.index, found[0.05], found[0.95], color=colour, alpha=0.15, lw=0)
            label = f"{name}, same numbers shuffled" if dash == ":" else name
            axis.plot(found.index, found[0.5], color=colour, ls=dash, marker="o", ms=3, label=label)
    scales = sorted(continuity.scale.unique())
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xticks(scales, [f"x{s}" for s in scales])
        axis.minorticks_off()
        axis.set_xlabel("scale")
        axis.grid(axis="y")
    left.set(ylabel=f"correlation with the x{scales[-1]} pattern\naveraged to that scale", ylim=(None, 1.02))
    right.set(ylabel="total variation of a row or column\n(standard deviations)", yscale="log")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
