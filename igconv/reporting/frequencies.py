"""Claims about frequencies, judged on the tables of notebook 05; see `igconv.reporting.claims`."""

import pandas as pd

from igconv.analysis.nyquist import ABOVE, BELOW, differences
from igconv.evaluation import noise
from igconv.reporting.verdicts import INFERRED, line, scale_names, seed_count
from igconv.study.comparisons import one_ingredient_apart
from igconv.study.labels import FREQUENCY_LOSS, run_label
from igconv.study.run import Run


def low_first(order: pd.DataFrame) -> list[dict]:
    """Spectral bias: low frequencies are learned first: ``analysis/spectrum/order.csv``, per kind of model and measure.

    Rank correlation of frequency and time of learning. Runs and scales of one seed share starts and images and are
    one case: the interval is over the means of the seeds, and with a single seed there is none and no verdict.
    """
    claim, known = "Low frequencies are learned first", order.dropna(subset="spearman") if len(order) else order
    lines = []
    for (upsampler, measure), part in known.groupby(["upsampler", "measure"], sort=False) if len(known) else ():
        of_seeds = part.groupby("seed").spearman.mean()
        value, error, degrees = of_seeds.mean(), of_seeds.sem(), len(of_seeds) - 1
        low, high = noise.interval(value, error, degrees)
        verdict = "reproduced" if low > 0 else "differs" if high < 0 else "undecided"
        lines.append(
            line(
                claim,
                f"{run_label(upsampler)} and variants, {measure}",
                "correlation",
                f"rank correlation of frequency and step at which a band has done most of its way in {measure}; "
                f"{len(part)} cases (run and scale; {part.spearman.min():.2f} to {part.spearman.max():.2f}), "
                f"{seed_count(part.seed.nunique())}",
                scale_names(part.scale),
                value,
                low,
                high,
                0.0,
                verdict,
                INFERRED,
            )
        )
    if len(order) and not lines:
        reason = "in no case three bands were learned"
        return [line(claim, "", "correlation", reason, verdict="undecided", source=INFERRED)]
    return lines or [line(claim, "", "correlation", "needs own runs", source=INFERRED)]


def frequency_loss(bands: pd.DataFrame, runs: dict[str, Run]) -> list[dict]:
    """The frequency loss lowers the error at high frequencies: ``analysis/spectrum/bands.csv``, runs that have it alone
    or lack it alone against those that are as their upsampler is defined, and otherwise equal.

    High is above the Nyquist frequency of the LR image, 0.5 / scale cycles per HR pixel (`igconv.analysis.nyquist`).
    """
    claim, lines = "The frequency loss lowers the error above the LR image's Nyquist frequency", []
    known = set(bands.run) if len(bands) else set()
    for one in one_ingredient_apart(run for run in runs.values() if run.name in known):
        if one.ingredient == FREQUENCY_LOSS and one.within:
            having, without = ({run.name for run in side} for side in (one.having, one.without))
            own = bands[bands.run.isin(having | without)]
            sides = differences(own, without).set_index("side")
            row, below = sides.loc[ABOVE], sides.loc[BELOW]
            # The run-to-run noise of these energies was not measured: one seed decides nothing.
            beyond = "reproduced" if row.high_db < 0 else "differs" if row.low_db > 0 else "undecided"
            verdict = beyond if row.seeds > 2 else "undecided"
            lines.append(
                line(
                    claim,
                    f"{one.having[0].label} minus {one.without[0].label}",
                    "dB",
                    f"error energy of an image, mean over scales; below it {below.difference_db:+.2f} dB; {row.images} "
                    f"images, {seed_count(row.seeds)}; the interval is over images, this measure's noise between "
                    "trainings is unknown",
                    scale_names(own.scale),
                    row.difference_db,
                    row.low_db,
                    row.high_db,
                    0.0,
                    verdict,
                    INFERRED,
                )
            )
    return lines or [line(claim, "", "dB", "needs own runs", source=INFERRED)]


def biased(equal: pd.DataFrame) -> list[dict]:
    """More of the error is at high frequencies than of an SPConv's of equal total error:
    ``analysis/spectrum/equal_error.csv``, per multi-scale model.

    Difference of the shares above the LR image's Nyquist frequency, mean over scales. The interval is over the means of
    the seeds; with a single seed there is none and no verdict.
    """
    claim, lines = "A bias to low frequencies: more of the error is high than of SPConv's of equal error", []
    known = equal[(equal.minus == "SPConv") & (equal.variant == "")] if len(equal) else equal
    known = known[known.upsampler.isin(["igconv", "igconv+"])] if len(known) else known
    for upsampler, part in known.groupby("upsampler", sort=False) if len(known) else ():
        of_seeds = part.groupby("seed").difference.mean()
        low, high = noise.interval(of_seeds.mean(), of_seeds.sem(), len(of_seeds) - 1)
        lines.append(
            line(
                claim,
                run_label(upsampler),
                "share",
                f"difference of the shares of the error above the LR image's Nyquist frequency, "
                f"{part.above_share.mean():.3f} against {part.above_share_minus.mean():.3f}, mean over scales "
                f"({part.difference.min():+.3f} to {part.difference.max():+.3f}); {part.run.nunique()} training(s), "
                + seed_count(part.seed.nunique()),
                scale_names(part.scale),
                of_seeds.mean(),
                low,
                high,
                0.0,
                "reproduced" if low > 0 else "differs" if high < 0 else "undecided",
                INFERRED,
            )
        )
    return lines or [line(claim, "", "share", "needs own runs", source=INFERRED)]
