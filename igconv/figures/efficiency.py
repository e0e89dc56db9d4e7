"""Figures of what upsamplers, kernels and models cost."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from igconv.figures.style import BLUE, ORANGE, SERIES, styled, subplots


@styled
def efficiency_bars(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """The paper's Figure 1(a): latency, parameters and memory of the four upsamplers, ours beside the paper's.

    ours: `igconv.analysis.efficiency.upsampler_costs`; paper: upsampler, latency_ms, params_k, memory_mb.
    """
    final = ours[(ours.form == "instantiated") | ~ours.upsampler.isin(["IGConv", "IGConv+"])].set_index("upsampler")
    paper, names = paper.set_index("upsampler"), ["SPConv", "IGConv", "SPConv+", "IGConv+"]
    panels = (
        ("latency (ms)", final.latency_ms, paper.latency_ms),
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
