"""Archives: what is inside a folder is unpacked, and nothing that leads out of it or is damaged."""

import errno
import os
import shutil
import tarfile
import zipfile

import pytest
from file_server import refused, tarred, zipped

from igconv.data import download


def test_archives_are_unpacked_below_a_folder(tmp_path):
    """Only what is inside the named folder, without hidden files."""
    members = {"set/HR/1.png": b"1", "set/HR/more/2.png": b"2", "set/HR/._1.png": b"mac", "set/LR/1.png": b"lr"}
    zipped(members, tmp_path / "x.zip")
    tarred([("./" + name, data) for name, data in members.items()], tmp_path / "x.tar")
    for name in ("x.zip", "x.tar"):
        folder = tmp_path / f"out-{name}"
        download.unpack(tmp_path / name, folder, "set/HR")
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert files == {"1.png": b"1", "more/2.png": b"2"}


EVIL_NAMES = ("../evil.png", "set/../../evil.png", "/tmp/evil.png", "C:/evil.png", "..\\evil.png")


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_lead_out_are_refused(tmp_path, name, kind):
    """Nothing is written, not even the good members before it; the member is named."""
    good = [(f"set/{i}.png", b"good") for i in range(3)]
    archive = tmp_path / "deep" / f"x.{kind}"
    archive.parent.mkdir()
    make = {"zip": lambda m: zipped(dict(m), archive), "tar": lambda m: tarred(m, archive)}[kind]
    make([*good, (name, b"evil")])
    refused(lambda: download.unpack(archive, tmp_path / "deep" / "out"), "refused, member", repr(name))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [archive.name]
    make(good)
    download.unpack(archive, tmp_path / "deep" / "out")
    assert len(list((tmp_path / "deep" / "out" / "set").iterdir())) == 3


@pytest.mark.parametrize(
    ("kind", "word"),
    [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "device"), (tarfile.FIFOTYPE, "device")],
)
def test_links_and_devices_in_tar_are_refused(tmp_path, kind, word):
    archive = tarred([("a.png", b"good"), ("b.png", (kind, "/etc/passwd"))], tmp_path / "x.tar")
    refused(lambda: download.unpack(archive, tmp_path / "out"), f"member 'b.png' is a {word}")
    assert os.listdir(tmp_path) == ["x.tar"]


@pytest.mark.parametrize(("mode", "word"), [(0o120777, "link"), (0o020666, "device")])
def test_links_and_devices_in_zip_are_refused(tmp_path, mode, word):
    archive = zipped({"a.png": b"good", "b.png": b"/etc/passwd"}, tmp_path / "x.zip", **{"b.png": mode})
    refused(lambda: download.unpack(archive, tmp_path / "out"), f"member 'b.png' is a {word}")
    assert os.listdir(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("kind", ["zip", "tar", "text", "content"])
def test_damaged_archives_are_refused(tmp_path, kind, content):
    """Cut off, no archive at all, or a member whose checksum is wrong."""
    archive = tmp_path / "x"
    if kind == "tar":
        tarred([("a.png", os.urandom(50_000))], archive)
        archive.write_bytes(archive.read_bytes()[:30_000])
    elif kind == "zip":
        zipped({"a.png": content}, archive)
        archive.write_bytes(archive.read_bytes()[:-40])
    elif kind == "content":
        zipped({"a.png": content}, archive)
        archive.write_bytes(archive.read_bytes().replace(content[:600], content[1:600] + b"!", 1))
    else:
        archive.write_text("<html>moved</html>")
    refused(lambda: download.unpack(archive, tmp_path / "out"), "cannot unpack", str(archive), "damaged")
    assert os.listdir(tmp_path) == ["x"]


def test_content_larger_than_announced_is_refused(tmp_path):
    """The space is reckoned with announced sizes; a member that holds more is damaged."""
    archive, content = tmp_path / "x.zip", b"x" * 123_457
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", content)
    whole = archive.read_bytes()
    archive.write_bytes(whole.replace(len(content).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(lambda: download.unpack(archive, tmp_path / "out"), "damaged")
    assert os.listdir(tmp_path) == ["x.zip"]


def test_no_space_to_unpack(tmp_path, monkeypatch):
    archive = zipped({"a.png": b"x" * 5000}, tmp_path / "x.zip")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        refused(lambda: download.unpack(archive, tmp_path / "out"), "no space to unpack")
        patch.undo()

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(shutil, "copyfileobj", full)
        refused(lambda: download.unpack(archive, tmp_path / "out"), "No space left on device")
    assert os.listdir(tmp_path) == ["x.zip"]
    download.unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_bytes() == b"x" * 5000
