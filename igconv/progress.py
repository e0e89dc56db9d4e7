"""How far a long loop is: a bar for people, lines for logs."""

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from igconv.errors import InputError

_followed: ContextVar[str] = ContextVar("followed", default="")  # the label of the image whose parts are shown


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

    What ends within that time says nothing. Items may be fewer than ``total``.
    """
    if _has_bar():
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=label, leave=False) as bar:
            for item in items:
                yield item
                bar.update()
            bar.total = bar.n  # in a notebook a bar that is not full stays, in red
        return
    shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown >= every_s:
            shown = time.monotonic()
            print(f"{label}: {done}/{total}", flush=True)


@contextmanager
def following_parts(label: str) -> Iterator[None]:
    """Within it `parts` shows a bar on standard error under this label, at a terminal; with "" nothing is shown."""
    token = _followed.set(label if _at_terminal() else "")
    try:
        yield
    finally:
        _followed.reset(token)


def parts(items: Sequence, unit: str) -> Iterator:
    """Pass the parts of an image's work on; a bar shows them inside `following_parts` where they take over a second."""
    label = _followed.get()
    if not label or len(items) < 2:
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, desc=label, unit=unit, leave=False, delay=1, file=sys.stderr)


def _has_bar() -> bool:
    return os.environ.get("IGCONV_PROGRESS") != "lines" and (_at_terminal() or _in_notebook())


def _at_terminal() -> bool:
    return sys.stderr.isatty()


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"
