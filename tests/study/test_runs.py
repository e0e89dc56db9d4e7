"""The table of runs: names, budgets, what the sample study holds, hashes."""

import ast
import csv
import dataclasses
from collections import Counter
from dataclasses import replace

import pytest
import torch

from igconv import InputError
from igconv.data import datasets
from igconv.models import published
from igconv.models.encoders import ENCODERS
from igconv.models.super_resolver import UPSAMPLERS
from igconv.study.comparisons import ablations, one_ingredient_apart
from igconv.study.labels import CHANGES, DIHEDRAL, FREQUENCY_LOSS, IGSAMPLE, INGREDIENTS, SPCONV_START, VARIANTS, Change
from igconv.study.results import PROJECT
from igconv.study.run import WITH_CONSTANT, Run
from igconv.study.runs import PROFILES, encoder_of, first_run, get_run, learning_rate, runs_of
from igconv.training.loop import starting_model

CONFIGS = PROJECT / "data" / "paper" / "train_configs.csv"
RUNS = [run for profile in PROFILES for run in runs_of(profile).values()]


@pytest.mark.parametrize("profile", PROFILES)
def test_names_are_unique_and_find_their_run(profile):
    """Also ignoring case, because they are file names."""
    table = runs_of(profile)
    assert len({name.lower() for name in table}) == len(table) == len(PROFILES[profile]())
    for name, run in table.items():
        assert run.profile == profile
        assert get_run(profile, name) == run
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_+-")


def test_hashes_are_unique():
    """No run is listed twice under two names."""
    assert len({run.config_hash() for run in RUNS}) == len(RUNS)


@pytest.mark.parametrize("profile", PROFILES)
def test_runs_are_possible(profile):
    """Encoders, upsamplers and image sets exist; no image set is on both sides."""
    for run in runs_of(profile).values():
        assert run.encoder in ENCODERS
        assert run.upsampler in UPSAMPLERS
        assert {datasets.image_set(s).use for s in run.train_sets} == {"train"}
        assert {datasets.image_set(s).use for s in run.test_sets} == {"test"}
        assert run.steps > 0
        assert len(set(run.scales)) == len(run.scales)
        # Checkpoints and validation happen where a record is made.
        assert run.checkpoint_every % run.record_every == 0, run.name
        assert run.validate_every % run.record_every == 0, run.name


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_is_what_its_name_says(profile):
    """An ablation lacks (or has) exactly the ingredient in its name; IGConv+ has all three."""
    for run in runs_of(profile).values():
        ingredients = dict(fft=run.frequency_weight > 0, igsample=run.igsample, dihedral=run.dihedral)
        if run.upsampler == "igconv+" and run.encoder != "smfanet_plus":
            absent = {run.variant.removeprefix("no_")} if run.variant.startswith("no_") else set()
            assert {k for k, v in ingredients.items() if not v} == absent
        if run.upsampler in ("igconv", "spconv") and run.variant in ingredients:
            assert {k for k, v in ingredients.items() if v} == {run.variant}
        if not run.upsampler.startswith("igconv"):
            assert not run.igsample
            assert not run.dihedral
        if run.upsampler.startswith("spconv"):  # three heads on one encoder are the exception, and say so
            assert (len(run.scales) == 1) != run.variant.startswith("heads")
        assert run.freeze_encoder == ("_frozen" in run.variant)


def test_sample_study_is_what_the_issue_asks():
    """Three SPConv, one SPConv+, IGConv, IGConv+, three leave-one-outs; EDSR-tiny, 64 wide, 2 layers."""
    table = runs_of("sample")
    kinds = Counter((run.upsampler, run.variant) for run in table.values())
    expected = {("spconv", ""): 3, ("spconv+", ""): 1, ("igconv", ""): 1, ("igconv+", ""): 1,
                ("igconv+", "no_fft"): 1, ("igconv+", "no_igsample"): 1, ("igconv+", "no_dihedral"): 1}  # fmt: skip
    assert all(kinds[kind] >= n for kind, n in expected.items())
    assert {run.scales for run in table.values() if run.upsampler == "spconv"} == {(2,), (3,), (4,)}
    assert {run.scales for run in table.values() if run.upsampler.startswith("igconv")} == {(2, 3, 4)}
    assert {(run.encoder, run.hidden_dim, run.num_layers) for run in table.values()} == {("edsr_tiny", 64, 2)}


