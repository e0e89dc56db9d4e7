"""Training to the end, in this process or in one that a test kills."""

import os

from igconv.data import datasets
from igconv.study.run import Run
from igconv.training.loop import train


def to_the_end(run: Run) -> list[dict]:
    """Train on the CPU and return the records."""
    return list(train(run, accelerator="cpu"))


def elsewhere(run: Run, sets: dict, folders: dict[str, str]) -> None:
    """`to_the_end` in a process of its own, which knows neither the test's image sets nor its environment."""
    datasets.catalogue = lambda: sets
    os.environ.update(folders)
    to_the_end(run)
