"""Starts compared at each one's best learning rate: short trainings on a small grid of rates.

Two starts at one rate are compared at the rate that suits one of them. Here every start is trained at every rate, from
the same encoder and with the same patches, for a part of the steps of the study's runs with their schedule in full, and
each is judged at the rate that is best for it.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd

from igconv.progress import follow_items
from igconv.study.run import Run
from igconv.training.loop import train

FACTORS = (0.3, 1.0, 3.0)  # of the study's rate
AUTHORS, LIKE_SPCONV = "IGConv, the authors' start", "IGConv, SPConv's start"
COLUMNS = ("start", "learning_rate", "factor", "seed", "steps", "l1", "psnr_y_db")


def kinds(base: Run) -> dict[str, Run]:
    """Start -> run of it, otherwise as a run of IGConv."""
    return {AUTHORS: replace(base, initialisation="authors"), LIKE_SPCONV: replace(base, initialisation="spconv")}


def tried(base: Run, steps: int, factors: Sequence[float] = FACTORS, accelerator: str = "auto") -> pd.DataFrame:
    """`COLUMNS`: loss and PSNR-Y on the validation crops (mean over scales) at the end of every short training.

    The weights are the last ones, not their average, whose memory is as long as these trainings. Nothing is left in the
    results of the study.

    Args:
        base: a run of IGConv, whose rate the factors are of.
        steps: of each training.
    """
    short = dict(steps=steps, record_every=steps, validate_every=steps, checkpoint_every=steps, ema=0.0)
    jobs = [(start, run, factor) for start, run in kinds(base).items() for factor in factors]
    rows = []
    for start, run, factor in follow_items(jobs, len(jobs), "starts at several rates"):
        rate = run.learning_rate * factor
        with _elsewhere():
            last = list(train(replace(run, learning_rate=rate, **short), accelerator))[-1]
        numbers = dict(l1=last["l1"], psnr_y_db=last["psnr_y_db"])
        rows.append(dict(start=start, learning_rate=rate, factor=factor, seed=run.seed, steps=steps, **numbers))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@contextmanager
def _elsewhere() -> Iterator[None]:
    """These trainings are nobody's runs: what they write goes to a folder that is removed."""
    before = os.environ.get("IGCONV_RESULTS")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IGCONV_RESULTS"] = folder
        try:
            yield
        finally:
            os.environ.pop("IGCONV_RESULTS")
            if before is not None:
                os.environ["IGCONV_RESULTS"] = before


def at_best(table: pd.DataFrame) -> pd.DataFrame:
    """Each start at the rate with the highest PSNR: `COLUMNS`, and ``at_edge``, whether that is an end of the grid."""
    best = table.loc[table.groupby("start", sort=False).psnr_y_db.idxmax()]
    ends = (table.factor.min(), table.factor.max())
    return best.assign(at_edge=best.factor.isin(ends)).reset_index(drop=True)


def conclusion(table: pd.DataFrame) -> str:
    """What `tried` says: each start at its best rate, and their difference there and at the study's."""
    if table.empty:
        return "Starts at each one's best rate: not run."
    best = at_best(table)
    lines = [
        f"{row.start}: {row.psnr_y_db:.2f} dB at its best rate, {row.learning_rate:g}"
        + (" (an end of the grid)" if row.at_edge else "")
        for row in best.itertuples()
    ]
    at_one = table[table.factor == 1].set_index("start").psnr_y_db
    of_best = best.set_index("start").psnr_y_db
    one, own = (values[LIKE_SPCONV] - values[AUTHORS] for values in (at_one, of_best))
    lines.append(
        f"SPConv's start minus the authors': {own:+.2f} dB at each one's best rate, {one:+.2f} dB at the study's; "
        f"after {table.steps.iloc[0]} steps, {table.seed.nunique()} seed(s)."
    )
    return "\n".join(lines)
