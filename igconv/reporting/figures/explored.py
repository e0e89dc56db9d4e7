"""Figures of the notebook `explore`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from igconv.analysis.explored import Panel
from igconv.errors import InputError
from igconv.reporting.figures.style import BLUE, styled, subplots


@styled
def explored(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """The panels of `igconv.analysis.explored.panels` with PSNR and SSIM; errors and spectra share one range."""
    if not panels:
        raise InputError("nothing to draw: no panels")
    figure, axes = subplots(-(-len(panels) // columns), columns, 2.6, 2.85)
    maps = [panel.pixels for panel in panels if panel.pixels.ndim == 2]
    limits = dict(vmin=min(float(m.min()) for m in maps), vmax=max(float(m.max()) for m in maps)) if maps else {}
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, panel in zip(axes.ravel(), panels, strict=False):
        if panel.pixels.ndim == 3:
            axis.imshow(panel.pixels.permute(1, 2, 0).numpy(), interpolation="nearest")
        else:
            axis.imshow(panel.pixels.numpy(), cmap="magma", interpolation="nearest", **limits)
        measured = "" if panel.psnr_y_db is None else f"\n{panel.psnr_y_db:.2f} dB, SSIM {panel.ssim_y:.4f}"
        axis.set_title(panel.title + measured)
    return figure


@styled
def kernel_along_scale(patterns: pd.DataFrame) -> Figure:
    """Of `igconv.analysis.correlation.pattern_table`, one channel: its pattern per scale, in one range of colours."""
    scales = list(dict.fromkeys(patterns.scale))
    figure, axes = subplots(1, len(scales), 1.5, 1.75)
    largest = patterns.value.abs().max()
    for axis, scale in zip(axes[0], scales, strict=True):
        table = patterns[patterns.scale == scale].pivot(index="sub_row", columns="sub_col", values="value")
        axis.imshow(table, cmap="PuOr", vmin=-largest, vmax=largest, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(f"×{scale}")
    return figure


@styled
def sampling_offsets(window: Tensor, shifts: Tensor, arrows: int = 24) -> Figure:
    """Where IGSample reads the LR image: arrows from a pixel's centre to the place, on the LR window.

    Args:
        window: uint8 (3, h, w).
        shifts: (2, h, w), x then y, in LR pixels.
        arrows: along the longer side.
    """
    figure, axes = subplots(1, 1, 4.2, 4.4)
    axis, (height, width) = axes[0, 0], shifts.shape[-2:]
    axis.imshow(window.permute(1, 2, 0).numpy(), interpolation="nearest", alpha=0.5)
    step = max(1, max(height, width) // arrows)
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    x, y = shifts[:, rows, columns].numpy()
    longest = float(np.hypot(x, y).max())
    # Rows of a picture count downwards: angles are taken from the data's coordinates.
    axis.quiver(columns, rows, x, y, color=BLUE, angles="xy", scale_units="xy", width=0.004,
                scale=(longest or 1) / (2 * step))  # fmt: skip
    axis.set_axis_off()
    axis.set_title(f"IGSample's offsets, mean over colours; the longest arrow is {longest:.2f} LR pixels")
    return figure
