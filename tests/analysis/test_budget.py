"""Three models against one: budgets from files a training leaves, parameters from architectures."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from igconv import InputError, build_model, files
from igconv.analysis import budget as budgets
from igconv.models import checkpoints
from igconv.study import results
from igconv.study.runs import igconv_plus, runs_of


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs of a study with the files a finished training leaves; one of them was not made."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    base = next(iter(runs_of("smoke").values()))
    runs = [replace(base, upsampler="spconv", scales=(s,)) for s in (2, 3, 4)]
    multi = replace(base, upsampler="igconv", scales=(2, 3, 4))
    runs += [multi, igconv_plus(multi)]
    torch.manual_seed(0)
    for run in runs[:-1]:
        folder = results.run_folder(run.profile, run.name)
        model = build_model(run.encoder, run.upsampler, **run.model_options())
        checkpoints.save(model, folder / "model.safetensors")
        record = dict(step=[3, 6], seconds=[1.0, 2.5], peak_memory_mb=[90, 100], psnr_y_db=[np.nan, 20.0])
        record |= dict(loss=[0.5, 0.25])
        pd.DataFrame(record).to_csv(folder / "record.csv", index=False)
        results.write_json(dict(device="abacus"), folder / "provenance.json")
    return runs


def test_training_budget_of_three_models_against_one(trained):
    budget = budgets.training_budget(trained)
    assert len(budget) == 4
    assert set(budget.training_seconds) == {2.5}
    assert set(budget.images) == {6 * trained[0].batch}
    model = build_model(trained[3].encoder, "igconv", **trained[3].model_options())
    assert budget.stored_parameters.iloc[3] == sum(p.numel() for p in model.parameters())
    summary = budgets.budget_summary(budget)
    three, one = summary.iloc[0], summary.iloc[1]
    assert (three.upsampler, three.models, three.scales) == ("spconv", 3, "2-3-4")
    assert (one.upsampler, one.models) == ("igconv", 1)
    assert math.isclose(three.training_seconds, 7.5)
    assert three.images == 3 * one.images
    assert three.stored_parameters == budget.stored_parameters.iloc[:3].sum()


def test_records_stand_below_each_other_and_a_training_is_put_into_words(trained):
    records = budgets.training_records(trained)
    assert records.run.tolist() == [run.name for run in trained[:-1] for _ in range(2)]
    assert records.upsampler.unique().tolist() == ["spconv", "igconv"]
    assert budgets.training_records(trained[-1:]).empty
    assert budgets.training_in_words(trained[0]) == (
        f"{trained[0].name}: 6 steps of {trained[0].batch} patches in 2 s on abacus; loss 0.2500, 20.00 dB on the "
        "validation crops (mean over ×2)"
    )
    with pytest.raises(InputError, match="not trained yet"):
        budgets.training_in_words(trained[-1])


def test_costs_of_every_run_of_a_table(trained):
    """Also of those that were not made; weights are not needed once the evaluation noted their hash."""
    costs = budgets.run_costs(trained)
    assert costs.run.tolist() == [run.name for run in trained]
    assert costs.state.tolist() == ["trained"] * 4 + ["not run"]
    first, last = costs.iloc[0], costs.iloc[-1]
    assert (first.seconds, first.steps_per_s, first.peak_memory_mb, first.device) == (2.5, 2.4, 100, "abacus")
    assert pd.isna(last.seconds)
    assert last.steps == trained[-1].steps
    weights = results.model_file(trained[0].profile, trained[0].name)
    assert first.weights_sha256 == files.sha256(weights)
    weights.unlink()
    assert budgets.run_costs(trained).weights_sha256[0] == ""
    rows = results.rows_file(trained[0].profile, trained[0].name)
    results.write_table(pd.DataFrame(dict(weights_sha256=["abc"])), rows)
    assert budgets.run_costs(trained).weights_sha256[0] == "abc"
    assert budgets.training_budget(trained).stored_parameters.notna().all()


def test_a_missing_scale_of_a_triple_gives_no_sum(trained):
    budget = budgets.training_budget([trained[0], trained[1], trained[3]])
    assert budgets.budget_summary(budget).upsampler.tolist() == ["igconv"]
    assert budgets.budget_summary(budgets.training_budget([])).empty


def test_stored_parameters_of_edsr_are_those_of_the_facts():
    """Three SPConv+ models 40.7 + 43.7 + 43.1 = 127.5 M against 41.05 M of IGConv+ (FACTS, section 5)."""
    table = budgets.stored_parameters("edsr").set_index("model")
    assert table.fixed_parameters["IGConv+"] / 1e6 == pytest.approx(127.5, abs=0.05)
    assert table.multi_parameters["IGConv+"] / 1e6 == pytest.approx(41.054, abs=0.0005)
    assert table.ratio["IGConv+"] == pytest.approx(41.05 / 127.5, abs=1e-3)
    assert set(table.baseline) == {"SPConv+"}
    assert set(table.paper_encoder) == {"EDSR"}


def test_stored_parameters_equal_those_of_models_built_one_by_one():
    """SMFANet+ has SPConv in the paper; EDSR tiny has no row there, and SPConv is the smallest."""
    for encoder, name in (("smfanet_plus", "SMFANet+"), ("edsr_tiny", "")):
        row = budgets.stored_parameters(encoder).set_index("model").loc["IGConv"]
        one_by_one = [build_model(encoder, "spconv", scales=(s,)) for s in (2, 3, 4)]
        assert row.fixed_parameters == sum(p.numel() for model in one_by_one for p in model.parameters())
        multi = build_model(encoder, "igconv", scales=(2, 3, 4))
        assert row.multi_parameters == sum(p.numel() for p in multi.parameters())
        assert row.paper_encoder == name
        assert (row.baseline, row.fixed_models, row.scales) == ("SPConv", 3, "2-3-4")


def test_fixed_baselines_are_those_of_the_paper_profile():
    """SwinIR's family starts SPConv+ with 64 channels; MambaIR-light has an encoder of its own for fixed scales."""
    assert (budgets.fixed_baseline("hat").upsampler, budgets.fixed_baseline("hat").width) == ("spconv+", 64)
    assert budgets.fixed_baseline("mambair_light").encoder == "mambair_light_baseline"
    assert budgets.fixed_baseline("rdn") is None
    with pytest.raises(InputError, match="unknown encoder 'x'"):
        budgets.stored_parameters("x")
