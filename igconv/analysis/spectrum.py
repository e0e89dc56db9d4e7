"""Which spatial frequencies are wrong, and which are learned first? Error energy per radial frequency band.

`igconv.evaluation.bands` has the estimator: luma error over the energy of the true image in the same
band, in dB. 0 dB is what showing nothing in that band would give.

The issue of spectral bias is the paper's motive for the frequency loss; it shows no spectrum. What spectral
bias claims is an order in time, low frequencies before high ones, so two things are measured: the error of finished
models on test images, and the error over training steps on the validation crops (``runs/<run>/bands.csv``).
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd

from igconv.data import weights
from igconv.errors import InputError, choose
from igconv.evaluation import bands, statistics
from igconv.evaluation.bands import band_edges, error_and_hr_energy
from igconv.evaluation.benchmark import benchmark_pairs, bicubic
from igconv.models import published
from igconv.models.inference import Upscaler, prepare, upscale
from igconv.models.run_weights import load_run
from igconv.study import results
from igconv.study.run import Run

BAND = ["band_low_cycles_per_px", "band_high_cycles_per_px"]
COLUMNS = ("run", "upsampler", "variant", "seed", "dataset", "image", "scale", *BAND, "error_energy", "hr_energy",
           "relative_error_db")  # fmt: skip
# What "a band has done 90 % of its way" can mean: in energy, where a mode of a linear model decays exponentially and
# its time constant is read off, or in dB, where the last digits of a well-learned band count as much as the first.
MEASURES = ("energy", "dB")
# A band is learned when it ends at least this much better than showing nothing in it. Untrained models start worse than
# that beyond the LR's Nyquist frequency, with blocks and checkers; that these vanish in the first steps is no learning.
LEARNED_DB = 1.0


# Finished models


def band_errors(sr, hr, scale: int, edges: np.ndarray | None = None) -> pd.DataFrame:
    """Bands of one image pair (as for `igconv.evaluation.metrics.psnr_y`): the last five of `COLUMNS`.

    Raises InputError for a constant HR image, which has no energy to compare with.
    """
    edges = band_edges() if edges is None else np.asarray(edges)
    error, image = error_and_hr_energy(sr, hr, scale, edges)
    values = (edges[:-1], edges[1:], error, image, _relative_db(error, image))
    return pd.DataFrame(dict(zip(COLUMNS[-5:], values, strict=True)))


def _relative_db(error: np.ndarray, image: np.ndarray) -> np.ndarray:
    if not image.min() > 1e-20:  # rounding of a constant image leaves about 1e-26
        raise InputError("the HR image has a frequency band without energy (a constant image?)")
    with np.errstate(divide="ignore"):
        return 10 * np.log10(error / image)


def measure(
    model: Upscaler, test_sets: Sequence[str], scales: Sequence[int], device="cpu", edges: np.ndarray | None = None
) -> Iterator[pd.DataFrame]:
    """Bands of every test image and scale: dataset, image, scale and the last five of `COLUMNS`."""
    for facts, lr, hr in benchmark_pairs(test_sets, scales):
        sr, _ = upscale(model, lr, facts["scale"], device)
        yield band_errors(sr, hr, facts["scale"], edges).assign(**facts)


def of_run(
    run: Run, device="cpu", edges: np.ndarray | None = None, test_sets: Sequence[str] | None = None
) -> pd.DataFrame:
    """`COLUMNS` of a trained run at its scales, on its test sets or those given.

    Raises InputError when it is not trained.
    """
    frames = measure(prepare(load_run(run), device), test_sets or run.test_sets, run.scales, device, edges)
    return _tidy(frames, run=run.name, upsampler=run.upsampler, variant=run.variant, seed=run.seed)


def of_published(name: str, test_sets: Sequence[str], device="cpu", edges: np.ndarray | None = None) -> pd.DataFrame:
    """`COLUMNS` of a published model at its scales. Raises InputError when its weights are not here."""
    entry = weights.catalogue()[choose(name, published.runnable(), "published model that can be run here")]
    frames = measure(prepare(published.load(name), device), test_sets, entry.scales, device, edges)
    return _tidy(frames, run=name, upsampler=published.kind(name)[1], variant=published.family(name), seed="")


def of_bicubic(test_sets: Sequence[str], scales: Sequence[int], edges: np.ndarray | None = None) -> pd.DataFrame:
    """`COLUMNS` of bicubic upscaling, under the run name "bicubic"."""
    frames = measure(bicubic, test_sets, scales, edges=edges)
    return _tidy(frames, run="bicubic", upsampler="bicubic", variant="", seed="")


def _tidy(frames: Iterator[pd.DataFrame], **facts) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True).assign(**facts)[list(COLUMNS)]


def differences(errors: pd.DataFrame, base: Collection[str]) -> pd.DataFrame:
    """Relative error of every other kind of run minus that of the base, per scale and band, paired by image and seed.

    Args:
        errors: `COLUMNS` of several runs.
        base: names of the runs that are subtracted, one kind in several seeds or scales.

    Returns: upsampler, variant, scale, the two band edges, difference_db (positive: worse than
        the base), low_db, high_db (95 % by `igconv.evaluation.statistics.crossed_interval`), images, seeds.

    Raises InputError when the errors hold no run of the base.
    """
    is_base = errors.run.isin(base)
    if not is_base.any():
        raise InputError(f"the rows hold no run of {', '.join(base)}")
    key = ["dataset", "image", "seed", "scale", *BAND]
    pairs = errors[~is_base].merge(errors[is_base][[*key, "relative_error_db"]], on=key, suffixes=("", "_base"))
    pairs["difference"] = pairs.relative_error_db - pairs.relative_error_db_base
    group = ["upsampler", "variant", "scale", *BAND]
    lines = []
    for kind, of_kind in pairs.groupby(group, sort=False):
        mean, low, high = statistics.crossed_interval(of_kind, "difference")
        images = len(of_kind[["dataset", "image"]].drop_duplicates())
        lines.append(
            dict(zip(group, kind, strict=True))
            | dict(difference_db=mean, low_db=low, high_db=high, images=images, seeds=of_kind.seed.nunique())
        )
    return pd.DataFrame(lines, columns=[*group, "difference_db", "low_db", "high_db", "images", "seeds"])


# Training


def learning_curve(run: Run) -> pd.DataFrame:
    """Error per band over the steps of a run: run, upsampler, variant, seed, those of
    `igconv.evaluation.bands.COLUMNS` and relative_error_db, all crops of a scale together (ratio of the sums).

    Raises InputError, a line, when the run was not trained with these settings or its bands were not recorded.
    """
    load_run(run)
    path = results.run_folder(run.profile, run.name) / "bands.csv"
    table = results.read_table(path) if path.is_file() else pd.DataFrame(columns=list(bands.COLUMNS))
    if table.empty:
        why = "has no validation" if not run.validate_every else "was trained by a version that did not record it"
        raise InputError(f"{run.name}: no error per band over its steps, because the run {why}")
    relative = _relative_db(table.error_energy.to_numpy(), table.hr_energy.to_numpy())
    facts = dict(run=run.name, upsampler=run.upsampler, variant=run.variant, seed=run.seed)
    return table.assign(relative_error_db=relative, **facts)[[*facts, *bands.COLUMNS, "relative_error_db"]]


def time_to_threshold(curves: pd.DataFrame, fraction: float = 0.9) -> pd.DataFrame:
    """When each band has done ``fraction`` of its own way from its first to its last record.

    Args:
        curves: `learning_curve` of one run or several.
        fraction: of the way, in (0, 1).

    Returns: run, upsampler, variant, seed, scale, the band edges, measure (of `MEASURES`: the way in error energy or
        in dB), first_db and last_db (relative error), step: where the curve first crosses the threshold, between
        records linear in log(step + 1) and in the measure. NaN for a band that ends above -`LEARNED_DB`, or above
        its start: it was not learned, so its time means nothing.

    Raises InputError for a run with fewer than two records.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction must be between 0 and 1, got {fraction!r}")
    lines, group = [], ["run", "upsampler", "variant", "seed", "scale", *BAND]
    for facts, curve in curves.groupby(group, sort=False):
        curve = curve.sort_values("step")
        steps, db = curve.step.to_numpy(float), curve.relative_error_db.to_numpy()
        if len(steps) < 2:
            raise InputError(f"{facts[0]}: one record is no curve; a time needs two")
        for name in MEASURES:
            values = db if name == "dB" else 10 ** (db / 10)
            learned = db[-1] <= -LEARNED_DB and db[-1] < db[0]
            way = (values[0] - values) / (values[0] - values[-1]) if learned else None
            found = np.nan if way is None else np.expm1(_crossing(np.log1p(steps), way, fraction))
            lines.append(
                dict(zip(group, facts, strict=True)) | dict(measure=name, first_db=db[0], last_db=db[-1], step=found)
            )
    return pd.DataFrame(lines, columns=[*group, "measure", "first_db", "last_db", "step"])


