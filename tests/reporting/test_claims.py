"""Verdicts on tables whose answers are planted."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from igconv import InputError
from igconv.reporting import claims, figures, findings, frequencies
from igconv.reporting.verdicts import compared, together, worded
from igconv.study import results
from igconv.study.runs import runs_of


def difference(value, low, high, model="IGConv+", scale=2, seeds=3, **changes):
    """A line of a table of differences whose standard error is a quarter of the interval, with many degrees."""
    return dict(encoder="e", model=model, baseline="SPConv", budget="equal steps per model", scale=scale,
                dataset="all", difference_db=value,
                low_db=low, high_db=high, error_db=(high - low) / 4, degrees=100,
                images=5, seeds=seeds) | changes  # fmt: skip


def verdicts(lines: list[dict]) -> list[str]:
    return [line["verdict"] for line in lines]


def test_no_table_gives_one_line_per_claim_that_says_not_run():
    table = claims.claims({}, {})
    assert set(table.verdict) == {"not run"}
    assert table.value.isna().all()
    assert table.claim.ne("").all()
    assert not table.duplicated(["claim", "about"]).any()


@pytest.mark.parametrize(
    ("value", "error", "degrees", "target", "verdict"),
    [(0.2, 0.05, 10, 0.0, "ahead"), (-0.2, 0.05, 10, 0.0, "behind"), (0.1, 0.06, 100, 0.0, "undecided"),
     (0.2, 0.06, 2, 0.0, "undecided"), (0.01, 0.01, 100, 0.0, "level"), (0.03, 0.01, 100, 0.0, "level"),
     (0.03, 0.02, 100, 0.0, "undecided"), (0.05, 0.01, 100, 0.0, "ahead"), (np.nan, np.nan, np.nan, 0.0, "not run"),
     (0.2, np.nan, np.nan, 0.0, "undecided"), (0.0, 0.02, 100, -0.05, "not worse"),
     (-0.02, 0.03, 100, -0.05, "undecided"), (-0.2, 0.03, 100, -0.05, "behind")],
)  # fmt: skip
def test_a_difference_is_tested_and_equality_from_both_sides(value, error, degrees, target, verdict):
    assert compared([(value, error, degrees, target)])[0][0] == verdict


def test_what_decides_alone_may_not_among_three():
    """p = 0.03 each: Holm's smallest p counts three times."""
    alone = (0.2, 0.2 / 2.2, 100, 0.0)
    assert compared([alone])[0][0] == "ahead"
    assert [verdict for verdict, _ in compared([alone] * 3)] == ["undecided"] * 3


def test_nothing_differs_from_the_paper_at_a_reduced_budget():
    one = dict(claim="PSNR equal", source="the paper's words", verdict="behind")
    words = {budget: worded(one | dict(budget=budget))["verdict"] for budget in ("the paper's", "reduced, 5 steps")}
    assert words == {"the paper's": "differs", "reduced, 5 steps": "behind"}
    assert worded(one | dict(budget="the paper's", verdict="level"))["verdict"] == "reproduced"
    assert worded(one | dict(budget="the paper's", verdict="ahead"))["verdict"] == "not worse"
    assert worded(one | dict(budget="reduced, 5 steps", verdict="differs"))["verdict"] == "not seen"
    assert worded(one | dict(budget="the paper's", source="our own question"))["verdict"] == "behind"


@pytest.mark.parametrize(("found", "verdict"), [
    (["ahead", "behind"], "partly"), (["behind", "undecided"], "partly worse"), (["differs", "not run"], "differs"),
    (["undecided", "level"], "partly"), (["behind", "behind"], "behind"), ([], "not run"),
])  # fmt: skip
def test_several_cases_together(found, verdict):
    assert together(found) == verdict


