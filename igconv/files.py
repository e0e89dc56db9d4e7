"""Writing that is all or nothing, hashes, and locks that die with their process."""

import fcntl
import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from igconv.errors import Busy, InputError


def write(path: str | Path, content: bytes | str) -> None:
    """Write a whole file: readers see the old content or the new one, never a part.

    Raises InputError with one line when the file system refuses (disk full, no permission, not a folder).
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
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


def append(path: Path, line: str) -> None:
    """Add a line to a file at once. `lines` leaves out one that a kill or a full disk has torn."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            # A torn line has no end of its own; the empty line before every line is it.
            file.write(f"\n{line}\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def lines(path: Path) -> list[str]:
    """The complete lines that `append` has written, none if there is no file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


@contextmanager
def exclusive(path: str | Path, wait: bool, who: str):
    """Hold a lock file while the block runs. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file; it stays, empty of meaning, when the lock is free.
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
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
