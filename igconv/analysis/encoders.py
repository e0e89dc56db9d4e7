"""Which encoders are compared with which, and what that says: the study of encoder similarity.

`igconv.analysis.similarity` has CKA, `igconv.analysis.ridge` the fit of an SPConv on frozen features; here they are
applied to the families of `igconv.analysis.networks`, with controls, and the tables are put into words.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import combinations

import pandas as pd
from torch import Tensor

from igconv.analysis import networks as nets
from igconv.analysis import residual, ridge, similarity
from igconv.analysis.networks import Network
from igconv.data import datasets, resize
from igconv.study.run import Run

SAME, DETAILS, OWN = "same LR", "same LR, means removed", "own LR"
RESIDUAL = "same LR, linear part removed"
ACROSS, BOTH_UNTRAINED, ONE_UNTRAINED = "across scales", "both untrained", "one untrained"
OTHER_START, SAME_SCALE = "across scales, other seed", "one scale, other seed"
DRAWN = (ACROSS, "two architectures", "multi-scale")  # comparisons whose maps of all stages are looked at
TEST_SETS = ("Set5", "Set14")  # benchmarks that are small enough for an analysis


def chosen_networks(profile: str, runs: Sequence[Run]) -> tuple[list[Network], list[str]]:
    """Encoders to compare, and a line for each that is not here.

    Published families; of ``runs`` (one encoder, no variant) the fixed-scale ones of the first seed as a family, those
    of the second seed beside them and IGConv of the first; two untrained ones of every architecture.
    """
    upsampler = "spconv" if any(run.upsampler == "spconv" for run in runs) else "spconv+"
    seeds = sorted({run.seed for run in runs})[:2]
    fixed = [run for run in runs if run.upsampler == upsampler and len(run.scales) == 1 and run.seed in seeds]
    multi = [run for run in runs if run.upsampler == "igconv" and len(run.scales) > 1 and run.seed == seeds[0]]
    known, missing = nets.published_networks(profile)
    own, not_trained = nets.own_networks(fixed, multi, seeds[0])
    if not_trained:
        missing.append(f"{len(not_trained)} of the study's {len(fixed + multi)} models, e.g. {not_trained[0]}")
    networks = [*known, *own]
    return networks + nets.untrained_networks(networks), missing


def quick_sets(run: Run) -> list[str]:
    """The small benchmarks among a run's test sets, all of its sets where it has none of them."""
    return [name for name in run.test_sets if name in TEST_SETS] or list(run.test_sets)


def images_of(names: Iterable[str]) -> dict[tuple[str, str], Tensor]:
    """(set, image) -> uint8 (3, H, W)."""
    return {
        (name, title): image
        for name in names
        for title, image in zip(
            datasets.image_names(datasets.image_set(name).paths()), datasets.read_set(name), strict=True
        )
    }


