"""Locks on odd file systems, and folders in environment variables."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from igconv import InputError
from igconv.files import exclusive
from igconv.study import results


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, code):
    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fails)
    with (
        pytest.raises(InputError, match=r"cannot lock .*lock.*; its file system has no locks") as error,
        exclusive(tmp_path / "lock", wait=True, who="it"),
    ):
        pass
    assert "\n" not in str(error.value)


def test_a_full_disk_at_the_lock_is_one_line(tmp_path):
    """A limit of zero bytes per file, by the system itself."""
    code = ("import resource, sys; from igconv.files import exclusive; from igconv import InputError\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
            "try:\n    with exclusive(sys.argv[1], wait=False, who='it'): print('held')\n"
            "except InputError as error: print(error)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True)
    assert done.stdout == f"cannot write {tmp_path / 'lock'}: File too large\n", done.stderr


def test_a_system_without_fcntl_imports(monkeypatch, tmp_path):
    """Only a lock needs it."""
    code = ("import sys; sys.modules['fcntl'] = None\nimport igconv, igconv.upscaling\nfrom igconv import files\n"
            "try:\n    with files.exclusive(sys.argv[1], wait=False, who='it'): pass\n"
            "except igconv.InputError as error: print(error)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True)
    assert done.stdout == "it cannot be locked: this system has no file locks\n", done.stderr


@pytest.mark.parametrize("name", results.FOLDERS)
@pytest.mark.parametrize(("given", "meant"), [("out", "{here}/out"), ("../x", "{above}/x"), ("~/x", "{home}/x"),
                                              ("/abs", "/abs"), ("", "")])  # fmt: skip
def test_relative_folders_are_where_the_user_stands(tmp_path, monkeypatch, name, given, meant):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(name, given)
    results.absolute_folders()
    monkeypatch.chdir("/")
    assert os.environ[name] == meant.format(here=tmp_path / "here", above=tmp_path, home=tmp_path / "home")
