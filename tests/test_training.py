"""The training loop: repeatability, resume, one step by hand, and what stops it."""

import copy
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY, needs

from igconv import InputError, bands, build_model, cache, checkpoints, load, results, study, training
from igconv.encoders import ENCODERS
from igconv.evaluation import evaluate_run, validation_bands
from igconv.feed import HostFeed
from igconv.losses import frequency_l1, l1
from igconv.model import SuperResolver
from igconv.patches import PatchSource
from igconv.progress import follow
from igconv.study import PROFILES, learning_rate
from igconv.training import TrainingError, train

TIMES = ("seconds", "images_per_s", "data_wait_share", "peak_memory_mb")


@pytest.fixture
def go():
    """``go(run)``: train to the end on the CPU and return the records."""
    return lambda run: list(train(run, accelerator="cpu"))


@pytest.fixture
def weights_of():
    """``weights_of(run)``: the stored weights of a finished run."""
    return lambda run: checkpoints.read_weights(results.run_folder(run.profile, run.name) / "model.safetensors")


def without_times(records: list[dict]) -> list[dict]:
    return [{k: (None if isinstance(v, float) and math.isnan(v) else v) for k, v in r.items() if k not in TIMES}
            for r in records]  # fmt: skip


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def folder_of(run):
    return results.run_folder(run.profile, run.name)


# ---- what a run leaves


def test_files_and_records(go, tiny_run):
    """The files of the design, records every `record_every` steps and at the end, all finite and consistent."""
    run = replace(tiny_run, steps=5)
    records = go(run)
    folder = folder_of(run)
    assert {p.name for p in folder.iterdir()} - {".lock0"} == {
        "config.json", "provenance.json", "record.csv", "bands.csv", "model.safetensors", "last.ckpt"}  # fmt: skip
    assert [r["step"] for r in records] == [2, 4, 5]
    for record in records:
        assert record["loss"] == pytest.approx(record["l1"] + run.frequency_weight * record["frequency_l1"])
        assert record["learning_rate"] == learning_rate(run, record["step"] - 1)
        assert record["seconds"] > 0
        assert record["images_per_s"] > 0
    assert [math.isnan(r["psnr_y_db"]) for r in records] == [True, False, False]
    assert len(pd.read_csv(folder / "record.csv")) == 3
    config = json.loads((folder / "config.json").read_text())
    assert config["name"] == run.name
    assert config["config_hash"] == run.config_hash()
    facts = json.loads((folder / "provenance.json").read_text())
    assert {"git_commit", "config_hash", "data_hash", "seed", "versions", "device", "training_seconds"} <= facts.keys()
    assert facts["images_seen"] == 5 * run.batch


def test_error_per_band_is_recorded_before_training_at_powers_of_two_and_at_validations(go, tiny_run):
    """The first record is that of the untrained model, the last that of the raw weights; nothing without validation."""
    run = replace(tiny_run, steps=9, validate_every=5, scales=(2, 3), ema=0.0)
    assert sorted(training.band_steps(run)) == [0, 1, 2, 4, 5, 9]
    assert sorted(training.band_steps(replace(run, validate_every=300, steps=20))) == [0, 1, 2, 4, 8, 16, 20]
    assert not training.band_steps(replace(run, validate_every=0))
    go(run)
    table = pd.read_csv(folder_of(run) / "bands.csv", float_precision="round_trip")
    assert tuple(table.columns) == bands.COLUMNS
    assert table.groupby("step").size().to_dict() == dict.fromkeys((0, 1, 2, 4, 5, 9), 2 * 21)
    for step, model in ((0, training.starting_model(run)), (9, load(folder_of(run) / "model.safetensors"))):
        expected = pd.DataFrame(validation_bands(model, run.test_sets, run.scales, step))
        pd.testing.assert_frame_equal(table[table.step == step].reset_index(drop=True), expected)


