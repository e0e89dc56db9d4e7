"""Which models are measured, and what their costs say in words."""

import pandas as pd
import pytest

from igconv import InputError
from igconv.analysis import budget, costs, efficiency
from igconv.study.runs import runs_of


def test_a_sweep_has_every_size_at_x2_and_every_scale_at_the_first():
    table = costs.swept_upsamplers(costs.parts(32, 48, (8, 4)), (2, 3), seconds=0)
    points = set(zip(table.lr_height_px, table.lr_width_px, table.scale, strict=True))
    assert points == {(4, 6, 2), (8, 12, 2), (4, 6, 3)}
    text = costs.first_call_conclusion(table).splitlines()
    assert len(text) == 2 * len(points)
    assert text[0].startswith("IGConv x2, LR 6x4: first call ")


def test_first_calls_in_words():
    rows = [("as trained, first call", 9.0), ("instantiated", 2.0), ("as trained", 3.0)]
    table = pd.DataFrame([dict(form=form, upsampler="IGConv", lr_height_px=4, lr_width_px=6, scale=2, latency_ms=ms)
                          for form, ms in rows])  # fmt: skip
    assert costs.first_call_conclusion(table) == "IGConv x2, LR 6x4: first call 9.0 ms, instantiated 2.0 ms."


def test_models_of_runs_are_measured_at_every_size():
    runs = [run for run in runs_of("smoke").values() if run.upsampler == "igconv" and not run.variant]
    models = costs.models_of(runs)
    assert list(models) == ["IGConv"]
    table = costs.swept_models(models, [(6, 8), (8, 8)], seconds=0)
    assert set(zip(table.model, table.form, table.lr_height_px, strict=True)) == {
        ("IGConv", form, height) for form in ("as trained", "instantiated") for height in (6, 8)
    }  # fmt: skip
    times = costs.generation_times(models, (2, 16), seconds=0)
    assert times.groupby("model", sort=False).scale.unique().map(list).to_dict() == {
        "paper's size, 64 channels": [2], "study's model": [2, 16],
    }  # fmt: skip
    assert list(costs.generation_times({}, (2,), seconds=0).model) == ["paper's size, 64 channels"]


def test_an_encoder_whose_package_is_missing_is_named(capsys):
    def measure(name):
        if name == "b":
            raise InputError("b needs a package")
        return pd.DataFrame([dict(encoder=name)])

    assert costs.of_encoders(("a", "b", "c"), measure).encoder.tolist() == ["a", "c"]
    assert "not run: b: b needs a package" in capsys.readouterr().out
    assert costs.with_storage(("edsr", *budget.BASELINE_OF)) == ["edsr"]


def test_upsamplers_in_words():
    index = pd.Index(["SPConv", "SPConv+", "IGConv", "IGConv+"], name="upsampler")
    ours = pd.DataFrame(dict(latency_ms=[2, 8, 2, 3], peak_memory_mib=[50, 100, 50, 75], parameters=[7000] * 4), index)
    paper = pd.DataFrame(dict(latency_ms=[1, 9, 1, 2], memory_mb=[10, 40, 10, 20], params_k=[7, 154, 7, 35]), index)
    first, second, third = costs.upsampler_conclusion(ours, paper.reset_index()).splitlines()
    assert first.startswith("IGConv against SPConv: latency x1.0 (paper x1.0), memory x1.00 (paper x1.00), 7 K")
    assert second.startswith("SPConv+ against SPConv: latency x4.0 (paper x9.0), memory x2.00 (paper x4.00), 7 K")
    assert third.endswith("7 K parameters (paper 35 K).")


def test_whole_models_in_words():
    table = efficiency.encoder_costs("edsr_tiny", 16)
    spconv, _, plus = table.flops
    text = costs.encoder_conclusion(table)
    assert text.startswith("edsr_tiny: 0.0")
    assert text.endswith(f"{spconv / 1e9:.2f} GFLOPs with SPConv, {plus / spconv - 1:+.1%} with IGConv+")


def test_storage_and_training_in_words():
    stored = pd.DataFrame([dict(encoder="e", model="IGConv", ratio=0.3456, baseline="SPConv")])
    assert costs.stored_conclusion(stored) == (
        "e: one IGConv model stores 0.346 of the parameters of three SPConv models."
    )
    rows = [("spconv", "", 300.0, 30, 90, 3), ("igconv", "", 150.0, 10, 45, 1), ("igconv", "fft", 1.0, 1, 1, 1)]
    summary = pd.DataFrame(
        rows, columns=["upsampler", "variant", "training_seconds", "images", "stored_parameters", "models"]
    )
    assert costs.training_conclusion(summary).startswith(
        "One IGConv model took 0.50 of the training time, 0.33 of the images and 0.50 of the stored parameters of 3 "
    )
    for nothing in (summary.head(1), summary.tail(2)):
        assert costs.training_conclusion(nothing).startswith("not run")
    assert costs.SCALE == 2


@pytest.mark.parametrize("divisors", [(8,), (8, 4, 2)])
def test_parts_of_an_image(divisors):
    assert costs.parts(360, 640, divisors)[0] == (45, 80)
    assert len(costs.parts(360, 640, divisors)) == len(divisors)
