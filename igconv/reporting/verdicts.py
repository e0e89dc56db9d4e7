"""Rules of verdicts, and the lines of the table of claims.

differences     "ahead" or "behind" when the difference is not zero (p < 0.05), "level" when it lies inside +- 0.05 dB
                (two one-sided tests, p < 0.05), else "undecided". Every p is corrected for the scales that a line is
                judged at (Holm), its t-test counts images and trainings (`igconv.evaluation.noise`): with a single seed
                the run-to-run noise that was measured, with several their own spread. "Not worse" is a test against
                -0.05 dB alone.
budget          at the paper's budget "ahead" and "behind" become "reproduced" and "differs". At a reduced one, and for
                our own questions, they stay as they are: nothing there can differ from the paper.
several cases   "partly" when some hold, "partly worse" when some are behind and none holds.
cost ratios     "reproduced" up to 10 % above the claimed ratio, "partly" below 1, else "differs".
similarities    against what controls reach, see `igconv.reporting.findings`; at a reduced budget "seen", "not seen".
"fact"          true by construction or of this machine: no verdict.
"not run"       what was needed is not there.
"""

from collections.abc import Iterable

import numpy as np
from scipy import stats

from igconv.evaluation.noise import holm, interval, p_different, p_equal

TOLERANCE = 0.1  # by which a cost ratio may exceed the claimed one
FIGURE_TOLERANCE = 0.05  # by which a parameter count or memory may differ from the paper's rounded one
KEPT = 0.9  # share of the native encoder's gain over bicubic that another scale's encoder must keep for "partly"
PAPER, INFERRED, OURS = "the paper's words", "inferred from its method", "our own question"
FULL, NONE, PUBLISHED = "the paper's", "no training", "published weights"  # budgets; a reduced one is its steps
COLUMNS = ("claim", "about", "scale", "verdict", "value", "low", "high", "target", "unit", "source", "budget",
           "p_holm", "measure")  # fmt: skip
GOOD, BAD = {"reproduced", "ahead", "level", "not worse", "seen", "partly"}, {"differs", "behind", "partly worse"}


def line(
    claim: str,
    about: str,
    unit: str,
    measure: str,
    scale: str = "",
    value=np.nan,
    low=np.nan,
    high=np.nan,
    target=np.nan,
    verdict: str = "not run",
    source: str = PAPER,
) -> dict:
    """Budget and corrected p are filled in later, by `igconv.reporting.claims.claims` and `decided`."""
    values = (claim, about, scale, verdict, value, low, high, target, unit, source, "", np.nan, measure)
    return dict(zip(COLUMNS, values, strict=True))


def measured(one: dict, value: float, error: float, degrees: float, target: float = 0.0) -> dict:
    """The line with a value in dB, its 95 % interval and what `decided` needs."""
    low, high = interval(value, error, degrees)
    return one | dict(value=value, low=low, high=high, target=target, error=error, degrees=degrees)


def decided(lines: list[dict]) -> list[dict]:
    """Lines of `measured` with verdicts, those of one claim about one thing corrected together."""
    families: dict[tuple, list[dict]] = {}
    for one in lines:
        families.setdefault((one["claim"], one["about"]), []).append(one)
    for family in families.values():
        values = [(one["value"], one.get("error", np.nan), one.get("degrees", np.nan), one["target"]) for one in family]
        for one, (verdict, p) in zip(family, compared(values), strict=True):
            one |= dict(verdict=verdict, p_holm=p)
    return [{name: one[name] for name in COLUMNS} for one in lines]


def compared(family: Iterable[tuple[float, float, float, float]]) -> list[tuple[str, float]]:
    """(verdict, corrected p of the difference) of each (value, standard error, degrees, target) of a family.

    With target 0 the words are ahead, level, behind, undecided; with another one, the band below zero that is still
    good enough, they are not worse, behind, undecided.
    """
    family = list(family)
    different = holm(p_different(*one) for one in family)
    equal = holm(p_equal(*one[:3]) for one in family)
    enough = holm(float(stats.t.sf((value - target) / error, degrees)) for value, error, degrees, target in family)
    found = []
    for (value, _, _, target), p, p_same, p_enough in zip(family, different, equal, enough, strict=True):
        if np.isnan(value):
            verdict = "not run"
        elif target == 0 and p_same < 0.05:
            verdict = "level"
        elif target != 0 and p_enough < 0.05:
            verdict = "not worse"
        elif p < 0.05:
            verdict = "ahead" if value > target else "behind"
        else:
            verdict = "undecided"
        found.append((verdict, float(p)))
    return found


def worded(one: dict) -> dict:
    """The line in the words of its budget: see above."""
    if one["verdict"] in ("fact", "not run", "undecided") or one["budget"] == NONE:
        return one
    if one["budget"] == FULL and one["source"] != OURS:
        words = {"ahead": "reproduced", "behind": "differs"}
        if "equal" in one["claim"]:
            words |= {"level": "reproduced", "ahead": "not worse"}
    elif one["budget"] == PUBLISHED:
        words = {}
    else:
        words = {"reproduced": "seen", "differs": "not seen"}
    return one | dict(verdict=words.get(one["verdict"], one["verdict"]))


def at_most(value: float, claimed: float) -> str:
    """Is a cost ratio at most the claimed one?"""
    if np.isnan(value):
        return "not run"
    return "reproduced" if value <= claimed * (1 + TOLERANCE) else "partly" if value < 1 else "differs"


def together(verdicts: Iterable[str]) -> str:
    """Verdict of a claim about several cases at once; those not run are left out."""
    found = set(verdicts) - {"not run"}
    if len(found) <= 1:
        return found.pop() if found else "not run"
    return "partly" if found & GOOD else "partly worse" if found & BAD else "undecided"


def scale_names(values: Iterable) -> str:
    return ", ".join(f"x{scale}" for scale in sorted(set(values)))


def seed_count(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"