def test_model_file_holds_the_run(go, tiny_run):
    """It loads by itself, knows its run, and reads as the trained architecture."""
    go(tiny_run)
    model = load(folder_of(tiny_run) / "model.safetensors")
    assert model.config["hidden_dim"] == tiny_run.hidden_dim
    meta = checkpoints.metadata(folder_of(tiny_run) / "model.safetensors")["meta"]
    assert meta == {"run": tiny_run.name, "config_hash": tiny_run.config_hash()}


# ---- repeatability and resume


def test_same_seed_same_numbers(go, tiny_run, weights_of, monkeypatch, tmp_path):
    """Bit-equal weights and records in another place, whatever the global generators did before."""
    first, weights = go(tiny_run), weights_of(tiny_run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "again"))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the global generator must not matter)
    assert without_times(go(tiny_run)) == without_times(first)
    assert equal(weights_of(tiny_run), weights)


def test_another_seed_is_another_run(go, tiny_run, weights_of):
    """The seed reaches weights and patches."""
    go(tiny_run)
    other = replace(tiny_run, seed=1)
    go(other)
    assert not equal(weights_of(tiny_run), weights_of(other))


@pytest.mark.parametrize("stop_after", [1, 2])
@pytest.mark.parametrize("changes", [{}, dict(ema=0.0), dict(upsampler="spconv", scales=(2,), igsample=False)], ids=str)
def test_resume_equals_an_uninterrupted_run(go, tiny_run, weights_of, monkeypatch, tmp_path, stop_after, changes):
    """Stopped after a record and called again: bit-equal weights and records, EMA and optimiser included."""
    run = replace(tiny_run, **changes)
    whole, weights = go(run), weights_of(run)
    recorded = (folder_of(run) / "bands.csv").read_bytes()
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "stopped"))
    generator = train(run, accelerator="cpu")
    for _ in range(stop_after):
        next(generator)
    generator.close()
    assert not (folder_of(run) / "model.safetensors").exists()
    assert (folder_of(run) / "last.ckpt").exists()
    torch.manual_seed(99)
    assert without_times(go(run)) == without_times(whole)
    assert equal(weights_of(run), weights)
    assert (folder_of(run) / "bands.csv").read_bytes() == recorded


def test_a_lost_result_comes_back_without_training(go, tiny_run, weights_of, monkeypatch):
    """Snakemake deletes the outputs of a job killed at its very end; the last checkpoint still has everything."""
    records, weights = go(tiny_run), weights_of(tiny_run)
    for name in ("model.safetensors", "record.csv", "config.json", "provenance.json"):
        (folder_of(tiny_run) / name).unlink()
    monkeypatch.setattr(PatchSource, "draw", lambda *_: pytest.fail("trained again"))
    assert str(go(tiny_run)) == str(records)  # times included; as text, because NaN is not equal to itself
    assert equal(weights_of(tiny_run), weights)


def test_a_finished_checkpoint_of_other_settings_gives_way(go, tiny_run):
    """A changed table of runs trains again by itself when the old training had ended."""
    go(tiny_run)
    (folder_of(tiny_run) / "model.safetensors").unlink()
    assert [r["step"] for r in go(replace(tiny_run, learning_rate=1e-4))] == [2, 4, 6]


