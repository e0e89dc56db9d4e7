"""The rule that adds half-widths in squares, checked on simulated studies of the committed study's size.

Independently of `noise.seed_noise` and `noise.difference`: noise of trainings is drawn with the measured standard
deviations and estimated as a chi-squared variable with the measured degrees of freedom; images are as many as the
committed rows have, in their sets, with the spread that the committed differences between models have.
"""

import numpy as np
import pytest
from scipy import stats

from igconv.evaluation import noise
from igconv.reporting.verdicts import compared
from igconv.study import results

STUDIES = 2_000
ROWS = results.PROJECT / "results" / "cpu" / "rows"


@pytest.fixture(scope="module")
def committed() -> dict[int, tuple[float, float, int]]:
    """Scale -> (standard error over images of a mean of sets, its degrees of freedom, images), of IGConv+ - SPConv."""
    found = {}
    for scale in (2, 3, 4):
        tables = (results.read_table(ROWS / f"edsr_tiny-{name}-s0.csv") for name in ("igconv+", f"spconv-x{scale}"))
        one, other = (table[table.scale == scale] for table in tables)
        pairs = one.merge(other, on=["dataset", "image"], suffixes=("", "_base"))
        sets = (pairs.psnr_y_db - pairs.psnr_y_db_base).groupby(pairs.dataset)
        error = np.sqrt((sets.var() / sets.size()).sum()) / sets.ngroups
        found[scale] = (float(error), float(len(pairs) - sets.ngroups), len(pairs))
    return found


class Rule:
    """`noise.combined` of a part with ``images`` and one with ``trainings`` degrees: its degrees depend on the ratio of
    the variances alone, so they are taken between 80 ratios. Ten thousands of calls would take minutes."""

    def __init__(self, images: float, trainings: float):
        self.degrees = images, trainings
        self.ratios = np.logspace(-6, 6, 80)
        self.found = np.array([np.log(self.exact(1.0, ratio)[1]) for ratio in self.ratios])

    def exact(self, images: float, trainings: float) -> tuple[float, float]:
        return noise.combined([(images, self.degrees[0]), (trainings, self.degrees[1])])

    def __call__(self, images, trainings):
        """(standard errors, degrees) of arrays of variances."""
        ratio = np.log(np.asarray(trainings) / images)
        return np.sqrt(images + trainings), np.exp(np.interp(ratio, np.log(self.ratios), self.found))


def drawn(rng, committed: dict, scale: int, effect: float, seeds: int) -> tuple[np.ndarray, ...]:
    """(values, standard errors, degrees) of `STUDIES`; an estimated variance is the true one times chi-squared over its
    degrees. With several seeds, the differences of both models' seeds have a spread of their own."""
    error, images, _ = committed[scale]
    sd, degrees = noise.at(noise.measured(), scale)
    if seeds > 1:
        sd, degrees = sd / np.sqrt(seeds), seeds - 1
    values = effect + rng.normal(0, error, STUDIES) + rng.normal(0, np.sqrt(2) * sd, STUDIES)
    of_images = error**2 * rng.chisquare(images, STUDIES) / images
    of_trainings = 2 * sd**2 * rng.chisquare(degrees, STUDIES) / degrees
    return values, *Rule(images, degrees)(of_images, of_trainings)


def verdicts(rng, committed: dict, effect: float, seeds: int) -> np.ndarray:
    """(studies, scales) verdicts."""
    studies = [zip(*drawn(rng, committed, scale, effect, seeds), strict=True) for scale in committed]
    families = zip(*studies, strict=True)
    return np.array([[word for word, _ in compared((*one, 0.0) for one in family)] for family in families])


def test_the_table_of_the_rule_is_the_rule():
    rng, rule = np.random.default_rng(0), Rule(215, 2.26)
    for images, trainings in 10 ** rng.uniform(-6, -1, (20, 2)):
        error, degrees = rule.exact(images, trainings)
        found = [float(value) for value in rule(images, trainings)]
        assert noise.interval(0.0, *found)[1] == pytest.approx(noise.interval(0.0, error, degrees)[1], rel=5e-3)


def test_the_study_is_of_the_size_that_is_simulated(committed):
    assert {images for *_, images in committed.values()} == {219}
    assert all(0.005 < error < 0.05 for error, *_ in committed.values())
    assert (noise.measured().degrees < 3).all()


def test_a_null_effect_is_undecided_with_one_seed(committed):
    """In at least 94 % of the studies at all three scales together, and a single scale is no worse."""
    found = verdicts(np.random.default_rng(5), committed, 0.0, 1) == "undecided"
    assert found.all(axis=1).mean() >= 0.94
    assert found.mean(axis=0).min() >= 0.94


def test_an_effect_of_two_tenths_is_found_with_five_seeds(committed):
    """At each scale in nine of ten studies; with one seed it would not be, at x2."""
    found = verdicts(np.random.default_rng(6), committed, 0.2, 5) == "ahead"
    assert found.mean(axis=0).min() >= 0.9
    assert (verdicts(np.random.default_rng(7), committed, 0.2, 1) == "ahead").mean(axis=0)[0] < 0.5


@pytest.mark.parametrize("seeds", [1, 5])
def test_95_percent_intervals_hold_the_truth(committed, seeds):
    """Each by itself, without a correction: 93 to 98 % of the studies."""
    rng = np.random.default_rng(seeds)
    for scale in committed:
        values, errors, degrees = drawn(rng, committed, scale, 0.0, seeds)
        half = stats.t.ppf(0.975, degrees) * errors
        assert 0.93 <= np.mean(np.abs(values) < half) <= 0.985


def test_half_widths_are_added_in_squares_exactly():
    """At the committed degrees: of a part with 215 degrees and one with 2.3."""
    for images, trainings in ((0.01, 0.065), (0.03, 0.02), (0.001, 0.06)):
        error, degrees = noise.combined([(images**2, 215), (trainings**2, 2.3)])
        half = noise.interval(0.0, error, degrees)[1]
        expected = np.hypot(images * stats.t.ppf(0.975, 215), trainings * stats.t.ppf(0.975, 2.3))
        assert half == pytest.approx(expected, rel=1e-3)
