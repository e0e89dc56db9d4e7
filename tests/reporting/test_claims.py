"""Verdicts on tables whose answers are planted."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from igconv import InputError
from igconv.reporting import claims, figures, findings
from igconv.reporting.verdicts import above
from igconv.study import results
from igconv.study.runs import runs_of


def difference(value, low, high, model="IGConv+", scale=2, seeds=3, **changes):
    return dict(encoder="e", model=model, baseline="SPConv", budget="equal steps per model", scale=scale,
                dataset="all", difference_db=value,
                low_db=low, high_db=high, images=5, seeds=seeds) | changes  # fmt: skip


def verdicts(lines: list[dict]) -> list[str]:
    return [line["verdict"] for line in lines]


def test_no_table_gives_one_line_per_claim_that_says_not_run():
    table = claims.claims({}, {})
    assert set(table.verdict) == {"not run"}
    assert table.value.isna().all()
    assert table.claim.ne("").all()
    assert len(table) < 25


@pytest.mark.parametrize(
    ("value", "low", "high", "seeds", "verdict"),
    [(0.2, 0.1, 0.3, 1, "reproduced"), (0.04, 0.01, 0.06, 1, "undecided"), (0.04, 0.01, 0.06, 2, "reproduced"),
     (0.1, -0.1, 0.3, 3, "undecided"), (-0.2, -0.3, -0.1, 1, "differs"), (-0.04, -0.06, -0.01, 1, "undecided"),
     (np.nan, np.nan, np.nan, 0, "not run"), (0.2, np.nan, np.nan, 1, "undecided")],
)  # fmt: skip
def test_an_interval_has_to_clear_the_target_and_a_single_seed_the_noise(value, low, high, seeds, verdict):
    assert above(value, low, high, 0.0, seeds) == verdict


def test_equal_psnr_is_a_band_below_zero():
    lines = [difference(v, v - 0.02, v + 0.02, "IGConv", s, 1) for s, v in ((2, 0.0), (3, -0.05), (4, -0.2))]
    assert verdicts(claims.psnr(pd.DataFrame(lines))) == ["reproduced", "undecided", "differs"]


def test_psnr_is_over_all_sets_and_against_spconv_where_it_is():
    lines = [difference(1, 0.9, 1.1), difference(-1, -1.1, -0.9, dataset="Set5"),
             difference(-1, -1.1, -0.9, baseline="SPConv+")]  # fmt: skip
    assert verdicts(claims.psnr(pd.DataFrame(lines))) == ["reproduced"]
    assert verdicts(claims.psnr(pd.DataFrame(lines[2:]))) == ["differs"]  # the only baseline there is


def test_each_budget_is_a_claim_of_its_own():
    lines = [difference(-0.2, -0.3, -0.1), difference(0.2, 0.1, 0.3, budget="equal total steps")]
    found = claims.psnr(pd.DataFrame(lines))
    assert [line["about"] for line in found] == ["e, equal steps per model", "e, equal total steps"]
    assert verdicts(found) == ["differs", "reproduced"]


def test_planned_scales_of_which_none_was_run_are_one_line():
    nothing = dict(low=np.nan, high=np.nan)
    lines = [difference(np.nan, scale=s, seeds=0, images=0, **nothing) for s in (2, 3, 4)]
    (line,) = claims.psnr(pd.DataFrame(lines))
    assert (line["verdict"], line["scale"]) == ("not run", "x2, x3, x4")
    lines[0] = difference(0.2, 0.1, 0.3)
    assert verdicts(claims.psnr(pd.DataFrame(lines))) == ["reproduced", "not run", "not run"]


def test_an_ingredient_helps_where_the_run_with_it_is_better():
    """One sign everywhere. Pairs in between, of two runs that both are no model of the paper, make no claim."""
    rows = [difference(0.2, 0.1, 0.3, ingredient="IGSample", within="IGConv+"),
            difference(-0.2, -0.3, -0.1, ingredient="IGSample", within="SPConv"),
            difference(-0.9, -1.0, -0.8, ingredient="IGSample", within="")]  # fmt: skip
    completing, added = claims.ingredients(pd.DataFrame(rows))
    assert [line["about"] for line in (completing, added)] == ["e, IGConv+ with it minus without",
                                                               "e, SPConv with it minus without"]  # fmt: skip
    assert (completing["verdict"], completing["value"], completing["low"]) == ("reproduced", 0.2, 0.1)
    assert (added["verdict"], added["value"]) == ("differs", -0.2)


def test_budget_ratios_against_a_third():
    """Of the runs that stand for their models: an ablation of equal steps or fewer steps are another thing."""
    fixed = dict(encoder="edsr_tiny", upsampler="spconv", variant="", images=300, training_seconds=90,
                 stored_parameters=30)  # fmt: skip
    one = fixed | dict(upsampler="igconv", images=100, training_seconds=60, stored_parameters=40)
    others = [one | dict(variant="fft", images=1), fixed | dict(variant="third", images=1)]
    lines = claims.training(pd.DataFrame([fixed, one, *others]), runs_of("cpu"))
    assert verdicts(lines) == ["reproduced", "partly", "differs"]
    assert [line["value"] for line in lines] == pytest.approx([1 / 3, 2 / 3, 4 / 3])
    assert set(verdicts(claims.training(pd.DataFrame([one]), runs_of("cpu")))) == {"not run"}


def test_stored_parameters_of_the_papers_encoders():
    table = pd.DataFrame(dict(encoder=["a", "b", "c"], paper_encoder=["A", "B", np.nan], model="IGConv",
                              baseline="SPConv", ratio=[0.31, 0.8, 5.0]))  # fmt: skip
    (line,) = claims.stored(table)
    assert line["verdict"] == "partly"
    assert line["measure"].endswith("beyond a third: B 0.80")
    assert (line["low"], line["high"]) == (0.31, 0.8)
    assert verdicts(claims.stored(table[:1])) == ["reproduced"]
    assert verdicts(claims.stored(table[2:])) == ["not run"]


def test_costs_beside_the_paper():
    paper = claims.paper_figure()
    ours = pd.DataFrame(dict(
        upsampler=paper.upsampler, form=["as trained", "instantiated", "as trained", "instantiated"], scale=2,
        channels=64, lr_height_px=360, lr_width_px=640, device="abacus", parameters=paper.params_k * 1000,
        peak_memory_mib=paper.memory_mb.astype(float), latency_ms=[1.0, 1.05, 10.0, 20.0],
    ))  # fmt: skip
    ours = ours.assign(latency_q25_ms=ours.latency_ms * 0.99, latency_q75_ms=ours.latency_ms * 1.01)
    assert verdicts(claims.costs(ours, paper)) == ["reproduced", "differs", "reproduced", "reproduced"]
    ours.loc[2, "peak_memory_mib"] *= 1.2
    assert verdicts(claims.costs(ours, paper))[3] == "differs"
    assert verdicts(claims.costs(ours.assign(lr_width_px=80), paper))[2:] == ["not run", "not run"]


def cka(across: float, untrained: float, shuffled: float = 0.0) -> pd.DataFrame:
    values = {"across scales": across, "both untrained": untrained, "shuffled images": shuffled}
    rows = [dict(setting="same LR", family="f", comparison=name, model_a="a", model_b=b, index_a=i, index_b=j,
                 cka=value if i == j else 9.0, cka_low=value - 0.02, cka_high=value + 0.02, examples=512)
            for name, value in values.items() for b in "bc" for i in (0, 1) for j in (0, 1)]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("across", "untrained", "verdict"),
    [
        (0.9, 0.5, "reproduced"),
        (0.9, 0.9, "partly"),
        (0.5, 0.9, "partly"),
        (0.0, 0.5, "undecided"),
        (-0.5, 0.5, "differs"),
    ],
)
def test_similarity_is_judged_by_its_controls(across, untrained, verdict):
    (line,) = findings.similarity(cka(across, untrained))
    assert line["verdict"] == verdict
    assert line["value"] == pytest.approx(across)  # equal stages only
    assert verdicts(findings.similarity(cka(0.9, 0.5).query("comparison != 'across scales'"))) == ["not run"]


@pytest.mark.parametrize(("loss", "verdict"), [(0.0, "reproduced"), (-0.1, "partly"), (-1.0, "differs")])
def test_what_another_encoder_loses(loss, verdict):
    rows = [("a", 2, 2, "refitted", 36.0, 0.0), ("b", 3, 3, "refitted", 32.0, 0.0), ("", "", 3, "bicubic", 30.0, -2.0),
            ("a", 2, 3, "refitted", 32 + loss, loss), ("b", 3, 3, "as trained", 32.1, 0.1)]  # fmt: skip
    names = ["encoder", "encoder_scale", "target_scale", "head", "psnr_y_db", "difference_db"]
    table = pd.DataFrame(rows, columns=names).assign(family="f", images=5)
    table = table.assign(low_db=table.difference_db - 0.01, high_db=table.difference_db + 0.01)
    (line,) = findings.functional(table)
    assert (line["scale"], line["verdict"]) == ("x3", verdict)
    assert f"{(2 + loss) / 2:.0%} of the native gain" in line["measure"]


@pytest.mark.parametrize(("p", "verdict"), [((0.001, 0.001), "reproduced"), ((0.001, 0.5), "partly"),
                                            ((0.5, 0.5), "undecided")])  # fmt: skip
def test_a_correlation_has_to_be_beyond_every_null(p, verdict):
    rows = [dict(comparison="across scales", model_a="a", model_b=b, scale_a=2, scale_b=3, channels=8,
                 constant="removed", statistic="matched", value=0.5, value_low=0.4, value_high=0.6, null=null,
                 null_q95=0.45, p_value=p_value if null == "one" else 0.001)
            for b, p_value in zip("bc", p, strict=True) for null in ("one", "two")]  # fmt: skip
    inside = rows[0] | dict(
        comparison="one IGConv", model_b="a", p_value=0.9
    )  # one multi-scale model: another question
    (line,) = findings.correlation(pd.DataFrame([*rows, inside]))
    assert line["verdict"] == verdict
    assert verdicts(findings.correlation(pd.DataFrame([inside]))) == ["not run"]
    if verdict == "undecided":
        below = pd.DataFrame(rows).assign(null_q95=0.7)
        assert verdicts(findings.correlation(below)) == ["differs"]


def test_aligned_kernels_are_judged_by_permuted_maps():
    def table(*p):
        return pd.DataFrame(dict(family="f", scale_b=[3, 4], alignment="fitted", compared="output", constant="kept",
                                 value=[0.8, 0.6], null_q95=0.3, p_value=p))  # fmt: skip

    for p, verdict in (((0.01, 0.01), "reproduced"), ((0.01, 0.2), "partly"), ((0.2, 0.2), "differs")):
        (line,) = findings.aligned(table(*p))
        assert (line["verdict"], line["scale"]) == (verdict, "x3, x4")
        assert (line["value"], line["low"], line["high"]) == (pytest.approx(0.7), 0.6, 0.8)
    assert verdicts(findings.aligned(table(0.01, 0.01).assign(alignment="images shuffled"))) == ["not run"]


def test_what_a_predicted_kernel_loses():
    rows = [("true", 32.0, 0.0), (findings.REFITTED, 31.9, -0.1), ("predicted", 20.0, -12.0), ("bicubic", 30.0, -2.0)]
    table = pd.DataFrame(rows, columns=["head", "psnr_y_db", "difference_db"]).assign(family="f", scale_b=3, images=5)
    (line,) = findings.predicted(table.assign(low_db=table.difference_db - 0.01, high_db=table.difference_db + 0.01))
    assert (line["verdict"], line["value"]) == ("partly", -0.1)
    assert "95% of the native gain" in line["measure"]


def test_low_frequencies_first():
    def order(values):
        return pd.DataFrame(dict(run="r", upsampler="igconv", variant="", seed=0, scale=2, measure="energy",
                                 spearman=values))  # fmt: skip

    assert verdicts(findings.low_first(order([0.9, 0.8, 1.0]))) == ["reproduced"]
    assert verdicts(findings.low_first(order([-0.9, -0.8, -1.0]))) == ["differs"]
    assert verdicts(findings.low_first(order([0.9, -0.9, 0.1]))) == ["undecided"]
    assert verdicts(findings.low_first(order([np.nan, np.nan]))) == ["undecided"]  # run, but no band was learned


@pytest.mark.parametrize(("effect", "verdict"), [(-0.3, "reproduced"), (0.3, "differs"), (0.0, "undecided")])
@pytest.mark.parametrize(("profile", "with_it", "without", "other", "about"), [
    ("cpu", "edsr_tiny-igconv+-s0", "edsr_tiny-igconv+-no_fft-s0", "edsr_tiny-igconv+-spconv_init-s0",
     "IGConv+ minus IGConv+ − frequency loss"),
    ("cpu", "edsr_tiny-igconv-fft-s0", "edsr_tiny-igconv-s0", "edsr_tiny-igconv-igsample-s0",
     "IGConv + frequency loss minus IGConv"),
    ("benchmark", "edsr_baseline-spconv-fft-x2-s0", "edsr_baseline-spconv-30k-x2-s0", "edsr_baseline-spconv-x2-s0",
     "SPConv + frequency loss minus SPConv (30k)"),
])  # fmt: skip
def test_the_frequency_loss_is_judged_by_the_high_bands(effect, verdict, profile, with_it, without, other, about):
    """An effect on low bands, or on runs that differ in something else, changes nothing."""
    rng, rows, runs = np.random.default_rng(0), [], runs_of(profile)
    for name in (with_it, without, other):
        for low, i in product((0.0, 0.25), range(8)):
            shift = {with_it: effect, other: 7.0}.get(name, 0.0) if low else float(len(name))
            rows.append(dict(run=name, upsampler=runs[name].upsampler, variant=runs[name].variant, seed=0, dataset="d",
                             image=str(i), scale=2, band_low_cycles_per_px=low, band_high_cycles_per_px=low + 0.25,
                             relative_error_db=-3 + rng.normal(0, 0.01) + shift))  # fmt: skip
    (line,) = findings.frequency_loss(pd.DataFrame(rows), runs)
    assert (line["verdict"], line["about"]) == (verdict, about)
    assert line["value"] == pytest.approx(effect, abs=0.02)


def test_unseen_scales_are_judged_together():
    rows = [dict(encoder="e", upsampler="igconv", variant="", method="direct", max_scale=clamp, scale=scale,
                 against="bicubic", difference_db=value, low_db=value - 0.01, high_db=value + 0.01, images=5, seeds=1)
            for clamp, scale, value in ((4, 4, -9.0), (4, 5, 0.2), (4, 8, -0.2), (8, 5, -9.0))]  # fmt: skip
    (line,) = findings.unseen(pd.DataFrame(rows))
    assert (line["verdict"], line["scale"]) == ("partly", "x5, x8")
    assert line["measure"].endswith("better at x5; worse at x8")
    assert verdicts(findings.unseen(pd.DataFrame(rows).assign(scale=4))) == ["not run"]


def test_claims_judged_scale_by_scale_fit_a_line():
    rows = [difference(-0.2, -0.3, -0.1), difference(0.2, 0.1, 0.3, scale=3), difference(0.3, 0.2, 0.4, scale=4),
            difference(0.1, 0.09, 0.2, scale=2, model="IGConv"), difference(0.1, 0.09, 0.2, scale=3, model="IGConv"),
            difference(0.2, 0.1, 0.3, budget="equal total steps")]  # fmt: skip
    found = claims.per_scale(claims.claims(dict(psnr=pd.DataFrame(rows), similarity=cka(0.9, 0.5)), {}))
    assert list(found.columns) == ["claim", "about", "x2", "x3", "x4", "verdict"]
    plus, plain = found.to_dict("records")
    assert plus["about"] == "e, equal steps per model"
    assert [plus[f"x{s}"] for s in (2, 3, 4)] == ["-0.20 dB", "+0.20 dB", "+0.30 dB"]
    assert plus["verdict"] == "differs (x2), reproduced (x3, x4)"
    assert (plain["x4"], plain["verdict"]) == ("", "reproduced")
    assert claims.per_scale(claims.claims({}, {})).empty


def test_tables_of_a_profile_are_read_where_they_are():
    path = results.root("smoke") / "tables" / "fixed_vs_multi.csv"
    results.write_table(pd.DataFrame([difference(0.2, 0.1, 0.3)]), path)
    results.write_table(pd.DataFrame(), results.root("smoke") / "tables" / "effects.csv")
    table = claims.claims(claims.read("smoke"), runs_of("smoke"))
    assert table.verdict.value_counts()["reproduced"] == 1
    assert (table.verdict != "not run").sum() == 1


def test_the_figure_shows_what_was_run_and_lists_the_rest():
    table = claims.claims(dict(psnr=pd.DataFrame([difference(0.2, 0.1, 0.3)]), similarity=cka(0.9, 0.5)), {})
    figure = figures.claims(table)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert [axis.get_xlabel() for axis in figure.axes] == ["dB (linear to 0.1, logarithmic beyond)", "CKA"]
    assert figure.get_supxlabel().startswith("not run:")
    with pytest.raises(InputError, match="no claim of the table was run"):
        figures.claims(claims.claims({}, {}))


def test_missing_tables_are_not_run_and_damaged_ones_are_named(results_root):
    """A table without rows may be an empty line; an empty file is no table."""
    assert all(table.empty for table in claims.read("smoke").values())
    path = results_root / "smoke" / "tables" / "effects.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame([]).to_csv(path, index=False)
    assert claims.read("smoke")["ingredients"].empty
    path.write_text("")
    with pytest.raises(InputError, match=r"effects\.csv"):
        claims.read("smoke")
