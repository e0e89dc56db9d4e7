"""What stops a training: broken numbers, bad checkpoints and settings, a second process, a full disk."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from igconv import InputError
from igconv.models import state_files
from igconv.study import results
from igconv.training import loop
from igconv.training.loop import TrainingError, train


def folder_of(run):
    return results.run_folder(run.profile, run.name)


@pytest.fixture
def breaks_at(monkeypatch):
    """``breaks_at(n)``: the pixel loss of the n-th micro-batch computation (from 1) is not finite."""

    def arrange(step: int, value: float = math.nan):
        calls, original = [], loop._losses

        def losses(*args):
            calls.append(1)
            pixel, frequency = original(*args)
            return (pixel * value if len(calls) == step else pixel), frequency

        monkeypatch.setattr(loop, "_losses", losses)

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
    state = state_files.read_pickle(folder_of(tiny_run) / "last.ckpt")
    assert state["step"] == last
    assert all(v.isfinite().all() for part in ("model", "ema") for v in state[part].values())
    assert not (folder_of(tiny_run) / "model.safetensors").exists()


def test_non_finite_loss_stops_with_igsample_too(results_root):
    """In a process of its own: PyTorch's grid_sample crashes in the backward pass when positions are NaN."""
    code = """
from dataclasses import replace
from igconv.study.runs import get_run
from igconv.training.loop import TrainingError, train

run = replace(get_run("smoke", "edsr_tiny-igconv+-s0"), lr_patch=8, learning_rate=1e30, record_every=6)
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
    state, run = state_files.read_pickle(stopped), tiny_run
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
    with pytest.raises(InputError, match=named) as error:
        list(train(replace(tiny_run, **changes), accelerator="cpu"))
    assert "\n" not in str(error.value)
    assert not list(results.root(tiny_run.profile).rglob("model.safetensors"))


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
