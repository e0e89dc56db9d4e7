"""One function per figure: tidy data frame -> matplotlib figure. `save` writes it as PNG and PDF.

Colours are Okabe and Ito's, which people with colour blindness tell apart; what is compared has one scale. Figures
are made without pyplot, so none stays open; a notebook shows one that is the last expression of a cell.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from igconv.errors import InputError
from igconv.files import write
from igconv.tables import mean_interval, run_label

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")  # fmt: skip
GREY = "#8C8C8C"

# (upsampler, variant) -> colour, in the order of legends.
COLOURS = {
    ("bicubic", ""): GREY, ("spconv", ""): ORANGE, ("spconv+", ""): RED, ("igconv", ""): SKY, ("igconv+", ""): BLUE,
    ("igconv+", "no_fft"): GREEN, ("igconv+", "no_igsample"): PURPLE, ("igconv+", "no_dihedral"): BLACK,
    ("igconv", "fft"): GREEN, ("igconv", "igsample"): PURPLE, ("igconv", "dihedral"): BLACK, ("liif", ""): GREEN,
}  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, BLACK, GREY)  # where lines are not runs
RC = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y",
    "grid.color": "#DDDDDD", "axes.axisbelow": True, "legend.frameon": False, "pdf.fonttype": 42,
    "figure.dpi": 100, "image.interpolation": "nearest",
}  # fmt: skip


_styled = mpl.rc_context(RC)  # as a decorator: a figure function runs under RC and leaves no trace of it


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


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write ``<name>.png`` (200 dpi) and ``<name>.pdf``; equal figures give equal files."""
    write(Path(folder) / f"{name}.png", _encoded(figure, "png", dpi=200))
    write(Path(folder) / f"{name}.pdf", _encoded(figure, "pdf", dpi=200, metadata={"CreationDate": None}))


@_styled
def _encoded(figure: Figure, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, bbox_inches="tight", **options)
    return buffer.getvalue()


def _panels(rows: int, columns: int, width: float, height: float, **options) -> tuple[Picture, np.ndarray]:
    """A figure of rows x columns panels of the given size each in inches, and its (rows, columns) axes."""
    figure = Picture(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@_styled
def training_curves(records: pd.DataFrame, bicubic_psnr_y_db: float | None = None) -> Figure:
    """L1 loss and validation PSNR against steps; records: run, upsampler, variant, step, l1, psnr_y_db.

    Runs of one label (fixed scales) share colour and legend entry; their scale, taken from the run's name, stands at
    the end of the curve. The other curves are means over the scales of the run, so only they compare with each other.
    """
    records, colours = labelled(records)
    figure, ((loss, psnr),) = _panels(1, 2, 4.2, 3.0)
    for label, colour in colours.items():
        for i, (_, run) in enumerate(records[records.label == label].groupby("run")):
            name = label if i == 0 else None
            loss.plot(run.step, run.l1, color=colour, label=name, lw=1)
            seen = run.dropna(subset="psnr_y_db")
            psnr.plot(seen.step, seen.psnr_y_db, color=colour, marker="o", ms=2.5, lw=1.2)
            scale = re.search(r"-(x\d+)-", run.run.iloc[0])
            if scale and len(seen):
                psnr.annotate(scale[1], (seen.step.iloc[-1], seen.psnr_y_db.iloc[-1]), (4, 0), fontsize=7,
                              textcoords="offset points", va="center", color=colour)  # fmt: skip
    if bicubic_psnr_y_db is not None:
        psnr.axhline(bicubic_psnr_y_db, color=GREY, ls="--", lw=1, label="bicubic")
        psnr.legend(loc="lower right")
    loss.set(xlabel="optimiser step", ylabel="L1 loss (white = 1)", yscale="log")
    psnr.set(xlabel="optimiser step", ylabel="PSNR-Y of test crops (dB)")
    for axis in (loss, psnr):
        axis.grid(axis="y")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside right center")
    return figure


@_styled
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
    figure, (axes,) = _panels(1, len(scales), 2.7, 3.4, sharey=True)
    for axis, scale in zip(axes, scales, strict=True):
        part = gains[gains.scale == scale]
        names = [n for n in colours if n in set(part.label)]
        for i, name in enumerate(names):
            values = part[part.label == name].gain.to_numpy()
            axis.bar(i, values.mean(), color=colours[name], width=0.75, alpha=0.8)
            shift = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0]
            axis.plot(i + shift, np.sort(values), "o", color="white", mec="black", mew=0.6,
                      ms=3.5 if len(values) < 20 else 1.5, ls="none")  # fmt: skip
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_title(f"x{scale}")
        axis.grid(axis="y")
    axes[0].set_ylabel("PSNR-Y over bicubic (dB)")
    return figure


