"""Which runs' spectra are compared with which, and what that says: the study of spectral bias.

`igconv.analysis.spectrum` measures errors per frequency band, of finished models and over the training; here it is
applied to the runs of a study, and the tables are put into words.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from igconv.analysis import spectrum
from igconv.data import weights
from igconv.errors import InputError
from igconv.models import published
from igconv.study.comparisons import ablations
from igconv.study.run import Run
from igconv.study.runs import PUBLISHED


def runs_of_equal_steps(runs: Sequence[Run]) -> list[Run]:
    """The runs with as many steps as those with an ingredient more or less, or as the first where there are none."""
    changed = ablations(runs)
    steps = next(run.steps for run in runs if run.name in changed or not changed)
    return [run for run in runs if run.steps == steps]


def of_each(runs: Iterable[Run], measure: Callable[[Run], pd.DataFrame]) -> list[pd.DataFrame]:
    """What ``measure`` gives for each run; one that was not made is named and left out."""
    tables = []
    for run in runs:
        try:
            tables.append(measure(run))
            print(f"{run.name}: measured", flush=True)
        except InputError as error:
            print(f"not run: {error}")
    return tables


def of_published(profile: str, sets: Sequence[str], device, edges) -> list[pd.DataFrame]:
    """`igconv.analysis.spectrum.of_published` of the fixed-scale models with SPConv whose weights are here."""
    names = published.runnable() if profile in PUBLISHED else []
    fixed = [name for name in names if published.kind(name)[1] == "spconv"]
    known = [name for name in fixed if weights.catalogue()[name].found()]
    print(f"published models: {len(known)} of {len(fixed)} are here")
    return [spectrum.of_published(name, sets, device, edges) for name in known]


@dataclass(frozen=True)
class Family:
    """IGConv runs by what they are made of; each list has the runs that are asked for only."""

    plain: list[Run]  # IGConv
    whole: list[Run]  # IGConv+
    added: list[Run]  # IGConv with one ingredient
    left_out: list[Run]  # IGConv+ without one
    others: list[Run]  # another start

    @property
    def is_comparable(self) -> bool:
        return bool(self.plain and (self.whole or self.added or self.left_out or self.others))

    @property
    def lines(self) -> list[list[str]] | None:
        """Labels for two rows of panels: what is added to IGConv, what is left out of IGConv+; None for one row."""
        rows = (self.added + self.whole, self.left_out + self.whole)
        return [[run.label for run in row] for row in rows] if self.added else None

    @property
    def shown(self) -> set[str]:
        """Names of the runs whose learning is drawn: without those that lack an ingredient where some have one more."""
        left_out = [] if self.added else self.left_out
        return {run.name for run in (*self.plain, *self.whole, *self.added, *left_out, *self.others)}


def family(runs: Sequence[Run], names: Collection[str]) -> Family:
    """The IGConv runs of a study that are among ``names``."""
    changed = ablations(runs)
    multi = [run for run in runs if run.family == "igconv" and run.name in names]
    with_change = [run for run in multi if run.name in changed]
    references = [run for run in multi if run.is_plain and run.name not in changed]
    return Family(
        plain=[run for run in references if run.upsampler == "igconv"],
        whole=[run for run in references if run.upsampler == "igconv+"],
        added=[run for run in with_change if run.change.added],
        left_out=[run for run in with_change if not run.change.added],
        others=[run for run in multi if run.name not in changed and not run.is_plain],
    )


def order_conclusion(order: pd.DataFrame) -> str:
    """What `igconv.analysis.spectrum.order` says: are low frequencies learned first? A line per measure."""
    if order.empty:
        return "The order of learning: not run."
    lines = []
    for measure, rows in order.groupby("measure", sort=False):
        known = rows.dropna(subset="spearman")
        first = (known.spearman > 0) & (known.p_value < 0.05)
        lines.append(
            f"way in {measure}: mean correlation {known.spearman.mean():+.2f} ({known.spearman.min():+.2f} to "
            f"{known.spearman.max():+.2f}) over {len(known)} cases (run and scale); low frequencies come first "
            f"(Spearman > 0, p < 0.05) in {first.sum()}, the correlation is negative in {(known.spearman < 0).sum()}, "
            f"too few bands were learned in {len(rows) - len(known)} more; {rows.not_learned.sum()} of "
            f"{(rows.bands + rows.not_learned).sum()} bands were not learned."
        )
    lines.append(
        f"Independent trainings: {order.seed.nunique()}. The cases are of {order.run.nunique()} runs of so many seeds; "
        f"runs of one seed share start and batches, scales of one run the encoder. A case has {order.bands.min()} to "
        f"{order.bands.max()} learned bands, neighbours nearly the same thing, so a p-value describes the order within "
        f"a run and is no test over trainings."
    )
    return "\n".join(lines)