def scene_side(crop: int) -> int:
    """Side in px of scenes whose x2-reduced LR images are at least ``crop`` px; x2, x3 and x4 divide it."""
    return 12 * -(-2 * crop // 12)


def grams_of(
    networks: Sequence[Network], scenes: Tensor, minibatch: int, device="cpu"
) -> dict[str, dict[str, similarity.Grams]]:
    """Setting -> name of the network -> Gram matrices of its stages, on uint8 scenes (N, 3, side, side).

    `SAME`, `DETAILS` and `RESIDUAL`: every network sees the scenes reduced by x2; in `RESIDUAL` what a linear filter of
    them explains is taken off the features (`igconv.analysis.residual`). `OWN`: members of families and untrained
    networks see them reduced by their own scale, with features resized to the grid of the coarsest, that of x4.
    """
    reduced = {scale: resize.downsample(scenes, scale) for scale in nets.SCALES}
    grid = scenes.shape[-1] // max(nets.SCALES)
    grams: dict[str, dict] = {SAME: {}, DETAILS: {}, RESIDUAL: {}, OWN: {}}
    options = dict(minibatch=minibatch, device=device)
    for number, network in enumerate(networks, 1):
        name, scale = network.name, network.scale if network.role in (nets.MEMBER, nets.UNTRAINED) else 0
        views = [(0, False), (0, True)] + ([(grid, False)] if scale == 2 else [])
        grams[SAME][name], grams[DETAILS][name], *own = similarity.stage_views(
            network.model, reduced[2], views, label=name, **options
        )
        grams[RESIDUAL][name] = residual.residual_grams(network.model, reduced[2], **options)
        if scale > 2:
            own = similarity.stage_views(
                network.model, reduced[scale], [(grid, False)], label=f"{name}, own LR", **options
            )
        if own:
            grams[OWN][name] = own[0]
        print(f"{number}/{len(networks)} {name}: {time.process_time():.0f} s of CPU")
    return grams


def compared(networks: Sequence[Network], grams: dict[str, dict], units: int, own: str) -> pd.DataFrame:
    """`igconv.analysis.similarity.COLUMNS` of every comparison, rounded to six digits.

    Within a family its members, and as controls untrained networks and shuffled images (equal stages only). Between
    families, that of the study's ``own`` encoder left out: two data sets or two architectures. Beside the study's own
    family: its fixed-scale networks of another seed, which did not start alike, and its multi-scale network.
    """
    families = nets.families(networks)
    tables = [_within(family, members, networks, grams, units) for family, members in families.items()]
    for (a, first), (b, second) in combinations([(f, m) for f, m in families.items() if f != own], 2):
        same = first[0].architecture == second[0].architecture
        pairs = [(x.name, y.name) for x in first for y in second if x.scale == y.scale and (same or x.scale == 2)]
        kind = "two data sets" if same else "two architectures"
        for setting in (SAME, DETAILS, RESIDUAL):
            options = dict(family=f"{a} and {b}", setting=setting, units=units)
            tables.append(similarity.compare(grams[setting], pairs, kind, **options))
    if own in families:
        for setting in (SAME, RESIDUAL):
            tables += _beside(families[own], networks, grams[setting], setting=setting, units=units)
    filled = [table for table in tables if len(table)]
    return pd.concat(filled or [pd.DataFrame(columns=similarity.COLUMNS)], ignore_index=True).round(6)


def _within(family: str, members: list[Network], networks, grams: dict[str, dict], units: int) -> pd.DataFrame:
    pairs = [(a.name, b.name) for a, b in combinations(members, 2)]
    first, second = _controls(networks, members[0].architecture)
    tables = []
    for setting, of_setting in grams.items():
        options = dict(family=family, setting=setting, units=units)
        tables.append(similarity.compare(of_setting, pairs, ACROSS, **options))
        half = [(member.name, second.name) for member in members]
        controls = (
            similarity.compare(of_setting, [(first.name, second.name)], BOTH_UNTRAINED, **options),
            similarity.compare(of_setting, half, ONE_UNTRAINED, **options),
            similarity.compare(of_setting, pairs, "shuffled images", shuffle=True, **options),
        )
        tables += [control[control.index_a == control.index_b] for control in controls]
    return pd.concat([table for table in tables if len(table)], ignore_index=True)


def _beside(members: list[Network], networks, grams: dict, **options) -> list[pd.DataFrame]:
    options |= dict(family=members[0].family)
    others = [(other, member) for other in nets.with_role(networks, nets.OTHER_SEED) for member in members]
    across, same = (
        [(other.name, member.name) for other, member in others if (other.scales == member.scales) is equal]
        for equal in (False, True)
    )
    multi = [(one.name, member.name) for one in nets.with_role(networks, nets.MULTI_SCALE) for member in members]
    return [
        similarity.compare(grams, across, OTHER_START, **options),
        similarity.compare(grams, same, SAME_SCALE, **options),
        similarity.compare(grams, multi, "multi-scale", **options),
    ]


def _controls(networks: Iterable[Network], architecture: str) -> list[Network]:
    return [n for n in nets.with_role(networks, nets.UNTRAINED) if n.architecture == architecture]


def conclusion(cka: pd.DataFrame) -> str:
    """What a table of `compared` says, in lines of text: per family and setting against its controls."""
    if cka.empty:
        return "Encoders of fixed scales: not run."
    summary = similarity.by_comparison(cka)
    within = summary.comparison.isin([ACROSS, BOTH_UNTRAINED]).groupby(summary.family).transform("any")
    lines = []
    for (setting, family), rows in summary[within].groupby(["setting", "family"], sort=False):
        by_comparison = rows.set_index("comparison")
        if ACROSS in by_comparison.index:
            lines.append(_against_untrained(family, setting, by_comparison))
            lines.append(_beyond_untrained(cka[(cka.family == family) & (cka.setting == setting)]))
        else:
            lines.append(f"not run: {family} has fewer than two encoders of fixed scales")
    lines += [
        f"{row.family}, {row.setting}: {row.comparison}, CKA {row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})."
        for _, row in summary[~within].iterrows()
    ]
    return "\n".join(lines)


def _against_untrained(family: str, setting: str, by_comparison: pd.DataFrame) -> str:
    trained, control = by_comparison.loc[ACROSS], by_comparison.loc[ONE_UNTRAINED]
    ceiling = by_comparison.loc[BOTH_UNTRAINED]
    start = by_comparison["mean"].get(OTHER_START)
    starts = "all of one seed, so of one start" if start is None else f"from another start {start:.3f}"
    return (
        f"{family}, {setting}: across scales CKA {trained['mean']:.3f} on average over stages ({trained['min']:.3f} to "
        f"{trained['max']:.3f}; {starts}), {trained['last']:.3f} at the output; with an untrained encoder "
        f"{control['mean']:.3f} ({control['min']:.3f} to {control['max']:.3f}), at the output {control['last']:.3f}; "
        f"two untrained ones {ceiling['mean']:.3f}."
    )


def _beyond_untrained(cka: pd.DataFrame) -> str:
    equal = cka[cka.index_a == cka.index_b]
    chance = equal[equal.comparison == ONE_UNTRAINED].groupby("index_a").cka_high.max()
    trained = equal[equal.comparison == ACROSS]
    above = (trained.cka_low > chance.reindex(trained.index_a).to_numpy()).sum()
    rises = depth_correlations(trained)
    return (
        f"    its interval is above that with an untrained encoder at {above} of {len(trained)} stages and pairs; rank "
        f"correlation of CKA with depth {min(rises):.2f} to {max(rises):.2f}."
    )


def depth_correlations(equal: pd.DataFrame) -> list[float]:
    """Spearman's rank correlation of CKA with depth, per pair of models; rows of equal stages."""
    return [pair.index_a.corr(pair.cka, "spearman") for _, pair in equal.groupby(["model_a", "model_b"], sort=False)]


def linear_parts(grams: dict[str, similarity.Grams]) -> pd.DataFrame:
    """model, stage, explained: what share of the variance of its features a 7 x 7 filter of the LR image explains.

    ``grams``: of the setting `RESIDUAL`; stages that are linear filters altogether are not in it.
    """
    rows = [
        (name, stage, share)
        for name, one in grams.items()
        for stage, share in zip(one.stages, one.explained, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "stage", "explained"])


def transferred(
    networks: Sequence[Network], fits: Tensor, images: dict, side: int, test_side: int = 0, device="cpu"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What an encoder of another scale costs, for every complete family: (summary, rows per test image).

    `igconv.analysis.ridge.TRANSFER` and `igconv.analysis.ridge.ROWS`, each with a column ``trained``, False for an
    encoder that nobody trained. Beside the members of a family: the multi-scale network of it and an untrained one.

    Args:
        fits, images, side, test_side: as in `igconv.analysis.ridge.transfer`.
    """
    summaries, rows = [], []
    for family, members in nets.families(networks).items():
        if not nets.is_complete(members):
            print(f"not run: {family} has encoders for {sorted(n.scale for n in members)} only, x2, x3, x4 are needed")
            continue
        multi = [n for n in nets.with_role(networks, nets.MULTI_SCALE) if n.family == family]
        control = _controls(networks, members[0].architecture)[0]
        models = {n.name: (n.model, n.scale) for n in (*members, *multi)} | {control.name: (control.model, 0)}
        natives = {n.scale: n.name for n in members}
        several = [n.name for n in multi]
        found = ridge.transfer(family, models, natives, fits, images, side, test_side, device, several)
        summary = ridge.transfer_summary(found, natives)
        rows.append(found.assign(trained=found.encoder != control.name))
        summaries.append(summary.assign(trained=summary.encoder != control.name))
    return (
        pd.concat(summaries, ignore_index=True) if summaries else pd.DataFrame(columns=[*ridge.TRANSFER, "trained"]),
        pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=[*ridge.ROWS, "trained"]),
    )


def transfer_conclusion(functional: pd.DataFrame) -> str:
    """What the summary of `transferred` says, a line of text per family."""
    if functional.empty:
        return "The cost of another scale's encoder: not run."
    return "\n".join(_transfer_line(family, rows) for family, rows in functional.groupby("family", sort=False))


def _transfer_line(family: str, rows: pd.DataFrame) -> str:
    refitted = rows[rows["head"] == "refitted"]
    trained = refitted[refitted.encoder_scale > 0]
    other = trained[trained.encoder_scale != trained.target_scale]
    native = trained[trained.encoder_scale == trained.target_scale].set_index("target_scale").psnr_y_db
    bicubic = rows[rows["head"] == "bicubic"].set_index("target_scale").psnr_y_db
    lost = -other.difference_db / (native - bicubic).reindex(other.target_scale).to_numpy()
    untrained = refitted[~refitted.trained.astype(bool)].difference_db
    as_trained = rows[(rows["head"] == "as trained") & (rows.encoder_scale == rows.target_scale)].difference_db
    return (
        f"{family}: an encoder of another scale with a fitted SPConv is {other.difference_db.max():+.2f} to "
        f"{other.difference_db.min():+.2f} dB from the native one ({lost.max():.0%} of the gain over bicubic at most), "
        f"worse beyond its interval in {(other.high_db < 0).sum()} of {len(other)} cases, better in "
        f"{(other.low_db > 0).sum()}. Untrained: {untrained.max():+.2f} to {untrained.min():+.2f} dB. Fitting instead "
        f"of training costs the native encoder {as_trained.min():+.2f} to {as_trained.max():+.2f} dB (as trained minus "
        f"fitted)."
    )