def test_sample_runs_share_one_budget():
    """The same steps, decaying rate, batch and data: no model has settings of its own."""
    identity = {"seed", "upsampler", "scales", "variant", "dihedral", "igsample", "frequency_weight",
                "initialisation"}  # fmt: skip
    budgets = {tuple(sorted((k, str(v)) for k, v in dataclasses.asdict(run).items() if k not in identity))
               for run in runs_of("sample").values()}  # fmt: skip
    assert len(budgets) == 1
    run = next(iter(runs_of("sample").values()))
    assert learning_rate(run, run.steps - 1) < 0.1 * run.learning_rate


BLOCKS = {  # of the benchmark study: runs per seed, encoder, steps, and (upsampler, variant) with how many of each
    "A": (14, "edsr_baseline", {100_000, 33_333}, {
        ("spconv", ""): 3, ("spconv", "third"): 3, ("spconv+", ""): 3, ("spconv+", "third"): 3, ("igconv", ""): 1,
        ("igconv+", ""): 1}),
    "B": (16, "edsr_baseline", {30_000}, {
        ("igconv", "fft"): 1, ("igconv", "igsample"): 1, ("igconv", "dihedral"): 1, ("igconv+", "no_fft"): 1,
        ("igconv+", "no_igsample"): 1, ("igconv+", "no_dihedral"): 1, ("igconv", "30k"): 1, ("igconv+", "30k"): 1,
        ("spconv", "30k"): 3, ("spconv", "fft"): 3, ("igconv", "spconv_init"): 1, ("igconv+", "spconv_init"): 1}),
    "C": (2, "edsr_baseline", {30_000}, {("spconv", "heads_30k"): 1, ("liif", "30k"): 1}),
    "D": (4, "smfanet_plus", {30_000}, {
        (upsampler, f"from_x2_constant{kind}"): 1 for upsampler in ("igconv", "igconv+") for kind in ("", "_frozen")}),
}  # fmt: skip
BLOCKS["A, SMFANet+"] = (14, "smfanet_plus", *BLOCKS["A"][2:])


def test_benchmark_blocks_in_order_of_value():
    """A and B with one seed, D, the other seeds of A and B, C, and A with SMFANet+ in three seeds; nothing else."""
    left = list(runs_of("benchmark").values())
    order = [("A", 0), ("B", 0), ("D", 0), ("A", 1), ("B", 1), ("A", 2), ("B", 2), ("C", 0),
             ("A, SMFANet+", 0), ("A, SMFANet+", 1), ("A, SMFANet+", 2)]  # fmt: skip
    for name, seed in order:
        count, encoder, steps, kinds = BLOCKS[name]
        block, left = left[:count], left[count:]
        assert Counter((run.upsampler, run.variant) for run in block) == kinds, name
        assert {(run.encoder, run.seed) for run in block} == {(encoder, seed)}, name
        assert {run.steps for run in block} == steps, name
    assert not left


def test_benchmark_runs_share_all_but_what_is_compared():
    """Batch, patch, schedule, data and precision are the same everywhere; no upsampler has a rate of its own."""
    identity = {"encoder", "upsampler", "scales", "variant", "seed", "steps", "dihedral", "igsample",
                "frequency_weight", "start_from", "freeze_encoder", "initialisation"}  # fmt: skip
    assert len({tuple(sorted((k, str(v)) for k, v in dataclasses.asdict(run).items() if k not in identity))
                for run in runs_of("benchmark").values()}) == 1  # fmt: skip


