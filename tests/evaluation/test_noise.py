"""The noise of trainings and intervals that contain it, on data whose answers are planted."""

import numpy as np
import pandas as pd
import pytest

from igconv.evaluation import noise
from igconv.reporting.verdicts import compared

SD = {2: 0.047, 3: 0.034, 4: 0.020}  # dB, as measured


def trainings(rng, kinds: int, seeds: int, sd: float, shared: float = 0.0) -> pd.DataFrame:
    """Mean PSNR of repeated trainings at x2; ``shared`` is the part of the variance that kinds of one seed share."""
    own = rng.normal(0, sd * np.sqrt(1 - shared), (kinds, seeds)) + rng.normal(0, sd * np.sqrt(shared), seeds)
    own += 30 + np.arange(kinds)[:, None]
    return pd.DataFrame([dict(kind=str(k), seed=s, scale=2, psnr_y_db=own[k, s]) for k in range(kinds)
                         for s in range(seeds)])  # fmt: skip


def test_the_spread_of_seeds_is_pooled_over_kinds():
    table = pd.DataFrame(dict(kind=list("aabbb"), seed=[0, 1, 0, 1, 2], scale=2, psnr_y_db=[30, 30.2, 25, 25.1, 25.2]))
    found = noise.seed_noise(table).iloc[0]
    assert found.sd_db == pytest.approx(np.sqrt((0.02 + 0.02) / 3))
    assert (found.kinds, found.trainings) == (2, 5)
    assert noise.seed_noise(table[table.seed == 0]).empty


def test_kinds_that_share_seeds_are_no_independent_estimates():
    rng = np.random.default_rng(0)
    independent, same = (
        [noise.seed_noise(trainings(rng, 4, 20, 0.05, shared)).degrees[0] for _ in range(20)] for shared in (0, 0.999)
    )
    assert np.mean(same) == pytest.approx(19, rel=0.05)
    assert 60 < np.mean(independent) <= 76


def pairs(rng, seeds: int, scale: int, effect: float, images: int = 40) -> pd.DataFrame:
    of_image = rng.normal(effect, 0.1, images)
    of_seed = rng.normal(0, np.sqrt(2) * SD[scale], seeds)
    return pd.DataFrame([dict(dataset="d", image=i, seed=s, difference=of_image[i] + of_seed[s])
                         for s in range(seeds) for i in range(images)])  # fmt: skip


def verdicts_of(rng, seeds: int, effect: float) -> list[str]:
    """A study of three scales whose noise is estimated from two kinds that share three seeds, as the committed one."""
    family = []
    for scale in SD:
        found = noise.seed_noise(trainings(rng, 2, 3, SD[scale], 0.8)) if seeds == 1 else None
        known = (
            noise.at(found, 2) if seeds == 1 else (np.nan, np.nan)
        )  # their own spread decides where there are several
        one = noise.difference(pairs(rng, seeds, scale, effect), known)
        family.append((one["difference_db"], one["error_db"], one["degrees"], 0.0))
    return [verdict for verdict, _ in compared(family)]


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_a_null_effect_is_undecided_with_one_seed(shared):
    """In no more than 6 % of 2,000 studies any of three scales is called different or equal. As `verdicts_of`, with
    the mean of the images drawn at once and 400 estimates of the noise, which take most of the time."""
    rng = np.random.default_rng(0)
    estimates = [noise.at(noise.seed_noise(trainings(rng, 2, 3, 1.0, shared)), 2) for _ in range(400)]
    undecided = []
    for _ in range(2000):
        family = []
        for sd, (spread, degrees) in zip(SD.values(), rng.permutation(estimates)[:3], strict=True):
            value = rng.normal(0, np.sqrt(2) * sd) + rng.normal(0, 0.01)
            family.append((value, *noise.combined([(0.01**2, 200), (2 * (spread * sd) ** 2, degrees)]), 0.0))
        undecided.append({verdict for verdict, _ in compared(family)} == {"undecided"})
    assert np.mean(undecided) >= 0.94


def test_an_effect_of_two_tenths_is_found_with_five_seeds():
    rng = np.random.default_rng(1)
    found = np.array([verdicts_of(rng, 5, 0.2) for _ in range(100)])
    assert set(verdicts_of(rng, 1, 0.0)) == {"undecided"}
    assert ((found == "ahead").mean(0) >= 0.9).all()


def test_intervals_hold_what_they_say():
    """Mean of sets and of images, one seed and several: 95 % intervals hold the truth in about 95 % of the studies."""
    rng, held = np.random.default_rng(2), []
    for _ in range(200):
        known = noise.at(noise.seed_noise(trainings(rng, 1, 8, SD[2])), 2)
        one, five = (noise.difference(pairs(rng, n, 2, 0.1), known) for n in (1, 5))
        held.append([found["low_db"] < 0.1 < found["high_db"] for found in (one, five)])
    assert (np.mean(held, 0) >= 0.92).all()
    assert (np.mean(held, 0) <= 0.995).all()


def test_every_set_counts_the_same_where_asked():
    table = pd.DataFrame(dict(dataset=list("aaab"), image=range(4), seed=0, difference=[1.0, 1.1, 1.2, 3.0]))
    assert noise.difference(table, (0.02, 5))["difference_db"] == pytest.approx(6.3 / 4)
    by_set = noise.difference(table, (0.02, 5), by_set=True)
    assert by_set["difference_db"] == pytest.approx((1.1 + 3) / 2)
    assert by_set["error_db"] > np.sqrt(2) * 0.02
    assert 2 < by_set["degrees"] < 5
    error, degrees = noise.combined([(0.04, 3), (0.01, 50)])
    assert noise.interval(0.0, error, degrees)[1] == pytest.approx(np.hypot(0.2 * 3.1824, 0.1 * 2.0086), rel=1e-3)
    assert np.isnan(noise.difference(table[:1], (0.02, 5))["low_db"])


def test_corrected_p_values():
    assert noise.holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
    assert noise.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert noise.p_equal(0.2, 0.01, 100) > 0.99
    assert noise.p_equal(0.0, 0.01, 100) < 1e-4


def test_the_committed_noise_and_what_equality_needs():
    found = noise.measured().set_index("scale")
    assert found.sd_db.to_dict() == pytest.approx(SD, abs=0.001)
    assert (found.degrees < 3).all()
    assert [noise.seeds_for_equality(sd) for sd in found.sd_db] == [10, 6, 4]


def test_own_repeated_trainings_come_before_borrowed_ones():
    kind = dict(encoder="e", upsampler="u", variant="", train_scales="2", scale=2, dataset="d")
    rows = pd.DataFrame([kind | dict(image=i, seed=s, psnr_y_db=30 + s) for s in range(3) for i in range(2)])
    assert noise.measured(rows).sd_db.tolist() == [1.0]
    assert len(noise.measured(rows[rows.seed < 2])) == 3
