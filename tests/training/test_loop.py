"""The training loop: what a run leaves, one step by hand, every run of the table."""

import copy
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY, needs

from igconv import InputError, build_model, load
from igconv.data import cache
from igconv.data.datasets import data_hash
from igconv.data.patches import PatchSource
from igconv.evaluation import bands
from igconv.evaluation.benchmark import evaluate_run
from igconv.evaluation.validation import validation_bands
from igconv.models import checkpoints
from igconv.models.encoders import ENCODERS
from igconv.models.super_resolver import SuperResolver
from igconv.progress import follow
from igconv.study import results
from igconv.study.runs import PROFILES, get_run, learning_rate, runs_of
from igconv.training import loop
from igconv.training.feed import HostFeed
from igconv.training.loop import TrainingError, train
from igconv.training.losses import frequency_l1, l1


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
    assert sorted(loop.band_steps(run)) == [0, 1, 2, 4, 5, 9]
    assert sorted(loop.band_steps(replace(run, validate_every=300, steps=20))) == [0, 1, 2, 4, 8, 16, 20]
    assert not loop.band_steps(replace(run, validate_every=0))
    go(run)
    table = pd.read_csv(folder_of(run) / "bands.csv", float_precision="round_trip")
    assert tuple(table.columns) == bands.COLUMNS
    assert table.groupby("step").size().to_dict() == dict.fromkeys((0, 1, 2, 4, 5, 9), 2 * 21)
    for step, model in ((0, loop.starting_model(run)), (9, load(folder_of(run) / "model.safetensors"))):
        expected = pd.DataFrame(validation_bands(model, run.test_sets, run.scales, step))
        pd.testing.assert_frame_equal(table[table.step == step].reset_index(drop=True), expected)


def test_model_file_holds_the_run(go, tiny_run):
    """It loads by itself, knows its run, and reads as the trained architecture."""
    go(tiny_run)
    model = load(folder_of(tiny_run) / "model.safetensors")
    assert model.config["hidden_dim"] == tiny_run.hidden_dim
    meta = checkpoints.metadata(folder_of(tiny_run) / "model.safetensors")["meta"]
    known = {"run": tiny_run.name, "config_hash": tiny_run.config_hash(), "data_hash": data_hash(tiny_run.train_sets)}
    assert known.items() <= meta.items()


@pytest.mark.parametrize("end", ["finished", "closed", "failed"])
def test_the_callers_settings_come_back(tiny_run, monkeypatch, end):
    """Threads and random numbers: a training's own while it computes, the caller's between records and afterwards."""
    inside, original = [], loop._losses

    def losses(*args):
        inside.append(torch.get_num_threads())
        if end == "failed" and len(inside) == 3:
            raise RuntimeError("broken")
        return original(*args)

    monkeypatch.setattr(loop, "_losses", losses)
    torch.set_num_threads(3)
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    records = train(tiny_run, accelerator="cpu")

    def undisturbed():
        return torch.get_num_threads() == 3 and torch.equal(torch.get_rng_state(), generator)

    next(records)
    assert undisturbed()
    if end == "closed":
        records.close()
    elif end == "failed":
        with pytest.raises(RuntimeError, match="broken"):
            next(records)
    else:
        assert len(list(records)) == 2
    assert undisturbed()
    assert set(inside) == {tiny_run.threads} == {1}


def test_a_starting_model_costs_no_random_numbers(tiny_run):
    """It has its run's seed; the caller's numbers go on."""
    before = torch.get_rng_state()
    first, second = loop.starting_model(tiny_run), loop.starting_model(tiny_run)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first.state_dict(), second.state_dict())


def test_seeds_of_steps(tiny_run):
    """One for each seed, step and process, the same in every version of Python; not the data's."""
    seeds = {loop._step_seed(*key) for key in itertools.product(range(3), range(50), range(4))}
    assert len(seeds) == 3 * 50 * 4
    expected = np.random.SeedSequence((1, 2, 3)).generate_state(1, np.uint64)[0]
    assert loop._step_seed(1, 2, 3) == expected
    torch.manual_seed(loop._step_seed(1, 2, 3))
    assert torch.initial_seed() == expected


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
    original = loop.average

    def average(ema, model, decay):
        original(ema, model, decay)
        raw.append({k: v.clone() for k, v in model.state_dict().items()})

    monkeypatch.setattr(loop, "average", average)
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
    loop.average(ema, model, 0.75)
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
    monkeypatch.setitem(PROFILES, tiny_run.profile, lambda: [first, second])
    with pytest.raises(InputError, match=r"starts from .*first.* not trained yet"):
        go(second)
    go(first)
    go(second)
    for key, value in weights_of(second).items():
        torch.testing.assert_close(value, weights_of(first)[key], atol=1e-9, rtol=0)


def test_an_encoder_starts_from_published_weights_and_stays(tiny_run, go, weights_of, monkeypatch):
    """The encoder alone is taken, and with `freeze_encoder` nothing but the upsampler moves."""
    from igconv.models import published

    source = build_model("edsr_tiny", "spconv", scales=(2,))
    monkeypatch.setattr(published, "load", lambda name: source)
    run = replace(tiny_run, start_from="some_x2", freeze_encoder=True, ema=0.0)
    before = loop.starting_model(run).state_dict()
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
    from igconv.models import published

    monkeypatch.setattr(published, "load", lambda name: build_model("edsr_baseline", "spconv", scales=(2,)))
    with pytest.raises(InputError, match="cannot start from some_x2"):
        loop.starting_model(replace(tiny_run, start_from="some_x2"))


def test_out_of_memory_says_what_to_lower(tiny_run, monkeypatch):
    """One line with the settings that matter."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(HostFeed, "send", full)
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


# ---- the table


def _distinct_runs() -> list:
    """Every run of every profile, once per kind: seed and budget are shrunk away, profiles repeat each other."""
    kinds = {}
    for profile in PROFILES:
        for run in runs_of(profile).values():
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
    run = get_run("smoke", "edsr_tiny-igconv+-s0")
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