def test_cpu_plans_seeds_and_budgets_behind_what_is_trained():
    """Four more seeds of 11 runs, three models at a third of the steps, four at eight times with two seeds."""
    left = [run for run in runs_of("cpu").values() if run.encoder == "edsr_tiny"][-55:]
    seeds, budgets = left[:44], left[44:]
    first = {run.name: run for run in runs_of("cpu").values() if run.seed == 0}
    assert [run.seed for run in seeds] == [s for s in (1, 2, 3, 4) for _ in range(11)]
    for run in seeds:
        assert replace(run, seed=0) == first[replace(run, seed=0).name], "nothing but the seed differs"
    kinds = Counter((run.upsampler, run.variant) for run in seeds if run.seed == 1)
    assert kinds == {
        ("spconv", ""): 3, ("igconv", ""): 1, ("igconv+", ""): 1, ("spconv", "heads"): 1,
        ("spconv", "fft"): 3, ("igconv", "fft"): 1, ("igconv+", "no_igsample"): 1,
    }  # fmt: skip
    steps = first["edsr_tiny-igconv-s0"].steps
    assert Counter((run.steps, run.seed) for run in budgets) == {
        (steps // 3, 0): 3,
        (8 * steps, 0): 4,
        (8 * steps, 1): 4,
    }
    for run in budgets:
        same = replace(run, steps=steps, seed=0, variant="heads" if "heads" in run.variant else "")
        assert same == first[same.name], "nothing but steps and seed differs"


def test_three_heads_and_liif_are_multi_scale():
    """Block C: one encoder for x2, x3 and x4, with a stored head each or one MLP of the paper's size."""
    heads = get_run("benchmark", "edsr_baseline-spconv-heads_30k-s0")
    liif = get_run("benchmark", "edsr_baseline-liif-30k-s0")
    assert heads.model_options() == dict(scales=(2, 3, 4))
    assert liif.model_options() == dict(scales=(2, 3, 4), hidden_dim=256, num_layers=4)


def test_from_published_differs_from_whole_only_in_freezing():
    """Block D: the same start, rate and losses; the frequency loss is in all, as in the paper's SMFANet+ rows."""
    table = runs_of("benchmark")
    for upsampler in ("igconv", "igconv+"):
        whole, frozen = (table[f"smfanet_plus-{upsampler}-from_x2_constant{kind}-s0"] for kind in ("", "_frozen"))
        assert frozen == replace(whole, freeze_encoder=True, variant="from_x2_constant_frozen")
        assert whole.start_from == "smfanet_plus_df2k_x2" + WITH_CONSTANT
        assert whole.frequency_weight == get_run("paper", f"smfanet_plus-{upsampler}-s0").frequency_weight


@pytest.mark.data
def test_from_published_starts_from_the_public_weights(data_root):
    """The encoder of the x2 model, tensor by tensor; frozen, only the upsampler trains."""
    for kind in ("from_x2_constant", "from_x2_constant_frozen"):
        model = starting_model(get_run("benchmark", f"smfanet_plus-igconv-{kind}-s0"))
        for key, value in published.load("smfanet_plus_df2k_x2").encoder.state_dict().items():
            assert torch.equal(model.encoder.state_dict()[key], value)
        assert all(p.requires_grad == (kind == "from_x2_constant") for p in model.encoder.parameters())
        assert all(p.requires_grad for p in model.upsampler.parameters())
        assert 0.2 < model.upsampler.bias.mean() < 0.25, "half of the mean brightness: the published heads' biases"
    added = starting_model(get_run("benchmark", "smfanet_plus-igconv+-from_x2_constant-s0"))
    assert not added.upsampler.bias.any(), "the LR image that is added brings the brightness"


def test_cpu_has_the_same_trainings_with_and_without_the_constant():
    table = runs_of("cpu")
    for upsampler in ("igconv", "igconv+"):
        kept, left = (table[f"smfanet_plus-{upsampler}-{v}-s0"] for v in ("from_x2_constant_frozen", "from_x2_frozen"))
        assert replace(kept, variant=left.variant, start_from="smfanet_plus_df2k_x2") == left


def test_smoke_is_the_sample_study_shrunk():
    """Runs of the sample study under the same names, every upsampler and an ablation among them, fewer steps."""
    smoke, sample = runs_of("smoke"), runs_of("sample")
    assert smoke.keys() <= sample.keys()
    assert {run.upsampler for run in smoke.values()} == {run.upsampler for run in sample.values()}
    assert any(run.variant for run in smoke.values())
    assert all(smoke[name].steps < 20 for name in smoke)


RECIPES = {  # the authors' training files -> our runs
    "ATD/ATD_DF2K_LargePatch_Finetuning": "atd-igconv+-finetune-s0",
    "ATD/ATD_DF2K_SmallPatch_Pretrain": "atd-igconv+-pretrain-s0",
    "EDSR/EDSRIGPlus_DIV2K": "edsr-igconv+-s0",
    "EDSR/EDSRIG_DIV2K": "edsr-igconv-s0",
    "HAT/HAT_DF2K_Finetuning": "hat-igconv+-finetune-s0",
    "HAT/HAT_ImageNet_Pretrain": "hat-igconv+-pretrain-s0",
    "HiT_SR/HiT_SRF_IGPlus_DIV2K": "hit_srf-igconv+-s1226",
    "HiT_SR/HiT_SRF_IG_DIV2K": "hit_srf-igconv-s1226",
    "MambaIR/MambaIR_IGPlus_DF2K": "mambair-igconv+-s0",
    "MambaIR/MambaIR_IGPlus_S8_DFL": "mambair-igconv+-x2345678-s0",
    "MambaIR/MambaIR_IG_DF2K": "mambair-igconv-s0",
    "MambaIR_Light/MambaIR_light_IGPlus_DIV2K": "mambair_light-igconv+-s0",
    "MambaIR_Light/MambaIR_light_IG_DIV2K": "mambair_light-igconv-s0",
    "PLKSR/PLKSRIGPlus_DF2K": "plksr-igconv+-s0",
    "RCAN/RCAN_IGPlus_DIV2K_S2348": "rcan-igconv+-x2348-s0",
    "RDN/RDN_IGPlus_DIV2K": "rdn-igconv+-s0",
    "SMFANet/SMFANet_IGPlus_DF2K": "smfanet_plus-igconv+-s0",
    "SMFANet/SMFANet_IG_DF2K": "smfanet_plus-igconv-s0",
    "SRFormer/SRFormer_IGPlus_DF2K": "srformer-igconv+-s0",
    "SRFormer/SRFormer_IG_DF2K": "srformer-igconv-s0",
}


def test_paper_protocol():
    """Every row of the authors' training files (data/paper/train_configs.csv), field by field, and no other run."""
    rows = {row["config"].removesuffix(".yaml"): row for row in csv.DictReader(CONFIGS.open())}
    assert rows.keys() == RECIPES.keys()
    for config, name in RECIPES.items():
        row, run = rows[config], get_run("paper", name)
        thousands = [int(step.removesuffix("k")) * 1000 for step in row["milestones_or_period"].split("/")]
        cosine = row["sched"] == "CosineAnnealingRestartLR"
        assert cosine or row["sched"] == "MultiStepLR"
        assert row["weight_decay"] == "0"  # AdamW without it is Adam
        assert run.train_sets == (row["data"],)
        assert run.scales == tuple(map(int, row["scales"].split("-")))
        assert run.max_scale == max(4, *run.scales)
        assert (run.micro_batches, run.micro_batch_size) == (int(row["gpus"]), int(row["batch_per_gpu"]))
        assert run.batch == int(row["batch_total"])
        assert (run.seed, run.lr_patch, run.steps) == (int(row["seed"]), int(row["lr_patch"]), int(row["iters"]))
        assert (run.warmup, run.learning_rate) == (int(row["warmup"]), float(row["lr"]))
        assert run.betas == tuple(map(float, row["betas"].split("/")))
        assert list(run.milestones) == ([] if cosine else thousands)
        assert (run.gamma, run.final_rate) == (0.5, float(row["eta_min"] or 0))
        assert run.ema == (0.0 if row["ema"] == "none" else float(row["ema"]))
        assert run.frequency_weight == float(row["fft"])
        assert bool(run.start_from) == bool(row["pretrain"])
        assert (run.hidden_dim, run.num_layers, run.degradation) == (256, 4, "pil")
        assert (run.dihedral, run.igsample) == ((True, True) if run.upsampler == "igconv+" else (False, False))
    ours = {name for name, run in runs_of("paper").items() if not run.upsampler.startswith("spconv")}
    assert ours == set(RECIPES.values())


def test_paper_baselines():
    """One fixed-scale run per encoder and scale that the paper's tables compare with, SPConv or SPConv+ as they do."""
    heads = Counter((run.encoder, run.upsampler, run.width) for run in runs_of("paper").values()
                    if run.upsampler.startswith("spconv") and run.variant != "pretrain")  # fmt: skip
    assert heads == dict.fromkeys([
        ("edsr", "spconv+", 0), ("hit_srf", "spconv", 0), ("mambair_light_baseline", "spconv", 0),
        ("smfanet_plus", "spconv", 0), ("srformer", "spconv+", 64), ("mambair", "spconv+", 64), ("hat", "spconv+", 64),
        ("atd", "spconv+", 64),
    ], 3)  # fmt: skip


def test_fine_tuning_starts_from_the_same_model():
    """The run it names comes first and builds the same network; only recipe, data and patches differ."""
    table = runs_of("paper")
    tuned = [run for run in table.values() if run.start_from]
    assert len(tuned) == 8
    for run in tuned:
        first = table[run.start_from]
        assert list(table).index(first.name) < list(table).index(run.name)
        assert (first.encoder, first.upsampler, first.model_options()) == (
            run.encoder,
            run.upsampler,
            run.model_options(),
        )
        assert (first.variant, run.variant) == ("pretrain", "finetune")


def test_unknown_profile_and_run_list_the_choice():
    """The value and what is allowed, in one line."""
    with pytest.raises(InputError, match=r"full.*benchmark, cpu, paper, sample"):
        runs_of("full")
    with pytest.raises(InputError, match=r"edsr-x.*edsr_tiny-igconv\+-s0") as error:
        get_run("sample", "edsr-x")
    assert "\n" not in str(error.value)


def test_unknown_field_is_an_error():
    """In the constructor and in `replace`; a record cannot be changed."""
    with pytest.raises(TypeError, match="stesp"):
        Run("sample", "edsr_tiny", "igconv", stesp=3)
    with pytest.raises(TypeError, match="stesp"):
        replace(RUNS[0], stesp=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUNS[0].steps = 3


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Run)])
def test_config_hash_changes_with_every_field(field):
    """And with nothing else: equal runs have equal hashes."""
    name = "edsr_tiny-spconv+-x2-s0" if field == "width" else "edsr_tiny-igconv-s0"
    run = get_run("sample", name)
    value = getattr(run, field)
    other = {str: lambda: value + "x", bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 0.125,
             tuple: lambda: (*value, 9)}[type(value)]()  # fmt: skip
    assert replace(run, **{field: other}).config_hash() != run.config_hash()
    assert replace(run).config_hash() == run.config_hash()


