"""What a record says about time: the clock is the test's own, so that shares are exact."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from igconv.training import loop, meter
from igconv.training.feed import HostFeed
from igconv.training.meter import Meter


class Clock:
    """`time.perf_counter` that goes on only by `pass_`."""

    def __init__(self):
        self.now = 100.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def wait(of: Meter, clock: Clock, seconds: float) -> None:
    with of.waiting():
        clock.pass_(seconds)


def test_waiting_is_a_share_of_the_time_of_training(clock):
    """Since the last record alone, and of the time that was not paused."""
    measured = Meter(torch.device("cpu"), 0, 0.0)
    for _ in range(2):
        wait(measured, clock, 1.0)
        clock.pass_(3.0)
    with measured.paused():
        clock.pass_(50.0)
    found = measured.read(2, batch=4)
    assert (found["data_wait_share"], found["seconds"], found["images_per_s"]) == (0.25, 8.0, 1.0)
    measured.restart(2)
    clock.pass_(2.0)
    found = measured.read(3, batch=4)
    assert (found["data_wait_share"], found["seconds"]) == (0.0, 10.0)


def test_waiting_before_an_interruption_counts(clock):
    measured = Meter(torch.device("cpu"), 0, 0.0)
    wait(measured, clock, 3.0)
    kept = measured.so_far()
    clock.pass_(1000.0)  # until the same command was given again
    again = Meter(torch.device("cpu"), 1, 0.0)
    again.go_on(kept)
    wait(again, clock, 1.0)
    clock.pass_(4.0)
    assert again.read(2, batch=1)["data_wait_share"] == 0.5


def test_a_training_waits_for_its_feed_and_for_nothing_else(clock, monkeypatch, go, tiny_run):
    """A second per step for its patches, three for the step; validation and error per band are outside."""

    def takes(where, name, seconds):
        original = getattr(where, name)

        def slow(*args):
            clock.pass_(seconds)
            return original(*args)

        monkeypatch.setattr(where, name, slow)

    takes(HostFeed, "send", 1.0)
    takes(loop, "_losses", 3.0)
    takes(loop, "validation_bands", 100.0)
    takes(loop, "validation_psnr", 100.0)
    run = replace(tiny_run, validate_every=2)
    records = go(run)
    assert [record["data_wait_share"] for record in records] == [0.25] * 3
    assert [record["seconds"] for record in records] == [8.0, 16.0, 24.0]
    assert [record["images_per_s"] for record in records] == [run.batch / 4] * 3
