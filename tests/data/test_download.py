"""Downloads of one file from a server on this machine: what goes wrong is one line, nothing is lost, a second call
repairs."""

import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from file_server import refused, sha256

from igconv.data import download


def test_a_file_is_downloaded_once(server, content, tmp_path):
    """With a checksum, what is right is not fetched again; nothing else stays in the folder."""
    server.files["x.bin"] = content
    target = tmp_path / "x.bin"
    for _ in range(2):
        download.download(server.url("x.bin"), target, sha256(content))
        assert target.read_bytes() == content
    assert len(server.requests) == 1
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("behaviour", ["ranges", "no ranges", "no version", "stale"])
def test_truncated_download_goes_on(server, content, tmp_path, behaviour):
    """The part stays, the next call fetches the rest if the server can, and all of it if not."""
    server.files["x.bin"] = content
    target = tmp_path / "x.bin"
    server.behaviour["x.bin"] = "truncate"
    refused(lambda: download.download(server.url("x.bin"), target), server.url("x.bin"), "broke off after", "524288")
    assert not target.exists()
    got = (tmp_path / "x.bin.part").stat().st_size
    assert 0 < got < len(content)
    if behaviour == "no version":
        (tmp_path / "x.bin.part.tag").write_text("")
    server.behaviour["x.bin"] = behaviour
    download.download(server.url("x.bin"), target, sha256(content))
    assert target.read_bytes() == content
    assert [asked for _, asked in server.requests] == ["", "" if behaviour == "no version" else f"bytes={got}-"]
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("behaviour", ["ranges", "stale"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, content, tmp_path, behaviour):
    """The ETag tells, also where the server sends a range of the new file regardless."""
    server.files["x.bin"] = content
    server.behaviour["x.bin"] = "truncate"
    refused(lambda: download.download(server.url("x.bin"), tmp_path / "x.bin"), "broke off")
    server.files["x.bin"] = content[::-1]
    server.behaviour["x.bin"] = behaviour
    download.download(server.url("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == content[::-1]


def test_part_that_is_complete_is_only_moved(server, content, tmp_path):
    """Killed between the last byte and the move."""
    server.files["x.bin"] = content
    (tmp_path / "x.bin.part").write_bytes(content)
    (tmp_path / "x.bin.part.tag").write_text(f'"{hashlib.sha256(content).hexdigest()[:8]}"')
    download.download(server.url("x.bin"), tmp_path / "x.bin", sha256(content))
    assert (tmp_path / "x.bin").read_bytes() == content
    assert len(server.requests) == 1


def test_part_longer_than_the_file_is_thrown_away(server, content, tmp_path):
    server.files["x.bin"] = content
    (tmp_path / "x.bin.part").write_bytes(content + b"more")
    (tmp_path / "x.bin.part.tag").write_text(f'"{hashlib.sha256(content).hexdigest()[:8]}"')
    download.download(server.url("x.bin"), tmp_path / "x.bin", sha256(content))
    assert (tmp_path / "x.bin").read_bytes() == content


def test_killed_download_goes_on(server, content, tmp_path):
    """SIGKILL in the middle leaves a part; the next process takes it up."""
    server.files["x.bin"] = content
    server.behaviour["x.bin"] = "hang"
    target, part = tmp_path / "x.bin", tmp_path / "x.bin.part"
    code = "import sys, pathlib; from igconv.data.download import *; download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, server.url("x.bin"), str(target)])
    while not (part.is_file() and part.stat().st_size >= 1 << 17):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    server.behaviour["x.bin"] = "ranges"
    got = part.stat().st_size
    download.download(server.url("x.bin"), target, sha256(content))
    assert target.read_bytes() == content
    assert server.requests[-1] == ("x.bin", f"bytes={got}-")


@pytest.mark.parametrize(
    ("path", "behaviour", "words"),
    [("x.bin", 500, ("the server answers 500",)), ("none.bin", "ranges", ("the server answers 404 Not Found",))],
)
def test_server_errors_are_one_line_and_leave_the_file(server, content, tmp_path, path, behaviour, words):
    server.files["x.bin"] = content
    server.behaviour["x.bin"] = behaviour
    (tmp_path / "x.bin").write_bytes(b"before")
    refused(lambda: download.download(server.url(path), tmp_path / "x.bin", sha256(content)), server.url(path), *words)
    assert (tmp_path / "x.bin").read_bytes() == b"before"
    server.behaviour["x.bin"] = "ranges"
    download.download(server.url("x.bin"), tmp_path / "x.bin", sha256(content))
    assert (tmp_path / "x.bin").read_bytes() == content


def test_wrong_content_is_thrown_away(server, content, tmp_path):
    """Both digests are named; the file that was there stays; the right content repairs."""
    server.files["x.bin"] = content + b"!"
    (tmp_path / "x.bin").write_bytes(b"before")
    expected = sha256(content)
    digests = [text.removeprefix("sha256:") for text in (expected, sha256(content + b"!"))]
    refused(lambda: download.download(server.url("x.bin"), tmp_path / "x.bin", expected), "wrong content", *digests)
    assert (tmp_path / "x.bin").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x.bin"]
    server.files["x.bin"] = content
    download.download(server.url("x.bin"), tmp_path / "x.bin", expected)
    assert (tmp_path / "x.bin").read_bytes() == content


def test_no_network_is_one_line(tmp_path, monkeypatch):
    """Nobody listens there; no such host."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    refused(lambda: download.download("http://127.0.0.1:9/x.bin", tmp_path / "x.bin"), "no network, or 127.0.0.1:9")
    refused(
        lambda: download.download("http://nowhere.invalid/x.bin", tmp_path / "x.bin"), "no network", "nowhere.invalid"
    )
    refused(lambda: download.download("http:///x.bin", tmp_path / "x.bin"), "cannot be downloaded")
    assert not (tmp_path / "x.bin").exists()


def test_full_disk_is_one_line_and_goes_on(server, content, tmp_path, monkeypatch):
    """The disk fills up in the middle; when there is room again, the rest is fetched."""
    server.files["x.bin"] = content
    (tmp_path / "x.bin").write_bytes(b"before")
    real = open

    def limited(path, mode="r", *args, **kwargs):
        file = real(path, mode, *args, **kwargs)
        if str(path).endswith(".part") and "r" not in mode:
            write = file.write

            class Full(io.BufferedIOBase):
                def write(self, data):
                    if file.tell() + len(data) > 200_000:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return write(data)

                def close(self):
                    file.close()

            return Full()
        return file

    monkeypatch.setattr(download, "open", limited, raising=False)

    def call():
        download.download(server.url("x.bin"), tmp_path / "x.bin", sha256(content))

    refused(call, "cannot write", "No space left on device")
    assert (tmp_path / "x.bin").read_bytes() == b"before"
    monkeypatch.delattr(download, "open")
    call()
    assert (tmp_path / "x.bin").read_bytes() == content
    assert server.requests[-1][1].startswith("bytes=")


def test_too_little_space_is_said_before_the_download(server, content, tmp_path, monkeypatch):
    server.files["x.bin"] = content
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    refused(
        lambda: download.download(server.url("x.bin"), tmp_path / "x.bin"), "no space", "GB needed", "1e-06 GB free"
    )
    assert not list(tmp_path.glob("*"))
