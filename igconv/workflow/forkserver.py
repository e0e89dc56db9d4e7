"""A process that has imported what the study's steps need, and forks one for each of them.

`igconv.workflow.driver` starts it beside Snakemake; `igconv.workflow.forked` asks it. A step forked here has its
imports done, which a new process takes 4 to 8 s for. It lives as long as anyone holds the other end of its pipe.

The server itself has one thread and runs nothing: what is forked from it has neither half-held locks nor threads that
exist in name only, and CUDA, which no fork survives, is not touched.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from igconv.workflow import forked

# Environment of steps and kernels. A kernel is not a terminal: progress comes as lines. Frozen-module warnings of the
# debugger are noise. glibc's malloc keeps freed blocks (`igconv.models.inference.keep_freed_memory` says why).
ENVIRONMENT = {
    "IGCONV_PROGRESS": "lines",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
KERNEL = "ipykernel.kernelapp"
# Of the study's steps; each has a `main(words)`.
STEPS = ("igconv.workflow.notebooks", "igconv.cli", "igconv.reporting.report")
# What they import when they run.
IMPORTS = (
    KERNEL, *STEPS, "torch", "pandas", "matplotlib.pyplot", "seaborn", "papermill", "nbconvert", "tqdm",
    "IPython.display", "ipykernel.ipkernel", "lightning_fabric", "igconv.commands",
    "igconv.analysis", "igconv.evaluation.benchmark", "igconv.models.encoders", "igconv.reporting.figures",
    "igconv.reporting.tables", "igconv.training.loop",
)  # fmt: skip


@contextlib.contextmanager
def serving(environment: dict[str, str], wanted: bool = True) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Start a server; yields the environment of those who may ask it, and the file descriptors that keep it alive.

    Without Unix sockets or fork, or where none is ``wanted``, both are as before: steps start as new processes.
    """
    if not wanted or not hasattr(os, "fork") or not hasattr(socket, "AF_UNIX"):
        yield environment, ()
        return
    with tempfile.TemporaryDirectory(prefix="igconv-") as folder:
        path = str(Path(folder) / "socket")  # short: a socket's path has at most 100 characters or so
        ends, holds = os.pipe()
        try:
            # Bound here: who asks before the server has its imports waits for them.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
                listening.bind(path)
                listening.listen(64)
                given = (listening.fileno(), ends)
                server = subprocess.Popen(
                    [sys.executable, "-m", "igconv.workflow.forkserver", *map(str, given)],
                    env=environment | ENVIRONMENT,
                    pass_fds=given,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for those who asked; they pass it on
                )
            os.close(ends)
            yield environment | {forked.SOCKET: path}, (holds,)
            server.terminate()  # if there was nothing to do, it may still be at its imports
        finally:
            os.close(holds)


def serve(socket_number: int, ends: int) -> None:
    """Fork for each connection until the pipe ``ends`` is closed at its other end."""
    for name in IMPORTS:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who asked waits for the child; nobody else does
    with socket.socket(fileno=socket_number) as listening:
        while True:
            ready, _, _ = select.select([listening, ends], [], [])
            if ends in ready:
                return
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    os.close(ends)
                    os._exit(_run(connection))


def _run(connection: socket.socket) -> int:
    """In the forked process: do what was asked, and say how it ended. Returns the exit status."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a server started in the background ignores it
        request = _receive(connection)
        connection.sendall(b"%d\n" % os.getpid())
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        status = _call(request["module"], request["words"])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(b"%d\n" % status)
    return status


def _receive(connection: socket.socket) -> dict:
    """The request; its output, folder and environment are this process's from here on."""
    size, outputs, _, _ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb") as source:
        request = json.loads(source.read(int.from_bytes(size, "big")).decode("utf-8", "surrogateescape"))
    for own, given in zip((1, 2), outputs, strict=True):
        os.dup2(given, own)
        os.close(given)
    os.environ.clear()
    os.environ |= request["environment"]
    os.chdir(request["folder"])
    _take_threads()
    return request


def _take_threads() -> None:
    """A new process would read the number of threads when it imports PyTorch, which happened in the server."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        import torch

        torch.set_num_threads(int(wanted))


def _end_with(connection: socket.socket) -> None:
    """End this process when the one that asked for it is gone: nobody would read its answer."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _call(module: str, words: list[str]) -> int:
    sys.argv = [module, *words]
    try:
        if module == KERNEL:
            _start_kernel(words)
            return 0
        return importlib.import_module(module).main(words) or 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0


def _start_kernel(words: list[str]) -> None:
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp

    # matplotlib was imported before the kernel could name its backend. The backend is loaded with the first figure,
    # when there is a shell for it to tie itself to.
    matplotlib.rcParams["backend"] = os.environ.get("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    # Who asked is no parent, so the kernel would take itself for one that a person has started at a terminal.
    IPKernelApp.launch_instance(argv=words, parent_handle=os.getppid())


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
