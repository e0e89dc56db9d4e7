"""What the study says, in five sentences, what its analyses add, and what would change its verdicts: text of tables.

`python -m igconv.reporting.summary <profile>` prints them. docs/findings.md and results/README.md have them as they are
printed, which tests/test_evidence.py holds. Pure functions on data frames but for `main`.
"""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

import pandas as pd

from igconv.errors import InputError
from igconv.evaluation import noise
from igconv.reporting.tables import EQUAL_STEPS, EQUAL_TOTAL
from igconv.study import results
from igconv.study.run import Run
from igconv.study.runs import runs_of

TIMED = r"LR \d+x\d+, (.+?), quartiles"  # the device in the measure of a latency, see `igconv.reporting.claims`


def sentences(
    claims: pd.DataFrame, trained_on: str = "two CPU cores", timed_on: str = "one thread of a CPU"
) -> list[str]:
    """Five sentences with 95 % intervals, of the claims of a study of one encoder; what was not run is left out.

    Args:
        claims: `igconv.reporting.claims.claims`.
        trained_on: machine of the trainings. Both are those of the profile `cpu` if not given.
        timed_on: machine of the upsamplers alone.
    """
    of = _Lines(claims)

    def equal_steps() -> str:
        words = of.words("IGConv: PSNR", "SPConv+", EQUAL_STEPS)
        lines = of("IGConv: PSNR", "SPConv+", EQUAL_STEPS)
        baseline = "three SPConv+ networks" if len(lines) == 3 else "the SPConv+ networks"
        budget = lines.budget.iloc[0].removeprefix("reduced, ")
        return (
            f"With as many steps for each of {baseline} (the paper's baseline of EDSR), one IGConv is {words} on "
            f"{trained_on} at {budget}."
        )

    def plus() -> str:
        return (
            f"IGConv+ is {of.words('IGConv+: PSNR', 'SPConv+', EQUAL_STEPS)} against the same "
            f"{'three' if len(of('IGConv+: PSNR', 'SPConv+', EQUAL_STEPS)) == 3 else 'networks'}, and "
            f"{of.words('IGConv+: PSNR', 'SPConv,', EQUAL_STEPS)} against three SPConv."
        )

    def equal_total() -> str:
        return (
            "With as many steps as three SPConv networks together, IGConv is "
            f"{of.words('IGConv: PSNR', EQUAL_TOTAL)}, IGConv+ {of.words('IGConv+: PSNR', EQUAL_TOTAL)}."
        )

    def ingredients() -> str:
        return (
            "Of the ingredients of IGConv+, the frequency loss is "
            f"{of.words('frequency loss', 'IGConv+ with')}, IGSample {of.words('IGSample', 'IGConv+ with')}, dihedral "
            f"averaging {of.words('dihedral', 'IGConv+ with')}."
        )

    def costs() -> str:
        return (
            f"Once instantiated, the upsampler IGConv+ alone takes {of.ratio('IGConv+: faster')} of the time of "
            f"SPConv+ on {timed_on}; over the encoders of the paper's tables one IGConv stores "
            f"{of.ratio('IGConv: a third of the stored')} of the parameters of three networks (median and range)."
        )

    return _those_run(equal_steps, plus, equal_total, ingredients, costs)


def _those_run(*texts: Callable[[], str]) -> list[str]:
    found = []
    for text in texts:
        with suppress(InputError):
            found.append(text())
    return found


