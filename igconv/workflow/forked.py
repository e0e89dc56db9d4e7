"""Run a module in a process that has its imports already: ``python -I -S forked.py MODULE WORDS...``.

A step of the study is a process of its own, and so is each kernel; most of what they need to start is the imports
(torch, pandas, matplotlib, papermill). `igconv.workflow.forkserver` has done them once and forks. This file asks it
to, passes signals on and ends as the forked process ends. Where no server is (a cluster, a notebook run by hand,
Windows), the module starts as a new process. It uses the standard library alone, because it is started that often.
"""

import json
import os
import select
import signal
import socket
import sys

SOCKET = "IGCONV_FORKSERVER"  # the environment variable with the path of the server's socket
# Without site-packages, which take longer to be found than the rest.
COMMAND = (sys.executable, "-I", "-S", __file__)


def ask(path: str, module: str, words: list[str]) -> int | None:
    """The exit status of ``module`` run by the server at ``path``; None if no server is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.connect(path)
        except OSError:
            return None
        request = {"module": module, "words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
        head = json.dumps(request).encode("utf-8", "surrogateescape")
        socket.send_fds(server, [len(head).to_bytes(8, "big")], [1, 2])
        server.sendall(head)
        answer = server.makefile("rb")
        child = answer.readline()  # the process's number
        if not child:
            return None

        def pass_on(number, frame) -> None:
            os.kill(int(child), number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, pass_on)
        parent = os.getppid()
        while not select.select([server], [], [], 1)[0]:
            if os.getppid() != parent:  # who wanted this is gone; a closed connection ends the child
                return 128 + signal.SIGTERM
        return int(answer.readline() or 128 + signal.SIGKILL)  # no answer: it was killed


def main(words: list[str]) -> int:
    path = os.environ.get(SOCKET)
    status = ask(path, words[0], words[1:]) if path else None
    if status is None:
        os.execv(sys.executable, [sys.executable, "-m", *words])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
