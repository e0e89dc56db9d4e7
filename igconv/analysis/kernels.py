"""Which SPConvs are compared with which, and what that says: the study of inter-scale correlation.

`igconv.analysis.correlation` compares kernels channel by channel, `igconv.analysis.alignment` after a linear map
between features; here they are applied to the families of `igconv.analysis.networks`, and the tables are put into
words. A kernel bank is named by its network's title and its scale; the scale is in no name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
from torch import Tensor

from igconv.analysis import alignment, correlation, feature_maps
from igconv.analysis import networks as nets
from igconv.analysis.networks import Network
from igconv.models import published
from igconv.study.run import Run

ACROSS, ONE_IGCONV = "across scales", "one IGConv"
PICTURE_SCALES = (2, 3, 4, 8, 32)  # at which a multi-scale model's kernels are shown


@dataclass(frozen=True)
class Bank:
    """The kernels (3 r^2, C, k, k) of one network at one scale r."""

    network: Network
    scale: int
    kernels: Tensor

    def __str__(self) -> str:
        return f"{self.network.title} x{self.scale}"


def chosen_networks(profile: str, runs: Sequence[Run]) -> tuple[list[Network], list[str]]:
    """Networks whose kernels are compared, and a line for each that is not here.

    Published families, also those whose encoder is not here; of the first seed of ``runs`` (one encoder, no variant)
    the SPConv networks as a family, IGConv and IGConv+.
    """
    seed = min(run.seed for run in runs)
    first = [run for run in runs if run.seed == seed]
    fixed = [run for run in first if run.upsampler == "spconv" and len(run.scales) == 1]
    multi = [run for run in first if run.upsampler in ("igconv", "igconv+") and len(run.scales) > 1]
    known, missing = nets.published_networks(profile, kernels_only=True)
    own, not_trained = nets.own_networks(fixed, multi, seed)
    if not_trained:
        missing.append(f"{len(not_trained)} of the study's {len(fixed + multi)} models, e.g. {not_trained[0]}")
    return [*known, *own], missing


def banks_of(networks: Sequence[Network]) -> list[Bank]:
    """The kernels of every network at every scale it was trained for."""
    return [
        Bank(n, scale, published.spconv_kernel(n.weights) if n.weights else correlation.kernel(n.model, scale))
        for n in networks
        for scale in n.scales
    ]


def pairs_of(banks: Sequence[Bank], own: str) -> list[tuple[str, Bank, Bank]]:
    """(comparison, bank, bank): across the scales of a family, which is the question; as a control one architecture
    trained on two data sets, families of the study's ``own`` encoder left out; two scales of one IGConv model."""
    fixed = [bank for bank in banks if bank.network.role == nets.MEMBER]
    families = {family: [b for b in fixed if b.network.family == family] for family in _families(fixed)}
    pairs = [(ACROSS, a, b) for members in families.values() for a, b in combinations(members, 2)]
    for first, second in combinations([members for family, members in families.items() if family != own], 2):
        if _comparable(first[0], second[0]):
            pairs += [
                (f"two data sets, {'one scale' if a.scale == b.scale else 'two scales'}", a, b)
                for a in first
                for b in second
            ]
    multi = [bank for bank in banks if bank.network.role == nets.MULTI_SCALE]
    titles = dict.fromkeys(bank.network.title for bank in multi)
    return pairs + [
        (ONE_IGCONV, a, b)
        for title in titles
        for a, b in combinations([bank for bank in multi if bank.network.title == title], 2)
    ]


def _families(banks: Sequence[Bank]) -> list[str]:
    return list(dict.fromkeys(bank.network.family for bank in banks))


def _comparable(a: Bank, b: Bank) -> bool:
    """Whether two families are of one architecture and width."""
    return a.network.architecture == b.network.architecture and a.kernels.shape[1] == b.kernels.shape[1]


def tested(pairs: Sequence[tuple[str, Bank, Bank]], permutations: int) -> pd.DataFrame:
    """`igconv.analysis.correlation.compare` of every pair, with p-values corrected over pairs (``p_holm``)."""
    tables = []
    for number, (comparison, a, b) in enumerate(pairs, 1):
        (first, r), (second, s) = ((bank.network.title, bank.scale) for bank in (a, b))
        tables.append(
            correlation.compare(first, a.kernels, r, second, b.kernels, s, permutations, comparison=comparison)
        )
        if number % 10 == 0:
            print(f"tested {number} of {len(pairs)} pairs")
    if not tables:
        return pd.DataFrame(columns=correlation.COLUMNS)
    return correlation.adjusted(pd.concat(tables, ignore_index=True))


def conclusion(verdicts: pd.DataFrame) -> str:
    """What `igconv.analysis.correlation.verdicts` says, a line per comparison, constant and statistic.

    Of one IGConv model only equal channels, because its channels need no matching.
    """
    if verdicts.empty:
        return "SPConv kernels: not run."
    shown = verdicts[(verdicts.comparison != ONE_IGCONV) | (verdicts.statistic == "same channel")]
    return "\n".join(
        f"{row.comparison}, constant {row.constant}, {row.statistic}: mean cosine {row.mean:.2f} ({row.least:.2f} to "
        f"{row.largest:.2f}), chance {row.chance:.2f}; beyond chance in {row.beyond_chance} of {row.pairs} pairs."
        for row in shown.itertuples()
    )


def runnable_families(networks: Sequence[Network]) -> dict[str, list[Network]]:
    """Families whose encoders are all here."""
    families = nets.families(networks)
    return {family: members for family, members in families.items() if all(n.model for n in members)}