def analyses(claims: pd.DataFrame, steps: pd.DataFrame, parts: pd.DataFrame, gaps: pd.DataFrame) -> list[str]:
    """What the analyses say of encoders, kernels and frequencies beside their controls; what was not run is left out.

    Args:
        claims: `igconv.reporting.claims.claims`.
        steps: `igconv.analysis.convergence.equal_steps`.
        parts: `igconv.analysis.convergence.parts`.
        gaps: `igconv.reporting.gaps.by_budget`.
    """
    of = _Lines(claims)
    alike, removed = "Encoders of different scales are alike", "same LR, linear part removed"

    def similar() -> str:
        return (
            f"Encoders of different scales, same images: CKA {of.against(alike, ', same LR')} (with one untrained "
            f"encoder, upper end); without what a 7 x 7 filter of the image explains {of.against(alike, removed)}. "
            f"Rank correlation with depth {of.against(depth, ', same LR', target=False)}, without that part "
            f"{of.against(depth, removed, target=False)}."
        )

    def explained() -> str:
        beyond = of.against("Features of another")
        return f"Of what 7 x 7 pixels leave of x2's features, x3's and x4's explain {beyond} (an untrained encoder's)."

    def predicted() -> str:
        lines = of("The SPConv of another", "removed")
        value = of.against("The SPConv of another", "removed", target=False)
        best = lines.measure.iloc[0].split("; ")[-1]
        return f"The SPConv predicted from x2's has a cosine of {value} with the true one, constant removed; {best}."

    def biased() -> str:
        plain, plus = (of.points("A bias to low", model) for model in ("IGConv", "IGConv+"))
        return (
            "At equal total error the share of the error above the LR image's Nyquist frequency differs from SPConv's "
            f"by {plain} points for IGConv and by {plus} for IGConv+ (one seed, no interval)."
        )

    depth = "More alike in deeper"
    found = _those_run(similar, explained, predicted, biased)
    on_tests = steps[(steps.model == "IGConv") & steps.measured_on.str.startswith("test")] if len(steps) else steps
    if len(on_tests):
        words = ", ".join(f"{row.equal_steps:,.0f} at x{row.scale}" for row in on_tests.itertuples())
        found.append(
            f"In steps: IGConv at {on_tests.model_steps.iloc[0]:,} is as good as an SPConv trained for {words}."
        )
    of_model = parts[parts.model == "IGConv"] if len(parts) else parts
    if len(of_model):
        wide = of_model.pivot_table(index="scale", columns="part", values="difference_db")
        words = ", ".join(f"{row.encoder:+.2f} of {row.whole:+.2f} dB at x{scale}" for scale, row in wide.iterrows())
        found.append(f"With SPConvs refitted to both encoders, the gap of IGConv's encoder is {words}.")
    return found + _over_budgets(gaps)


def _over_budgets(gaps: pd.DataFrame) -> list[str]:
    """How the gap to SPConv goes with the budget, in one sentence; nothing for one budget."""
    if gaps.empty:
        return []
    words = []
    for model, rows in gaps.groupby("model", sort=False):
        wide = rows.pivot_table(index="steps", columns="scale", values="difference_db")
        words.append(f"{model} " + ", then ".join(" / ".join(f"{db:+.2f}" for db in row) for row in wide.to_numpy()))
    steps, scales = (sorted(gaps[name].unique()) for name in ("steps", "scale"))
    half = (gaps.high_db - gaps.low_db).div(2).groupby(gaps.scale).max()
    return [
        f"PSNR-Y minus SPConv's of equal steps, at {', then '.join(f'{n:,}' for n in steps)} steps (x"
        f"{' / x'.join(map(str, scales))}): {'; '.join(words)} dB (half-widths up to "
        f"{' / '.join(f'{db:.2f}' for db in half)}). What happens beyond was not trained."
    ]


class _Lines:
    def __init__(self, claims: pd.DataFrame):
        self.claims = claims

    def __call__(self, claim: str, *about: str) -> pd.DataFrame:
        found = self.claims[self.claims.claim.str.startswith(claim) & (self.claims.verdict != "not run")]
        for part in about:
            found = found[found.about.fillna("").str.contains(part, regex=False)]
        if found.empty:
            raise InputError(f"no claim that starts with {claim!r} about {' and '.join(about)!r} was run")
        return found

    def words(self, claim: str, *about: str) -> str:
        """ "behind at x2 (-0.34 dB, -0.62 to -0.06), ..." """
        parts = [
            f"{row.verdict} at {row.scale} ({row.value:+.2f} dB, {row.low:+.2f} to {row.high:+.2f})"
            for row in self(claim, *about).itertuples()
        ]
        return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))

    def against(self, claim: str, *about: str, target: bool = True) -> str:
        """ "0.93 (0.92 to 0.94) against 0.60", of the first line whose thing ends as the first of ``about`` does."""
        rows = self(claim, *about)
        exact = rows[rows.about.str.endswith(about[0])] if about else rows
        row = (exact if len(exact) else rows).iloc[0]
        return f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})" + f" against {row.target:.2f}" * target

    def points(self, claim: str, about: str) -> str:
        rows = self(claim)
        return f"{100 * rows[rows.about == about].value.iloc[0]:+.1f}" if (rows.about == about).any() else "?"

    def ratio(self, claim: str) -> str:
        row = self(claim).iloc[0]
        return f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"