def _crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """Where the polyline (x, y) first reaches ``level`` from below; y ends at 1, above it."""
    after = int(np.argmax(y >= level))
    if after == 0:
        return float(x[0])
    share = (level - y[after - 1]) / (y[after] - y[after - 1])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))


def order(times: pd.DataFrame, permutations: int = 9_999, seed: int = 0) -> pd.DataFrame:
    """Are low frequencies learned first? Spearman's rank correlation of frequency and time, per run and scale.

    Args:
        times: of `time_to_threshold`. Bands without a time are left out, not ranked last: most of them lie where the
            LR image says nothing, so nothing could be learned at any time.

    Returns: run, upsampler, variant, seed, scale, measure, spearman (1: strictly low to high), p_value (one-sided, of
        orders drawn at random), bands (with a time), not_learned. NaN below three bands. Neighbouring bands are no
        independent observations and they are few, so the p-value describes the order and is no test over models;
        neither are the scales of one training, nor trainings of one seed, which share start and batches.
    """
    from scipy.stats import rankdata

    rng, lines, group = np.random.default_rng(seed), [], ["run", "upsampler", "variant", "seed", "scale", "measure"]
    for facts, part in times.groupby(group, sort=False):
        known = part.dropna(subset="step").sort_values(BAND[0])
        rho = p_value = np.nan
        if len(known) >= 3 and known.step.nunique() > 1:
            ranks = rankdata(known.step) - (len(known) + 1) / 2
            frequency = np.arange(len(known)) - (len(known) - 1) / 2
            norm = np.sqrt((ranks @ ranks) * (frequency @ frequency))
            rho = ranks @ frequency / norm
            drawn = rng.permuted(np.tile(ranks, (permutations, 1)), axis=1) @ frequency / norm
            p_value = (1 + np.sum(drawn >= rho - 1e-12)) / (1 + permutations)
        lines.append(
            dict(zip(group, facts, strict=True))
            | dict(spearman=rho, p_value=p_value, bands=len(known), not_learned=len(part) - len(known))
        )
    return pd.DataFrame(lines, columns=[*group, "spearman", "p_value", "bands", "not_learned"])