def test_every_line_says_whose_words_it_is_and_on_what_budget():
    lines = [difference(0.2, 0.1, 0.3, encoder="edsr_tiny"),
             difference(0.2, 0.1, 0.3, encoder="edsr_tiny", budget="equal total steps")]  # fmt: skip
    table = claims.claims(dict(psnr=pd.DataFrame(lines)), runs_of("cpu"))
    made = table[table.verdict == "ahead"]
    assert list(made.source) == ["the paper's words", "our own question"]
    assert set(made.budget) == {"reduced, 2,000 steps"}
    assert table.source.ne("").all()
    assert not set(table.verdict) & {"differs", "reproduced"}
    assert list(claims.per_scale(table).columns) == ["claim", "about", "budget", "verdict"]  # one scale alone
    full = claims.claims(dict(psnr=pd.DataFrame([difference(0.2, 0.1, 0.3, encoder="edsr")])), runs_of("paper"))
    assert next(iter(full.verdict[full.budget == "the paper's"])) == "reproduced"


def test_psnr_is_a_mean_over_sets_beside_that_over_images_and_over_both_baselines():
    lines = [difference(1, 0.9, 1.1), difference(-1, -1.1, -0.9, dataset="Set5"),
             difference(0.5, 0.4, 0.6, dataset="mean of sets")]  # fmt: skip
    plus = [one | dict(baseline="SPConv+", encoder="edsr_tiny") for one in lines]
    sets, over_plus = claims.psnr(pd.DataFrame([*lines, *plus]))
    assert (sets["verdict"], sets["value"]) == ("ahead", 0.5)
    assert "over images +1.000 dB" in sets["measure"]
    assert over_plus["about"] == "edsr_tiny over SPConv+ (the paper's baseline), equal steps per model"


def test_each_budget_is_a_claim_of_its_own():
    lines = [difference(-0.2, -0.3, -0.1), difference(0.2, 0.1, 0.3, budget="equal total steps")]
    found = claims.psnr(pd.DataFrame(lines))
    assert [line["about"] for line in found] == ["e over SPConv, equal steps per model",
                                                   "e over SPConv, equal total steps"]  # fmt: skip
    assert verdicts(found) == ["behind", "ahead"]


def test_planned_scales_of_which_none_was_run_are_one_line():
    lines = [difference(np.nan, np.nan, np.nan, scale=s, seeds=0, images=0) for s in (2, 3, 4)]
    (line,) = claims.psnr(pd.DataFrame(lines))
    assert (line["verdict"], line["scale"]) == ("not run", "x2, x3, x4")
    lines[0] = difference(0.2, 0.1, 0.3)
    assert verdicts(claims.psnr(pd.DataFrame(lines))) == ["ahead", "not run", "not run"]


def test_an_ingredient_helps_where_the_run_with_it_is_better():
    """One sign everywhere. Pairs in between, of two runs that both are no model of the paper, make no claim."""
    rows = [difference(0.2, 0.1, 0.3, ingredient="IGSample", within="IGConv+"),
            difference(-0.2, -0.3, -0.1, ingredient="IGSample", within="SPConv"),
            difference(-0.9, -1.0, -0.8, ingredient="IGSample", within="")]  # fmt: skip
    completing, added = claims.ingredients(pd.DataFrame(rows))
    assert [line["about"] for line in (completing, added)] == ["e, IGConv+ with it minus without",
                                                               "e, SPConv with it minus without"]  # fmt: skip
    assert (completing["verdict"], completing["value"]) == ("ahead", 0.2)
    assert completing["low"] == pytest.approx(0.1, abs=1e-3)
    assert (added["verdict"], added["value"], added["source"]) == ("behind", -0.2, "our own question")