@_styled
def ablation(rows: pd.DataFrame, base_run: str) -> Figure:
    """Paired PSNR difference of the other runs to ``base_run``, a panel per scale: mean with its 95 % bootstrap
    interval over images, and every image as a dot. Rows of the evaluation."""
    key = ["dataset", "image", "scale"]
    base = rows[rows.run == base_run].set_index(key).psnr_y_db
    if base.empty:
        raise InputError(f"the rows hold no run {base_run!r}")
    others = rows[~rows.run.isin([base_run, "bicubic"])].join(base.rename("base"), on=key)
    others, colours = labelled(others.assign(difference=others.psnr_y_db - others.base).dropna(subset="difference"))
    names, scales = list(colours), sorted(others.scale.unique())
    figure, (axes,) = _panels(1, len(scales), 2.6, 0.9 + 0.33 * len(names), sharex=True, sharey=True)
    for axis, scale in zip(axes, scales, strict=True):
        for i, name in enumerate(names):
            values = others[(others.scale == scale) & (others.label == name)].difference
            if len(values):
                mean, low, high = mean_interval(values)
                axis.plot(values, [i + 0.25] * len(values), "o", color=GREY, ms=2.5)
                axis.errorbar(mean, i, xerr=np.nan_to_num([[mean - low], [high - mean]]), fmt="o", ms=5, capsize=3,
                              color=colours[name])  # fmt: skip
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=f"x{scale}", yticks=range(len(names)), yticklabels=names)
        axis.grid(axis="x")
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"PSNR-Y minus that of {style(*rows[rows.run == base_run][['upsampler', 'variant']].iloc[0])[0]}"
                     " (dB)", fontsize=9)  # fmt: skip
    return figure


