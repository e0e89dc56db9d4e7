"""Training again, on after an interruption, and over several processes: the same numbers."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import timing
import torch
import trainings

from igconv.data import datasets
from igconv.data.patches import PatchSource
from igconv.models import state_files
from igconv.study import results
from igconv.study.runs import get_run
from igconv.training import start
from igconv.training.feed import HostFeed
from igconv.training.loop import train

TIMES = ("seconds", "images_per_s", "data_wait_share", "peak_memory_mb")


def without_times(records: list[dict]) -> list[dict]:
    return [{k: (None if isinstance(v, float) and math.isnan(v) else v) for k, v in r.items() if k not in TIMES}
            for r in records]  # fmt: skip


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def folder_of(run):
    return results.run_folder(run.profile, run.name)


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
@pytest.mark.parametrize("changes", [
    {}, dict(ema=0.0), dict(upsampler="spconv", scales=(2,), igsample=False, dihedral=False),
], ids=str)  # fmt: skip
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
    """gloo on the CPU, started by the command line, against one process here: equal up to float summation."""
    name = "edsr_tiny-igconv+-s0"
    folder = results_root / "smoke" / "runs" / name
    words = ["train", name, "--profile", "smoke", "--accelerator", "cpu", "--devices", "2"]

    def two():
        done = subprocess.run([sys.executable, "-m", "igconv.cli", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-500:]

    found = []
    for processes, training in ((1, lambda: trainings.to_the_end(get_run("smoke", name))), (2, two)):
        training()
        assert json.loads((folder / "provenance.json").read_text())["world_size"] == processes
        assert (folder / ".lock1").exists() == (processes == 2)
        found.append(state_files.read_weights(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        (folder / "last.ckpt").unlink()
    difference = torch.cat([(value - found[1][key]).abs().flatten() for key, value in found[0].items()])
    # Adam moves an entry that has almost no gradient by the sign of what rounding leaves, and rounding is the
    # processor's: single entries are off by more, none by a tenth of a step. A wrong mean of gradients moves them all.
    assert (difference > 1e-5).float().mean() < 1e-3
    assert difference.max() < get_run("smoke", name).learning_rate / 10


def test_resume_does_not_repeat_steps(tiny_run, go, monkeypatch):
    """Steps before the checkpoint are not computed again."""
    generator = train(tiny_run, accelerator="cpu")
    next(generator), next(generator)
    generator.close()
    steps, original = [], HostFeed.send
    monkeypatch.setattr(HostFeed, "send", lambda self, step: steps.append(step) or original(self, step))
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
    monkeypatch.setattr(start, "build_model", lambda *_, **__: pytest.fail("trained again"))
    assert without_times(go(tiny_run)) == without_times(first)
    assert {p.name: p.stat().st_mtime_ns for p in folder_of(tiny_run).iterdir() if p.suffix} == before


def test_changed_settings_train_again(go, tiny_run, weights_of):
    """A finished run of other settings under the same name is not taken for this one."""
    go(tiny_run)
    before = weights_of(tiny_run)
    go(replace(tiny_run, learning_rate=1e-3))
    assert not equal(weights_of(tiny_run), before)


def test_stochastic_depth_resumes_too(tiny_run, go, weights_of, monkeypatch, tmp_path):
    """Random numbers inside the model are a function of the step as well."""

    class Dropping(torch.nn.Module):
        out_channels = 4

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return torch.nn.functional.dropout(self.conv(x), 0.5, self.training)

    from igconv.models import encoders

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

    run = replace(tiny_run, steps=300, record_every=5, checkpoint_every=5, validate_every=0)
    go(replace(run, steps=5))  # imports what a training imports, which is no part of its duration
    start = time.monotonic()
    go(run)
    duration, whole = time.monotonic() - start, weights_of(run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "killed"))
    # A child of this process itself could not train: a backward pass that an earlier test ran on fake CUDA left
    # autograd's threads here.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*timing.PRELOAD, "trainings"])  # benchmarks may have begun the server
    folders = {name: os.environ[name] for name in ("IGCONV_RESULTS", "IGCONV_CACHE", "IGCONV_DATA")}
    moments, checkpoint, last = random.Random(0), folder_of(run) / "last.ckpt", 0

    def child():
        process = context.Process(target=trainings.elsewhere, args=(run, datasets.catalogue(), folders))
        process.start()
        return process

    def step() -> int:
        return state_files.read_pickle(checkpoint)["step"] if checkpoint.exists() else 0

    for _ in range(10):
        process = child()
        while step() == last:  # until it trains: a kill while it starts would prove nothing
            assert process.is_alive()
            time.sleep(0.01)
        process.join(moments.uniform(0, 0.06) * duration)
        assert process.is_alive(), "the run ended before the last kill; it needs more steps"
        process.kill()
        process.join()
        assert step() > last
        last = step()
    process = child()
    process.join()
    assert equal(weights_of(run), whole)
