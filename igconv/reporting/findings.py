"""Claims about encoders and kernels, judged on the tables of the analyses; see `igconv.reporting.claims`."""

import pandas as pd

from igconv.analysis.alignment import with_ceiling
from igconv.analysis.correlation import adjusted
from igconv.analysis.encoders import depth_correlations
from igconv.analysis.feature_maps import PIXELS, TRAINED, UNTRAINED
from igconv.evaluation import noise
from igconv.evaluation.statistics import standard_error
from igconv.reporting.verdicts import (
    KEPT,
    OURS,
    compared,
    decided,
    line,
    measured,
    scale_names,
    seed_count,
    together,
)
from igconv.study.labels import run_label

REFITTED = "predicted, gain and bias refitted"


def similarity(cka: pd.DataFrame) -> list[dict]:
    """Encoders of different scales are alike: ``analysis/similarity/cka.csv``, per family and setting.

    Value: mean CKA of equal stages over stages and pairs, with the means of their interval ends (wider than the
    interval of the mean). Target: the mean upper end of the control "one untrained". "reproduced" when the interval is
    above both controls (one untrained encoder, shuffled images), "partly" when it is above shuffled images only: alike,
    but no more than an encoder that learned nothing. "differs" when it is below shuffled images, else "undecided".
    Two untrained encoders are a ceiling, no control: both are close to a linear map of their input.
    """
    claim = "Encoders of different scales are alike"
    if cka.empty or not (cka.comparison == "across scales").any():
        return [line(claim, "", "CKA", "needs fixed-scale encoders")]
    lines, equal = [], cka[cka.index_a == cka.index_b]
    for (family, setting), part in equal[equal.comparison == "across scales"].groupby(
        ["family", "setting"], sort=False
    ):
        value, low, high = part.cka.mean(), part.cka_low.mean(), part.cka_high.mean()
        own = equal[(equal.family == family) & (equal.setting == setting)]
        untrained, ceiling = (own[own.comparison == f"{word} untrained"] for word in ("one", "both"))
        shuffled, other = (own[own.comparison == kind] for kind in ("shuffled images", "across scales, other seed"))
        target, chance = untrained.cka_high.mean(), shuffled.cka_high.mean()
        if low > chance:
            verdict = "reproduced" if low > target else "partly"
        else:
            verdict = "differs" if high < shuffled.cka.mean() else "undecided"
        pairs = part.groupby(["model_a", "model_b"]).ngroups
        lines.append(
            line(
                claim,
                f"{family}, {setting}",
                "CKA",
                f"mean over {part.index_a.nunique()} stages and {pairs} pairs ({part.cka.min():.2f} to "
                f"{part.cka.max():.2f}), {part.examples.iloc[0]} crops; one untrained {untrained.cka.mean():.2f}, "
                f"shuffled images {shuffled.cka.mean():.2f}, both untrained {ceiling.cka.mean():.2f}; "
                + (f"from another start {other.cka.mean():.2f}" if len(other) else "all of one seed, so of one start"),
                "x2, x3, x4",
                value,
                low,
                high,
                target,
                verdict,
            )
        )
    return lines


def deeper(cka: pd.DataFrame) -> list[dict]:
    """More alike in deeper layers: ``analysis/similarity/cka.csv``, per family and setting.

    Value: rank correlation of CKA with depth, mean over pairs of models, with the least and the largest as the ends:
    stages of one encoder are few and depend on each other, so there is no interval. "reproduced" when it is positive
    for every pair, "differs" when for none, else "partly".
    """
    claim, lines = "More alike in deeper layers", []
    known = cka[cka.comparison == "across scales"] if len(cka) else cka
    known = known[known.index_a == known.index_b] if len(known) else known
    for (family, setting), part in known.groupby(["family", "setting"], sort=False) if len(known) else ():
        rises = pd.Series(depth_correlations(part)).fillna(0.0)
        positive = int((rises > 0).sum())
        verdict = "reproduced" if positive == len(rises) else "partly" if positive else "differs"
        lines.append(
            line(
                claim,
                f"{family}, {setting}",
                "correlation",
                f"rank correlation of CKA with depth over {part.index_a.nunique()} stages; mean, least and largest of "
                f"{len(rises)} pairs",
                "x2, x3, x4",
                rises.mean(),
                rises.min(),
                rises.max(),
                0.0,
                verdict,
            )
        )
    return lines or [line(claim, "", "correlation", "needs fixed-scale encoders")]


def functional(transfer: pd.DataFrame) -> list[dict]:
    """The x2 encoder serves x3 and x4: ``analysis/similarity/functional.csv``, per family and target scale.

    Loss against the native encoder, both with an SPConv fitted in closed form. "not worse" when it is above the band
    of equality, "behind" when it is below, but "partly" when `KEPT` of the native gain over bicubic is kept. The noise
    of two trainings is in the interval.
    """
    claim, lines = "The x2 encoder serves x3 and x4", []
    fitted = transfer[transfer["head"] == "refitted"] if len(transfer) else transfer
    of_x2 = fitted[pd.to_numeric(fitted.encoder_scale) == 2] if len(fitted) else fitted
    for row in of_x2.itertuples():
        if row.target_scale != 2:
            same = transfer[(transfer.family == row.family) & (transfer.target_scale == row.target_scale)]
            lines.append(
                _loss(
                    claim,
                    row,
                    row.target_scale,
                    same[same["head"] == "bicubic"].psnr_y_db.mean(),
                    "the frozen x2 encoder minus the native one, SPConv fitted to each",
                )
            )
    return _lost(lines) or [line(claim, "", "dB", "needs fixed-scale encoders", source=OURS)]


