"""Writing that is all or nothing, hashes, and locks that die with their process."""

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from igconv.errors import Busy, InputError

FOLDERS = ("IGCONV_RESULTS", "IGCONV_DATA", "IGCONV_CACHE")  # environment variables that name folders


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


def absolute_folders() -> None:
    """Make relative folders in `FOLDERS` absolute, and ``~`` the home: what is started from here stands elsewhere.

    Commands call it first, where the user stands.
    """
    for name in FOLDERS:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))


@contextmanager
def exclusive(path: str | Path, wait: bool, who: str, shared: bool = False):
    """Hold a lock file while the block runs. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file; it is left in place when the lock is free, and then means nothing.
        wait: wait for the holder (after one line that says so), or raise Busy.
        who: what is locked, for that line.
        shared: take lock files of other users, too, which can be locked and not written.

    Raises InputError for a place that cannot be written or a file system without locks.
    """
    try:
        import fcntl
    except ImportError:
        raise InputError(f"{who} cannot be locked: this system has no file locks") from None
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "r+") if path.exists() else open(path, "a+")  # noqa: SIM115 (closed below)
        except PermissionError:
            if not shared:
                raise
            file = open(path)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "unknown"
            if not wait:
                raise Busy(f"{who} is in use by process {holder}; wait for it or end it") from None
            print(f"{who} is in use by process {holder}; waiting until it ends", flush=True)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise _no_lock(path, error) from None
        except OSError as error:
            raise _no_lock(path, error) from None
        if file.writable():
            note_holder(file, os.getpid())
        yield file


def _no_lock(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot lock {path}: {error.strerror or error}; its file system has no locks, choose another")


def note_holder(file, process: int) -> None:
    """Write into a held lock file which process holds it. Raises InputError when the file system refuses."""
    try:  # not through the file's buffer: a full disk would speak again when it is closed
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), str(process).encode(), 0)
    except OSError as error:
        raise InputError(f"cannot write {file.name}: {error.strerror or error}") from None


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises InputError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
