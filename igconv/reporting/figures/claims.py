"""The table of claims as one picture."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from igconv.errors import InputError
from igconv.reporting.figures.style import GREEN, GREY, ORANGE, RED, SKY, styled, subplots

VERDICT_STYLE = {
    "reproduced": (GREEN, "o"), "ahead": (GREEN, "^"), "seen": (GREEN, "P"), "level": (SKY, "o"),
    "not worse": (SKY, "^"), "partly": (SKY, "s"), "undecided": (GREY, "D"), "partly worse": (ORANGE, "s"),
    "behind": (RED, "v"), "not seen": (RED, "P"), "differs": (RED, "X"),
}  # fmt: skip
AXES = {"dB": "dB (linear to 0.1, logarithmic beyond)", "ratio": "ratio (logarithmic)"}  # others by their unit
ROW_HEIGHT = 0.19  # inches


@styled
def claims(table: pd.DataFrame) -> Figure:
    """Every claim of the paper: our value with its interval against the target, coloured by verdict.

    A panel per unit; orange lines are the targets, without an entry where a claim has none. Facts have no verdict and
    are left out. Claims that were not run are listed in grey below. table: `igconv.reporting.claims.claims`.
    """
    known = table[~table.verdict.isin(["not run", "fact"])]
    if known.empty:
        raise InputError("nothing to draw: no claim of the table was run")
    units = list(dict.fromkeys(known.unit))
    heights = [(known.unit == unit).sum() + 2.2 for unit in units]
    missing = table[table.verdict == "not run"]
    figure, axes = subplots(len(units), 1, 7.6, 1, height_ratios=heights)
    figure.set_size_inches(7.6, ROW_HEIGHT * (sum(heights) + len(missing) + 3))
    for (axis,), unit in zip(axes, units, strict=True):
        _panel(axis, known[known.unit == unit], unit)
    shown = {verdict: style for verdict, style in VERDICT_STYLE.items() if (known.verdict == verdict).any()}
    handles = [Line2D([], [], color=c, marker=m, ls="none", ms=5) for c, m in shown.values()]
    target = Line2D([], [], color=ORANGE, marker="|", ls="none", ms=9, mew=2)
    figure.legend([*handles, target], [*shown, "target"], loc="outside upper center", ncols=5)
    if len(missing):
        names = [" · ".join(filter(None, (row.claim, row.about, row.scale))) for row in missing.itertuples()]
        figure.supxlabel("not run:\n" + "\n".join(names), fontsize=7, color=GREY, ha="left", x=0.01)
    return figure


def _panel(axis, part: pd.DataFrame, unit: str) -> None:
    for place, row in enumerate(part.itertuples()):
        colour, marker = VERDICT_STYLE[row.verdict]
        interval = np.nan_to_num([[row.value - row.low], [row.high - row.value]]).clip(0)
        axis.plot(row.target, place, "|", color=ORANGE, ms=10, mew=2)
        axis.errorbar(row.value, place, xerr=interval, fmt=marker, ms=4.5, capsize=2, lw=1.2, color=colour)
    names = [" · ".join(filter(None, (row.claim, row.about, row.scale))) for row in part.itertuples()]
    axis.set_yticks(range(len(part)), names, fontsize=7)
    axis.set(ylim=(len(part) - 0.4, -0.6), xlabel=AXES.get(unit, unit))
    if unit == "ratio":
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        ticks = [t for t in (0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if low <= t <= high]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    else:
        axis.axvline(0, color="black", lw=0.6)
    if unit == "dB":  # hundredths and tens stand side by side
        axis.set_xscale("symlog", linthresh=0.1)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(axis="x")
