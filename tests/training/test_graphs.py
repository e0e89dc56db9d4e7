"""CUDA graphs without a GPU: the logic by a stand-in, and the real loop under a checker of what a graph forbids."""

import collections
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import ClassVar

import fake_gpu
import pytest
import torch

from igconv.data import resize
from igconv.models import upsamplers
from igconv.study import results
from igconv.study.runs import get_run
from igconv.training import graphs, loop
from igconv.training.feed import DeviceFeed, Sent

# ---- the logic ----


class Recording:
    """In the place of torch.cuda.CUDAGraph: a replay calls the function that was recorded once more, on its inputs."""

    def replay(self):
        self.function(self.inputs)


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    """`StepGraphs` on a CPU. Returns the modes that recordings were made in."""
    modes = []

    @contextmanager
    def graph(recording, pool, stream, capture_error_mode):
        modes.append(capture_error_mode)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return modes


class Step:
    """Notes what it is called with, by value and by address."""

    def __init__(self):
        self.calls = []

    def __call__(self, sent):
        self.calls.append((sent.scales, [t.tolist() for t in sent.tensors], [t.data_ptr() for t in sent.tensors]))


def made(limit=64):
    step = Step()
    stepped = graphs.StepGraphs(step, limit)

    def record(sent):
        recording, inputs = graphs.StepGraphs._record(stepped, sent)
        step.calls.pop()  # recording computes nothing
        recording.function, recording.inputs = step, inputs
        return recording, inputs

    stepped._record = record
    return step, stepped


def sent(scales, value):
    return Sent(scales, (torch.full((2,), value), torch.full((3,), value + 0.5)))


def test_each_combination_runs_once_is_recorded_once_and_replayed(stand_in):
    step, stepped = made()
    for value, scales in enumerate([(2, 3), (2, 3), (3, 3), (2, 3), (3, 3), (3, 3)]):
        stepped(sent(scales, float(value)))
    assert [scales for scales, _, _ in step.calls] == [(2, 3), (2, 3), (3, 3), (2, 3), (3, 3), (3, 3)]
    assert [values[0][0] for _, values, _ in step.calls] == [0, 1, 2, 3, 4, 5], "each step sees its own inputs"
    assert [values[1][0] for _, values, _ in step.calls] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert stand_in == ["thread_local"] * 2, "the feed's thread may pin memory while a step is recorded"


def test_replays_read_the_same_memory(stand_in):
    step, stepped = made()
    for value in range(5):
        stepped(sent((2,), float(value)))
    addresses = [places for _, _, places in step.calls[1:]]
    assert all(places == addresses[0] for places in addresses)


def test_combinations_beyond_the_limit_run_as_they_are(stand_in):
    step, stepped = made(limit=1)
    for value, scales in enumerate([(2,), (2,), (3,), (3,), (3,), (2,)]):
        stepped(sent(scales, float(value)))
    assert set(stepped.graphs) == {(2,)}
    assert [values[0][0] for _, values, _ in step.calls] == [0, 1, 2, 3, 4, 5]


# ---- the real loop ----


class Checker:
    """In the place of `StepGraphs`: every step runs, watched for what a recorded one must not do."""

    made: ClassVar[list] = []

    def __init__(self, function, limit=64):
        self.function, self.times = function, collections.Counter()
        self.read, self.host_reads, self.moved = {}, set(), []
        Checker.made.append(self)

    def __call__(self, sent):
        with fake_gpu.Watch(sent.tensors) as watch:
            self.function(sent)
        self.times[sent.scales] += 1
        self.host_reads |= set(watch.host_reads)
        if self.times[sent.scales] == 1:
            return  # runs as it is and fills caches
        before = self.read.setdefault(sent.scales, watch.read)
        if before != watch.read:
            self.moved.append((sent.scales, before ^ watch.read))


@pytest.fixture
def checked(monkeypatch, image_sets):
    """``checked(run)``: the checker after a run that trained with "graphs" on the CPU."""
    monkeypatch.setattr(graphs, "StepGraphs", Checker)
    # What the CPU does and a GPU does not: look at losses and positions for NaN. The feed is a GPU's.
    monkeypatch.setattr(loop, "check_loss", lambda run, meter: None)
    monkeypatch.setattr(upsamplers, "_backward_would_crash", lambda shift: False)
    monkeypatch.setattr(loop, "make_feed", DeviceFeed)

    def apply(run):
        from lightning_fabric import Fabric

        Checker.made = []
        fabric = Fabric(accelerator="cpu", precision=run.precision)
        fabric.launch()
        list(loop._train(run, fabric, results.run_folder(run.profile, run.name), True, None))
        return Checker.made[0]

    return apply


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("edsr_tiny-igconv+-s0", "bf16-mixed"),
        ("edsr_tiny-igconv-s0", "32-true"),
        ("edsr_tiny-spconv-x3-s0", "bf16-mixed"),
    ],
)
def test_the_loop_can_be_recorded(checked, shrink, name, precision):
    """No value is read on the host, and what one step of a combination reads, the next one reads in the same place."""
    small = dict(hidden_dim=8, num_layers=2) if "igconv" in name else {}
    run = shrink(get_run("smoke", name), steps=16, record_every=8, checkpoint_every=16, validate_every=0,
                 precision=precision, **small)  # fmt: skip
    checker = checked(run)
    assert sum(checker.times.values()) == 16
    assert max(checker.times.values()) >= 3
    assert not checker.host_reads
    assert not checker.moved


def test_resizing_other_images_moves_nothing(checked, shrink, monkeypatch):
    """A recorded step reads the weights of its bicubic where they were, whatever is evaluated between two records."""
    original = DeviceFeed.send

    def send(self, step):
        for side in range(20, 120):
            resize._weights(side, side // 2, 0.5, "matlab", True, torch.device("cpu"))
        return original(self, step)

    monkeypatch.setattr(DeviceFeed, "send", send)
    run = shrink(get_run("smoke", "edsr_tiny-spconv-x3-s0"), steps=6, validate_every=0, ema=0.9)
    checker = checked(run)
    assert max(checker.times.values()) == 6
    assert not checker.moved


@pytest.mark.parametrize("fault", ["host read", "moved"])
def test_the_checker_finds_faults(checked, shrink, monkeypatch, fault):
    original = loop.average
    kept = []

    def average(ema, raw, decay):
        original(ema, raw, decay)
        if fault == "host read":
            float(next(raw.parameters()).sum())
        else:
            kept.append(torch.ones(4))
            kept[-1] + 1  # made in one step, read in the next
            len(kept) > 1 and kept[-2] + 1

    monkeypatch.setattr(loop, "average", average)
    run = replace(shrink(get_run("smoke", "edsr_tiny-spconv-x3-s0"), steps=6, validate_every=0), ema=0.9)
    checker = checked(run)
    assert checker.host_reads if fault == "host read" else checker.moved