def _lost(lines: list[dict]) -> list[dict]:
    """`decided`, but a loss is partial where most is kept."""
    kept = [one["kept"] >= KEPT for one in lines]
    lines = decided(lines)
    return [
        one | dict(verdict="partly") if most and one["verdict"] == "behind" else one
        for one, most in zip(lines, kept, strict=True)
    ]


def _error(row, scale: int, trainings: int) -> tuple[float, float]:
    """(standard error, degrees) of a difference whose interval is over images alone, with the noise of trainings."""
    images = standard_error(row.low_db, row.high_db)
    sd, degrees = noise.at(noise.measured(), scale)
    return noise.combined([(images**2, max(row.images - 1, 1)), (trainings * sd**2, degrees)])


def _loss(claim: str, row, scale: int, bicubic: float, what: str) -> dict:
    kept = (row.psnr_y_db - bicubic) / (row.psnr_y_db - row.difference_db - bicubic)
    measure = f"PSNR-Y of {what}, {row.images} images; {kept:.0%} of the native gain over bicubic"
    empty = line(claim, row.family, "dB", measure, f"x{scale}", source=OURS)
    return measured(empty, row.difference_db, *_error(row, scale, 2), -noise.EQUAL_DB) | dict(kept=kept)


def correlation(table: pd.DataFrame) -> list[dict]:
    """SPConvs of separately trained models correlate: ``analysis/correlation/correlation.csv``.

    A line per statistic, and constant term kept or removed. A pair of models is beyond chance when p < 0.05
    under every null hypothesis, p corrected for the number of pairs (Holm). "reproduced" when all pairs are, "partly"
    when some are; when none is, "differs" if the interval is below the target, else "undecided". Value: mean over
    pairs, with the means of their interval ends; target: what chance reaches (mean 95 % quantile of the null hypothesis
    that reaches most).
    """
    claim = "SPConvs of different scales correlate"
    separate = table[table.comparison == "across scales"] if len(table) else table
    if separate.empty:
        return [line(claim, "", "correlation", "needs fixed-scale models")]
    separate = separate if "p_holm" in separate else adjusted(separate)
    lines, pair = [], ["model_a", "model_b", "scale_a", "scale_b"]
    for (constant, statistic), part in separate.groupby(["constant", "statistic"], sort=False):
        pairs = part.groupby(pair).agg(
            p=("p_holm", "max"),
            value=("value", "first"),
            low=("value_low", "first"),
            high=("value_high", "first"),
            chance=("null_q95", "max"),
        )
        beyond = int((pairs.p < 0.05).sum())
        below = pairs.high.mean() < pairs.chance.mean()
        none = "differs" if below else "undecided"
        verdict = "reproduced" if beyond == len(pairs) else "partly" if beyond else none
        channels = sorted(part.channels.unique())
        lines.append(
            line(
                claim,
                f"{statistic}, constant {constant}",
                "correlation",
                f"mean cosine of kernel patterns, {'-'.join(map(str, channels))} channels; beyond chance under every "
                f"null hypothesis in {beyond} of {len(pairs)} pairs",
                scale_names([*part.scale_a, *part.scale_b]),
                pairs.value.mean(),
                pairs.low.mean(),
                pairs.high.mean(),
                pairs.chance.mean(),
                verdict,
            )
        )
    return lines


def aligned(alignment: pd.DataFrame) -> list[dict]:
    """After the linear map between encoders the x2 SPConv resembles the others: ``analysis/correlation/alignment.csv``.

    Cosine of the predicted and the true kernel weighted by the covariance of real features, per family and constant
    term: mean and range over the scales. A scale is beyond chance when p < 0.05 against maps with permuted rows;
    "reproduced" when all scales are, "partly" when some are, "differs" when none is. The measure names the ceiling,
    what the best kernel of x2's four functions would have.
    """
    claim, lines = "The SPConv of another scale resembles x2's, channels aligned", []
    own = with_ceiling(alignment) if len(alignment) else alignment
    own = own[(own.alignment == "fitted") & (own.compared == "output")] if len(own) else own
    for (family, constant), part in own.groupby(["family", "constant"], sort=False) if len(own) else ():
        beyond = int((part.p_value < 0.05).sum())
        lines.append(
            line(
                claim,
                f"{family}, constant {constant}",
                "correlation",
                f"cosine of predicted and true kernel on real features; mean and range over scales, beyond chance at "
                f"{beyond} of {len(part)}; the best kernel of x2's four functions has {part.ceiling.mean():.2f}",
                scale_names(part.scale_b),
                part.value.mean(),
                part.value.min(),
                part.value.max(),
                part.null_q95.mean(),
                "reproduced" if beyond == len(part) else "partly" if beyond else "differs",
                OURS,
            )
        )
    return lines or [line(claim, "", "correlation", "needs fixed-scale models", source=OURS)]