def test_what_is_true_by_construction_is_a_fact():
    """Of the runs that stand for their models: an ablation of equal steps or fewer steps are another thing."""
    fixed = dict(encoder="edsr_tiny", upsampler="spconv", variant="", images=300, training_seconds=90,
                 stored_parameters=30)  # fmt: skip
    one = fixed | dict(upsampler="igconv", images=100, training_seconds=60, stored_parameters=40)
    others = [one | dict(variant="fft", images=1), fixed | dict(variant="third", images=1)]
    lines = claims.training(pd.DataFrame([fixed, one, *others]), runs_of("cpu"))
    assert set(verdicts(lines)) == {"fact"}
    assert [line["value"] for line in lines[:2]] == pytest.approx([1 / 3, 4 / 3])
    times = {line["claim"]: (line["low"], line["value"], line["high"]) for line in lines[2:]}
    assert set(times) == {"IGConv: time of training", "IGConv+: time of training"}
    assert all(1 / 3 < low < value < high < 1 for low, value, high in times.values())
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
    values = {"across scales": across, "one untrained": untrained, "shuffled images": shuffled, "both untrained": 1.0}
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


@pytest.mark.parametrize(("rises", "verdict"), [((1, 1), "reproduced"), ((1, -1), "partly"), ((-1, -1), "differs")])
def test_more_alike_in_deeper_layers_has_a_line_of_its_own(rises, verdict):
    rows = [dict(setting="s", family="f", comparison="across scales", model_a="a", model_b=b, index_a=i, index_b=j,
                 cka=0.5 + 0.1 * i * rise if i == j else 9.0)
            for b, rise in zip("bc", rises, strict=True) for i in range(4) for j in range(4)]  # fmt: skip
    (line,) = findings.deeper(pd.DataFrame(rows))
    assert (line["verdict"], line["value"]) == (verdict, pytest.approx(sum(rises) / 2))
    assert verdicts(findings.deeper(pd.DataFrame())) == ["not run"]


@pytest.mark.parametrize(
    ("loss", "verdict"), [(0.2, "not worse"), (0.0, "undecided"), (-0.2, "partly"), (-1.0, "behind")]
)
def test_what_another_encoder_loses(loss, verdict):
    rows = [("a", 2, 2, "refitted", 36.0, 0.0), ("b", 4, 4, "refitted", 32.0, 0.0), ("", "", 4, "bicubic", 30.0, -2.0),
            ("a", 2, 4, "refitted", 32 + loss, loss), ("b", 4, 4, "as trained", 32.1, 0.1)]  # fmt: skip
    names = ["encoder", "encoder_scale", "target_scale", "head", "psnr_y_db", "difference_db"]
    table = pd.DataFrame(rows, columns=names).assign(family="f", images=5)
    table = table.assign(low_db=table.difference_db - 0.01, high_db=table.difference_db + 0.01)
    (line,) = findings.functional(table)
    assert (line["scale"], line["verdict"]) == ("x4", verdict)
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


def test_the_ceiling_of_the_four_functions_is_named():
    rows = [dict(family="f", scale_a=2, scale_b=3, compared="output", constant="kept", alignment=name, value=value,
                 null_q95=0.3, p_value=0.01)
            for name, value in (("fitted", 0.91), ("no map: true kernel on the basis", 0.93))]  # fmt: skip
    (line,) = findings.aligned(pd.DataFrame(rows))
    assert line["value"] == 0.91
    assert line["measure"].endswith("the best kernel of x2's four functions has 0.93")


@pytest.mark.parametrize(("trained", "verdict"), [((0.7, 0.6), "reproduced"), ((0.7, 0.1), "partly"),
                                                  ((0.1, 0.05), "differs")])  # fmt: skip
def test_what_encoders_share_is_judged_beyond_the_image(trained, verdict):
    """However much is explained in all: an untrained encoder explains 0.9 of it here."""
    rows = [dict(family="f", scale_b=scale, predictor=name, explained=share, beyond_7x7=beyond)
            for scale, value in zip((3, 4), trained, strict=True)
            for name, share, beyond in (("the other encoder", 0.95, value), ("untrained encoder", 0.9, 0.2),
                                        ("3 x 3 pixels", 0.88, None))]  # fmt: skip
    (line,) = findings.explained(pd.DataFrame(rows))
    assert (line["verdict"], line["value"]) == (verdict, pytest.approx(sum(trained) / 2))
    assert verdicts(findings.explained(pd.DataFrame())) == ["not run"]


