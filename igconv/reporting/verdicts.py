"""Rules of verdicts, and the lines of the table of claims.

differences     "reproduced" when the 95 % interval is beyond the target on the claim's side, and with a single seed
                the value as well by the run-to-run noise of the field; "differs" when it is so on the other side;
                else "undecided". Where a claim is about several scales or pairs: "reproduced" or "differs" when
                all of them are, "partly" when some are reproduced.
cost ratios     "reproduced" up to 10 % above the claimed ratio, "partly" below 1, else "differs".
similarities    against what controls reach, see `igconv.reporting.findings`.
"not run"       what was needed is not there.
"""

from collections.abc import Iterable

import numpy as np

NOISE_DB = 0.05  # run-to-run noise of the field: what a difference from a single seed has to exceed
TOLERANCE = 0.1  # by which a cost ratio may exceed the claimed one
FIGURE_TOLERANCE = 0.05  # by which a parameter count or memory may differ from the paper's rounded one
KEPT = 0.9  # share of the native encoder's gain over bicubic that another scale's encoder must keep for "partly"
COLUMNS = ("claim", "about", "scale", "verdict", "value", "low", "high", "target", "unit", "measure")


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
) -> dict:
    return dict(zip(COLUMNS, (claim, about, scale, verdict, value, low, high, target, unit, measure), strict=True))


def above(value: float, low: float, high: float, target: float = 0.0, seeds: int = 2) -> str:
    """Is the value above the target? The interval has to clear it, and with a single seed the value the noise."""
    if np.isnan(value):
        return "not run"
    if low > target and (seeds > 1 or value > target + NOISE_DB):
        return "reproduced"
    if high < target and (seeds > 1 or value < target - NOISE_DB):
        return "differs"
    return "undecided"


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
    return "partly" if found & {"reproduced", "partly"} else "undecided"


def scale_names(values: Iterable) -> str:
    return ", ".join(f"x{scale}" for scale in sorted(set(values)))


def seed_count(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"
