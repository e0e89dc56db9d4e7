"""Steps that are forked with their imports done behave like new processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from igconv.workflow import forked, forkserver

STEP = """
import os, sys, threading, time
from pathlib import Path

def main(words):
    print("out", *words, os.environ["GIVEN"], Path.cwd().name, "torch" in sys.modules, flush=True)
    print("error", os.environ.get("GONE"), file=sys.stderr)
    if words[0] == "threads":
        print("threads", sys.modules["torch"].get_num_threads(), flush=True)
    if words[0] == "raise":
        raise ValueError("broken thing")
    if words[0] == "sleep":
        Path("pid").write_text(str(os.getpid()))
        time.sleep(60)
    if words[0] == "die":
        os.kill(os.getpid(), 9)
    return int(words[1])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(environment of those who ask, folder) of a server that finds the module ``step``; it ignores SIGINT, as it
    would where a study is started in the background."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "step.py").write_text(STEP)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    here = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with forkserver.serving(os.environ | {"PYTHONPATH": path, "GONE": "with the server's environment"}) as (asking, _):
        signal.signal(signal.SIGINT, here)
        asking.pop("GONE")
        yield asking | {"GIVEN": "value"}, folder


def start(server, *words: str, cwd: Path | None = None, **options) -> subprocess.Popen:
    environment, folder = server
    return subprocess.Popen([*forked.COMMAND, *words], env=environment, cwd=cwd or folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # fmt: skip


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_words_folder_environment_output_and_status_are_the_asking_ones(server, tmp_path):
    process = start(server, "step", "a b", "7", cwd=tmp_path)
    out, error = process.communicate()
    assert out == f"out a b 7 value {tmp_path.name} True\n"
    assert error == "error None\n"
    assert process.returncode == 7


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_step_has_the_threads_of_its_environment(server, threads):
    environment, folder = server
    process = start((environment | {"OMP_NUM_THREADS": threads}, folder), "step", "threads", "0")
    assert f"threads {threads}\n" in process.communicate()[0]


def test_without_a_server_it_is_a_new_process(server, tmp_path):
    (tmp_path / "step.py").write_text(STEP + "\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n")
    environment = server[0] | {forked.SOCKET: str(tmp_path / "nobody"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*forked.COMMAND, "step", "a", "7"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (7, f"out a 7 value {tmp_path.name} False\n")


def test_an_error_is_reported(server):
    process = start(server, "step", "raise")
    assert "ValueError: broken thing" in process.communicate()[1]
    assert process.returncode == 1


def test_a_killed_step_is_no_success(server):
    process = start(server, "step", "die")
    process.communicate()
    assert process.returncode == 137


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 137)])
def test_signals_reach_the_step(server, tmp_path, number, status):
    process = start(server, "step", "sleep", cwd=tmp_path)
    wait_for((tmp_path / "pid").exists)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == status


def test_a_step_ends_with_the_one_who_asked(server, tmp_path):
    process = start(server, "step", "sleep", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(pid))


def test_a_step_ends_with_the_parent_of_the_one_who_asked(server, tmp_path):
    """A kernel ends with its papermill, however that ended."""
    code = f"import subprocess, sys; subprocess.run({[*forked.COMMAND, 'step', 'sleep']!r})"
    environment, _ = server
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    wait_for(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_notebook_runs_in_forked_processes_and_shows_its_figures(server, tmp_path):
    cells = [
        nbformat.v4.new_code_cell('name: str = "a"  # text'),
        nbformat.v4.new_code_cell(
            "import sys\nprint(name, 'torch' in sys.modules)\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])"
        ),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "a.ipynb")
    process = start(server, "igconv.workflow.notebooks", "a.ipynb", "out.ipynb", "name=b", cwd=tmp_path)
    out, error = process.communicate()
    assert process.returncode == 0, out + error
    assert "b True" in out
    assert "Ctrl-C will not work" not in out + error  # what a kernel tells a person who started it by hand
    outputs = nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_server_ends_when_nobody_holds_it():
    ends, holds = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        given = (listening.fileno(), ends)
        words = [sys.executable, "-m", "igconv.workflow.forkserver", *map(str, given)]
        process = subprocess.Popen(words, pass_fds=given)
    os.close(ends)
    os.close(holds)
    assert process.wait(timeout=300) == 0


def test_it_forks_from_one_thread_and_has_not_touched_a_gpu():
    """A lock that another thread holds at the fork stays locked in the child for ever, and no fork survives CUDA."""
    code = f"""
import importlib, threading, torch
asked = []
for name in ("_lazy_init", "is_available", "device_count", "get_device_properties"):
    setattr(torch.cuda, name, lambda *_, name=name: asked.append(name) or 0)
torch._C._cuda_getDeviceCount = lambda: asked.append("getDeviceCount") or 0
for module in {forkserver.IMPORTS}:
    importlib.import_module(module)
print([thread.name for thread in threading.enumerate()], asked)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout == "['MainThread'] []\n", done.stdout + done.stderr
