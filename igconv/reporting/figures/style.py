"""What all figures share: colours, labels, panels, `save` (PNG and PDF).

Colours are Okabe and Ito's, which people with colour blindness tell apart; what is compared has one scale. Figures
are made without pyplot, so none stays open; a notebook shows one that is the last expression of a cell.
"""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.files import write
from igconv.study.labels import DIHEDRAL, FREQUENCY_LOSS, IGSAMPLE, SPCONV_START, Change, run_label

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")  # fmt: skip
GREY, WINE, OLIVE = "#8C8C8C", "#882255", "#999933"  # the last two are Tol's

INGREDIENT_COLOURS = {FREQUENCY_LOSS: GREEN, IGSAMPLE: PURPLE, DIHEDRAL: BLACK}
# (upsampler, variant) -> colour, in the order of legends.
COLOURS = {
    ("bicubic", ""): GREY, ("spconv", ""): ORANGE, ("spconv+", ""): RED, ("igconv", ""): SKY, ("igconv+", ""): BLUE,
    **{("igconv+", Change(ingredient, False).variant): colour for ingredient, colour in INGREDIENT_COLOURS.items()},
    **{("igconv", Change(ingredient, True).variant): colour for ingredient, colour in INGREDIENT_COLOURS.items()},
    ("liif", ""): GREEN, ("spconv", Change(FREQUENCY_LOSS, True).variant): YELLOW,
    ("igconv", SPCONV_START): OLIVE, ("igconv+", SPCONV_START): WINE,
}  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, BLACK, GREY)  # where lines are not runs
RC = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y",
    "grid.color": "#DDDDDD", "axes.axisbelow": True, "legend.frameon": False, "pdf.fonttype": 42,
    "figure.dpi": 100, "image.interpolation": "nearest",
}  # fmt: skip


styled = mpl.rc_context(RC)  # as a decorator: a figure function runs under RC and leaves no trace of it


class Picture(Figure):
    """A figure that Jupyter shows without pyplot."""

    def _repr_png_(self) -> bytes:
        return _encoded(self, "png", dpi=110)


def style(upsampler: str, variant: str = "") -> tuple[str, str]:
    """(label, colour) of a run; a variant without an entry has the colour of its upsampler."""
    return run_label(upsampler, variant), COLOURS.get((upsampler, variant), COLOURS.get((upsampler, ""), GREY))


def labelled(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """(rows with a column ``label``, colours by label in the order of `COLOURS`); needs upsampler and variant."""
    if not len(rows):
        raise InputError("nothing to draw: the table has no rows")
    kinds = list(zip(rows.upsampler, rows.variant, strict=True))
    order = list(COLOURS)
    by_kind = sorted(dict.fromkeys(kinds), key=lambda kind: order.index(kind) if kind in order else len(order))
    return rows.assign(label=[run_label(*kind) for kind in kinds]), dict(style(*kind) for kind in by_kind)


@styled
def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write ``<name>.png`` (200 dpi) and ``<name>.pdf``; equal figures give equal files.

    The panels are placed once, which takes longer than to draw them, and stay where they are: a saved figure is
    finished.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
    undated = {"CreationDate": None}
    write(Path(folder) / f"{name}.png", _encoded(figure, "png", dpi=200, bbox_inches=box))
    write(Path(folder) / f"{name}.pdf", _encoded(figure, "pdf", dpi=200, bbox_inches=box, metadata=undated))


@styled
def _encoded(figure: Figure, format: str, bbox_inches="tight", **options) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, bbox_inches=bbox_inches, **options)
    return buffer.getvalue()


def subplots(rows: int, columns: int, width: float, height: float, **options) -> tuple[Picture, np.ndarray]:
    """A figure of rows x columns panels of the given size each in inches, and its (rows, columns) axes."""
    figure = Picture(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