PLAIN, WHOLE, FIXED = "edsr_tiny-igconv-s0", "edsr_tiny-igconv+-s0", "edsr_tiny-spconv-x2-s0"


@pytest.mark.parametrize(("name", "changes", "wrong"), [
    (PLAIN, dict(upsampler="igconv+"), r"run edsr_tiny-igconv\+-s0: igconv\+ has two or three of .*this run has none"),
    (PLAIN, dict(upsampler="igconv+", igsample=True), "this run has IGSample"),
    (WHOLE, dict(upsampler="igconv"), "run edsr_tiny-igconv-s0: igconv has at most one of"),
    (WHOLE, dict(upsampler="igconv", igsample=False), "this run has frequency loss, dihedral averaging"),
    (WHOLE, dict(upsampler="spconv", scales=(2,)), "run edsr_tiny-spconv-x2-s0: .* not for spconv"),
    (WHOLE, dict(upsampler="liif", igsample=False), "not for liif"),
    (FIXED, dict(dihedral=True), "not for spconv"),
    (FIXED, dict(initialisation="spconv"), "initialisation are for igconv"),
    (FIXED, dict(width=64), r"width is for spconv\+, not for spconv"),
    (PLAIN, dict(width=64), "not for igconv"),
    (WHOLE, dict(variant="no_fft"), r"IGConv\+ − frequency loss, this run has frequency loss, IGSample, dihedral"),
    (PLAIN, dict(variant="fft"), r"IGConv \+ frequency loss, this run has none"),
    (PLAIN, dict(variant="fft", igsample=True), "this run has IGSample"),
    (PLAIN, dict(scales=()), r"run edsr_tiny-igconv-s0 must be distinct and at least one"),
    (PLAIN, dict(scales=(3, 2)), r"scales must ascend, got \(3, 2\)"),
    (PLAIN, dict(scales=(2, 2)), "must be distinct"),
    (PLAIN, dict(scales=(2, 0)), "integer >= 1, got 0"),
    (PLAIN, dict(scales=2), "list of integers"),
    (PLAIN, dict(frequency_weight=-0.05), "frequency_weight must be >= 0"),
    (PLAIN, dict(frequency_weight=float("nan")), "frequency_weight must be >= 0"),
])  # fmt: skip
def test_a_run_is_not_called_what_it_is_not(name, changes, wrong):
    """IGConv+'s name with IGConv's settings trained IGConv; its relatives. A line that names the run and the fault."""
    with pytest.raises(InputError, match=wrong) as error:
        replace(get_run("sample", name), **changes)
    assert "\n" not in str(error.value)
    assert "edsr_tiny" in str(error.value)


