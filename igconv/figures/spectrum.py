"""Figures of the error per frequency band."""

import pandas as pd
from matplotlib.figure import Figure

from igconv.errors import InputError
from igconv.figures.style import GREY, labelled, style, styled, subplots


@styled
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
    figure, (axes,) = subplots(1, len(scales), 2.9, 3.0, sharey=True, sharex=True)
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