def test_what_a_predicted_kernel_loses():
    rows = [("true", 32.0, 0.0), (findings.REFITTED, 31.8, -0.2), ("predicted", 20.0, -12.0), ("bicubic", 30.0, -2.0)]
    table = pd.DataFrame(rows, columns=["head", "psnr_y_db", "difference_db"]).assign(family="f", scale_b=4, images=5)
    (line,) = findings.predicted(table.assign(low_db=table.difference_db - 0.01, high_db=table.difference_db + 0.01))
    assert (line["verdict"], line["value"]) == ("partly", -0.2)
    assert "90% of the native gain" in line["measure"]


def test_low_frequencies_first():
    def order(values):
        return pd.DataFrame(dict(run="r", upsampler="igconv", variant="", seed=range(len(values)), scale=2,
                                 measure="energy", spearman=values))  # fmt: skip

    assert verdicts(frequencies.low_first(order([0.9, 0.8, 1.0]))) == ["reproduced"]
    assert verdicts(frequencies.low_first(order([-0.9, -0.8, -1.0]))) == ["differs"]
    assert verdicts(frequencies.low_first(order([0.9, -0.9, 0.1]))) == ["undecided"]
    assert verdicts(frequencies.low_first(order([np.nan, np.nan]))) == ["undecided"]  # run, but no band was learned
    assert verdicts(frequencies.low_first(order([0.9, 0.8, 1.0]).assign(seed=0))) == ["undecided"]  # one seed, one case


@pytest.mark.parametrize(("effect", "verdict"), [(-0.3, "reproduced"), (0.3, "differs"), (0.0, "undecided")])
@pytest.mark.parametrize(("profile", "with_it", "without", "other", "about"), [
    ("cpu", "edsr_tiny-igconv+-s0", "edsr_tiny-igconv+-no_fft-s0", "edsr_tiny-igconv+-spconv_init-s0",
     "IGConv+ minus IGConv+ − frequency loss"),
    ("cpu", "edsr_tiny-igconv-fft-s0", "edsr_tiny-igconv-s0", "edsr_tiny-igconv-igsample-s0",
     "IGConv + frequency loss minus IGConv"),
    ("benchmark", "edsr_baseline-spconv-fft-x2-s0", "edsr_baseline-spconv-30k-x2-s0", "edsr_baseline-spconv-x2-s0",
     "SPConv + frequency loss minus SPConv (30k)"),
])  # fmt: skip
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_frequency_loss_is_judged_by_the_high_bands(
    effect, verdict, profile, with_it, without, other, about, seeds
):
    """An effect on low bands, or on runs that differ in something else, changes nothing. One seed decides nothing."""
    rng, rows, runs = np.random.default_rng(0), [], runs_of(profile)
    for name in (with_it, without, other):
        for scale, side, i, seed in product((2, 4), (0, 1), range(8), range(seeds)):
            shift = {with_it: effect, other: 7.0}.get(name, 0.0) if side else float(len(name))
            rows.append(dict(run=name, upsampler=runs[name].upsampler, variant=runs[name].variant, seed=seed,
                             dataset="d", image=str(i), scale=scale, band_low_cycles_per_px=side * 0.5 / scale,
                             band_high_cycles_per_px=(side + 1) * 0.5 / scale, hr_energy=1.0,
                             error_energy=10 ** ((-3 + rng.normal(0, 0.01) + shift) / 10)))  # fmt: skip
    (line,) = frequencies.frequency_loss(pd.DataFrame(rows), runs)
    assert line["verdict"] == (verdict if seeds > 1 else "undecided")
    assert line["about"] == about
    assert line["value"] == pytest.approx(effect, abs=0.02)


