"""The scripts in benchmarks/: they run, write well-formed tables, and their baseline is the same function."""

import importlib
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from igconv import InputError
from igconv.models.hypernetwork import HyperNetwork

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """``script(name)``: a benchmark as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def quick(script, tmp_path):
    """``quick(name)``: run a script's quick form and return its table, after looking at what every table has."""

    def run(name: str) -> pd.DataFrame:
        script(name).main(quick=True, out=tmp_path)
        (path,) = tmp_path.glob(f"{name}-*.csv")
        table = pd.read_csv(path)
        assert len(table)
        assert (table.torch == torch.__version__).all()
        assert table.device.notna().all()
        assert (table.threads == 1).all()
        assert json.loads(path.with_suffix(".provenance.json").read_text())["device"] == table.device[0]
        times = [c for c in table.columns if c.endswith("ms")]
        assert (table[times].stack() > 0).all()
        return table

    return run


def test_steps_are_compared_with_spconv(quick):
    """Four kinds of step, at one scale and mixed; ratios of the baseline are one, FLOPs grow with the parts."""
    table = quick("step")
    assert len(table) == 8
    assert (table[table.case == "SPConv"][["ratio", "flop_ratio"]] == 1).all(axis=None)
    flops = table.pivot(index="scales", columns="case", values="gflop")
    assert (flops["SPConv"] < flops["IGConv"]).all()
    assert (flops["IGConv"] == flops["IGConv, dihedral"]).all()
    assert (flops["IGConv"] < flops["IGConv+"]).all()


def test_parts_of_a_step(quick):
    """Every part is there, shares sum to one."""
    table = quick("profile_step")
    for upsampler, rows in table.groupby("upsampler"):
        parts = set(rows.part)
        assert {"data", "encoder", "upsampler", "loss", "optimiser", "moving average", "whole step"} <= parts
        assert ("kernel bank" in parts) == (upsampler != "spconv")
        assert ("sampler" in parts) == (upsampler == "igconv+")
        assert rows.share.sum() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("upsampler", ["spconv", "igconv", "igconv+"])
def test_cutting_the_step_into_parts_changes_no_gradient(script, tiny_model, upsampler, monkeypatch):
    """Backward part by part equals backward through the whole model."""
    profile, step = script("profile_step"), script("step")
    model = tiny_model(upsampler)
    batch, gradients = step.random_batch((3,), 2, 8, "cpu"), []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: gradients.append([p.grad for p in model.parameters()
                                                                                 if p.grad is not None]))  # fmt: skip
    feed = type("Feed", (), {"batch": lambda self, number: batch})()
    profile.Profiler(model, 3, feed, 0.05, "32-true").step(0, profile.Clock("cpu"))
    step.training_step(model, 0.05)(batch)
    assert len(gradients[0]) == len(gradients[1])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, dict(max_scale=8), dict(kernel_size=1, num_layers=1)])
@pytest.mark.parametrize("scale", [1, 2, 3, 5, 8])
def test_the_baseline_is_the_same_function(script, enliven, options, scale):
    """Kernels and gradients of the layer-by-layer form equal those of `HyperNetwork.generate`."""
    forms = script("kernel_bank").FORMS
    found = []
    for form in forms.values():
        net = enliven(HyperNetwork(**(dict(in_channels=4, out_channels=3, hidden_dim=8, num_layers=2) | options)))
        bank = form(net, scale)
        bank.square().mean().backward()
        found.append([bank.detach(), *(p.grad for p in net.parameters())])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_banks_are_compared_with_the_baseline(quick):
    """Both forms, with time and memory."""
    table = quick("kernel_bank")
    assert list(table.form) == ["layer by layer", "igconv"]
    assert (table.peak_mib >= 0).all()
    assert table.ratio[0] == 1


def test_patches_per_second(quick):
    """The cache and its baseline."""
    table = quick("patches")
    assert len(table) == 3
    assert (table.patches_per_s > 0).all()


def test_whole_images(quick):
    """Settings against the default one."""
    assert list(quick("inference").case) == ["default", "both"]


def test_starts(quick, monkeypatch):
    """Every start is trained; steps of all are the same."""
    monkeypatch.setenv("IGCONV_PROGRESS", "lines")
    monkeypatch.setenv("IGCONV_RESULTS", "")  # which the script changes
    table = quick("starts")
    assert table.start.nunique() == 5
    assert (table.groupby("start").step.max() == 4).all()


@pytest.mark.slow
def test_processes(quick, monkeypatch):
    """One and two processes train; the script checks their number itself."""
    monkeypatch.setenv("IGCONV_PROGRESS", "lines")
    table = quick("processes")
    assert list(table.processes) == [1, 2]
    assert table.data_wait_share.between(0, 1).all()


