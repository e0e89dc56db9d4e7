"""Claims about frequencies, judged on the tables of notebook 05; see `igconv.reporting.claims`."""

import pandas as pd

from igconv.evaluation import noise
from igconv.reporting.verdicts import INFERRED, line, scale_names, seed_count
from igconv.study.comparisons import one_ingredient_apart
from igconv.study.labels import FREQUENCY_LOSS, run_label
from igconv.study.run import Run

SPLIT = 0.25  # cycles per pixel, above which a frequency is high


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
    or lack it alone against those that are as their upsampler is defined, and otherwise equal."""
    from igconv.analysis.spectrum import differences

    claim, lines = f"The frequency loss lowers the error above {SPLIT} cycles/px", []
    known = set(bands.run) if len(bands) else set()
    for one in one_ingredient_apart(run for run in runs.values() if run.name in known):
        if one.ingredient == FREQUENCY_LOSS and one.within:
            having, without = ({run.name for run in side} for side in (one.having, one.without))
            own = bands[bands.run.isin(having | without)]
            row = differences(own, without, split=SPLIT).iloc[-1]
            # The run-to-run noise of these energies was not measured: one seed decides nothing.
            beyond = "reproduced" if row.high_db < 0 else "differs" if row.low_db > 0 else "undecided"
            verdict = beyond if row.seeds > 2 else "undecided"
            lines.append(
                line(
                    claim,
                    f"{one.having[0].label} minus {one.without[0].label}",
                    "dB",
                    f"relative error energy, mean over bands; {row.images} images, {seed_count(row.seeds)}; the "
                    "interval is over images, this measure's noise between trainings is unknown",
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