def test_a_bias_needs_several_seeds():
    def equal(values, seeds):
        return pd.DataFrame(dict(run="r", upsampler="igconv", variant="", seed=seeds, scale=2, minus="SPConv",
                                 above_share=0.3, above_share_minus=0.2, difference=values))  # fmt: skip

    assert verdicts(frequencies.biased(equal([0.1, 0.11, 0.09], range(3)))) == ["reproduced"]
    assert verdicts(frequencies.biased(equal([-0.1, -0.11, -0.09], range(3)))) == ["differs"]
    (line,) = frequencies.biased(equal([0.1, 0.11, 0.09], [0, 0, 0]))  # three scales of one training
    assert (line["verdict"], line["value"]) == ("undecided", pytest.approx(0.1))
    assert line["measure"].endswith("1 training(s), 1 seed")
    assert verdicts(frequencies.biased(equal([0.1], [0]).assign(minus="IGConv"))) == ["not run"]


def test_unseen_scales_are_judged_together():
    rows = [dict(encoder="e", upsampler="igconv", variant="", method="direct", max_scale=clamp, scale=scale,
                 against="bicubic", difference_db=value, low_db=value - 0.01, high_db=value + 0.01, images=5, seeds=1)
            for clamp, scale, value in ((4, 4, -9.0), (4, 5, 0.3), (4, 8, -0.3), (8, 5, -9.0))]  # fmt: skip
    (line,) = findings.unseen(pd.DataFrame(rows))
    assert (line["verdict"], line["scale"]) == ("partly", "x5, x8")
    assert line["measure"].endswith("better at x5; worse at x8")
    assert ", 5 images, " in line["measure"]
    rows[1]["images"] = 3
    (line,) = findings.unseen(pd.DataFrame(rows))
    assert ", 3 to 5 images, " in line["measure"]
    assert verdicts(findings.unseen(pd.DataFrame(rows).assign(scale=4))) == ["not run"]


def test_claims_judged_scale_by_scale_fit_a_line():
    rows = [difference(-0.4, -0.5, -0.3), difference(0.4, 0.3, 0.5, scale=3), difference(0.5, 0.4, 0.6, scale=4),
            difference(0.3, 0.29, 0.4, scale=2, model="IGConv"), difference(0.3, 0.29, 0.4, scale=3, model="IGConv"),
            difference(0.2, 0.1, 0.3, budget="equal total steps"),
            difference(0.2, 0.1, 0.3, budget="equal total steps", scale=3)]  # fmt: skip
    found = claims.per_scale(claims.claims(dict(psnr=pd.DataFrame(rows), similarity=cka(0.9, 0.5)), runs_of("cpu")))
    assert list(found.columns) == ["claim", "about", "budget", "x2", "x3", "x4", "verdict"]
    plus, plain = found.to_dict("records")  # equal total steps is no comparison of the paper's
    assert (plus["about"], plus["budget"]) == ("e over SPConv, equal steps per model", "reduced, 2,000 steps")
    assert [plus[f"x{s}"] for s in (2, 3, 4)] == ["-0.40 ± 0.10 dB", "+0.40 ± 0.10 dB", "+0.50 ± 0.10 dB"]
    assert plus["verdict"] == "behind (x2), ahead (x3, x4)"
    assert (plain["x4"], plain["verdict"]) == ("", "ahead")
    assert claims.per_scale(claims.claims({}, {})).empty


def test_tables_of_a_profile_are_read_where_they_are():
    path = results.root("smoke") / "tables" / "fixed_vs_multi.csv"
    results.write_table(pd.DataFrame([difference(0.2, 0.1, 0.3)]), path)
    results.write_table(pd.DataFrame(), results.root("smoke") / "tables" / "effects.csv")
    table = claims.claims(claims.read("smoke"), runs_of("smoke"))
    assert table.verdict.value_counts()["ahead"] == 1
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


def test_the_figure_has_a_row_for_every_verdict():
    """Of the committed table, whatever the units."""
    path = results.PROJECT / "results" / "cpu" / "tables" / "claims.csv"
    table = results.read_table(path).fillna({"about": "", "scale": ""})
    judged = table[~table.verdict.isin(["not run", "fact"])]
    drawn = [label.get_text() for axis in figures.claims(table).axes for label in axis.get_yticklabels()]
    assert len(drawn) == len(judged)
    assert {text.split(" · ")[0] for text in drawn} == set(judged.claim)
