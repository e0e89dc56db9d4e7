"""What was found out about the contents of files, remembered for as long as none of them changes.

To read all images of a large set takes minutes, to look at their sizes and times takes none. Notes lie below the
cache folder (`folder`), which can be deleted at any time.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from igconv.errors import InputError
from igconv.files import write
from igconv.study.results import PROJECT

SETTLED_S = (
    2.0  # a file that changed this recently could change again without other times; file systems' clocks are coarse
)


def folder() -> Path:
    """The cache folder: IGCONV_CACHE or ``data/cache``."""
    return Path(os.environ.get("IGCONV_CACHE") or PROJECT / "data" / "cache").resolve()


def remembered(what: str, paths: Sequence[Path], find: Callable[[], str] | None) -> str:
    """``find()``, a text that depends on the contents of files alone, or what an earlier call of it gave.

    Args:
        what: which text, and everything besides the files that it depends on.
        find: None for "" where nothing is remembered.
    """
    state = _state(paths)
    key = hashlib.sha256(json.dumps([what, state]).encode()).hexdigest()[:32]
    note = folder() / "known" / key
    try:
        return note.read_text()
    except (OSError, ValueError):
        if find is None:
            return ""
    start, found = time.time(), find()
    newest = max((times[-1] for _, *times in state), default=0) / 1e9
    if newest < start - SETTLED_S and _state(paths) == state:
        with suppress(InputError):  # a cache of somebody else, or a full disk: it is found out again
            write(note, found)
    return found


def _state(paths: Sequence[Path]) -> list[tuple]:
    """Absolute path, size, inode and times of files; the last is the time of the inode, which cannot be set."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        found.append((os.path.abspath(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))
    return found
