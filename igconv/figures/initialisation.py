"""Figures of how upsamplers start."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.figures.style import SERIES, styled, subplots


@styled
def starts(table: pd.DataFrame) -> Figure:
    """Kernel statistics and the rank of the encoder's gradient before training: a group of bars per scale, a bar per
    model (geometric mean over seeds), a dot per seed. Rows of `igconv.analysis.initialisation.starts`."""
    if not len(table):
        raise InputError("nothing to draw: the table has no rows")
    panels = (("entry_mean", "mean of a kernel's entries"), ("entry_std", "standard deviation over entries"),
              ("subpixel_std", "standard deviation over sub-pixels"),
              ("gradient_rank", "effective rank of the\nencoder's gradient"))  # fmt: skip
    models, scales = list(table.model.unique()), sorted(table.scale.unique())
    figure, (axes,) = subplots(1, len(panels), 2.5, 2.7)
    for axis, (column, label) in zip(axes, panels, strict=True):
        for i, (model, colour) in enumerate(zip(models, SERIES, strict=False)):
            values = [table[(table.model == model) & (table.scale == scale)][column] for scale in scales]
            at = np.arange(len(scales)) + (i - (len(models) - 1) / 2) * 0.8 / len(models)
            axis.bar(at, [np.exp(np.log(v).mean()) for v in values], 0.75 / len(models), color=colour, label=model)
            for x, v in zip(at, values, strict=True):
                axis.plot([x] * len(v), v, "o", color="white", mec="black", mew=0.6, ms=3)
        axis.set(yscale="log", ylabel=label, xlabel="scale")
        axis.set_xticks(range(len(scales)), [f"x{scale}" for scale in scales])
    largest = int(table.channels.min())
    axes[-1].set(yscale="linear", ylim=(0, None))
    axes[-1].set_title(f"at most {largest}", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(models))
    return figure