@_styled
def image_grid(images: Sequence[tuple[str, Tensor]], columns: int) -> Figure:
    """Titled uint8 images (3, h, w) in rows of ``columns``, every pixel a square."""
    if not images:
        raise InputError("nothing to draw: no images")
    figure, axes = _panels(-(-len(images) // columns), columns, 1.9, 2.05)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (title, image) in zip(axes.ravel(), images, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=8)
    return figure


@_styled
def cka_maps(similarity: pd.DataFrame, columns: int = 3) -> Figure:
    """Heat map of every stage against every stage, a panel per comparison and pair; one colour scale, 0 to 1."""
    groups = list(similarity.groupby(["comparison", "model_a", "model_b"], sort=False))
    if not groups:
        raise InputError("nothing to draw: no pair of encoders was compared")
    figure, axes = _panels(-(-len(groups) // columns), columns, 2.6, 2.5)
    for axis in axes.ravel()[len(groups) :]:
        axis.set_axis_off()
    for axis, ((comparison, a, b), part) in zip(axes.ravel(), groups, strict=False):
        table = part.pivot(index="stage_a", columns="stage_b", values="cka")
        table = table.loc[part.stage_a.unique(), part.stage_b.unique()][::-1]
        sns.heatmap(table, vmin=0, vmax=1, cmap="cividis", square=True, cbar=False, annot=table.size <= 64, fmt=".2f",
                    annot_kws=dict(fontsize=6.5), ax=axis)  # fmt: skip
        axis.set_xticklabels(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(labelsize=6.5)
        axis.set_xlabel(b, fontsize=8)
        axis.set_ylabel(a, fontsize=8)
        axis.set_title(comparison, fontsize=8)
    figure.colorbar(axes.flat[0].collections[0], ax=axes, label="linear CKA", shrink=0.6, extend="min")
    return figure


@_styled
def cka_depth(similarity: pd.DataFrame) -> Figure:
    """CKA of equal stages against depth with its bootstrap interval: a line per pair, a colour per comparison."""
    same = similarity[similarity.stage_a == similarity.stage_b]
    figure, ((axis,),) = _panels(1, 1, 6.4, 3.2)
    for (comparison, group), colour, dash in zip(
        same.groupby("comparison", sort=False), SERIES, ("-", "-", "--", ":", "-.", "-", "-", "-"), strict=False
    ):
        for i, (_, part) in enumerate(group.groupby(["model_a", "model_b"], sort=False)):
            axis.fill_between(part.index_a, part.cka_low, part.cka_high, color=colour, alpha=0.15, lw=0)
            axis.plot(part.index_a, part.cka, color=colour, ls=dash, marker="os^Dv<>p"[i % 8], ms=4, lw=1.2,
                      label=comparison if i == 0 else None)  # fmt: skip
    stages = same.drop_duplicates("index_a").sort_values("index_a")
    axis.set_xticks(stages.index_a, stages.stage_a, rotation=30, ha="right", rotation_mode="anchor")
    axis.set(ylabel="linear CKA of equal stages", ylim=(min(-0.05, same.cka_low.min()), 1.02), xlabel="stage")
    axis.grid(axis="y")
    figure.legend(loc="outside right center")
    return figure


@_styled
def kernel_patterns(patterns: pd.DataFrame) -> Figure:
    """Sub-pixel patterns, a row per model and scale and a column per channel, each with its own colour range."""
    rows = list(patterns.groupby(["model", "scale"], sort=False))
    channels = sorted(patterns.channel.unique())
    figure, axes = _panels(len(rows), len(channels), 0.62, 0.64)
    for i, ((model, scale), part) in enumerate(rows):
        for axis, channel in zip(axes[i], channels, strict=True):
            axis.set(xticks=[], yticks=[])
            table = part[part.channel == channel].pivot(index="sub_row", columns="sub_col", values="value")
            axis.imshow(table, cmap="inferno", interpolation="nearest")
            axis.spines[["top", "right"]].set_visible(True)
            if i == 0:
                axis.set_title(str(channel), fontsize=7)
        name = f"x{scale}" if patterns.model.nunique() == 1 else f"{model.removesuffix(f' x{scale}')} x{scale}"
        axes[i, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.supxlabel("input channel (number above); each picture is one low-resolution pixel", fontsize=8)
    return figure


@_styled
def correlation_bars(correlation: pd.DataFrame) -> Figure:
    """Correlation of kernels across scales, panels statistic x constant term: the value as a bar, the range of
    chance (mean to 95 % quantile of each null distribution) beside it as a line, and the largest p-value above.

    Pairs are named after ``model_a`` and the two scales."""
    statistics, constants = list(correlation.statistic.unique()), ["kept", "removed"]
    key = ["model_a", "model_b", "scale_a", "scale_b"]
    pairs = list(correlation.groupby(key, sort=False).groups)
    tests = dict(list(correlation.groupby([*key, "constant", "statistic"])))
    figure, axes = _panels(2, len(statistics), 0.9 + 0.36 * len(pairs), 2.0, sharey=True, sharex=True)
    for (i, constant), (j, statistic) in ((r, c) for r in enumerate(constants) for c in enumerate(statistics)):
        axis = axes[i, j]
        for k, pair in enumerate(pairs):
            part = tests[*pair, constant, statistic]
            value = part.value.iloc[0]
            axis.bar(k - 0.12, value, width=0.55, color=SKY if pair[0] == pair[1] else ORANGE)
            for n, (mean, high) in enumerate(zip(part.null_mean, part.null_q95, strict=True)):
                axis.plot([k + 0.26 + 0.16 * n] * 2, [mean, high], color=BLACK, lw=1.6, marker="_", ms=5)
            p = part.p_value.max()
            axis.text(k, 1.04, f"{p:.2f}" if p >= 0.005 else f"{p:.3f}", ha="center", fontsize=6.5)
        axis.axhline(0, color="black", lw=0.8)
        axis.set_ylim(min(-0.2, correlation.value.min() - 0.1, correlation.null_mean.min()), 1.15)
        axis.set_xticks(range(len(pairs)), [f"{a.removesuffix(f' x{r}')} x{r}–x{s}" for a, b, r, s in pairs],
                        rotation=50, ha="right", rotation_mode="anchor")  # fmt: skip
        axis.set_title(statistic if i == 0 else "", fontsize=9)
        axis.grid(axis="y")
        if j == 0:
            axis.set_ylabel(f"mean cosine,\nconstant {constant}")
    figure.supxlabel("black lines: chance, from mean to 95 % quantile; numbers: p-value (the largest)", fontsize=8)
    return figure


@_styled
def band_errors(errors: pd.DataFrame, relative_to: str | None = None) -> Figure:
    """Relative error per frequency band, a panel per scale and a line per label: mean of dB over images (and seeds).

    ``relative_to``: a run name; lines then show the difference to it per image. The dashed line is the LR's Nyquist
    frequency 0.5 / scale, beyond which the LR image says nothing.
    """
    key, unit = ["dataset", "image", "scale", "band_low_cycles_per_px", "band_high_cycles_per_px"], "error / HR energy"
    errors = errors.assign(db=errors.relative_error_db)
    if relative_to is not None:
        base = errors[errors.run == relative_to].set_index(key).db.rename("base")
        if base.empty:
            raise InputError(f"the rows hold no run {relative_to!r}")
        base_label = style(*errors[errors.run == relative_to][["upsampler", "variant"]].iloc[0])[0]
        errors = errors.join(base, on=key)
        errors, unit = errors.assign(db=errors.db - errors.base), f"error energy over {base_label}"
    errors, colours = labelled(errors)
    scales = sorted(errors.scale.unique())
    figure, (axes,) = _panels(1, len(scales), 2.9, 3.0, sharey=True, sharex=True)
    for axis, scale in zip(axes, scales, strict=True):
        for label, colour in colours.items():
            part = errors[(errors.scale == scale) & (errors.label == label)].groupby(key[3:], as_index=False).db.mean()
            if len(part):
                centre = (part.band_low_cycles_per_px + part.band_high_cycles_per_px) / 2
                axis.plot(centre, part.db, color=colour, marker="o", ms=3, lw=1.2, label=label)
        axis.axvline(0.5 / scale, color=GREY, ls="--", lw=1)
        axis.set_title(f"x{scale}")
        axis.grid(axis="y")
    axes[0].set_ylabel(f"{unit} (dB)")
    figure.supxlabel("frequency (cycles per HR pixel)", fontsize=9)
    handles = {name: h for axis in axes for h, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend([handles[n] for n in colours], list(colours), loc="outside right center")
    return figure


@_styled
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
    figure, (axes,) = _panels(1, 3, 3.0, 2.8)
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


@_styled
def generation_time(times: pd.DataFrame) -> Figure:
    """Time to make a kernel bank against the scale, a line per ``model`` if there is such a column."""
    figure, ((axis,),) = _panels(1, 1, 4.4, 3.0)
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


@_styled
def training_budget(summary: pd.DataFrame) -> Figure:
    """Training time, images and stored parameters: fixed-scale models together against one multi-scale model.

    summary: `igconv.analysis.efficiency.budget_summary` of one encoder; means over seeds.
    """
    summary, colours = labelled(summary)
    means = summary.groupby("label")[["training_seconds", "images", "stored_parameters", "models"]].mean()
    means = means.reindex(list(colours))
    names = [f"{name}, {n:.0f} model{'s' * (n > 1)}" for name, n in means.models.items()]
    panels = (("training time (s)", means.training_seconds), ("training images (thousands)", means.images / 1000),
              ("stored parameters (thousands)", means.stored_parameters / 1000))  # fmt: skip
    figure, (axes,) = _panels(1, 3, 2.7, 0.9 + 0.32 * len(names), sharey=True)
    for axis, (label, values) in zip(axes, panels, strict=True):
        bars = axis.barh(names, values, color=list(colours.values()))
        axis.bar_label(bars, fmt="{:.4g}", fontsize=7, padding=2)
        axis.margins(x=0.2)
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    return figure
