"""Figures of networks that were converted: the tables of `igconv.analysis.converted`."""

import pandas as pd
from matplotlib.figure import Figure

from igconv.analysis import converted
from igconv.errors import InputError
from igconv.reporting.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SERIES, SKY, styled, subplots

LOOKS = {  # head -> colour, mark
    converted.CLOSED: (ORANGE, "o"), converted.FITTED: (SKY, "D"), converted.SYMMETRIC: (GREEN, "o"),
    converted.FITTED_SYMMETRIC: (GREEN, "D"), converted.SAMPLED: (BLUE, "D"), converted.NATIVE: (BLACK, "*"),
    converted.ENLARGED: (BLACK, "x"), converted.UNTRAINED: (GREY, "s"), converted.ADAM: (RED, "v"),
    converted.BICUBIC: (GREY, "x"),
}  # fmt: skip
FLOOR = -3.0  # dB; what is lower is drawn at the edge


@styled
def conversion_losses(quality: pd.DataFrame) -> Figure:
    """What a frozen encoder costs at each scale (left, against the family's own network there) and what one function
    costs (right, against the SPConvs in closed form); a dot per network and set."""
    fitted = quality[quality.fitted]
    if fitted.empty:
        raise InputError("nothing to draw: no network was converted")
    key = ["family", "scale", "dataset"]
    native = quality[quality["head"] == converted.NATIVE][[*key, "psnr_y_db"]]
    closed = fitted[fitted["head"] == converted.CLOSED].merge(native, on=key, suffixes=("", "_native"))
    closed = closed.assign(loss=closed.psnr_y_db - closed.psnr_y_db_native)
    one = fitted[fitted["head"] == converted.FITTED].assign(loss=lambda t: t.difference_db)
    figure, (axes,) = subplots(1, 2, 3.6, 2.8)
    scales = sorted(fitted.scale.unique())
    encoders = sorted(fitted.encoder_scale.unique())
    for axis, part, title in (
        (axes[0], closed, "SPConvs on a frozen encoder\nminus the network of that scale"),
        (axes[1], one, "one IGConv\nminus those SPConvs"),
    ):
        for i, encoder in enumerate(encoders):
            of = part[part.encoder_scale == encoder]
            x = of.scale.map({scale: j for j, scale in enumerate(scales)}) + 0.22 * (i - (len(encoders) - 1) / 2)
            axis.plot(x, of.loss, "o", color=SERIES[i], ms=3.5, alpha=0.7, label=f"encoder of x{encoder}")
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(scales)), [f"x{scale}" for scale in scales])
        axis.set(title=title, ylabel="PSNR-Y difference (dB)", xlim=(-0.5, len(scales) - 0.5))
        axis.grid(axis="y")
    least = max(0.02, one.loss.abs().max() * 1.3)
    axes[1].set_ylim(-least, least)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(encoders))
    return figure


@styled
def conversion_fit(iterations: pd.DataFrame, eigenvalues: pd.DataFrame) -> Figure:
    """Eigenvalues of the features before and after whitening, and the way of the fit, of the last network."""
    if iterations.empty or eigenvalues.empty:
        raise InputError("nothing to draw: no network was converted")
    name = iterations.network.iloc[-1]
    figure, (axes,) = subplots(1, 3, 2.9, 2.6)
    of_network = eigenvalues[eigenvalues.network == name]
    for (features, of), part in of_network.groupby(["features", "of"], sort=False):
        colour, dash = {"raw": ORANGE, "whitened": BLUE}[features], "-" if of == "channels" else "--"
        share = part["index"] / max(1, part["index"].max())
        axes[0].plot(share, part.eigenvalue, dash, color=colour, label=f"{features}, {of}")
    axes[0].set(yscale="log", xlabel="rank, share of all", title="eigenvalues of the features")
    axes[0].legend(fontsize=6.5)
    of_network = iterations[iterations.network == name]
    errors = of_network.drop_duplicates("iteration")
    axes[1].plot(errors.iteration, errors.relative_error, "o-", color=PURPLE, ms=3)
    axes[1].set(yscale="log", xlabel="iteration", title="relative error of the kernels")
    for i, (scale, part) in enumerate(of_network.groupby("scale")):
        axes[2].plot(part.iteration, part.loss_db.clip(lower=1e-6), "o-", color=SERIES[i], ms=3, label=f"x{scale}")
    axes[2].set(yscale="log", xlabel="iteration", title="loss on the crops of the fit (dB)")
    axes[2].legend()
    figure.supxlabel(name, fontsize=8)
    return figure


@styled
def conversion_heads(quality: pd.DataFrame) -> Figure:
    """Every head of the network that has all of them, minus the SPConvs in closed form, per scale; means over sets."""
    whole = quality[quality["head"] == converted.ADAM].network.unique()
    if not len(whole):
        raise InputError("nothing to draw: no network was converted with all heads")
    of_network = quality[quality.network == whole[-1]]
    means = of_network.groupby(["head", "scale"], sort=False).difference_db.mean().reset_index()
    scales = sorted(means.scale.unique())
    place = {scale: i for i, scale in enumerate(scales)}
    figure, ((axis,),) = subplots(1, 1, 7.2, 3.4)
    heads = list(means["head"].unique())
    for i, (head, part) in enumerate(means.groupby("head", sort=False)):
        colour, mark = LOOKS.get(head, (PURPLE, "^"))
        x = part.scale.map(place) + 0.7 * ((i + 0.5) / len(heads) - 0.5)
        low = part.difference_db < FLOOR
        axis.plot(x, part.difference_db.clip(lower=FLOOR), mark, color=colour, ms=5, label=head, clip_on=False)
        for at, value in zip(x[low], part.difference_db[low], strict=True):
            axis.annotate(f"{value:.0f}", (at, FLOOR), (0, 5), textcoords="offset points", ha="center", fontsize=6)
    axis.axhline(0, color="black", lw=0.8)
    left_out = [place[s] for s in of_network[~of_network.fitted].scale.unique()]
    if left_out:
        axis.axvspan(min(left_out) - 0.5, len(scales) - 0.5, color="#F2F2F2", zorder=0)
        axis.text(
            min(left_out) - 0.45,
            0.5,
            "left out of the fit",
            transform=axis.get_xaxis_transform(),
            va="center",
            fontsize=7,
        )
    axis.set_xticks(range(len(scales)), [f"x{scale}" for scale in scales])
    axis.set(
        ylabel="PSNR-Y minus SPConvs\nin closed form (dB)", title=f"{whole[-1]}, encoder frozen", ylim=(FLOOR, None)
    )
    axis.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