@pytest.mark.slow
def test_two_processes_train_the_same_model(results_root):
    """gloo on the CPU through the command line: equal up to float summation, and two processes took part."""
    name = "edsr_tiny-igconv+-s0"
    folder = results_root / "smoke" / "runs" / name
    found = []
    for devices in ("1", "2"):
        words = ["train", name, "--profile", "smoke", "--accelerator", "cpu", "--devices", devices]
        done = subprocess.run([sys.executable, "-m", "igconv.cli", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-500:]
        assert json.loads((folder / "provenance.json").read_text())["world_size"] == int(devices)
        assert (folder / ".lock1").exists() == (devices == "2")
        found.append(checkpoints.read_weights(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        (folder / "last.ckpt").unlink()
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], atol=1e-5), key


def test_resume_does_not_repeat_steps(tiny_run, go, monkeypatch):
    """Steps before the checkpoint are not computed again."""
    generator = train(tiny_run, accelerator="cpu")
    next(generator), next(generator)
    generator.close()
    steps, original = [], HostFeed.batch
    monkeypatch.setattr(HostFeed, "batch", lambda self, step: steps.append(step) or original(self, step))
    go(tiny_run)
    assert set(steps) == {4, 5}


def test_checkpoints_are_made_when_they_are_asked_for(tiny_run):
    """Every `checkpoint_every` steps, also where that is no multiple of `record_every`."""
    generator = train(replace(tiny_run, steps=8, record_every=4, checkpoint_every=3), accelerator="cpu")
    next(generator)
    generator.close()
    assert (folder_of(tiny_run) / "last.ckpt").exists()


def test_a_finished_run_trains_nothing(go, tiny_run, monkeypatch):
    """The stored records, without a model or data; the files stay as they are."""
    first = go(tiny_run)
    before = {p.name: p.stat().st_mtime_ns for p in folder_of(tiny_run).iterdir() if p.suffix}
    monkeypatch.setattr(training, "build_model", lambda *_, **__: pytest.fail("trained again"))
    assert without_times(go(tiny_run)) == without_times(first)
    assert {p.name: p.stat().st_mtime_ns for p in folder_of(tiny_run).iterdir() if p.suffix} == before


def test_changed_settings_train_again(go, tiny_run, weights_of):
    """A finished run of other settings under the same name is not taken for this one."""
    go(tiny_run)
    before = weights_of(tiny_run)
    go(replace(tiny_run, learning_rate=1e-3))
    assert not equal(weights_of(tiny_run), before)


# ---- the arithmetic of a step


def test_one_step_averages_the_micro_batches(tiny_run, go, weights_of):
    """Adam on the mean of gradients computed one micro-batch at a time; without EMA the weights are its result."""
    run = replace(tiny_run, steps=1, micro_batches=4, ema=0.0)
    go(run)
    torch.manual_seed(run.seed)
    model = build_model(run.encoder, run.upsampler, **run.model_options())
    patches = PatchSource(cache.decoded("tiny_train").images, run.scales, run.lr_patch, run.micro_batch_size, run.seed)
    batches = [patches.micro_batch(0, index) for index in range(4)]
    assert len({b.scale for b in batches}) > 1
    total = [torch.zeros_like(p) for p in model.parameters()]
    for batch in batches:
        model.zero_grad()
        sr = model(batch.lr, batch.scale)
        (l1(sr, batch.hr) + 0.05 * frequency_l1(sr, batch.hr)).backward()
        for t, p in zip(total, model.parameters(), strict=True):
            t += p.grad / 4 if p.grad is not None else 0
    stored, start = weights_of(run), model.state_dict()
    checked = 0
    for name, gradient in zip(dict(model.named_parameters()), total, strict=True):
        # Adam's first step is rate * g / (|g| + eps); tiny gradients have a sign that rounding decides.
        sure = gradient.abs() > 1e-5
        expected = start[name] - learning_rate(run, 0) * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(stored[name][sure], expected[sure], atol=2e-6, rtol=1e-4, msg=name)
        checked += sure.sum().item()
    assert checked > 1000


def test_gradient_is_the_mean_over_micro_batches(tiny_run, monkeypatch, go):
    """The gradient itself, which Adam's first step hides the size of."""
    run, seen = replace(tiny_run, steps=1, micro_batches=3, ema=0.0), []
    original = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    go(run)
    torch.manual_seed(run.seed)
    model = build_model(run.encoder, run.upsampler, **run.model_options())
    patches = PatchSource(cache.decoded("tiny_train").images, run.scales, run.lr_patch, run.micro_batch_size, run.seed)
    for index in range(3):
        batch = patches.micro_batch(0, index)
        sr = model(batch.lr, batch.scale)
        ((l1(sr, batch.hr) + 0.05 * frequency_l1(sr, batch.hr)) / 3).backward()
    for p, gradient in zip(model.parameters(), seen[0], strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-5 * max(1, p.grad.abs().max().item()), rtol=1e-3)


def test_ema_is_its_formula(tiny_run, go, weights_of, monkeypatch):
    """ema <- d ema + (1 - d) w from a copy of the start, over all steps."""
    run, raw = replace(tiny_run, steps=3, ema=0.7), []
    original = training._average

    def average(ema, model, decay):
        original(ema, model, decay)
        raw.append({k: v.clone() for k, v in model.state_dict().items()})

    monkeypatch.setattr(training, "_average", average)
    go(run)
    torch.manual_seed(run.seed)
    expected = build_model(run.encoder, run.upsampler, **run.model_options()).state_dict()
    for weights in raw:
        expected = {k: 0.7 * v + 0.3 * weights[k] for k, v in expected.items()}
    stored = weights_of(run)
    assert len(raw) == 3
    for key, value in expected.items():
        torch.testing.assert_close(stored[key], value, atol=1e-7, rtol=1e-5)
        assert not torch.equal(stored[key], raw[-1][key]) or not (value - raw[-1][key]).any()


def test_ema_does_not_share_weights_with_the_model(tiny_model):
    """Averaging leaves the model alone."""
    model = tiny_model("igconv")
    ema = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    for p in ema.parameters():
        p.data.zero_()
    training._average(ema, model, 0.75)
    assert equal(model.state_dict(), before)
    for a, b in zip(ema.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, 0.25 * b)


def test_gradients_are_clipped_and_their_norm_is_recorded(tiny_run, go, monkeypatch):
    """The record has the norm before clipping; Adam sees a gradient of the largest norm allowed."""
    seen, original = [], torch.optim.Adam.step

    def step(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(torch.stack(torch._foreach_norm(grads)).norm().item())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    free = go(replace(tiny_run, steps=1, seed=3))
    assert free[0]["gradient_norm"] == pytest.approx(seen[0], rel=1e-5)
    clipped = go(replace(tiny_run, steps=1, seed=3, clip_norm=0.25))
    assert clipped[0]["gradient_norm"] == pytest.approx(free[0]["gradient_norm"], rel=1e-5)
    assert seen[1] == pytest.approx(0.25, rel=1e-3)


def test_a_run_starts_from_another(tiny_run, go, weights_of, monkeypatch):
    """All weights of the earlier run, EMA included; before it is trained, one line says so."""
    first = replace(tiny_run, variant="first")
    second = replace(tiny_run, start_from=first.name, steps=1, learning_rate=1e-12, ema=0.0)
    monkeypatch.setitem(study.PROFILES, tiny_run.profile, lambda: [first, second])
    with pytest.raises(InputError, match=r"starts from .*first.* not trained yet"):
        go(second)
    go(first)
    go(second)
    for key, value in weights_of(second).items():
        torch.testing.assert_close(value, weights_of(first)[key], atol=1e-9, rtol=0)


def test_an_encoder_starts_from_published_weights_and_stays(tiny_run, go, weights_of, monkeypatch):
    """The encoder alone is taken, and with `freeze_encoder` nothing but the upsampler moves."""
    from igconv import published

    source = build_model("edsr_tiny", "spconv", scales=(2,))
    monkeypatch.setattr(published, "load", lambda name: source)
    run = replace(tiny_run, start_from="some_x2", freeze_encoder=True, ema=0.0)
    before = training.starting_model(run).state_dict()
    go(run)
    after = weights_of(run)
    for key, value in source.encoder.state_dict().items():
        assert torch.equal(after[f"encoder.{key}"], value)
    moved = [
        key for key in after if key.startswith(("upsampler", "sampler")) and not torch.equal(after[key], before[key])
    ]
    assert len(moved) == sum(key.startswith(("upsampler", "sampler")) for key in after)


def test_a_model_of_ones_own_is_trained(tiny_run, go):
    """Any encoder: the copy is trained, the original stays, and the file gives it the weights."""
    encoder = torch.nn.Conv2d(3, 5, 3, padding=1)
    model = build_model(encoder, "igconv", scales=(2, 3, 4), hidden_dim=8, num_layers=1)
    before = copy.deepcopy(model.state_dict())
    run = replace(tiny_run, encoder="mine", variant="own")
    records = list(train(run, accelerator="cpu", model=model))
    assert records[-1]["step"] == run.steps
    assert equal(model.state_dict(), before)
    path = folder_of(run) / "model.safetensors"
    with pytest.raises(InputError, match=r"encoder of yours.*igconv.load\(path, model\)"):
        load(path)
    assert not equal(load(path, model).state_dict(), before)


def test_weights_that_do_not_fit_are_no_start(tiny_run, monkeypatch):
    """One line with both names."""
    from igconv import published

    monkeypatch.setattr(published, "load", lambda name: build_model("edsr_baseline", "spconv", scales=(2,)))
    with pytest.raises(InputError, match="cannot start from some_x2"):
        training.starting_model(replace(tiny_run, start_from="some_x2"))


def test_stochastic_depth_resumes_too(tiny_run, go, weights_of, monkeypatch, tmp_path):
    """Random numbers inside the model are a function of the step as well."""

    class Dropping(torch.nn.Module):
        out_channels = 4

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return torch.nn.functional.dropout(self.conv(x), 0.5, self.training)

    from igconv import encoders

    monkeypatch.setitem(encoders.ENCODERS, "dropping", (Dropping, {}))
    run = replace(tiny_run, encoder="dropping")
    go(run)
    whole = weights_of(run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "stopped"))
    generator = train(run, accelerator="cpu")
    next(generator)
    generator.close()
    go(run)
    assert equal(weights_of(run), whole)


@pytest.mark.slow
def test_ten_kills_change_nothing(tiny_run, go, weights_of, monkeypatch, tmp_path):
    """SIGKILL at ten random moments of one run, in steps and while checkpoints are written: bit-equal weights."""
    import multiprocessing
    import random

    run = replace(tiny_run, steps=400, record_every=5, checkpoint_every=5, validate_every=0)
    start = time.monotonic()
    go(run)
    duration, whole = time.monotonic() - start, weights_of(run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "killed"))
    moments, kills, last = random.Random(0), 0, 0
    while not (folder_of(run) / "model.safetensors").exists():
        # A fork has everything imported, so that the moment falls into the training.
        process = multiprocessing.get_context("fork").Process(target=go, args=(run,))
        process.start()
        process.join(0.1 + moments.uniform(0.02, 0.09) * duration if kills < 10 else None)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        elif kills < 10:
            pytest.fail(f"the run ended after {kills} kills; it needs more steps")
        if (folder_of(run) / "last.ckpt").exists():
            step = checkpoints.read_pickle(folder_of(run) / "last.ckpt")["step"]
            assert step >= last
            last = step
    assert kills == 10
    assert equal(weights_of(run), whole)


