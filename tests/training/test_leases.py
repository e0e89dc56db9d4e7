"""Runs spread over the GPUs of a machine; a lease ends with its process."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from igconv import InputError
from igconv.training.leases import leased_gpu


def test_runs_spread_evenly(tmp_path):
    """Every GPU gets its first run before one gets its second; a place that becomes free is the next one taken."""
    with ExitStack() as stack:
        taken = [stack.enter_context(leased_gpu(3, tmp_path)) for _ in range(3)]
        assert sorted(taken) == [0, 1, 2]
        with leased_gpu(3, tmp_path) as shared:
            assert shared == 0
            with leased_gpu(3, tmp_path) as other:
                assert other == 1
    with leased_gpu(3, tmp_path) as again:
        assert again == 0


def test_a_killed_run_gives_its_gpu_back(tmp_path):
    """Nothing has to be cleared by hand."""
    code = f"""if True:
        from pathlib import Path
        from igconv.training.leases import leased_gpu
        with leased_gpu(2, Path({str(tmp_path)!r})) as gpu:
            print(gpu, flush=True)
            input()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        with leased_gpu(2, tmp_path) as mine:
            assert mine == 1
        process.kill()
        process.wait()
    with leased_gpu(2, tmp_path) as mine:
        assert mine == 0


def test_a_gpu_that_cannot_be_leased_is_told(tmp_path):
    """The folder's name holds the words of a GPU in use: kinds of errors decide, not their texts."""
    (tmp_path / "in use").write_text("")
    with pytest.raises(InputError, match="cannot write"), leased_gpu(2, tmp_path / "in use"):
        pass


def test_errors_of_the_user_pass_through(tmp_path):
    """What is raised while the GPU is held is not taken for a GPU in use; an unusable folder is told."""
    with pytest.raises(InputError, match="in use, they said"), leased_gpu(2, tmp_path):
        raise InputError("in use, they said")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), leased_gpu(2, tmp_path / "file"):
        pass
