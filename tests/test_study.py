"""The table of runs: names, budgets, what the sample study holds, hashes."""

import dataclasses
from collections import Counter
from dataclasses import replace

import pytest

from igconv import InputError, datasets, study
from igconv.encoders import ENCODERS
from igconv.model import UPSAMPLERS
from igconv.study import PROFILES, Run, learning_rate

RUNS = [run for profile in PROFILES for run in study.runs(profile).values()]


@pytest.mark.parametrize("profile", PROFILES)
def test_names_are_unique_and_find_their_run(profile):
    """Also ignoring case, because they are file names."""
    table = study.runs(profile)
    assert len({name.lower() for name in table}) == len(table) == len(PROFILES[profile]())
    for name, run in table.items():
        assert run.profile == profile
        assert study.get(profile, name) == run
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_+-")


def test_hashes_are_unique():
    """No run is listed twice under two names."""
    assert len({run.config_hash() for run in RUNS}) == len(RUNS)


@pytest.mark.parametrize("profile", PROFILES)
def test_runs_are_possible(profile):
    """Encoders, upsamplers and image sets exist; no image set is on both sides."""
    for run in study.runs(profile).values():
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
    for run in study.runs(profile).values():
        ingredients = dict(fft=run.frequency_weight > 0, igsample=run.igsample, dihedral=run.dihedral)
        if run.upsampler == "igconv+" and run.encoder != "smfanet_plus":
            absent = {run.variant.removeprefix("no_")} if run.variant.startswith("no_") else set()
            assert {k for k, v in ingredients.items() if not v} == absent
        if run.upsampler == "igconv" and run.variant in ingredients:
            assert {k for k, v in ingredients.items() if v} == {run.variant}
        if run.upsampler.startswith("spconv"):
            assert len(run.scales) == 1
            assert not run.igsample
            assert not run.dihedral


def test_sample_study_is_what_the_issue_asks():
    """Three SPConv, one SPConv+, IGConv, IGConv+, three leave-one-outs; EDSR-tiny, 64 wide, 2 layers."""
    table = study.runs("sample")
    kinds = Counter((run.upsampler, run.variant) for run in table.values())
    expected = {("spconv", ""): 3, ("spconv+", ""): 1, ("igconv", ""): 1, ("igconv+", ""): 1,
                ("igconv+", "no_fft"): 1, ("igconv+", "no_igsample"): 1, ("igconv+", "no_dihedral"): 1}  # fmt: skip
    assert all(kinds[kind] >= n for kind, n in expected.items())
    assert {run.scales for run in table.values() if run.upsampler == "spconv"} == {(2,), (3,), (4,)}
    assert {run.scales for run in table.values() if run.upsampler.startswith("igconv")} == {(2, 3, 4)}
    assert {(run.encoder, run.hidden_dim, run.num_layers) for run in table.values()} == {("edsr_tiny", 64, 2)}


def test_sample_runs_share_one_budget():
    """The same >= 1500 steps, decaying rate, batch and data: no model has settings of its own."""
    identity = {"seed", "upsampler", "scales", "variant", "dihedral", "igsample", "frequency_weight"}
    budgets = {tuple(sorted((k, str(v)) for k, v in dataclasses.asdict(run).items() if k not in identity))
               for run in study.runs("sample").values()}  # fmt: skip
    assert len(budgets) == 1
    run = next(iter(study.runs("sample").values()))
    assert run.steps >= 1500
    assert learning_rate(run, run.steps - 1) < 0.1 * run.learning_rate


def test_smoke_is_the_sample_study_shrunk():
    """Runs of the sample study under the same names, every upsampler and an ablation among them, fewer steps."""
    smoke, sample = study.runs("smoke"), study.runs("sample")
    assert smoke.keys() <= sample.keys()
    assert {run.upsampler for run in smoke.values()} == {run.upsampler for run in sample.values()}
    assert any(run.variant for run in smoke.values())
    assert all(smoke[name].steps < 20 for name in smoke)


@pytest.mark.parametrize(("name", "expected"), [
    ("edsr-igconv-s0", dict(steps=300_000, batch=16, lr_patch=48, learning_rate=1e-4, betas=(0.9, 0.99), ema=0.999,
                            milestones=(200_000,), gamma=0.5, frequency_weight=0.0)),
    ("edsr-igconv+-s0", dict(steps=300_000, batch=16, frequency_weight=0.05, dihedral=True, igsample=True)),
    ("smfanet_plus-igconv+-s0", dict(steps=1_000_000, batch=64, lr_patch=64, learning_rate=1e-3, final_rate=1e-6,
                                     milestones=(), frequency_weight=0.05)),
    ("smfanet_plus-igconv-s0", dict(frequency_weight=0.05, dihedral=False, igsample=False)),
])  # fmt: skip
def test_paper_protocol(name, expected):
    """FACTS 2.1."""
    run = study.get("paper", name)
    assert {key: getattr(run, key) for key in expected} == expected
    assert (run.hidden_dim, run.num_layers, run.max_scale, run.degradation) == (256, 4, 4, "pil")


def test_unknown_profile_and_run_list_the_choice():
    """The value and what is allowed, in one line."""
    with pytest.raises(InputError, match=r"full.*benchmark, paper, sample"):
        study.runs("full")
    with pytest.raises(InputError, match=r"edsr-x.*edsr_tiny-igconv\+-s0") as error:
        study.get("sample", "edsr-x")
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
    run = study.get("sample", "edsr_tiny-igconv-s0")
    value = getattr(run, field)
    other = {str: lambda: value + "x", bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 0.125,
             tuple: lambda: (*value, value[-1] if value else 7)}[type(value)]()  # fmt: skip
    assert replace(run, **{field: other}).config_hash() != run.config_hash()
    assert replace(run).config_hash() == run.config_hash()


@pytest.mark.parametrize(("changes", "name"), [
    ({}, "edsr_tiny-igconv-s0"),
    (dict(upsampler="igconv+", variant="no_fft", seed=3), "edsr_tiny-igconv+-no_fft-s3"),
    (dict(upsampler="spconv", scales=(2,)), "edsr_tiny-spconv-x2-s0"),
    (dict(scales=(2, 3, 4, 8)), "edsr_tiny-igconv-x2348-s0"),
])  # fmt: skip
def test_names_follow_the_design(changes, name):
    """<encoder>-<upsampler>[-<variant>][-x<scales>]-s<seed>."""
    assert replace(study.get("sample", "edsr_tiny-igconv-s0"), **changes).name == name


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
