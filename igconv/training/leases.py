"""Which GPU a run takes: each run on this machine leases one by a lock file that dies with its process."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from igconv.errors import Busy
from igconv.files import exclusive


@contextmanager
def leased_gpu(gpus: int, folder: Path | None = None) -> Iterator[int]:
    """Index of a GPU that no fewer runs use than any other; the lease lasts as long as the block.

    Runs beyond the number of GPUs share them evenly: small networks leave a large GPU idle, so nobody has to wait.
    Only runs that lease are counted, not what else works on the GPU.

    Args:
        gpus: how many there are, >= 1.
        folder: where the locks are; all runs of a machine have to agree (default: the folder for temporary files).
    """
    folder = folder or Path(tempfile.gettempdir()) / "igconv-gpus"
    for place in count():
        for gpu in range(gpus):
            with ExitStack() as stack:
                try:
                    stack.enter_context(exclusive(folder / f"gpu{gpu}-{place}", wait=False, who=f"GPU {gpu}"))
                except Busy:
                    continue
                yield gpu
                return