def test_out_of_memory_says_what_to_lower(tiny_run, monkeypatch):
    """One line with the settings that matter."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(HostFeed, "batch", full)
    with pytest.raises(TrainingError, match=r"out of memory .*micro_batch_size \(1\) or lr_patch \(8\)"):
        next(train(tiny_run, accelerator="cpu"))


def test_graphs_need_a_gpu(tiny_run):
    """On a CPU they are refused, not ignored."""
    with pytest.raises(InputError, match="graphs need one CUDA device"):
        next(train(tiny_run, accelerator="cpu", graphs=True))


def test_learning_rate_reaches_the_optimizer(tiny_run, go, monkeypatch):
    """Step N runs with learning_rate(run, N), warm-up and milestones included."""
    run = replace(tiny_run, milestones=(3, 5), warmup=2, learning_rate=1e-3)
    seen, original = [], torch.optim.Adam.step

    def step(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    go(run)
    assert seen == [learning_rate(run, step) for step in range(6)]
    assert len(set(seen)) == 3


def test_training_learns(tiny_run, go):
    """Forty steps of SPConv on two images lower the loss clearly."""
    run = replace(tiny_run, upsampler="spconv", scales=(2,), igsample=False, dihedral=False, steps=60,
                  micro_batch_size=4, record_every=10, validate_every=0, learning_rate=2e-3, ema=0.0)  # fmt: skip
    losses = [r["l1"] for r in go(run)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_the_precision_of_a_run_is_that_of_its_arithmetic(tiny_run, monkeypatch, precision, dtype):
    """Features have it while training, and the losses of the precisions differ, by rounding only."""
    seen, encode = [], SuperResolver.encode

    def watched(self, lr):
        x, features = encode(self, lr)
        seen.append((self.training, features.dtype))
        return x, features

    exact = [record["loss"] for record in train(replace(tiny_run, variant="exact"), accelerator="cpu")]
    monkeypatch.setattr(SuperResolver, "encode", watched)
    loss = [record["loss"] for record in train(replace(tiny_run, precision=precision), accelerator="cpu")]
    assert {kind for training, kind in seen if training} == {dtype}
    assert (loss == exact) == (dtype == torch.float32)
    assert loss == pytest.approx(exact, rel=0.02)


# ---- what stops it


@pytest.fixture
def breaks_at(monkeypatch):
    """``breaks_at(n)``: the pixel loss of the n-th micro-batch computation (from 1) is not finite."""

    def arrange(step: int, value: float = math.nan):
        calls, original = [], training._losses

        def losses(*args):
            calls.append(1)
            pixel, frequency = original(*args)
            return (pixel * value if len(calls) == step else pixel), frequency

        monkeypatch.setattr(training, "_losses", losses)

    return arrange


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [3, 4, 6])
def test_non_finite_loss_stops(tiny_run, breaks_at, step, value):
    """TrainingError names run and step; the checkpoint from before stays and no model is written."""
    breaks_at(step, value)
    run, records = replace(tiny_run, igsample=False), []
    with pytest.raises(TrainingError, match=f"{re.escape(run.name)}.*step {step};") as error:
        records.extend(train(run, accelerator="cpu"))
    assert "\n" not in str(error.value)
    last = 4 if step == 6 else 2
    assert records[-1]["step"] == last
    state = checkpoints.read_pickle(folder_of(tiny_run) / "last.ckpt")
    assert state["step"] == last
    assert all(v.isfinite().all() for part in ("model", "ema") for v in state[part].values())
    assert not (folder_of(tiny_run) / "model.safetensors").exists()


def test_non_finite_loss_stops_with_igsample_too(results_root):
    """In a process of its own: PyTorch's grid_sample crashes in the backward pass when positions are NaN."""
    code = """
from dataclasses import replace
from igconv import study
from igconv.training import TrainingError, train

run = replace(study.get("smoke", "edsr_tiny-igconv+-s0"), lr_patch=8, learning_rate=1e30, record_every=6)
try:
    list(train(run, accelerator="cpu"))
except TrainingError as error:
    print("stopped:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.startswith("stopped: ")) == (0, True), done.stderr[-300:]


def test_non_finite_weights_are_not_stored(tiny_run, monkeypatch):
    """A gradient that overflows in the very last step leaves a finite loss and broken weights: no model from it."""
    original, calls = torch.optim.Adam.step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == tiny_run.steps:
            self.param_groups[0]["params"][0].grad.fill_(math.inf)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(TrainingError):
        list(train(tiny_run, accelerator="cpu"))
    assert not (folder_of(tiny_run) / "model.safetensors").exists()


@pytest.fixture
def stopped(tiny_run):
    """A run interrupted after its first checkpoint; returns its last.ckpt."""
    generator = train(tiny_run, accelerator="cpu")
    next(generator)
    next(generator)
    generator.close()
    return folder_of(tiny_run) / "last.ckpt"


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["truncated", "empty", "code", "other settings", "other model", "a tensor", "no hash"])
def test_bad_checkpoints_are_named(tiny_run, stopped, kind, tmp_path, go):
    """One line with the file; nothing of it is run, and it stays for the person to look at."""
    state, run = checkpoints.read_pickle(stopped), tiny_run
    if kind == "truncated":
        stopped.write_bytes(stopped.read_bytes()[:-200])
    elif kind == "empty":
        stopped.write_bytes(b"")
    elif kind == "code":
        torch.save(state | {"records": Code(tmp_path / "ran")}, stopped)
    elif kind == "other settings":
        run = replace(tiny_run, learning_rate=3e-4)
    elif kind == "other model":
        torch.save(state | {"model": {"w": torch.zeros(1)}}, stopped)
    elif kind == "a tensor":
        torch.save(torch.zeros(2), stopped)
    elif kind == "no hash":
        torch.save({}, stopped)
    content = stopped.read_bytes()
    with pytest.raises(InputError, match=r"last\.ckpt") as error:
        go(run)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert stopped.read_bytes() == content
    assert not (folder_of(run) / "model.safetensors").exists()


def test_a_damaged_model_file_is_named(go, tiny_run):
    """A truncated model.safetensors is neither a finished run nor silently replaced."""
    go(tiny_run)
    path = folder_of(tiny_run) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        go(tiny_run)


def test_two_trainings_of_one_run(tiny_run):
    """The second gets one line with the holder; when the first ends, the run is free."""
    first = train(tiny_run, accelerator="cpu")
    next(first)
    with pytest.raises(InputError, match=f"{re.escape(tiny_run.name)}.*process {os.getpid()}") as error:
        next(train(tiny_run, accelerator="cpu"))
    assert "\n" not in str(error.value)
    first.close()
    second = train(tiny_run, accelerator="cpu")
    next(second)
    second.close()


def test_a_training_in_another_process(tiny_run):
    """The same across processes; one that was killed leaves no stale lock."""
    lock = folder_of(tiny_run) / ".lock0"
    code = (
        "import sys, time; from igconv.files import exclusive\n"
        "with exclusive(sys.argv[1], wait=False, who='x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with pytest.raises(InputError, match=f"process {process.pid}"):
            next(train(tiny_run, accelerator="cpu"))
        process.kill()
    generator = train(tiny_run, accelerator="cpu")
    next(generator)
    generator.close()


@pytest.mark.parametrize("at", ["last.ckpt", "record.csv", "provenance.json", "model.safetensors", "config.json"])
def test_a_full_disk(tiny_run, go, monkeypatch, weights_of, at):
    """One line that names the file, no half file, no temporary file; with space again the run ends as ever."""
    original = os.replace

    def full(source, target):
        if str(target).endswith(at):
            raise OSError(28, "No space left on device")
        return original(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=f"{re.escape(at)}: No space left"):
        go(tiny_run)
    left = {p.name for p in folder_of(tiny_run).iterdir()}
    assert at not in left
    assert "model.safetensors" not in left
    assert not [name for name in left if name.startswith(".") and name != ".lock0"]
    monkeypatch.setattr(os, "replace", original)
    assert [r["step"] for r in go(tiny_run)] == [2, 4, 6]
    weights_of(tiny_run)


def test_results_below_a_file_are_refused(tiny_run, tmp_path, monkeypatch):
    """A results folder that cannot be made is one line."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "file"))
    with pytest.raises(InputError, match="file"):
        next(train(tiny_run, accelerator="cpu"))