def test_ingredients_and_changes_follow_from_settings():
    table = runs_of("cpu")
    assert table[WHOLE].ingredients == INGREDIENTS
    assert table[WHOLE].change is table[PLAIN].change is None
    assert table["edsr_tiny-igconv+-no_igsample-s0"].ingredients == (FREQUENCY_LOSS, DIHEDRAL)
    assert table["edsr_tiny-igconv+-no_igsample-s0"].change == Change(IGSAMPLE, False)
    assert table["edsr_tiny-spconv-fft-x3-s0"].change == Change(FREQUENCY_LOSS, True)
    # A name says nothing here; the settings do.
    unnamed = replace(table["edsr_tiny-igconv+-no_igsample-s0"], variant="mine")
    assert unnamed.change == Change(IGSAMPLE, False)
    assert [run.is_plain for run in (table[PLAIN], table[f"edsr_tiny-igconv-{SPCONV_START}-s0"])] == [True, False]


@pytest.mark.parametrize("profile", PROFILES)
def test_ablations_are_found_by_settings(profile):
    """Those that the table names after an ingredient, and no others, whatever they are called."""
    runs = runs_of(profile)
    named = {name for name, run in runs.items() if run.variant in CHANGES}
    assert ablations(runs.values()) == named
    assert all(runs[name].change == CHANGES[runs[name].variant] for name in named)
    number = {name: f"v{i}" for i, name in enumerate(runs)}
    anonymous = [replace(run, variant=number[name]) for name, run in runs.items()]
    assert ablations(anonymous) == {replace(runs[name], variant=number[name]).name for name in named}


