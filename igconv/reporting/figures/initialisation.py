"""Figures of how upsamplers start."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.reporting.figures.style import SERIES, styled, subplots

# Column and title of each panel; the first ones have the same unit and share their axis.
PANELS = (
    ("entry_mean", "mean over entries"),
    ("entry_std", "standard deviation\nover entries"),
    ("subpixel_std", "standard deviation\nover sub-pixels"),
    ("gradient_rank", "effective rank of the\nencoder's gradient"),
)


@styled
def starts(table: pd.DataFrame) -> Figure:
    """Kernel statistics and the rank of the encoder's gradient before training, a group of marks per scale: a line for
    the geometric mean over seeds, a dot per seed. Rows of `igconv.analysis.initialisation.starts`."""
    if not len(table):
        raise InputError("nothing to draw: the table has no rows")
    models, scales = list(table.model.unique()), sorted(table.scale.unique())
    figure, (axes,) = subplots(1, len(PANELS), 2.5, 2.7)
    for axis, (column, label) in zip(axes, PANELS, strict=True):
        for i, (model, colour) in enumerate(zip(models, SERIES, strict=False)):
            for j, scale in enumerate(scales):
                values = table[(table.model == model) & (table.scale == scale)][column]
                x = j + (i - (len(models) - 1) / 2) * 0.8 / len(models)
                mean, half = np.exp(np.log(values).mean()), 0.35 / len(models)
                axis.plot([x - half, x + half], [mean] * 2, color=colour, lw=3, label=None if j else model)
                axis.plot([x] * len(values), values, "o", color="white", mec=colour, mew=0.8, ms=3.5)
        axis.set(yscale="log", title=label, xlabel="scale")
        axis.set_xticks(range(len(scales)), [f"x{scale}" for scale in scales])
        axis.grid(axis="y")
    kernels = table[[column for column, _ in PANELS[:-1]]]
    for axis in axes[:-1]:
        axis.set_ylim(kernels.min(axis=None) / 2, 2 * kernels.max(axis=None))
    axes[0].set_ylabel("kernel values")
    axes[-1].set(yscale="linear", ylim=(0, None), ylabel=f"directions (at most {table.channels.min()})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(models))
    return figure