@pytest.mark.parametrize(("changes", "named"), [
    (dict(encoder="resnet"), "resnet"),
    (dict(upsampler="conv"), "conv"),
    (dict(scales=(2, 0)), "0"),
    (dict(train_sets=("Set0",)), "Set0"),
    (dict(test_sets=("Set0",)), "Set0"),
    (dict(lr_patch=100), "400 px|300 px|200 px"),
    (dict(degradation="bilinear"), "bilinear"),
    (dict(train_sets=()), "no training image"),
], ids=str)  # fmt: skip
def test_bad_settings_stop_before_the_first_step(tiny_run, changes, named, monkeypatch):
    """One line, before any training and without a model file."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: pytest.fail("took a step"))
    run = replace(tiny_run, **changes)
    with pytest.raises(InputError, match=named) as error:
        list(train(run, accelerator="cpu"))
    assert "\n" not in str(error.value)
    assert not (folder_of(run) / "model.safetensors").exists()


def test_left_out_images_are_told(tiny_run, capsys, image_sets, photograph, write_png):
    """One line on images that are too small at some scale."""
    write_png(photograph(20, 90), image_sets / "train" / "tiny" / "2.png")
    generator = train(tiny_run, accelerator="cpu")
    next(generator)
    generator.close()
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "left out" in x]
    assert tiny_run.name in line
    assert "x3" in line
    assert "x4" in line


# ---- the table


def _distinct_runs() -> list:
    """Every run of every profile, once per kind: seed and budget are shrunk away, profiles repeat each other."""
    kinds = {}
    for profile in PROFILES:
        for run in study.runs(profile).values():
            model = (run.encoder, run.upsampler, tuple(run.model_options().items()))
            key = (*model, run.frequency_weight > 0, bool(run.milestones), run.warmup, run.precision)
            kinds.setdefault(key, run)
    return list(kinds.values())


@pytest.mark.parametrize("run", _distinct_runs(), ids=lambda run: f"{run.profile}:{run.name}")
def test_every_run_of_the_table_trains(shrink, go, weights_of, run, monkeypatch):
    """Two steps of each kind of run, its encoder shrunk, and an evaluation: the model builds, both losses compute,
    validation runs, rows are finite."""
    needs(run.encoder)
    constructor = ENCODERS[run.encoder][0]
    tiny = next(options for name, options in TINY.items() if ENCODERS[name][0] == constructor)
    monkeypatch.setitem(ENCODERS, run.encoder, (constructor, tiny))
    small = shrink(run, steps=2, validate_every=2, record_every=1, start_from="", micro_batches=2, hidden_dim=8)
    records = go(small)
    assert evaluate_run(small).psnr_y_db.map(math.isfinite).all()
    assert [r["step"] for r in records] == [1, 2]
    assert all(math.isfinite(r["loss"]) for r in records)
    assert math.isfinite(records[-1]["psnr_y_db"])
    assert (records[-1]["frequency_l1"] > 0) == (run.frequency_weight > 0)
    start = build_model(small.encoder, small.upsampler, **small.model_options()).state_dict()
    assert weights_of(small).keys() == start.keys()


def test_smoke_runs_train_as_they_are(go):
    """One smoke run on the bundled photographs, unchanged."""
    run = study.get("smoke", "edsr_tiny-igconv+-s0")
    records = go(run)
    assert records[-1]["step"] == run.steps
    assert math.isfinite(records[-1]["psnr_y_db"])


# ---- progress


def test_progress_passes_records_on(capsys, monkeypatch):
    """In a log: about a line per tenth, the last step always, nothing swallowed."""
    monkeypatch.setenv("IGCONV_PROGRESS", "lines")
    records = [dict(step=s, loss=0.5) for s in range(1, 101)]
    assert list(follow(records, 100, "run A")) == records
    lines = capsys.readouterr().out.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[-1].startswith("run A: step 100/100, loss 0.5")
    assert list(follow([], 100, "run A")) == []