def test_pairs_differ_in_one_ingredient_alone():
    """Twelve within IGConv, one with SPConv over three scales; other starts, encoders and budgets stay apart."""
    found = one_ingredient_apart(runs_of("cpu").values())
    assert len(found) == 13
    for one in found:
        assert set(one.having[0].ingredients) - set(one.without[0].ingredients) == {one.ingredient}
        assert {run.all_else() for run in (*one.having, *one.without)} == {one.having[0].all_else()}
        assert one.scales == [2, 3, 4]
    assert [one.within for one in found if one.ingredient == FREQUENCY_LOSS] == ["SPConv", "IGConv", "", "", "IGConv+"]
    assert [len(one.having) for one in found if one.having[0].is_fixed_scale] == [15], "three, five seeds"
    assert {len(one.having) for one in one_ingredient_apart(runs_of("benchmark").values())} == {3, 9}, "seeds together"
    assert not one_ingredient_apart(runs_of("paper").values())


def test_names_of_variants_stand_in_the_study_alone():
    """Who compares runs asks for their settings: no variant's name is written in another module."""
    other_things = {"", "igsample", "dihedral", "heads"}
    names = ({run.variant for run in RUNS} | set(CHANGES) | set(VARIANTS)) - other_things
    for path in sorted((PROJECT / "igconv").rglob("*.py")):
        if path.parent.name != "study":
            words = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert not names & words, path
    assert set(VARIANTS) <= {run.variant for run in RUNS}, "a text for a variant that nobody has"


