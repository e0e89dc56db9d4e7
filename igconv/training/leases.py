"""Which GPU a run takes: each run on this machine leases one by a lock file that dies with its process."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from igconv.errors import Busy
from igconv.files import exclusive


def shared_folder() -> Path:
    """A folder for the locks of all users of this machine; one of this user's own where another made it for himself."""
    temporary = Path(tempfile.gettempdir())
    folder = temporary / "igconv-gpus"
    try:
        folder.mkdir()
        folder.chmod(0o1777)  # as the temporary folder itself, whatever the umask
    except OSError:
        pass  # it is there, or nothing can be written: `exclusive` says so
    if (folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)) or folder.is_symlink():
        return temporary / f"igconv-gpus-{os.getuid()}"
    return folder


@contextmanager
def leased_gpu(gpus: int, folder: Path | None = None) -> Iterator[int]:
    """Index of a GPU that no fewer runs use than any other; the lease lasts as long as the block.

    Runs beyond the number of GPUs share them evenly: small networks leave a large GPU idle, so nobody has to wait.
    Only runs that lease are counted, not what else works on the GPU.

    Args:
        gpus: how many there are, >= 1.
        folder: where the locks are; all runs of a machine have to agree (default: `shared_folder`).
    """
    folder = folder or shared_folder()
    for place in count():
        for gpu in range(gpus):
            with ExitStack() as stack:
                try:
                    stack.enter_context(
                        exclusive(folder / f"gpu{gpu}-{place}", wait=False, who=f"GPU {gpu}", shared=True)
                    )
                except Busy:
                    continue
                yield gpu
                return
