"""Figures of what upsamplers, kernels and models cost."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from igconv.errors import InputError
from igconv.reporting.figures.style import BLUE, GREY, ORANGE, RED, SERIES, SKY, styled, subplots
from igconv.reporting.tables import final_forms

FORM_LINES = {"as trained, first call": ":", "as trained": "--", "instantiated": "-"}
MEASURES = (("latency_ms", "latency (ms)"), ("peak_memory_mib", "peak memory (MiB)"))
_UPSAMPLER_STYLE = {"SPConv": (ORANGE, "o"), "SPConv+": (RED, "s"), "IGConv": (SKY, "^"), "IGConv+": (BLUE, "D")}


@styled
def efficiency_bars(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """The paper's Figure 1(a): latency, parameters and memory of the four upsamplers, ours beside the paper's.

    Latencies are in SPConv's on the same device: milliseconds of two machines say nothing about upsamplers.

    ours: `igconv.analysis.efficiency.upsampler_costs`; paper: upsampler, latency_ms, params_k, memory_mb.
    """
    final = final_forms(ours)
    paper, names = paper.set_index("upsampler"), ["SPConv", "IGConv", "SPConv+", "IGConv+"]
    panels = (
        ("latency (SPConv's = 1)", *(ms / ms.get("SPConv", np.nan) for ms in (final.latency_ms, paper.latency_ms))),
        ("parameters (thousands)", final.parameters / 1000, paper.params_k),
        ("peak memory (MiB)", final.peak_memory_mib, paper.memory_mb),
    )
    figure, (axes,) = subplots(1, 3, 3.0, 2.8)
    for axis, (label, *columns) in zip(axes, panels, strict=True):
        for shift, colour, values in zip((-0.2, 0.2), (BLUE, ORANGE), columns, strict=True):
            bars = axis.bar(np.arange(4) + shift, values.reindex(names), width=0.38, color=colour)
            axis.bar_label(bars, fmt=lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3g}", fontsize=6.5, padding=1)
        axis.set(yscale="log", ylabel=label)
        axis.set_xticks(range(4), names)
        axis.margins(y=0.12)
    device = final.device.iloc[0]
    figure.legend(axes[0].containers, [f"ours, {device}", "paper, A6000"], loc="outside upper center", ncols=2)
    return figure


@styled
def generation_time(times: pd.DataFrame) -> Figure:
    """Time to make a kernel bank against the scale, a line per ``model`` if there is such a column."""
    figure, ((axis,),) = subplots(1, 1, 4.4, 3.0)
    groups = times.groupby("model", sort=False) if "model" in times else [("", times)]
    for (name, part), colour, marker in zip(groups, SERIES, "os^Dv<>p", strict=False):
        axis.plot(part.scale, part.generation_ms, marker=marker, color=colour, ms=4, label=name or None)
    axis.set(xscale="log", yscale="log", xlabel="scale r", ylabel="kernel generation (ms)")
    axis.set_xticks(ticks := sorted(times.scale.unique()), [f"x{r}" for r in ticks])
    axis.minorticks_off()
    axis.grid(axis="y")
    axis.set_title(f"on {times.device.iloc[0]}, {times.threads.iloc[0]} thread(s)", fontsize=8)
    if "model" in times:
        axis.legend()
    return figure


def _form_lines(axis, table: pd.DataFrame, x: str, y: str, name_column: str) -> None:
    """A line per name and form. Forms that fixed heads do not have are drawn for IGConv and IGConv+ only."""
    for name, (colour, marker) in _UPSAMPLER_STYLE.items():
        own = table[table[name_column] == name]
        for form, line in FORM_LINES.items():
            part = own[own.form == form].sort_values(x)
            line = "-" if name.startswith("SPConv") else line
            axis.plot(part[x], part[y], line, color=colour, marker=marker, ms=3.5, lw=1.3)


def _size_ticks(axis, costs: pd.DataFrame, scale: int) -> None:
    sizes = costs.drop_duplicates("megapixels").sort_values("megapixels")
    names = [f"{row.lr_width_px}x{row.lr_height_px}" for row in sizes.itertuples()]
    axis.set_xticks(sizes.megapixels, names, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_xlabel(f"LR image (px), x{scale}")


def _log_ticks(side) -> None:
    """Numbers at 1, 2 and 5 where an axis (``axis.xaxis`` or ``.yaxis``) spans less than two decades, else at 1."""
    low, high = side.get_view_interval()
    side.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_locator(NullLocator())


def _form_legend(figure: Figure, costs: pd.DataFrame, names) -> None:
    names = [name for name in _UPSAMPLER_STYLE if name in set(names)]
    forms = [form for form in FORM_LINES if form in set(costs.form)]
    handles = [Line2D([], [], color=_UPSAMPLER_STYLE[n][0], marker=_UPSAMPLER_STYLE[n][1], ms=4) for n in names]
    styles = [Line2D([], [], color=GREY, ls=line) for line in map(FORM_LINES.get, forms)]
    figure.legend(handles + styles, names + forms, loc="outside right center")


@styled
def cost_sweep(costs: pd.DataFrame) -> Figure:
    """Latency and memory of the upsamplers against the size of the LR image (x2) and against the scale.

    costs: `igconv.analysis.efficiency.upsampler_costs` at several sizes and scales; the size at which most scales were
    measured is the one on the right.
    """
    if not (costs.scale == 2).any():
        raise InputError("the table has no costs at x2")
    at = costs.groupby(["lr_height_px", "lr_width_px"]).scale.nunique().idxmax()
    by_size = costs[costs.scale == 2].assign(megapixels=lambda t: t.lr_height_px * t.lr_width_px / 1e6)
    by_scale = costs[(costs.lr_height_px == at[0]) & (costs.lr_width_px == at[1])]
    figure, axes = subplots(2, 2, 3.1, 2.5, sharex="col", sharey="row")
    for row, (column, label) in enumerate(MEASURES):
        _form_lines(axes[row, 0], by_size, "megapixels", column, "upsampler")
        _form_lines(axes[row, 1], by_scale, "scale", column, "upsampler")
        axes[row, 0].set(xscale="log", yscale="log", ylabel=label)
        axes[row, 1].set(xscale="log")
    _size_ticks(axes[1, 0], by_size, 2)
    scales = sorted(by_scale.scale.unique())
    axes[1, 1].set_xticks(scales, [f"x{r}" for r in scales])
    axes[1, 1].set_xlabel(f"scale, LR {at[1]}x{at[0]} px")
    for axis in axes.ravel():
        axis.minorticks_off()
        axis.grid(axis="y")
        _log_ticks(axis.yaxis)
    _form_legend(figure, costs, costs.upsampler)
    figure.suptitle(f"64 channels, on {costs.device.iloc[0]}, {costs.threads.iloc[0]} thread(s)", fontsize=8)
    return figure


@styled
def model_sweep(costs: pd.DataFrame) -> Figure:
    """Latency and memory of whole models against the size of the LR image at one scale.

    costs: `igconv.analysis.efficiency.model_costs` at several sizes, with a column ``encoder``.
    """
    costs = costs.assign(megapixels=costs.lr_height_px * costs.lr_width_px / 1e6)
    figure, (axes,) = subplots(1, 2, 3.1, 2.7)
    for axis, (column, label) in zip(axes, MEASURES, strict=True):
        _form_lines(axis, costs, "megapixels", column, "model")
        axis.set(xscale="log", yscale="log", ylabel=label)
        _size_ticks(axis, costs, costs.scale.iloc[0])
        axis.minorticks_off()
        axis.grid(axis="y")
        _log_ticks(axis.yaxis)
    _form_legend(figure, costs, costs.model)
    encoder, device, threads = costs[["encoder", "device", "threads"]].iloc[0]
    figure.suptitle(f"{encoder}, on {device}, {threads} thread(s)", fontsize=8)
    return figure


@styled
def encoder_costs(costs: pd.DataFrame) -> Figure:
    """Parameters, FLOPs per LR pixel and memory per LR pixel of whole models, a line of dots per encoder.

    costs: `igconv.analysis.efficiency.encoder_costs` of several encoders.
    """
    pixels = costs.lr_height_px * costs.lr_width_px
    costs = costs.assign(million=costs.parameters / 1e6, mflops=costs.flops / pixels / 1e6)
    activations = costs.peak_memory_mib * 2**20 - 4 * costs.parameters  # what grows with the image
    costs = costs.assign(kib=activations / pixels / 2**10)
    order = costs[costs.upsampler == "SPConv"].sort_values("mflops").encoder.tolist()
    figure, (axes,) = subplots(1, 3, 2.6, 0.9 + 0.24 * len(order), sharey=True)
    panels = (
        ("million", "parameters (millions)"),
        ("mflops", "MFLOPs per LR pixel"),
        ("kib", "activation memory\nper LR pixel (KiB)"),
    )
    for axis, (column, label) in zip(axes, panels, strict=True):
        for shift, name in zip((-0.22, 0, 0.22), ("SPConv", "IGConv", "IGConv+"), strict=True):
            values = costs[costs.upsampler == name].set_index("encoder")[column].reindex(order)
            colour, marker = _UPSAMPLER_STYLE[name]
            axis.plot(values, np.arange(len(order)) + shift, marker, color=colour, ms=4, label=name)
        axis.set(xscale="log", xlabel=label)
        axis.grid(axis="x")
        _log_ticks(axis.xaxis)
    axes[0].set_yticks(range(len(order)), order)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def stored_parameters(stored: pd.DataFrame) -> Figure:
    """Parameters of one multi-scale model over those of three fixed-scale ones per encoder; a third is the claim.

    stored: `igconv.analysis.budget.stored_parameters` of several encoders.
    """
    order = stored.groupby("encoder", sort=False).ratio.min().sort_values().index
    baseline = stored.drop_duplicates("encoder").set_index("encoder").baseline
    figure, ((axis,),) = subplots(1, 1, 5.0, 0.9 + 0.26 * len(order))
    for shift, name in zip((-0.17, 0.17), ("IGConv", "IGConv+"), strict=True):
        values, places = stored[stored.model == name].set_index("encoder").ratio, np.arange(len(order)) + shift
        bars = axis.barh(places, values.reindex(order), height=0.33, color=_UPSAMPLER_STYLE[name][0], label=name)
        axis.bar_label(bars, fmt="{:.3f}", fontsize=6.5, padding=2)
    axis.axvline(1 / 3, color="black", lw=0.8, ls="--", label="a third")
    axis.set_yticks(range(len(order)), [f"{name} ({baseline[name]})" for name in order])
    axis.set(ylim=(len(order) - 0.5, -0.5), xlabel="stored parameters, one model / three fixed-scale models")
    axis.margins(x=0.12)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