def explained(maps: pd.DataFrame) -> list[dict]:
    """Encoders of other scales say more of x2's features than the image does: ``analysis/correlation/maps.csv``.

    Value: of what 7 x 7 pixels leave of the variance, the share that the other encoder's features explain; mean and
    range over the scales. Target: that of an untrained encoder. "reproduced" when it is above it at every scale,
    "partly" when at some, else "differs". No interval: the noise of trainings of this measure was not measured.
    """
    claim, lines = "Features of another scale's encoder explain x2's, beyond the image", []
    for family, part in maps.groupby("family", sort=False) if len(maps) else ():
        wide = part.pivot_table(index="scale_b", columns="predictor", values=["explained", "beyond_7x7"])
        beyond, share = wide["beyond_7x7"], wide["explained"].mean()
        trained, untrained = beyond[TRAINED], beyond[UNTRAINED]
        above = int((trained > untrained).sum())
        lines.append(
            line(
                claim,
                family,
                "share",
                f"of the variance that 7 x 7 pixels leave; mean and range over scales. Explained without regard to "
                f"them: {share[TRAINED]:.2f}, by an untrained encoder's features {share[UNTRAINED]:.2f}, by "
                f"{PIXELS[0]} {share[PIXELS[0]]:.2f}",
                scale_names(part.scale_b),
                trained.mean(),
                trained.min(),
                trained.max(),
                untrained.mean(),
                "reproduced" if above == len(trained) else "partly" if above else "differs",
                OURS,
            )
        )
    return lines or [line(claim, "", "share", "needs fixed-scale models", source=OURS)]


def predicted(psnr: pd.DataFrame) -> list[dict]:
    """What it costs to use the SPConv predicted from x2's: ``analysis/correlation/alignment_psnr.csv``.

    Gain and bias of each output are refitted. Verdicts as in `functional`.
    """
    claim, lines = "x2's SPConv serves x3 and x4, channels aligned", []
    for row in psnr[psnr["head"] == REFITTED].itertuples() if len(psnr) else ():
        same = psnr[(psnr.family == row.family) & (psnr.scale_b == row.scale_b)]
        lines.append(
            _loss(
                claim,
                row,
                row.scale_b,
                same[same["head"] == "bicubic"].psnr_y_db.mean(),
                "the predicted SPConv minus the true one, gain and bias refitted",
            )
        )
    return _lost(lines) or [line(claim, "", "dB", "needs fixed-scale models", source=OURS)]


def _counted(numbers: pd.Series) -> str:
    """3, or 3 to 5 where numbers differ."""
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"


def unseen(summary: pd.DataFrame) -> list[dict]:
    """Models work at scales nobody trained on: ``analysis/unseen/summary.csv``, per model and what it is compared with.

    Phase clamp as trained (4) or none. Every scale has its own verdict, see `together`; value and interval are means
    over scales. The noise is that of the nearest scale at which it was measured: of one training against bicubic, of
    two against images of the model's own, although these are of one, because what cancels was not measured.
    """
    claim = "Works at scales nobody trained on"
    own = summary[(summary.method == "direct") & (summary.scale > 4)] if "method" in summary else pd.DataFrame()
    lines = []
    if len(own):
        own = own[own.max_scale.isna() | (own.max_scale == 4)]
    key = ["encoder", "upsampler", "variant", "against"]
    for (encoder, upsampler, variant, against), part in own.groupby(key, sort=False) if len(own) else ():
        errors = [_error(r, r.scale, 1 if against == "bicubic" else 2) for r in part.itertuples()]
        family = [(value, *error, 0.0) for value, error in zip(part.difference_db, errors, strict=True)]
        verdicts = [verdict for verdict, _ in compared(family)]
        intervals = [noise.interval(value, *error) for value, error in zip(part.difference_db, errors, strict=True)]
        low, high = (sum(ends) / len(part) for ends in zip(*intervals, strict=True))
        words = [
            f"{word} at {scale_names(s for s, v in zip(part.scale, verdicts, strict=True) if v == verdict)}"
            for verdict, word in (("ahead", "better"), ("level", "level"), ("behind", "worse"))
            if verdict in verdicts
        ]
        lines.append(
            line(
                claim,
                f"{encoder}, {run_label(upsampler, variant)} over {against}",
                "dB",
                f"PSNR-Y minus that of {against}, mean over scales, {_counted(part.images)} images, "
                + seed_count(part.seeds.max())
                + "".join(f"; {w}" for w in words),
                scale_names(part.scale),
                part.difference_db.mean(),
                low,
                high,
                0.0,
                together(verdicts),
                OURS,
            )
        )
    return lines or [line(claim, "", "dB", "needs own runs", source=OURS)]
