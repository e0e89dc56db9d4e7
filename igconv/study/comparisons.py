"""Which runs of a table are compared with which: those that differ in one ingredient of IGConv+, by their settings."""

from collections.abc import Iterable
from dataclasses import dataclass

from igconv.study.labels import INGREDIENTS, Ingredient, run_label
from igconv.study.run import Run


@dataclass(frozen=True)
class Comparison:
    """Runs with an ingredient and runs that lack it alone; see `one_ingredient_apart`."""

    ingredient: Ingredient
    beside: tuple[Ingredient, ...]  # what both have
    having: list[Run]
    without: list[Run]

    @property
    def within(self) -> str:
        """The upsampler that the ingredient is added to, or that it completes; "" where both sides are in between."""
        whole = [run.upsampler for run in (self.without[0], self.having[0]) if run.change is None]
        return run_label(whole[0]) if whole else ""

    @property
    def scales(self) -> list[int]:
        """Those of both sides."""
        return sorted(
            set.intersection(*({s for run in side for s in run.scales} for side in (self.having, self.without)))
        )


def one_ingredient_apart(runs: Iterable[Run]) -> list[Comparison]:
    """All pairs of kinds of runs that differ in one ingredient of IGConv+ and, but for name and seed, in nothing else.

    By settings, not by name: whatever upsampler has the ingredient. Ordered by ingredient, then as in the table, then
    by the number of other ingredients.
    """
    groups: dict[tuple, dict[tuple[Ingredient, ...], list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.all_else(), {}).setdefault(run.ingredients, []).append(run)
    found = []
    for ingredient in INGREDIENTS:
        for kinds in groups.values():
            for beside in sorted(kinds, key=len):
                both = tuple(i for i in INGREDIENTS if i in beside or i is ingredient)
                if ingredient not in beside and both in kinds:
                    found.append(Comparison(ingredient, beside, kinds[both], kinds[beside]))
    return found


def ablations(runs: Iterable[Run]) -> set[str]:
    """Names of the runs that have an ingredient more or less than another run, which is as its upsampler is defined."""
    sides = [(c.having, c.without) for c in one_ingredient_apart(runs) if c.within]
    return {run.name for side in sides for kind in side for run in kind if run.change}
