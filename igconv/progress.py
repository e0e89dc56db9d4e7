"""How far a long loop is: a bar for people, lines for logs."""

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from igconv.errors import InputError


def follow(records: Iterable[dict], total: int, label: str) -> Iterator[dict]:
    """Pass records (with ``step`` and ``loss``) on, and show how far they are.

    A bar in a terminal and in JupyterLab; elsewhere, and where IGCONV_PROGRESS=lines says so (the driver does), a
    line about every tenth of the way.
    """
    if _has_bar():
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=label, unit="step") as bar:
            for record in records:
                bar.update(record["step"] - bar.n)
                bar.set_postfix(loss=f"{record['loss']:.4f}")
                yield record
        return
    start, first, shown = time.monotonic(), None, 0.0
    for record in records:
        step = record["step"]
        first = step if first is None else first
        if step >= shown + total / 10 or step == total:
            shown = step
            rate = (step - first) / max(time.monotonic() - start, 1e-9)
            left = f", {(total - step) / rate:.0f} s left" if rate and step < total else ""
            print(f"{label}: step {step}/{total}, loss {record['loss']:.4f}{left}", flush=True)
        yield record


def to_tensorboard(records: Iterable[dict], folder: Path) -> Iterator[dict]:
    """Pass records on and write their numbers as TensorBoard events into ``folder``.

    Raises InputError where the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("TensorBoard is not installed (pip install tensorboard)") from None
    with SummaryWriter(folder) as writer:
        for record in records:
            for name, value in record.items():
                if name != "step" and math.isfinite(value):
                    writer.add_scalar(name, value, record["step"])
            yield record


def follow_items(items: Iterable, total: int, label: str, every_s: float = 10.0) -> Iterator:
    """Pass items on and show how many there were: a bar where `follow` has one, else a line every ``every_s`` seconds.

    What ends within that time says nothing.
    """
    if _has_bar():
        from tqdm.auto import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown >= every_s:
            shown = time.monotonic()
            print(f"{label}: {done}/{total}", flush=True)


def _has_bar() -> bool:
    return os.environ.get("IGCONV_PROGRESS") != "lines" and (sys.stderr.isatty() or _in_notebook())


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"
