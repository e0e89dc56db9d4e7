"""Costs against hand counts; budgets from files a training leaves."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from igconv import IGConv, build_model, checkpoints, results, study
from igconv.analysis import efficiency


def test_flops_of_a_convolution_equal_the_hand_count():
    conv = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    x = torch.rand(1, 5, 10, 12)
    assert efficiency.flops(lambda: conv(x)) == 2 * 10 * 12 * 7 * 5 * 9


def test_peak_memory_counts_tensors_that_live_together():
    def call():
        a = torch.ones(1000)  # 4000 B
        b = a + 1  # 8000 B
        del a
        c = b * 2  # 8000 B: a is gone
        view = c.view(10, 100)  # a view is no memory
        return view.add_(1)

    assert efficiency.allocated_peak(call) == 8000


def test_latencies_are_of_the_call():
    times = efficiency.latencies(lambda: torch.rand(10), seconds=0.01)
    assert 3 <= len(times) <= 100
    assert all(0 < t < 1000 for t in times)


def test_the_papers_four_upsamplers():
    table = efficiency.upsampler_costs(12, 16, seconds=0).set_index(["upsampler", "form"])
    parameters = table.parameters.to_dict()
    assert parameters["SPConv", "as trained"] == 6_924
    assert parameters["SPConv+", "as trained"] == 149_443
    assert parameters["IGConv", "as trained"] == 559_107
    assert parameters["IGConv", "instantiated"] == 6_912
    assert parameters["IGConv+", "as trained"] == 559_107 + 362_752
    assert parameters["IGConv+", "instantiated"] == 34_560
    flops = table.flops.to_dict()
    assert flops["SPConv", "as trained"] == flops["IGConv", "instantiated"] == 2 * 12 * 16 * 12 * 64 * 9
    # Kernels are made before the count, so both forms cost the same.
    assert flops["IGConv+", "as trained"] == flops["IGConv+", "instantiated"] == 2 * 12 * 16 * 60 * 64 * 9
    assert (table.latency_ms > 0).all()
    assert table.device.notna().all()


def test_memory_of_spconv_is_the_papers():
    """Figure 1 says 77 MB: features, convolution output and shuffled output (FACTS 2.5)."""
    head = efficiency.heads()["IGConv", "instantiated"]
    row = efficiency.cost(head, (torch.zeros(1, 64, 90, 160),), seconds=0)
    pixels = 90 * 160
    assert row["peak_memory_mib"] * 2**20 == 4 * (64 * pixels + 12 * pixels + 12 * pixels + 6912)


def test_whole_models_are_listed_in_both_forms():
    torch.manual_seed(0)
    options = dict(scales=(2,), channels=4, blocks=1)
    models = {"fixed": (build_model("edsr_tiny", "spconv", **options), 2),
              "multi": (build_model("edsr_tiny", "igconv+", hidden_dim=8, num_layers=1, **options), 2)}  # fmt: skip
    table = efficiency.model_costs(models, 8, 9, seconds=0)
    assert list(zip(table.model, table.form, strict=True)) == [
        ("fixed", "as trained"), ("multi", "as trained"), ("multi", "instantiated")]  # fmt: skip
    assert table.flops[1] == table.flops[2]
    assert table.parameters[2] == sum(p.numel() for p in models["multi"][0].encoder.parameters()) + 135 * 4 * 4
    assert efficiency.model_costs({}, 8, 8).empty


def test_generation_grows_with_the_number_of_kernels():
    table = efficiency.generation_time(IGConv(4, hidden_dim=8, num_layers=1), (2, 4), seconds=0)
    assert table.kernels.tolist() == [48, 192]
    rows = 4 * 9 * 4
    assert table.flops.tolist()[0] >= 2 * rows * (8 * 8 + 8 * 3)
    assert table.flops[1] > 3 * table.flops[0]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs of a study with the files a finished training leaves; one of them was not made."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    base = next(iter(study.runs("smoke").values()))
    runs = [replace(base, upsampler="spconv", scales=(s,)) for s in (2, 3, 4)]
    runs += [replace(base, upsampler="igconv", scales=(2, 3, 4)), replace(base, upsampler="igconv+", scales=(2, 3, 4))]
    torch.manual_seed(0)
    for run in runs[:-1]:
        folder = results.run_folder(run.profile, run.name)
        model = build_model(run.encoder, run.upsampler, **run.model_options())
        checkpoints.save(model, folder / "model.safetensors")
        pd.DataFrame(dict(step=[3, 6], seconds=[1.0, 2.5])).to_csv(folder / "record.csv", index=False)
        results.write_json(dict(device="abacus"), folder / "provenance.json")
    return runs


def test_training_budget_of_three_models_against_one(trained):
    budget = efficiency.training_budget(trained)
    assert len(budget) == 4
    assert set(budget.training_seconds) == {2.5}
    assert set(budget.images) == {6 * trained[0].batch}
    model = build_model(trained[3].encoder, "igconv", **trained[3].model_options())
    assert budget.stored_parameters.iloc[3] == efficiency.parameters(model)
    summary = efficiency.budget_summary(budget)
    three, one = summary.iloc[0], summary.iloc[1]
    assert (three.upsampler, three.models, three.scales) == ("spconv", 3, "2-3-4")
    assert (one.upsampler, one.models) == ("igconv", 1)
    assert math.isclose(three.training_seconds, 7.5)
    assert three.images == 3 * one.images
    assert three.stored_parameters == budget.stored_parameters.iloc[:3].sum()


def test_a_missing_scale_of_a_triple_gives_no_sum(trained):
    budget = efficiency.training_budget([trained[0], trained[1], trained[3]])
    assert efficiency.budget_summary(budget).upsampler.tolist() == ["igconv"]
    assert efficiency.budget_summary(efficiency.training_budget([])).empty