@pytest.mark.parametrize(("changes", "name"), [
    ({}, "edsr_tiny-igconv-s0"),
    (dict(upsampler="igconv+", variant="no_fft", igsample=True, dihedral=True, seed=3), "edsr_tiny-igconv+-no_fft-s3"),
    (dict(upsampler="spconv", scales=(2,)), "edsr_tiny-spconv-x2-s0"),
    (dict(scales=(2, 3, 4, 8)), "edsr_tiny-igconv-x2348-s0"),
])  # fmt: skip
def test_names_follow_the_design(changes, name):
    """<encoder>-<upsampler>[-<variant>][-x<scales>]-s<seed>."""
    assert replace(get_run("sample", "edsr_tiny-igconv-s0"), **changes).name == name


def test_cosine_ends_at_the_final_rate():
    """And starts at the base."""
    run = Run("paper", "edsr", "igconv", steps=1000, learning_rate=1e-3, final_rate=1e-6)
    assert learning_rate(run, 0) == 1e-3
    assert learning_rate(run, 1000) == pytest.approx(1e-6)
    assert learning_rate(run, 5000) == pytest.approx(1e-6)
    rates = [learning_rate(run, step) for step in range(1000)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("kind", [dict(milestones=(200,)), dict(final_rate=1e-6)], ids=["steps", "cosine"])
def test_warm_up_is_linear_and_stays_short_of_the_base(kind):
    """(step + 1) / warmup up to (warmup - 1) / warmup, as the authors' framework leaves it."""
    run = Run("paper", "edsr", "igconv", steps=10**9, learning_rate=1e-3, warmup=50, **kind)
    for step, expected in ((0, 1), (9, 10), (48, 49), (49, 49), (120, 49)):
        assert learning_rate(run, step) == pytest.approx(1e-3 * expected / 50, rel=1e-9)


def test_the_encoder_a_notebook_looks_at():
    assert encoder_of("cpu") == "edsr_tiny"
    assert encoder_of("cpu", "smfanet_plus") == "smfanet_plus"
    with pytest.raises(InputError, match="unknown encoder of profile cpu 'edsr'; choose from edsr_tiny, smfanet_plus"):
        encoder_of("cpu", "edsr")


def test_the_first_run_with_an_upsampler():
    assert first_run("sample", "igconv+").name == "edsr_tiny-igconv+-s0"
    with pytest.raises(InputError, match="unknown upsampler of profile sample 'liif'"):
        first_run("sample", "liif")