def test_the_summary_reads_what_the_scripts_write(script, tmp_path):
    """Targets with the values of the tables, "not measured" without one, "missed" where the limit is exceeded."""
    summary = script("summary")
    assert summary.target_table(tmp_path).count("not measured") == len(summary.TARGETS)
    common = dict(**summary.X4, ms=1.0, ms_q25=1.0, ms_q75=1.0, ratio_q25=1.0, ratio_q75=1.0, device="CPU", threads=2,
                  torch="2")  # fmt: skip
    rows = [common | dict(case=case, ratio=ratio, flop_ratio=1.2)
            for case, ratio in (("IGConv", 1.4), ("IGConv, dihedral", 1.4), ("IGConv+", 1.9))]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "step-cpu.csv", index=False)
    summary.main(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| step at x4, IGConv / SPConv | <= 1.45 | 1.4 | CPU, 2 thread(s) |" in text
    assert "1.9 (missed)" in text
    assert "without | <= 1.1 | 1 | CPU" in text


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
def test_x32_needs_little_memory(script, backward):
    """Forward, and forward and backward with recomputed chunks; the layer-by-layer form needs 0.8 and 1.5 GiB."""
    timing, kernel_bank = script("timing"), script("kernel_bank")
    ms, _, peak = timing.in_fresh_process(kernel_bank.cost, "igconv", 16, 32, backward, "cpu", 1, 0.0, False)
    assert peak < 250
    assert math.isfinite(ms)


def test_a_conversion_is_measured(quick):
    """Bicubic, closed form, IGConv in both precisions at both scales; the network at its own."""
    table = quick("conversion")
    counts = table.groupby("upsampler").scale.nunique()
    assert counts["IGConv"] == counts["bicubic"] == 2
    assert counts["as published"] == 1
    assert (table.seconds > 0).all()
    assert set(table.train_sets) == {"sample_train"}
    assert (table.images > 1).all()


def test_means_of_a_conversion_are_those_of_their_own_sets(script):
    """Sets in another order than that of the alphabet."""
    rows = pd.DataFrame([("Set5", 2, 30.0, 0.5)] * 5 + [("Set14", 2, 20.0, 0.25)] * 14,
                        columns=["dataset", "scale", "psnr_y_db", "ssim_y"])  # fmt: skip
    means = script("conversion").means(rows)
    assert means.to_numpy().tolist() == [["Set5", 2, 5, 30.0, 0.5], ["Set14", 2, 14, 20.0, 0.25]]


def test_the_command_is_measured_as_a_whole(quick):
    """A size and the help; importing PyTorch takes memory, the help does without."""
    table = quick("upscale").set_index("input")
    assert list(table.index) == ["--help", "24x16"]
    assert (table.seconds > 0).all()
    assert table.peak_mib["24x16"] > 2 * table.peak_mib["--help"]


def test_steps_of_a_study_are_read_from_snakemakes_records(script, tmp_path, monkeypatch):
    """By notebook where a step is one, else by rule; a step with two outputs is one step; the whole is from the first
    start to the last end."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    study = script("study")
    with pytest.raises(InputError, match="no record of Snakemake"):
        study.main("smoke", out=tmp_path)
    folder = tmp_path / "smoke" / ".snakemake" / "metadata"
    folder.mkdir(parents=True)
    records = [("train_0", ["notebooks/01_train-a.ipynb"], 10, 30), ("train_1", ["notebooks/01_train-b.ipynb"], 12, 25),
               ("train_0", ["notebooks/01_train-a.ipynb"], 10, 30), ("report", [], 31, 33)]  # fmt: skip
    for number, (rule, log, start, end) in enumerate(records):
        entry = dict(rule=rule, log=log, starttime=float(start), endtime=float(end))
        (folder / str(number)).write_text(json.dumps(entry))
    study.main("smoke", "twice", out=tmp_path)
    (path,) = tmp_path.glob("study-smoke-twice-*.csv")
    table = pd.read_csv(path)
    assert table[["step", "start_s", "seconds"]].values.tolist() == [
        ["01_train-a", 0, 20], ["01_train-b", 2, 13], ["report", 21, 2], ["whole", 0, 23],
    ]  # fmt: skip


def test_redraws_of_the_explorer(quick, script, monkeypatch):
    """Each control is timed, and every move of it draws: a value that is there already would be timed as nothing."""
    explorer, drawn = script("explorer").Explorer, []
    original = explorer.draw
    monkeypatch.setattr(explorer, "draw", lambda self: drawn.append(1) or original(self))
    moves = script("explorer").MOVES
    assert quick("explorer").control.tolist() == list(moves)
    assert len(drawn) == 1 + sum(len(values) for values in moves.values())


def test_exports_are_compared_with_the_model(quick):
    table = quick("exported")
    assert table.case.tolist() == ["model", "torch, .pt2", "onnxruntime"]
    assert table.ratio[0] == 1


def test_the_code_is_compared_with_an_earlier_one(script, quick, monkeypatch):
    """Both in turn, each with its own code; bf16 is compared with the earlier float32. One real call of each kind."""
    against, calls = script("against"), []

    def measured(tree, kind, *words):
        calls.append((tree == against.PROJECT, words))
        return {"bf16-mixed": 30.0}.get(words[2], 60.0) * (1 if tree == against.PROJECT else 2)

    real = against.measured
    monkeypatch.setattr(against, "measured", measured)
    monkeypatch.setattr(against, "upscaled", lambda tree, source, threads: 50.0)
    table = quick("against").set_index("case")
    assert table.ratio.to_dict() == {
        "step x4, edsr_tiny igconv": 0.5, "step x4, edsr_tiny igconv, bf16 over float32": 0.25,
        "step x4, edsr_tiny igconv+": 0.5, "step x4, edsr_tiny igconv+, bf16 over float32": 0.25,
        "image 24x16 x2, edsr_tiny igconv+": 0.5, "igconv upscale 24x16 x2": 1.0,
    }  # fmt: skip
    assert not any("bf16-mixed" in words for here, words in calls if not here), "the earlier code has none"
    assert real(against.PROJECT, against.STEP, "edsr_tiny", "igconv", "32-true", 8, 1, 1) > 0
    assert real(against.PROJECT, against.IMAGE, "edsr_tiny", "igconv+", 24, 16, 1, 1) > 0
