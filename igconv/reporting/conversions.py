"""Claims about converted networks, judged on ``analysis/conversion/quality.csv``; see `igconv.reporting.claims`."""

import math

import pandas as pd

from igconv.analysis.converted import FITTED
from igconv.evaluation.statistics import standard_error
from igconv.reporting.verdicts import OURS, decided, line, measured


def one_function(quality: pd.DataFrame) -> list[dict]:
    """One function makes the SPConvs of all scales: per family and scale, on the encoder of the largest scale.

    Value: PSNR with the kernels of one IGConv minus that with the SPConvs in closed form that it was fitted to, same
    frozen encoder; mean over the sets. The interval is over images: nothing is trained, so no noise of trainings is in
    it. Scales that were left out of the fit do not count.
    """
    claim, lines = "One function makes the SPConvs of all scales", []
    rows = quality[(quality["head"] == FITTED) & quality.fitted.astype(bool)] if len(quality) else quality
    for family, of_family in rows.groupby("family", sort=False) if len(rows) else ():
        largest = of_family[of_family.encoder_scale == of_family.encoder_scale.max()]
        for scale, part in largest.groupby("scale"):
            sets = len(part)
            error = math.sqrt((standard_error(part.low_db, part.high_db) ** 2).sum()) / sets
            measure = (
                f"PSNR-Y of IGConv minus the SPConvs it was fitted to, encoder of x{part.encoder_scale.iloc[0]}, mean "
                f"over {sets} set{'s' * (sets > 1)}, {part.images.sum()} images; no training"
            )
            empty = line(claim, f"{family}, converted", "dB", measure, f"x{scale}")
            lines.append(measured(empty, part.difference_db.mean(), error, max(part.images.sum() - sets, 1)))
    return decided(lines) or [line(claim, "", "dB", "needs notebook 09")]


def one_encoder(quality: pd.DataFrame, paper: pd.DataFrame) -> list[dict]:
    """One encoder serves all scales: a frozen encoder of one scale with one IGConv fitted to its features, minus the
    paper's multi-scale network of that encoder, which was trained for a million steps. Per family and scale, on the
    encoder of the largest scale; mean over the sets that both have.

    Facts: the paper's images are the same ones, but it gives means alone, so no interval of a difference can be had. No
    line about an encoder of which the paper has no row.

    Args: ``paper``: encoder, upsampler, scale, dataset and psnr of its models that were trained on DF2K.
    """
    claim, lines = "One encoder serves all scales", []
    rows = quality[(quality["head"] == FITTED) & quality.fitted.astype(bool)] if len(quality) else quality
    theirs = paper[paper.upsampler == "IGConv"].assign(family=paper.encoder + " DF2K")
    pairs = rows.merge(theirs, on=["family", "scale", "dataset"]) if len(rows) else pd.DataFrame()
    for family, of_family in pairs.groupby("family", sort=False) if len(pairs) else ():
        largest = of_family[of_family.encoder_scale == of_family.encoder_scale.max()]
        for scale, part in largest.groupby("scale"):
            difference = part.psnr_y_db - part.psnr
            measure = (
                f"PSNR-Y of the frozen encoder of x{part.encoder_scale.iloc[0]} with a fitted IGConv, untrained, minus "
                f"the paper's trained multi-scale IGConv (Table 3), mean over {len(part)} sets "
                f"({difference.min():+.2f} to {difference.max():+.2f})"
            )
            about = f"{family}, converted"
            lines.append(line(claim, about, "dB", measure, f"x{scale}", difference.mean(), verdict="fact", source=OURS))
    return lines if len(rows) else [line(claim, "", "dB", "needs notebook 09", source=OURS)]