def aligned(
    networks: Sequence[Network],
    scenes: Tensor,
    images: dict,
    side: int,
    test_side: int = 0,
    permutations: int = 199,
    device="cpu",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`igconv.analysis.alignment.align` of every complete family: x3's and x4's SPConvs predicted from x2's."""
    tables, psnr = [], []
    for family, members in runnable_families(networks).items():
        if not nets.is_complete(members):
            print(f"not run: {family} has models for {sorted(n.scale for n in members)} only, x2, x3, x4 are needed")
            continue
        by_scale = {n.scale: (n.title, n.model, n.scale) for n in members}
        for scale in (3, 4):
            table, of_images = alignment.align(
                family, by_scale[2], by_scale[scale], scenes, images, side, test_side, permutations, device=device
            )
            tables.append(table)
            psnr.append(of_images)
            print(f"{family}: x{scale} predicted from x2")
    return (
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=alignment.COLUMNS),
        pd.concat(psnr, ignore_index=True) if psnr else pd.DataFrame(columns=alignment.PSNR),
    )


def mapped(networks: Sequence[Network], scenes: Tensor, side: int, device="cpu") -> pd.DataFrame:
    """`igconv.analysis.feature_maps.maps` of every complete family: x2's features from x3's and x4's."""
    tables = []
    for family, members in runnable_families(networks).items():
        if nets.is_complete(members):
            by_scale = {n.scale: (n.title, n.model, n.scale) for n in members}
            control = nets.untrained_networks(members)[0].model
            tables += [
                feature_maps.maps(family, by_scale[2], by_scale[scale], control, scenes, side, device)
                for scale in (3, 4)
            ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=feature_maps.COLUMNS)


def alignment_conclusion(table: pd.DataFrame, costs: pd.DataFrame) -> str:
    """What `aligned` and `igconv.analysis.alignment.psnr_summary` say, a line per family and scale."""
    if table.empty:
        return "Aligned features: not run."
    lines, table = [], alignment.with_ceiling(table)
    for (family, scale), rows in table.groupby(["family", "scale_b"], sort=False):
        fitted = rows[rows.alignment == "fitted"].set_index(["compared", "constant"])
        cosines = "; ".join(
            f"{compared} {constant} {row.value:.2f} (p = {row.p_value:.3f}, ceiling of four functions "
            f"{row.ceiling:.2f})"
            for (compared, constant), row in fitted.iterrows()
        )
        cost = costs[(costs.family == family) & (costs.scale_b == scale)].set_index("head").difference_db
        lines.append(
            f"{family}, x{scale} from x2: the map explains {fitted.map_explained.iloc[0]:.0%} of the variance. Cosine "
            f"with the true SPConv: {cosines}. In dB: predicted {cost['predicted']:+.2f}, with gain and bias "
            f"{cost['predicted, gain and bias refitted']:+.2f}, true on four functions "
            f"{cost['true on {1, x, y, xy}']:+.2f}, constant only {cost['true, constant only']:+.2f}, bicubic "
            f"{cost['bicubic']:+.2f}."
        )
    return "\n".join(lines)


def by_method(table: pd.DataFrame, aligned_table: pd.DataFrame) -> pd.DataFrame:
    """The pairs of scales that begin with x2 by every method: "mean cosine (chance)", a row per method."""
    across = table[(table.comparison == ACROSS) & (table.scale_a == 2)]
    cells = {
        (f"{row.statistic}, constant {row.constant}", f"{row.model_a} x2 – x{row.scale_b}"): row
        for row in across.itertuples()
    }
    cells |= {
        (f"aligned, {row.compared}, constant {row.constant}", f"{row.model_a} x2 – x{row.scale_b}"): row
        for row in aligned_table[aligned_table.alignment == "fitted"].itertuples()
    }
    text = pd.Series({key: f"{row.value:.2f} ({row.null_mean:.2f})" for key, row in cells.items()}, dtype=object)
    if text.empty:
        return pd.DataFrame()
    return text.unstack().reindex(list(dict.fromkeys(method for method, _ in cells)))


def patterns(networks: Sequence[Network], channels: int) -> pd.DataFrame:
    """Values for pictures, `igconv.analysis.correlation.pattern_table`: fixed-scale networks at their scale, then
    multi-scale ones at `PICTURE_SCALES`."""
    fixed = [n for members in runnable_families(networks).values() for n in members]
    shown = [(n, n.scales) for n in fixed] + [(n, PICTURE_SCALES) for n in nets.with_role(networks, nets.MULTI_SCALE)]
    tables = [correlation.pattern_table(n.title, n.model, scales, channels) for n, scales in shown]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["model", "scale"])


def continuity(networks: Sequence[Network]) -> pd.DataFrame:
    """`igconv.analysis.correlation.continuity` of every multi-scale network."""
    tables = [correlation.continuity(n.title, n.model) for n in nets.with_role(networks, nets.MULTI_SCALE)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=correlation.CONTINUITY)


def continuity_conclusion(table: pd.DataFrame) -> str:
    """What `continuity` says, a line per model and scale."""
    if table.empty:
        return "Continuity of IGConv's kernels: not run (no multi-scale model is trained)."
    return "\n".join(
        f"{name} x{scale}: correlation with the x32 pattern averaged down {rows.correlation.median():.3f} (5 % of "
        f"channels below {rows.correlation.quantile(0.05):.3f}); total variation {rows.total_variation.median():.2f}, "
        f"of the same numbers in random places {rows.total_variation_shuffled.median():.2f} standard deviations."
        for (name, scale), rows in table.groupby(["model", "scale"], sort=False)
    )
