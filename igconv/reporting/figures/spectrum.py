"""Figures of the error per frequency band: of finished models, and over training steps."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.reporting.figures.style import BLACK, GREY, SERIES, labelled, styled, subplots

LOW, HIGH = "band_low_cycles_per_px", "band_high_cycles_per_px"
FREQUENCY = "frequency (cycles per HR pixel)"


def _distinct(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """`labelled`, with colours of their own for labels that would share one (published models)."""
    rows, colours = labelled(rows)
    free = [colour for colour in SERIES if colour not in colours.values()]
    seen = set()
    for label, colour in colours.items():
        if colour in seen and free:
            colours[label] = free.pop(0)
        seen.add(colours[label])
    return rows, colours


def _centre(rows: pd.DataFrame) -> pd.Series:
    return (rows[LOW] + rows[HIGH]) / 2


def _step_ticks(largest: float) -> tuple[list[int], list[str]]:
    """0, 1, 10, ... and their texts, for an axis of steps that is linear below 1 and logarithmic above."""
    ticks = [0] + [10**k for k in range(int(np.log10(max(largest, 1))) + 1)]
    return ticks, [f"{tick // 1000}k" if tick >= 1000 else str(tick) for tick in ticks]


def _legend(figure: Figure, axes, colours: dict[str, str]) -> None:
    handles = {name: h for axis in axes for h, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = [name for name in colours if name in handles]
    figure.legend([handles[name] for name in names], names, loc="outside right center")


@styled
def band_errors(errors: pd.DataFrame) -> Figure:
    """Relative error per frequency band, a panel per scale and a line per label: mean of dB over images (and seeds).

    The dashed line is the LR's Nyquist frequency 0.5 / scale, beyond which the LR image says nothing.
    """
    errors, colours = _distinct(errors)
    scales = sorted(errors.scale.unique())
    figure, (axes,) = subplots(1, len(scales), 2.9, 3.0, sharey=True, sharex=True)
    for axis, scale in zip(axes, scales, strict=True):
        for label, colour in colours.items():
            part = errors[(errors.scale == scale) & (errors.label == label)]
            part = part.groupby([LOW, HIGH], as_index=False).relative_error_db.mean()
            if len(part):
                axis.plot(_centre(part), part.relative_error_db, color=colour, marker="o", ms=3, lw=1.2, label=label)
        axis.axvline(0.5 / scale, color=GREY, ls="--", lw=1)
        axis.axhline(0, color=BLACK, lw=0.6)
        axis.set_title(f"x{scale}")
        axis.grid(axis="y")
    axes[0].set_ylabel("error / HR energy (dB)")
    figure.supxlabel(FREQUENCY, fontsize=9)
    _legend(figure, axes, colours)
    return figure


@styled
def band_differences(differences: pd.DataFrame, base: str, rows: list[list[str]] | None = None) -> Figure:
    """Error per band over that of one kind of run, with 95 % intervals: a column per scale, a line per label.

    Args:
        differences: of `igconv.analysis.spectrum.differences`.
        base: name of the kind that was subtracted, for the axis.
        rows: labels of the lines of each row of panels; all in one row if left out.
    """
    differences, colours = _distinct(differences)
    rows = [[label for label in dict.fromkeys(row) if label in colours] for row in rows or [differences.label]]
    rows, scales = [row for row in rows if row], sorted(differences.scale.unique())
    if not rows:
        raise InputError("nothing to draw: none of the kinds of runs asked for is there")
    figure, axes = subplots(len(rows), len(scales), 2.9, 2.6, sharey=True, sharex=True)
    width = (differences[HIGH] - differences[LOW]).min()
    for panels, row in zip(axes, rows, strict=True):
        for axis, scale in zip(panels, scales, strict=True):
            for i, label in enumerate(row):
                part = differences[(differences.label == label) & (differences.scale == scale)].sort_values(LOW)
                if len(part):
                    # Side by side, so that no interval hides another.
                    x = _centre(part) + width * 0.6 * ((i + 0.5) / len(row) - 0.5)
                    spread = np.nan_to_num([part.difference_db - part.low_db, part.high_db - part.difference_db])
                    axis.errorbar(
                        x,
                        part.difference_db,
                        yerr=spread,
                        color=colours[label],
                        marker="o",
                        ms=3,
                        lw=1,
                        elinewidth=0.9,
                        label=label,
                    )
            axis.axvline(0.5 / scale, color=GREY, ls="--", lw=1)
            axis.axhline(0, color=BLACK, lw=0.8)
            axis.grid(axis="y")
    for axis, scale in zip(axes[0], scales, strict=True):
        axis.set_title(f"x{scale}")
    figure.supylabel(f"error energy over {base} (dB)", fontsize=9)
    figure.supxlabel(FREQUENCY, fontsize=9)
    _legend(figure, axes.flat, colours)
    return figure


@styled
def band_learning(curves: pd.DataFrame) -> Figure:
    """Relative error of every band over the steps of training: a row per scale, a column per label, a line per band
    (mean over seeds). curves: of `igconv.analysis.spectrum.learning_curve`."""
    curves, colours = labelled(curves)
    labels, scales = list(colours), sorted(curves.scale.unique())
    bands = sorted(set(zip(curves[LOW], curves[HIGH], strict=True)))
    edges = [low for low, _ in bands] + [bands[-1][1]]
    palette = colormaps["viridis"].resampled(len(bands))
    figure, axes = subplots(len(scales), len(labels), 2.0, 1.9, sharex=True, sharey=True)
    for panels, scale in zip(axes, scales, strict=True):
        for axis, label in zip(panels, labels, strict=True):
            part = curves[(curves.label == label) & (curves.scale == scale)]
            means = part.groupby([LOW, "step"]).relative_error_db.mean()
            for i, (low, _) in enumerate(bands):
                if low in means.index:
                    axis.plot(means[low].index, means[low], color=palette(i), lw=1.1)
            axis.axhline(0, color=BLACK, lw=0.6)
            axis.set_xscale("symlog", linthresh=1, linscale=0.5)
            axis.set_xlim(left=0)
            axis.set_xticks(*_step_ticks(curves.step.max()))
            axis.minorticks_off()
            axis.grid(axis="y")
        panels[0].set_ylabel(f"x{scale}\nerror / HR energy (dB)")
    for axis, label in zip(axes[0], labels, strict=True):
        axis.set_title(label, fontsize=8)
    figure.supxlabel("optimiser step", fontsize=9)
    mappable = ScalarMappable(BoundaryNorm(edges, len(bands)), palette)
    ticks = edges if len(edges) < 13 else edges[:-1:4] + edges[-1:]
    figure.colorbar(mappable, ax=axes, label="band (cycles per HR pixel)", ticks=ticks, format="%.2f", aspect=40)
    return figure


@styled
def band_times(times: pd.DataFrame) -> Figure:
    """Steps until a band has done its share of its way, against frequency: a row per measure, a column per scale, a
    line per label (mean of the logarithm over seeds), dots for single seeds. times: of
    `igconv.analysis.spectrum.time_to_threshold`; bands without a time are crosses at the upper edge.
    """
    times, colours = labelled(times)
    measures, scales = list(dict.fromkeys(times.measure)), sorted(times.scale.unique())
    figure, axes = subplots(len(measures), len(scales), 2.9, 2.4, sharex=True, sharey=True)
    top = np.nanmax(times.step) if times.step.notna().any() else 1.0
    times = times.assign(centre=_centre(times), log=np.log1p(times.step))
    for panels, measure in zip(axes, measures, strict=True):
        for axis, scale in zip(panels, scales, strict=True):
            for i, (label, colour) in enumerate(colours.items()):
                part = times[(times.measure == measure) & (times.scale == scale) & (times.label == label)]
                means = np.expm1(part.groupby("centre").log.mean())
                axis.plot(means.index, means, color=colour, lw=1.2, marker="o", ms=3, label=label)
                if part.run.nunique() > 1:
                    axis.plot(part.centre, part.step, ".", color=colour, ms=3)
                missing = means.index[means.isna()]
                axis.plot(missing, [top * 1.7 * 1.4**i] * len(missing), "x", color=colour, ms=3.5, mew=0.9)
            axis.axvline(0.5 / scale, color=GREY, ls="--", lw=1)
            axis.set_yscale("symlog", linthresh=1, linscale=0.5)
            axis.set_yticks(*_step_ticks(top))
            axis.minorticks_off()
            axis.set_ylim(0, top * 1.7 * 1.4 ** len(colours))
            axis.plot([], [], "x", color=GREY, ms=3.5, mew=0.9, label="not learned")
            axis.grid(axis="y")
        panels[0].set_ylabel(f"steps, way in {measure}")
    for axis, scale in zip(axes[0], scales, strict=True):
        axis.set_title(f"x{scale}")
    figure.supxlabel(FREQUENCY, fontsize=9)
    _legend(figure, axes.flat, colours | {"not learned": GREY})
    return figure
