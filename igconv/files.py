"""Writing that is all or nothing, hashes, and locks that die with their process."""

import fcntl
import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from igconv.errors import Busy, InputError


def write(path: str | Path, content: bytes | str) -> None:
    """Write a whole file: readers see the old content or the new one, never a part.

    Text is written as UTF-8; names of files that are not UTF-8 keep their bytes (Python's "surrogateescape").

    Raises InputError with one line when the file system refuses (disk full, no permission, not a folder).
    """
    path = Path(path)
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def append(path: Path, record: dict) -> None:
    """Add a record of numbers (NumPy's too) and strings to a file at once, one line of JSON whatever the strings hold.

    `records` leaves out what a kill or a full disk has cut short. Raises InputError when the file system refuses.
    """
    try:
        with open(path, "a", encoding="ascii") as file:
            # The line break in front ends the line before, should that have been cut short.
            file.write(f"\n{json.dumps(record, default=lambda value: value.item())}\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def records(path: Path) -> list[dict]:
    """The complete records that `append` has written, none if there is no file."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:  # empty, or cut short
            continue
        found += [record] if isinstance(record, dict) else []
    return found


@contextmanager
def exclusive(path: str | Path, wait: bool, who: str):
    """Hold a lock file while the block runs. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file; it is left in place when the lock is free, and then means nothing.
        wait: wait for the holder (after one line that says so), or raise Busy.
        who: what is locked, for that line.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if not wait:
                raise Busy(f"{who} is in use by process {holder}; wait for it or end it") from None
            print(f"{who} is in use by process {holder}; waiting until it ends", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield file


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises InputError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