def changes(measured: pd.DataFrame, costs: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """What would change the verdicts: which run, on what hardware, how many hours.

    Args:
        measured: `igconv.evaluation.noise.measured`.
        costs: ``tables/runs.csv`` of the profile `cpu`; hours are those of its trainings, or estimated from them.
        runs: of that profile.
    """
    left, hours = _left(runs := list(runs), costs)
    first = runs[0]
    seeds = [run for run in left if run.is_plain and run.steps == first.steps]
    longer = [run for run in left if run.is_plain and run.steps > first.steps]
    converted = [run for run in left if run.start_from]
    full = [run for run in runs if run.encoder == first.encoder and run.steps == first.steps and run.seed == first.seed
            and (run.upsampler == "spconv+" or (len(run.ingredients), run.is_plain) == (3, True))]  # fmt: skip
    wanted = {f"x{s.scale:g}": noise.seeds_for_equality(s.sd_db) for s in measured.itertuples()}
    equal = ", ".join(f"{count} seeds at {scale}" for scale, count in wanted.items())
    more = max(wanted.values()) - 1
    lines = [
        ("How the models differ near convergence, at 38 dB", f"{_counted(converted)} from closed-form starts (block E)",
         "2 CPU cores", hours(converted)),
        ("What is undecided for the noise of trainings: intervals of five seeds instead of borrowed ones",
         f"{_counted(seeds)} with seeds 1 to 4: SPConv, IGConv, IGConv+, three heads, both with the frequency loss, "
         "and IGConv+ without IGSample", "2 CPU cores", hours(seeds)),
        ("Whether IGConv's gap is one of convergence or of capacity",
         f"{_counted(longer)} of {8 * first.steps:,} steps, two seeds: SPConv x3, IGConv, IGConv+, three heads",
         "2 CPU cores", hours(longer)),
        (f"Whether IGConv+ equals SPConv+ within {noise.EQUAL_DB} dB: {equal}",
         f"{more} more seeds of IGConv+ and SPConv+ (not in the table of runs)", "2 CPU cores", more * hours(full)),
        ("Whether anything differs from the paper: its budget was not run",
         "the profile `benchmark` (100,000 steps, three seeds), then `paper`", "one GPU", float("nan")),
    ]  # fmt: skip
    table = pd.DataFrame(lines, columns=["what would change", "runs", "hardware", "hours"])
    return table.assign(hours=[f"{h:.0f}" if pd.notna(h) else "not measured" for h in table.hours])


def _counted(runs: list[Run]) -> str:
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"


def _left(runs: list[Run], costs: pd.DataFrame) -> tuple[list[Run], Callable[[list[Run]], float]]:
    """Runs without a training, and (runs) -> their hours: those they took, or those per step of trained runs that
    differ in seed, steps and name alone; NaN where there is none."""

    def kind(run: Run) -> tuple:
        return run.encoder, run.upsampler, run.scales, run.ingredients, run.initialisation, bool(run.start_from)

    took = (costs.set_index("run").seconds / 3600).dropna().to_dict()
    rates = {kind(run): took[run.name] / run.steps for run in reversed(runs) if run.name in took and run.steps > 1}

    def hours(asked: list[Run]) -> float:
        return sum(took.get(run.name, rates.get(kind(run), float("nan")) * run.steps) for run in asked)

    return [run for run in runs if run.name not in took], hours


def findings(profile: str) -> str:
    """The sentences as a list in Markdown. Raises InputError for a profile without claims."""
    table = results.read_table(results.root(profile) / "tables" / "claims.csv")
    costs = results.root(profile) / "tables" / "runs.csv"
    said = of_profile(profile, table, results.read_table(costs) if costs.is_file() else pd.DataFrame())
    return "\n".join(f"{number}. {text}" for number, text in enumerate(said, 1)) + "\n"


def of_profile(profile: str, claims: pd.DataFrame, costs: pd.DataFrame) -> list[str]:
    """`sentences` with the machines of a profile. costs: ``tables/runs.csv``."""
    if profile == "cpu":  # whose device has only a vendor's name
        return sentences(claims)
    devices = costs.device.dropna().unique() if "device" in costs else ()
    timed = claims.loc[claims.claim.str.startswith("IGConv+: faster"), "measure"].str.extract(TIMED)[0].dropna()
    return sentences(claims, " and ".join(devices), timed.iloc[0] if len(timed) else "one device")


def added(profile: str) -> str:
    """`analyses` as a list in Markdown."""
    files = ("tables/claims", "tables/equal_steps", "analysis/similarity/encoder_and_head", "tables/gap_by_budget")
    paths = [results.root(profile) / f"{name}.csv" for name in files]
    tables = [results.read_table(path) if path.is_file() else pd.DataFrame() for path in paths]
    return "".join(f"- {text}\n" for text in analyses(*tables))


def wanted(profile: str) -> str:
    """`changes` in Markdown."""
    costs = results.read_table(results.root(profile) / "tables" / "runs.csv")
    return changes(noise.measured(), costs, runs_of(profile).values()).to_markdown(index=False) + "\n"


def main(profile: str) -> None:
    print(findings(profile))
    print(added(profile))
    print(wanted(profile), end="")


if __name__ == "__main__":
    main(sys.argv[1])
