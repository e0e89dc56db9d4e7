"""Tables from rows with known answers."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from igconv.evaluation import statistics
from igconv.reporting import tables
from igconv.study.labels import run_label
from igconv.study.runs import PROFILES, get_run, runs_of


def rows(values: dict[str, list[float]], scale: int = 2, seed=0) -> pd.DataFrame:
    """Evaluation rows of one data set from run -> PSNR of its images."""
    return pd.DataFrame([
        dict(run=run, upsampler=run, dataset="D", image=f"i{i}", scale=scale, seed=seed, psnr_y_db=v, ssim_y=v / 100)
        for run, psnrs in values.items() for i, v in enumerate(psnrs)
    ])  # fmt: skip


def test_paired_difference_is_the_mean_of_pairs_with_an_interval():
    table = rows({"a": [30.3, 31.1, 29.4], "b": [30.0, 31.0, 29.0]})
    found = statistics.paired_difference(table, ["a"], ["b"], 2)
    assert found["difference_db"] == pytest.approx(0.8 / 3)
    assert (found["images"], found["seeds"]) == (3, 1)
    assert 0.1 - 1e-9 <= found["low_db"] < found["difference_db"] < found["high_db"] <= 0.4 + 1e-9


def test_paired_difference_pairs_by_seed_and_scale():
    table = pd.concat([rows({"a": [31.0], "b": [30.0]}, seed=0), rows({"a": [29.0]}, seed=1)])
    assert statistics.paired_difference(table, ["a"], ["b"], 2)["difference_db"] == 1.0
    nothing = statistics.paired_difference(table, ["a"], ["b"], 3)
    assert nothing["images"] == 0
    assert np.isnan(nothing["difference_db"])


def test_summary_has_the_gain_over_bicubic():
    summary = tables.summary(rows({"bicubic": [30.0, 32.0], "a": [31.0, 34.0]}))
    assert summary.set_index("run").gain_db.to_dict() == {"bicubic": 0.0, "a": 1.5}


def test_wide_has_a_line_per_model_with_fixed_scale_networks_in_one():
    """Three networks of one scale each are one line, another seed is another; what was not trained stays empty."""
    kinds = [
        ("bicubic", "bicubic", "", np.nan, np.nan, (2, 3)),
        ("edsr", "spconv", "", "2", 0, (2,)),
        ("edsr", "spconv", "", "3", 0, (3,)),
        ("edsr", "spconv", "", "3", 1, (3,)),
        ("edsr", "igconv+", "no_fft", "2-3", 0, (2, 3)),
    ]
    parts = [
        rows({f"{encoder}-{upsampler}-{scales}-s{seed}": [30.0 + scale, 32.0 + scale]}, scale, seed).assign(
            encoder=None if upsampler == "bicubic" else encoder, upsampler=upsampler, variant=variant or np.nan,
            train_scales=scales)
        for encoder, upsampler, variant, scales, seed, trained in kinds for scale in trained
    ]  # fmt: skip
    table = tables.wide(pd.concat(parts), "psnr_y_db")
    as_read = pd.read_csv(io.StringIO(pd.concat(parts).to_csv(index=False)), keep_default_na=False)
    pd.testing.assert_frame_equal(tables.wide(as_read.assign(seed=pd.to_numeric(as_read.seed)), "psnr_y_db"), table)
    assert list(table.columns) == [("D", 2), ("D", 3)]
    assert list(table.index) == [
        ("", "bicubic", "", ""),
        ("edsr", "SPConv", "one per scale", "0"),
        ("edsr", "SPConv", "one per scale", "1"),
        ("edsr", run_label("igconv+", "no_fft"), "one for all", "0"),
    ]
    assert table.loc[("edsr", "SPConv", "one per scale", "0")].tolist() == [33.0, 34.0]
    assert table.loc[("edsr", "SPConv", "one per scale", "1")].isna().tolist() == [True, False]


def test_main_table_says_not_run_and_joins_fixed_scales():
    runs = runs_of("smoke")
    empty = pd.DataFrame(columns=["run", "dataset", "scale", "psnr_y_db", "ssim_y"])
    table = tables.main(empty, runs).set_index("model")
    assert table.loc["SPConv", "networks"] == "one per scale"
    assert table.loc["SPConv", "sample_test x3"] == "not run"
    assert table.loc["SPConv+", "sample_test x3"] == "-"  # planned at x2 only
    assert len(table) == len(runs) - 2  # three SPConv networks are one line
    some = rows({"edsr_tiny-spconv-x2-s0": [30.0, 31.0]}).assign(dataset="sample_test")
    assert tables.main(some, runs).set_index("model").loc["SPConv", "sample_test x2"] == "30.50 / 0.3050"


def test_an_ingredient_of_igconv_plus_is_judged_by_the_run_without_it():
    """With it minus without it: above zero it helps, wherever it stands."""
    runs = runs_of("sample")
    table = rows({"edsr_tiny-igconv+-s0": [30.0, 31.0], "edsr_tiny-igconv+-no_fft-s0": [29.0, 30.5]})
    found = tables.effects(table, runs)
    assert set(found.ingredient) == {"frequency loss", "IGSample", "dihedral averaging"}
    line = found[(found.ingredient == "frequency loss") & (found.scale == 2)].iloc[0]
    assert line.difference_db == pytest.approx(0.75)
    assert (line.model, line.beside, line.within) == ("IGConv", "IGSample, dihedral averaging", "IGConv+")
    assert found[found.ingredient == "IGSample"].images.eq(0).all()


def test_every_profile_with_ablations_has_all_their_pairs():
    for profile in ("sample", "benchmark"):
        runs = runs_of(profile)
        table = pd.concat([rows({name: [30.0] for name in runs if runs[name].seed == s}, seed=s) for s in (0, 1, 2)])
        found = tables.effects(table, runs).query("scale == 2")
        assert len(found)
        assert (found.seeds == (1 if profile == "sample" else 3)).all()


def benchmark_rows(special: dict[str, float]) -> pd.DataFrame:
    """A row per run of the benchmark study, 30 dB, or as given for names that contain a word of ``special``."""
    runs = runs_of("benchmark")
    values = {name: next((db for word, db in special.items() if word in name), 30.0) for name in runs}
    return pd.concat([rows({n: [v] for n, v in values.items() if runs[n].seed == s}, seed=s) for s in (0, 1, 2)])


def test_blocks_c_and_d_stay_out_of_the_comparisons():
    """Three heads, LIIF and models from published weights count neither as baseline nor as model nor as reference."""
    runs = runs_of("benchmark")
    plain = benchmark_rows({})
    strange = benchmark_rows({"heads": 10.0, "liif": 10.0, "from_x2": 10.0})
    for compare in (tables.fixed_vs_multi, tables.effects):
        pd.testing.assert_frame_equal(compare(strange, runs), compare(plain, runs))
    found = tables.fixed_vs_multi(plain, runs)
    scales = found.groupby(["encoder", "model", "baseline", "budget"]).scale.apply(list)
    assert scales.map(lambda s: s == [2, 3, 4]).all()
    assert set(found.encoder) == {"edsr_baseline", "smfanet_plus"}
    assert len(found) == 2 * 2 * 2 * 2 * 3 + 4 * 3, "and four models with the frequency loss"


def test_an_ablation_has_its_own_start():
    """A run of equal steps from other weights, or with a frozen encoder, is no reference."""
    plain = get_run("benchmark", "edsr_baseline-igconv-fft-s0")
    without = replace(plain, variant="mine", frequency_weight=0.0)
    runs = [plain, without, replace(without, variant="from", start_from="w"),
            replace(without, variant="frozen", freeze_encoder=True)]  # fmt: skip
    changed, reference, *others = (run.name for run in runs)
    table = rows({changed: [31.0], reference: [30.0], **{name: [10.0] for name in others}})
    (line,) = tables.effects(table, {run.name: run for run in runs}).query("scale == 2").itertuples()
    assert line.difference_db == 1.0


LABELS = {  # of every kind of run in a profile, as people read them
    ("igconv", ""): "IGConv", ("igconv", "30k"): "IGConv (30k)",
    ("igconv", "dihedral"): "IGConv + dihedral averaging", ("igconv", "fft"): "IGConv + frequency loss",
    ("igconv", "from_x2_constant"): "IGConv (encoder and constant from x2)",
    ("igconv", "from_x2_constant_frozen"): "IGConv (encoder and constant from x2, frozen)",
    ("igconv", "from_x2_frozen"): "IGConv (encoder from x2, frozen)",
    ("igconv", "from_x2_frozen_spconv_init"): "IGConv (encoder from x2, frozen, SPConv's start)",
    ("igconv", "igsample"): "IGConv + IGSample", ("igconv", "spconv_init"): "IGConv (SPConv's start)",
    ("igconv+", ""): "IGConv+", ("igconv+", "30k"): "IGConv+ (30k)", ("igconv+", "finetune"): "IGConv+ (finetune)",
    ("igconv+", "from_x2_constant"): "IGConv+ (encoder and constant from x2)",
    ("igconv+", "from_x2_constant_frozen"): "IGConv+ (encoder and constant from x2, frozen)",
    ("igconv+", "from_x2_frozen"): "IGConv+ (encoder from x2, frozen)",
    ("igconv+", "from_x2_tuned"): "IGConv+ (encoder from x2, frozen at first)",
    ("igconv+", "no_dihedral"): "IGConv+ − dihedral averaging", ("igconv+", "no_fft"): "IGConv+ − frequency loss",
    ("igconv+", "no_igsample"): "IGConv+ − IGSample", ("igconv+", "pretrain"): "IGConv+ (pretrain)",
    ("igconv+", "spconv_init"): "IGConv+ (SPConv's start)", ("liif", "30k"): "LIIF (30k)",
    ("spconv", ""): "SPConv", ("spconv", "30k"): "SPConv (30k)", ("spconv", "fft"): "SPConv + frequency loss",
    ("spconv", "heads"): "SPConv (one encoder, three heads)",
    ("spconv", "heads_30k"): "SPConv (one encoder, three heads, 30k)",
    ("igconv", "converted"): "IGConv (converted)",
    ("igconv", "converted_tuned"): "IGConv (converted, trained on)",
    ("igconv", "eightfold"): "IGConv (eight times the steps)",
    ("igconv", "third"): "IGConv (a third of the steps)",
    ("igconv+", "converted"): "IGConv+ (converted)",
    ("igconv+", "converted_tuned"): "IGConv+ (converted, trained on)",
    ("igconv+", "eightfold"): "IGConv+ (eight times the steps)",
    ("igconv+", "third"): "IGConv+ (a third of the steps)",
    ("spconv", "converted"): "SPConv (converted)",
    ("spconv", "converted_tuned"): "SPConv (converted, trained on)",
    ("spconv", "eightfold"): "SPConv (eight times the steps)",
    ("spconv", "heads_converted"): "SPConv (one encoder, three heads, converted)",
    ("spconv", "heads_converted_tuned"): "SPConv (one encoder, three heads, converted, trained on)",
    ("spconv", "heads_third"): "SPConv (one encoder, three heads, a third of the steps)",
    ("spconv", "heads_eightfold"): "SPConv (one encoder, three heads, eight times the steps)",
    ("spconv", "third"): "SPConv (a third of the steps)", ("spconv+", ""): "SPConv+",
    ("spconv+", "finetune"): "SPConv+ (finetune)", ("spconv+", "pretrain"): "SPConv+ (pretrain)",
    ("spconv+", "third"): "SPConv+ (a third of the steps)",
}  # fmt: skip


def test_labels_of_every_run_are_distinct_and_for_people():
    runs = [run for profile in PROFILES for run in runs_of(profile).values()]
    assert {(run.upsampler, run.variant): run.label for run in runs} == LABELS
    assert len(set(LABELS.values())) == len(LABELS)
    assert run_label("spconv", "SMFANet+ DF2K") == "SPConv (SMFANet+ DF2K)", "published models have a name of their own"


def test_main_table_has_lines_for_blocks_c_and_d():
    """Multi-scale in one line each, planned for every cell."""
    table = tables.main(benchmark_rows({})[:0], runs_of("benchmark"))
    for encoder, model in (("edsr_baseline", "LIIF (30k)"), ("edsr_baseline", "SPConv (one encoder, three heads, 30k)"),
                           ("smfanet_plus", "IGConv (encoder and constant from x2)")):  # fmt: skip
        (line,) = table[(table.encoder == encoder) & (table.model == model)].to_dict("records")
        assert line["networks"] == "one for all"
        assert {value for key, value in line.items() if " x" in key} == {"not run"}


def test_paper_gains_equal_those_of_the_published_tables():
    """EDSR, mean of five sets: IGConv+ over SPConv+ is +.082, +.144, +.182 dB (FACTS, section 3)."""
    own = dict(encoder="e", baseline="SPConv", model="IGConv", scale=2)
    differences = [
        own | dict(budget=b, difference_db=db) for b, db in zip(tables.BUDGETS, (1.0, 5.0, 9.0), strict=True)
    ]
    table = tables.beside_paper(pd.DataFrame(differences))
    line = table[(table.source == "paper") & (table.encoder == "EDSR") & (table.model == "IGConv+")].iloc[0]
    assert [line[f"x{s} difference_db"] for s in (2, 3, 4)] == pytest.approx([0.082, 0.144, 0.182], abs=1e-6)
    assert line.baseline == "SPConv+"
    assert table[table.source == "this study"]["x2 difference_db"].tolist() == [1.0], "of equal steps alone"


def test_fixed_scale_models_of_a_third_of_the_steps_are_compared_at_equal_total_steps():
    runs = runs_of("benchmark")
    table = benchmark_rows({"-spconv-x": 31.0, "-spconv-third-x": 29.0})
    found = tables.fixed_vs_multi(table, runs).query("encoder == 'edsr_baseline' and baseline == 'SPConv'")
    means = found.groupby("budget").difference_db.mean()
    assert means.to_dict() == pytest.approx(dict(zip(tables.BUDGETS, (-1.0, 1.0, 0.0), strict=True)))


def test_models_with_the_frequency_loss_are_compared_at_equal_steps():
    """In the benchmark both have 30,000 steps, in the profile cpu the steps of the main runs. Plain IGConv has none."""
    for profile, other in (("benchmark", "igconv+-s"), ("cpu", "third")):
        runs = runs_of(profile)
        special = {other: 10.0, "spconv-fft": 29.0, "igconv+-30k-s": 31.0, "edsr_tiny-igconv+-s": 31.0}
        values = {name: next((db for word, db in special.items() if word in name), 30.0) for name in runs}
        first = {name: [db] for name, db in values.items() if runs[name].seed == 0}
        table = pd.concat([rows(first, scale) for scale in (2, 3, 4)])
        found = tables.fixed_vs_multi(table, runs).query("budget == 'equal steps and frequency loss'")
        assert set(found.model) == {"IGConv + frequency loss", "IGConv+", "IGConv+ − IGSample",
                                    "IGConv+ − dihedral averaging"}  # fmt: skip
        assert set(found.baseline) == {"SPConv"}
        found = found.query("model == 'IGConv+'")
        assert found.scale.tolist() == [2, 3, 4]
        assert found.difference_db.tolist() == [2.0, 2.0, 2.0]


def test_an_ingredient_of_fixed_scale_models_is_compared_scale_by_scale():
    runs = runs_of("cpu")
    values = {name: [30.0 + run.scales[0] * bool(run.frequency_weight)] for name, run in runs.items()}
    table = pd.concat([rows(values, scale) for scale in (2, 3, 4)])
    found = tables.effects(table, runs).query("model == 'SPConv'").set_index("scale")
    assert found.difference_db.to_dict() == {2: 2.0, 3: 3.0, 4: 4.0}
    assert set(found.within) == {"SPConv"}


def test_an_ingredient_is_judged_beside_every_set_of_others():
    """Three ingredients, four sets of others each; what two do together is seen."""
    runs = runs_of("cpu")
    values = {name: [30.0 + 0.1 * run.dihedral + 0.2 * run.igsample - 0.5 * (run.igsample and run.dihedral)]
              for name, run in runs.items()}  # fmt: skip
    found = tables.effects(rows(values), runs).query("scale == 2 and images > 0 and model == 'IGConv'")
    assert len(found) == 12, "pairs with SPConv's start and with a frozen encoder differ in more than one"
    assert len(tables.ablation(found)) == 6, "each alone, and each as the last of three"
    found = found.set_index(["ingredient", "beside"])
    assert found.difference_db["IGSample", "nothing"] == pytest.approx(0.2)
    assert found.difference_db["IGSample", "frequency loss, dihedral averaging"] == pytest.approx(-0.3)
    assert found.difference_db["dihedral averaging", "frequency loss"] == pytest.approx(0.1)
    assert found.difference_db["frequency loss", "IGSample"] == 0.0


def test_rows_of_main_runs():
    """Neither ablations nor other budgets, starts or encoders."""
    kinds = [("edsr_tiny", "spconv", ""), ("edsr_tiny", "spconv", "third"), ("edsr_tiny", "igconv", "fft"),
             ("other", "igconv", ""), ("edsr_tiny", "igconv", ""), ("hat", "igconv+", "finetune")]  # fmt: skip
    table = pd.DataFrame(kinds, columns=["encoder", "upsampler", "variant"])
    assert tables.of_main(table, runs_of("cpu").values()).index.tolist() == [0, 4]
    assert tables.of_main(table, runs_of("paper").values()).empty, "of a fine-tuning the budget is not all"


def test_alternatives_stand_beside_models_of_equal_steps():
    """Block C of the benchmark: LIIF and three heads beside the 30,000-step references, with what they cost."""
    costs = pd.DataFrame([
        dict(model=model, form=form, lr_width_px=width, lr_height_px=width, latency_ms=ms, parameters=7,
             peak_memory_mib=1.0)
        for model, form, width, ms in (("IGConv", "as trained", 64, 9.0), ("IGConv", "instantiated", 64, 5.0),
                                       ("IGConv", "instantiated", 32, 1.0), ("LIIF (30k)", "as trained", 64, 80.0))
    ])  # fmt: skip
    found = tables.alternatives(benchmark_rows({"liif": 28.0}), runs_of("benchmark"), costs).set_index("model")
    assert set(found.index) == {"LIIF (30k)", "SPConv (one encoder, three heads, 30k)", "IGConv (30k)", "IGConv+ (30k)",
                                "SPConv (30k)"}  # fmt: skip
    assert set(found.steps) == {30_000}
    assert found.networks["SPConv (30k)"] == "one per scale"
    assert found["x2 psnr_y_db"].to_dict() == {name: 28.0 if "LIIF" in name else 30.0 for name in found.index}
    assert found.latency_ms["LIIF (30k)"] == 80.0
    assert found.latency_ms["IGConv (30k)"] == 5.0, "instantiated, at the largest size, of the same architecture"
    assert np.isnan(found.latency_ms["SPConv (30k)"]), "not measured"
    assert tables.alternatives(benchmark_rows({}), runs_of("sample"), costs).empty


def test_own_runs_stand_beside_the_paper_too():
    """SMFANet+ with IGConv+ from published weights: Table 3 has the encoder and the upsampler."""
    name = "smfanet_plus-igconv+-from_x2_constant-s0"
    run = get_run("benchmark", name)
    table = rows({name: [38.0]}).query("scale == 2")
    table = table.assign(encoder=run.encoder, upsampler=run.upsampler, variant=run.variant, dataset="Set5", ssim_y=0.9)
    (line,) = tables.models_beside_paper(table).to_dict("records")
    assert line["run"] == name
    assert line["difference_db"] == pytest.approx(38.0 - line["paper_psnr_db"])
    assert tables.models_beside_paper(table.assign(encoder="edsr_tiny")).empty


def test_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    mean, low, high = statistics.mean_interval(values)
    assert mean == values.mean()
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert np.isnan(statistics.mean_interval([1.0])[1:]).all()


def pairs(cells: np.ndarray) -> pd.DataFrame:
    """Differences of images x seeds as `crossed_interval` takes them; NaN cells are left out."""
    table = [dict(dataset="D", image=f"{i:03}", seed=s, d=v) for (i, s), v in np.ndenumerate(cells) if not np.isnan(v)]
    return pd.DataFrame(table)


def test_interval_over_images_and_seeds():
    """With one seed it is the bootstrap over images; what a seed does to all images is in it and not averaged away."""
    rng = np.random.default_rng(0)
    images, seeds = rng.normal(0, 1, (400, 1)), rng.normal(0, 1, (1, 40))
    mean, low, high = statistics.crossed_interval(pairs(images), "d")
    assert (mean, low, high) == pytest.approx(statistics.mean_interval(images.ravel()), abs=1e-12)
    mean, low, high = statistics.crossed_interval(pairs(images + seeds), "d")
    assert mean == pytest.approx(images.mean() + seeds.mean())
    expected = 2 * 1.96 * np.sqrt(images.var() / 400 + seeds.var() / 40)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert high - low > 2.5 * np.diff(statistics.mean_interval((images + seeds).mean(1))[1:])  # images alone


def test_interval_with_holes_and_of_single_values():
    cells = np.array([[1.0, 3.0], [np.nan, 2.0], [2.0, np.nan]])
    mean, low, high = statistics.crossed_interval(pairs(cells), "d")
    assert mean == 2.0
    assert 1.0 <= low < 2.0 < high <= 3.0
    assert np.isnan(statistics.crossed_interval(pairs(cells[:1, :1]), "d")[1:]).all()
    twice = pd.concat([pairs(cells[:, :1]).assign(d=0.0), pairs(cells[:, :1])])  # several rows of a cell are averaged
    assert statistics.crossed_interval(twice, "d")[0] == 0.75
    no_seed = pairs(cells[:, 1:]).assign(seed=np.nan)  # published models
    assert statistics.crossed_interval(no_seed, "d")[0] == 2.5


def test_ssim_and_single_sets_stand_beside_psnr_over_all_sets():
    runs = runs_of("sample")
    values = {"edsr_tiny-igconv+-s0": [30.0, 31.0], "edsr_tiny-igconv+-no_fft-s0": [29.0, 30.5]}
    one = rows(values)
    both = pd.concat([one, one.head(0), rows({k: [v[0]] for k, v in values.items()}).assign(dataset="E")])
    assert set(tables.effects(one, runs).dataset) == {"all"}
    found = tables.effects(both, runs).query("ingredient == 'frequency loss' and scale == 2").set_index("dataset")
    assert list(found.index) == ["all", "mean of sets", "D", "E"]
    assert found.difference_db.to_dict() == pytest.approx(
        {"all": 2.5 / 3, "mean of sets": 1.75 / 2, "D": 0.75, "E": 1.0}
    )
    assert found.difference_ssim.to_numpy() == pytest.approx(found.difference_db.to_numpy() / 100)
    assert found.loc["D", "high_ssim"] == pytest.approx(0.01)
    assert found.images.to_dict() == {"all": 3, "mean of sets": 3, "D": 2, "E": 1}
    pd.testing.assert_frame_equal(
        tables.over_all_sets(tables.effects(both, runs)).reset_index(drop=True),
        tables.effects(both, runs).query("dataset == 'all'").reset_index(drop=True),
    )


def test_claims_and_the_paper_are_compared_with_all_sets_together():
    """The rows of single sets are for reading; they make no claim of their own."""
    runs = runs_of("benchmark")
    plain = benchmark_rows({})
    both = pd.concat([plain, plain.assign(dataset="E")])
    one, two = tables.fixed_vs_multi(plain, runs), tables.fixed_vs_multi(both, runs)
    assert len(two) == 4 * len(one)
    pd.testing.assert_frame_equal(tables.beside_paper(two), tables.beside_paper(one))
