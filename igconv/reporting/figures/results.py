"""Figures of trainings and of their results."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from igconv.errors import InputError
from igconv.evaluation.noise import MEAN_OF_SETS
from igconv.reporting.figures.style import GREY, INGREDIENT_COLOURS, labelled, styled, subplots

LINES = ("-", "--", ":", "-.")  # of labels that share a colour


@styled
def training_curves(records: pd.DataFrame) -> Figure:
    """L1 loss and validation PSNR against steps; records: run, upsampler, variant, train_scales, step, l1, psnr_y_db.

    Fixed-scale runs stand above, multi-scale runs ("2-3-4"), whose PSNR is a mean over their scales, below: only curves
    of one panel compare. Runs of one label (fixed scales) share colour, line and legend entry; their scale stands once
    at the end of the curves. Labels of one colour differ by their lines.
    """
    records, colours = labelled(records)
    lines = {label: LINES[list(colours.values())[:i].count(colour) % 4]
             for i, (label, colour) in enumerate(colours.items())}  # fmt: skip
    fixed = records.train_scales.str.isdigit()
    kinds = [("one scale", records[fixed]), ("mean over scales", records[~fixed])]
    kinds = [(words, part) for words, part in kinds if len(part)]
    figure, axes = subplots(len(kinds), 2, 4.2, 2.6, sharex=True)
    for (loss, psnr), (words, part) in zip(axes, kinds, strict=True):
        for label, colour in colours.items():
            for i, (_, run) in enumerate(part[part.label == label].groupby("run")):
                name, seen = label if i == 0 else None, run.dropna(subset="psnr_y_db")
                loss.plot(run.step, run.l1, lines[label], color=colour, label=name, lw=1)
                psnr.plot(seen.step, seen.psnr_y_db, lines[label], color=colour, marker="o", ms=2.5, lw=1.2)
        loss.set(ylabel="L1 loss (white = 1)", yscale="log")
        loss.yaxis.set_minor_formatter(ScalarFormatter())
        psnr.set(ylabel=f"PSNR-Y of test crops (dB),\n{words}")
        # Beside the panel and not below all: every row has its own kinds of runs.
        psnr.legend(*loss.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.06, 0.5))
    if fixed.any():
        _end_in_scales(axes[0, 1], records[fixed].dropna(subset="psnr_y_db"))
    for axis in axes[-1]:
        axis.set(xlabel="optimiser step")
    return figure


def _end_in_scales(axis, records: pd.DataFrame) -> None:
    """The scale beside the end of its longest and highest curve."""
    for scale, part in records.groupby("train_scales"):
        end = part.sort_values(["step", "psnr_y_db"]).iloc[-1]
        place = dict(textcoords="offset points", va="center", fontsize=8)
        axis.annotate(f"x{scale}", (end.step, end.psnr_y_db), (5, 0), **place)


@styled
def psnr_gain(rows: pd.DataFrame) -> Figure:
    """Gain over bicubic per scale: a bar for the mean, a dot per image (mean over seeds). Rows of the evaluation."""
    key = ["dataset", "image", "scale"]
    base = rows[rows.run == "bicubic"].set_index(key).psnr_y_db
    if base.empty:
        raise InputError("the rows hold no run 'bicubic', over which the gain is measured")
    rows = rows[rows.run != "bicubic"].join(base.rename("base"), on=key)
    rows, colours = labelled(rows.assign(gain=rows.psnr_y_db - rows.base).dropna(subset="gain"))
    gains = rows.groupby(["label", *key], as_index=False).gain.mean()
    scales = sorted(gains.scale.unique())
    figure, (axes,) = subplots(1, len(scales), 2.7, 3.4, sharey=True)
    for axis, scale in zip(axes, scales, strict=True):
        part = gains[gains.scale == scale]
        names = [n for n in colours if n in set(part.label)]
        for i, name in enumerate(names):
            values = part[part.label == name].gain.to_numpy()
            axis.bar(i, values.mean(), color=colours[name], width=0.75, alpha=0.8)
            shift = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0]
            axis.plot(
                i + shift,
                np.sort(values),
                "o",
                color="white",
                mec="black",
                mew=0.6,
                ms=3.5 if len(values) < 20 else 1.5,
                ls="none",
            )
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_title(f"x{scale}")
        axis.grid(axis="y")
    axes[0].set_ylabel("PSNR-Y over bicubic (dB)")
    return figure


@styled
def ablation(table: pd.DataFrame) -> Figure:
    """What each ingredient of IGConv+ brings, a panel per scale: mean over all images with its 95 % interval over
    images and trainings, and where there are several test sets a dot for each. Table:
    `igconv.reporting.tables.ablation` of one encoder."""
    known = table.dropna(subset="difference_db") if len(table) else table
    if not len(known):
        raise InputError("of no ingredient the evaluation of a run with it and of one without it are there")
    kinds, scales = list(dict.fromkeys(zip(known.ingredient, known.within, strict=True))), sorted(known.scale.unique())
    colours = {ingredient.label: colour for ingredient, colour in INGREDIENT_COLOURS.items()}
    figure, (axes,) = subplots(1, len(scales), 2.6, 0.9 + 0.33 * len(kinds), sharex=True, sharey=True)
    for axis, scale in zip(axes, scales, strict=True):
        for row in known[known.scale == scale].itertuples():
            i, mean = kinds.index((row.ingredient, row.within)), row.difference_db
            if row.dataset == MEAN_OF_SETS:
                continue
            if row.dataset != "all":
                axis.plot(mean, i + 0.25, "o", color=GREY, ms=2.5)
                continue
            ends = np.nan_to_num([[mean - row.low_db], [row.high_db - mean]])
            axis.errorbar(mean, i, xerr=ends, fmt="o", ms=5, capsize=3, color=colours[row.ingredient])
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=f"x{scale}", yticks=range(len(kinds)), yticklabels=[f"{i} in {model}" for i, model in kinds])
        axis.grid(axis="x")
    axes[0].set_ylim(len(kinds) - 0.5, -0.5)
    figure.supxlabel("PSNR-Y with the ingredient minus without it (dB)", fontsize=9)
    return figure


@styled
def training_budget(summary: pd.DataFrame) -> Figure:
    """Training time, images and stored parameters: fixed-scale models together against one multi-scale model.

    summary: `igconv.analysis.budget.budget_summary` of one encoder; means over seeds.
    """
    summary, colours = labelled(summary)
    means = summary.groupby("label")[["training_seconds", "images", "stored_parameters", "models"]].mean()
    means = means.reindex(list(colours))
    names = [f"{name}, {n:.0f} model{'s' * (n > 1)}" for name, n in means.models.items()]
    panels = (
        ("training time (s)", means.training_seconds),
        ("training images (thousands)", means.images / 1000),
        ("stored parameters (thousands)", means.stored_parameters / 1000),
    )
    figure, (axes,) = subplots(1, 3, 2.7, 0.9 + 0.32 * len(names), sharey=True)
    for axis, (label, values) in zip(axes, panels, strict=True):
        bars = axis.barh(names, values, color=list(colours.values()))
        axis.bar_label(bars, fmt="{:.4g}", fontsize=7, padding=2)
        axis.margins(x=0.2)
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    return figure


@styled
def image_grid(images: Sequence[tuple[str, Tensor]], columns: int) -> Figure:
    """Titled uint8 images (3, h, w) in rows of ``columns``, every pixel a square."""
    if not images:
        raise InputError("nothing to draw: no images")
    figure, axes = subplots(-(-len(images) // columns), columns, 1.9, 2.05)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (title, image) in zip(axes.ravel(), images, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=8)
    return figure


@styled
def gap_by_budget(table: pd.DataFrame) -> Figure:
    """Difference to SPConv of equal steps against the steps, a panel per scale. Table: `igconv.reporting.gaps`."""
    if table.empty:
        raise InputError("nothing to draw: the models were trained at one budget alone")
    table, colours = labelled(table)
    scales = sorted(table.scale.unique())
    figure, (axes,) = subplots(1, len(scales), 2.7, 3.0, sharey=True)
    for axis, scale in zip(axes, scales, strict=True):
        for shift, (label, colour) in zip(np.linspace(0.95, 1.05, len(colours)), colours.items(), strict=True):
            part = table[(table.label == label) & (table.scale == scale)].sort_values("steps")
            reach = [part.difference_db - part.low_db, part.high_db - part.difference_db]
            axis.errorbar(part.steps * shift, part.difference_db, reach, color=colour, label=label, marker="o", ms=4,
                          lw=1.2, capsize=2)  # fmt: skip
        axis.axhline(0, color="black", lw=0.8)
        steps = sorted(table.steps.unique())
        axis.set_xscale("log")
        axis.set_xticks(steps, [f"{n:,}" for n in steps], minor=False)
        axis.minorticks_off()
        axis.set(title=f"x{scale}", xlabel="optimiser steps")
        axis.grid(axis="y")
    axes[0].set_ylabel("PSNR-Y minus SPConv's (dB)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(colours))
    return figure
