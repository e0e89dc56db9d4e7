"""Which encoders are compared with which, and what the tables say in words."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from igconv.analysis import encoders, networks, similarity
from igconv.analysis.networks import MEMBER, MULTI_SCALE, OTHER_SEED, UNTRAINED, Network
from igconv.models import published
from igconv.study.runs import runs_of


def network(role: str, model, scales: tuple[int, ...], title: str = "SPConv", note: str = "", family: str = "mine"):
    return Network(title, role, family, "edsr_tiny", scales, model, note=note)


@pytest.fixture
def family(tiny_model):
    """A family of three, one of another seed, a multi-scale network, two untrained ones."""
    members = [network(MEMBER, tiny_model("spconv", (scale,)), (scale,)) for scale in (2, 3, 4)]
    other = network(OTHER_SEED, tiny_model("spconv", (3,)), (3,), note=" (seed 1)")
    multi = network(MULTI_SCALE, tiny_model("igconv"), (2, 3, 4), "IGConv")
    controls = [
        network(UNTRAINED, tiny_model("spconv", (2,)), (scale,), "untrained edsr_tiny", f" {number}", "")
        for number, scale in ((1, 2), (2, 3))
    ]
    return [*members, other, multi, *controls]


@pytest.fixture
def scenes():
    return torch.randint(0, 256, (8, 3, 48, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_names_say_the_scale_of_fixed_scale_networks_only(family):
    names = [one.name for one in family]
    assert names == ["SPConv x2", "SPConv x3", "SPConv x4", "SPConv x3 (seed 1)", "IGConv",
                     "untrained edsr_tiny 1", "untrained edsr_tiny 2"]  # fmt: skip
    assert [one.scale for one in family] == [2, 3, 4, 3, 0, 2, 3]
    assert list(networks.families(family)) == ["mine"]
    assert networks.is_complete(family[:3])
    assert not networks.is_complete(family[:2])


def test_controls_are_two_random_networks_of_each_architecture(family):
    first, second = networks.untrained_networks(family)
    assert (first.name, second.name) == ("untrained edsr_tiny 1", "untrained edsr_tiny 2")
    weights = [next(one.model.encoder.parameters()) for one in (first, second)]
    assert not torch.equal(*weights)
    again = networks.untrained_networks(family)[0]
    assert torch.equal(weights[0], next(again.model.encoder.parameters()))


def test_runs_become_networks_and_those_that_are_not_trained_are_named(shrink, go):
    """First seed: the family. Second seed: beside it. A third is not looked at."""
    base = next(iter(runs_of("smoke").values()))
    fixed = [shrink(replace(base, scales=(2,), seed=seed)) for seed in (0, 1, 2)]
    multi = shrink(replace(base, upsampler="igconv", scales=(2, 3, 4), hidden_dim=8, num_layers=2))
    for run in fixed[:2]:
        go(run)
    found, missing = encoders.chosen_networks("smoke", [*fixed, multi])
    assert [(one.name, one.role) for one in found[:2]] == [("SPConv x2", MEMBER), ("SPConv x2 (seed 1)", OTHER_SEED)]
    assert [one.role for one in found[2:]] == [UNTRAINED] * 2
    assert len(missing) == 1
    assert missing[0].startswith(f"1 of the study's 3 models, e.g. run {multi.name}")


def test_a_published_family_needs_all_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("IGCONV_DATA", str(tmp_path))
    found, missing = networks.published_networks("benchmark")
    assert found == []
    assert len(missing) == len(published.triples())
    assert networks.published_networks("sample") == ([], [])


def test_every_comparison_has_its_pairs(family, scenes):
    grams = encoders.grams_of(family, scenes, minibatch=8)
    assert list(grams[encoders.OWN]) == ["SPConv x2", "SPConv x3", "SPConv x4", *(n.name for n in family[-2:])]
    table = encoders.compared(family, grams, units=1, own="mine")
    assert list(table.columns) == list(similarity.COLUMNS)
    pairs = table.drop_duplicates(["setting", "comparison", "model_a", "model_b"]).groupby(["comparison"]).size()
    assert pairs.to_dict() == {
        "across scales": 12, "both untrained": 4, "one untrained": 12, "shuffled images": 12, "multi-scale": 6,
        "across scales, other seed": 4, "one scale, other seed": 2,
    }  # fmt: skip
    assert (table[table.comparison == "both untrained"].eval("index_a == index_b")).all()
    assert set(table[table.comparison == "one untrained"].model_b) == {"untrained edsr_tiny 2"}
    assert set(table[table.comparison == "one scale, other seed"].model_b) == {"SPConv x3"}
    assert set(table[table.setting == encoders.RESIDUAL].comparison) == set(pairs.index)
    parts = encoders.linear_parts(grams[encoders.RESIDUAL])
    assert set(parts.model) == {one.name for one in family}
    assert "first conv" not in set(parts.stage)


def test_own_lr_is_the_scene_reduced_by_the_own_scale(family, scenes):
    """At x2 on the coarsest grid, and at x4 without resizing."""
    from igconv.data import resize

    grams = encoders.grams_of(family[:3], scenes, minibatch=8)
    for one, scale in ((family[0], 2), (family[2], 4)):
        expected = similarity.stage_grams(one.model, resize.downsample(scenes, scale), 8, grid=12)
        assert torch.equal(grams[encoders.OWN][one.name].values, expected.values)


def test_two_data_sets_and_two_architectures(tiny_model, scenes):
    kinds = [("A", "edsr"), ("B", "edsr"), ("C", "edsr_baseline")]
    found = [Network(title, MEMBER, title, architecture, (scale,), tiny_model("spconv", (scale,)))
             for title, architecture in kinds for scale in (2, 3, 4)]  # fmt: skip
    found += [Network("untrained", UNTRAINED, "", architecture, (2,), tiny_model("spconv", (2,)), note=note)
              for architecture in ("edsr", "edsr_baseline")
              for note in (f" {architecture} 1", f" {architecture} 2")]  # fmt: skip
    table = encoders.compared(found, encoders.grams_of(found, scenes, 8), 1, own="none")
    settings = (encoders.SAME, encoders.DETAILS, encoders.RESIDUAL)
    pairs = table[table.comparison.str.startswith("two ")].groupby(["comparison", "family", "setting"])
    assert pairs.apply(lambda rows: len(rows[["model_a", "model_b"]].drop_duplicates())).to_dict() == {
        ("two data sets", "A and B", setting): 3 for setting in settings
    } | {
        ("two architectures", f"{one} and C", setting): 1
        for one in "AB" for setting in settings
    }  # fmt: skip


def cka(comparison: str, values, family: str = "f", low: float = 0.1) -> pd.DataFrame:
    rows = [dict(setting="same LR", family=family, comparison=comparison, model_a="a", model_b="b", index_a=i,
                 index_b=i, cka=value, cka_low=value - low, cka_high=value + low)
            for i, value in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows)


def test_similarity_in_words():
    table = pd.concat([cka("across scales", (0.5, 0.7, 0.9)), cka("one untrained", (0.4, 0.4, 0.6)),
                       cka("both untrained", (0.9, 0.9, 0.9)),
                       cka("two data sets", (0.25, 0.75), "f and g")], ignore_index=True)  # fmt: skip
    text = encoders.conclusion(table)
    first, second, last = text.splitlines()
    assert (
        "f, same LR: across scales CKA 0.700 on average over stages (0.500 to 0.900; all of one seed, so of one "
        "start), 0.900 at the output"
    ) in first
    assert "with an untrained encoder 0.467 (0.400 to 0.600), at the output 0.600; two untrained ones 0.900." in first
    # 0.4 > 0.5 no; 0.6 > 0.5 yes; 0.8 > 0.7 yes.
    assert "at 2 of 3 stages" in second
    assert "with depth 1.00 to 1.00" in second
    assert last == "f and g, same LR: two data sets, CKA 0.500 (0.250 to 0.750)."
    other = pd.concat([table, cka("across scales, other seed", (0.3, 0.3, 0.3))])
    assert "from another start 0.300" in encoders.conclusion(other)
    assert encoders.conclusion(table.head(0)) == "Encoders of fixed scales: not run."
    assert "fewer than two" in encoders.conclusion(cka("both untrained", (0.4, 0.4)))


def test_what_another_encoder_costs_has_a_column_for_the_untrained(family, photograph):
    fits = torch.stack([photograph(32, 32, seed) for seed in range(16)])
    functional, rows = encoders.transferred(family, fits, {("d", "i"): photograph(40, 44, 99)}, side=8)
    for table in (functional, rows):
        assert set(table[~table.trained].encoder) == {"untrained edsr_tiny 1"}
        assert set(table[table.trained].encoder) == {"SPConv x2", "SPConv x3", "SPConv x4", "IGConv", ""}
        assert table[(table.encoder == "IGConv") & (table["head"] == "as trained")].target_scale.nunique() == 3
    assert encoders.transfer_conclusion(functional).startswith("mine: an encoder of another scale")
    nothing, _ = encoders.transferred(family[:2], fits, {}, side=8)
    assert nothing.empty
    assert "not run" in encoders.transfer_conclusion(nothing)


def test_transfer_in_words():
    """The native x2 encoder gains 4 dB over bicubic; the other loses 1 of them, the untrained one 3."""
    table = pd.DataFrame([
        dict(encoder="a", encoder_scale=2, head="refitted", psnr_y_db=30, difference_db=0, low_db=0, high_db=0),
        dict(encoder="a", encoder_scale=2, head="as trained", psnr_y_db=30.5, difference_db=0.5, low_db=0, high_db=1),
        dict(encoder="b", encoder_scale=3, head="refitted", psnr_y_db=29, difference_db=-1, low_db=-2, high_db=-0.5),
        dict(encoder="", encoder_scale=0, head="bicubic", psnr_y_db=26, difference_db=-4, low_db=-5, high_db=-3),
        dict(encoder="c", encoder_scale=0, head="refitted", psnr_y_db=27, difference_db=-3, low_db=-4, high_db=-2),
    ]).assign(family="f", target_scale=2, trained=[True, True, True, True, False])  # fmt: skip
    text = encoders.transfer_conclusion(table)
    assert "-1.00 to -1.00 dB from the native one (25% of the gain over bicubic at most)" in text
    assert "worse beyond its interval in 1 of 1 cases, better in 0. Untrained: -3.00 to -3.00 dB" in text
    assert "costs the native encoder +0.50 to +0.50 dB" in text


def test_scenes_can_be_divided_by_every_scale():
    assert [encoders.scene_side(crop) for crop in (24, 25, 48)] == [48, 60, 96]
