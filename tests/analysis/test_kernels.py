"""Which SPConvs are compared with which, and what the tables say in words."""

import pandas as pd
import pytest
import torch

from igconv.analysis import alignment, correlation, kernels
from igconv.analysis.networks import MEMBER, MULTI_SCALE, Network


@pytest.fixture
def networks(tiny_model):
    """Own fixed-scale networks and IGConv; two published families of one architecture, one of them without a model."""

    def member(title, scale, architecture, model=True):
        network = tiny_model("spconv", (scale,)) if model else None
        return Network(title, MEMBER, "mine" if title == "SPConv" else title, architecture, (scale,), network)

    own = [member("SPConv", scale, "edsr") for scale in (2, 3, 4)]
    theirs = [
        member(title, scale, "edsr", title == "E DIV2K") for title in ("E DIV2K", "E DF2K") for scale in (2, 3, 4)
    ]
    return [*theirs, *own, Network("IGConv", MULTI_SCALE, "mine", "edsr", (2, 3, 4), tiny_model("igconv"))]


@pytest.fixture
def banks(networks):
    random = torch.Generator().manual_seed(5)
    return [
        kernels.Bank(network, scale, torch.randn(3 * scale**2, 6, 3, 3, generator=random))
        for network in networks
        for scale in network.scales
    ]


def test_kernels_are_those_of_the_networks(networks):
    known = [network for network in networks if network.model]
    banks = kernels.banks_of(known)
    assert [str(bank) for bank in banks] == [
        f"{title} x{scale}" for title in ("E DIV2K", "SPConv", "IGConv") for scale in (2, 3, 4)
    ]
    assert torch.equal(banks[4].kernels, correlation.kernel(known[4].model, 3))
    assert torch.equal(banks[-1].kernels, correlation.kernel(known[-1].model, 4))


def test_every_comparison_has_its_pairs(banks):
    pairs = pd.DataFrame([(kind, str(a), str(b)) for kind, a, b in kernels.pairs_of(banks, "mine")])
    assert pairs[0].value_counts().to_dict() == {
        "across scales": 9, "two data sets, one scale": 3, "two data sets, two scales": 6, "one IGConv": 3,
    }  # fmt: skip
    assert not pairs.duplicated().any()
    assert ["across scales", "SPConv x2", "SPConv x4"] in pairs.to_numpy().tolist()


def test_data_sets_are_compared_within_an_architecture_of_one_width(banks):
    narrow = [kernels.Bank(b.network, b.scale, b.kernels[:, :4] if b.network.title == "E DF2K" else b.kernels)
              for b in banks]  # fmt: skip
    assert not any(kind.startswith("two data sets") for kind, _, _ in kernels.pairs_of(narrow, "mine"))


def test_tests_carry_the_scale_in_a_column(banks):
    pairs = [pair for pair in kernels.pairs_of(banks, "mine") if pair[0] == "one IGConv"]
    table = kernels.tested(pairs, permutations=9)
    assert list(table.columns) == [*correlation.COLUMNS, "p_holm"]
    assert set(table.model_a) == {"IGConv"}
    assert set(zip(table.scale_a, table.scale_b, strict=True)) == {(2, 3), (2, 4), (3, 4)}
    text = kernels.conclusion(correlation.verdicts(table))
    assert len(text.splitlines()) == 2, "equal channels only, constant kept and removed"
    assert kernels.tested([], 9).empty
    assert "not run" in kernels.conclusion(kernels.tested([], 9))


def test_correlation_in_words():
    verdicts = pd.DataFrame([dict(comparison="across scales", constant="kept", statistic="matched", pairs=4,
                                  least=0.25, mean=0.5, largest=0.75, chance=0.125, beyond_chance=3)])  # fmt: skip
    assert kernels.conclusion(verdicts) == (
        "across scales, constant kept, matched: mean cosine 0.50 (0.25 to 0.75), chance 0.12; beyond chance in 3 of 4 "
        "pairs."
    )


def test_kernels_are_predicted_for_families_that_run_here(networks, photograph):
    scenes = torch.stack([photograph(64, 64, seed) for seed in range(8)])
    images = {("d", "i"): photograph(40, 44, 99)}
    table, psnr = kernels.aligned(networks, scenes, images, side=16, permutations=9)
    assert set(zip(table.family, table.model_a, table.scale_a, table.scale_b, strict=True)) == {
        (family, title, 2, scale) for family, title in (("E DIV2K", "E DIV2K"), ("mine", "SPConv")) for scale in (3, 4)
    }  # fmt: skip
    costs = alignment.psnr_summary(psnr)
    text = kernels.alignment_conclusion(table, costs).splitlines()
    assert [line.split(":")[0] for line in text] == [f"{f}, x{s} from x2" for f in ("E DIV2K", "mine") for s in (3, 4)]
    methods = kernels.by_method(correlations("SPConv"), table)
    with_map = [
        f"aligned, {what}, constant {constant}" for what in ("kernel", "output") for constant in ("kept", "removed")
    ]
    assert list(methods.index) == ["matched, constant kept", *with_map]
    assert methods.loc["matched, constant kept", "SPConv x2 – x3"] == "0.50 (0.25)"
    empty, nothing = kernels.aligned(networks[:2], scenes, images, side=16)
    assert empty.empty
    assert nothing.empty
    assert "not run" in kernels.alignment_conclusion(empty, alignment.psnr_summary(nothing))
    assert kernels.by_method(correlations("SPConv").head(0), empty).empty


def correlations(model: str) -> pd.DataFrame:
    row = dict(comparison="across scales", model_a=model, scale_a=2, scale_b=3, statistic="matched", constant="kept")
    return pd.DataFrame([row | dict(value=0.5, null_mean=0.25)])


def test_patterns_and_continuity(networks):
    known = [network for network in networks if network.model]
    table = kernels.patterns(known, channels=2)
    shown = table.groupby("model", sort=False).scale.unique().map(list).to_dict()
    assert shown == {"E DIV2K": [2, 3, 4], "SPConv": [2, 3, 4], "IGConv": [2, 3, 4, 8, 32]}
    smooth = kernels.continuity(known)
    text = kernels.continuity_conclusion(smooth).splitlines()
    assert [line.split(":")[0] for line in text] == [f"IGConv x{scale}" for scale in (2, 3, 4, 8, 32)]
    assert "correlation with the x32 pattern averaged down 1.000" in text[-1]
    assert kernels.patterns([], 2).empty
    assert "not run" in kernels.continuity_conclusion(kernels.continuity([]))
