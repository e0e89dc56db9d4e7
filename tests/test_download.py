"""Downloads against a server on this machine: what goes wrong is one line, nothing is lost, a second call repairs."""

import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from igconv import InputError, datasets, download, images, weights

NAMES = ("a", "b", "c")


@dataclass
class Server:
    """Files by path, and for each path how it behaves; it remembers the requests."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    # of a path: "ranges" (the default), "no ranges", "no version", "truncate", "hang", "stale", or a status
    behaviour: dict = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # (path, Range)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            path = self.path.strip("/")
            asked = self.headers.get("Range", "")
            state.requests.append((path, asked))
            behaviour, content = state.behaviour.get(path, "ranges"), state.files.get(path)
            if isinstance(behaviour, int) or content is None:
                return self.send_error(behaviour if isinstance(behaviour, int) else 404)
            tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            start = 0
            if asked and behaviour not in ("no ranges", "no version"):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if self.headers.get("If-Range") != tag and behaviour != "stale":  # "stale" ignores the condition
                    start = 0
                elif start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if behaviour != "no version":
                self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            half = (start + len(content)) // 2
            self.wfile.write(content[start:half])
            if behaviour == "hang":
                self.wfile.flush()
                time.sleep(30)
            if behaviour not in ("truncate", "hang"):
                self.wfile.write(content[half:])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def content() -> bytes:
    """Half a megabyte, several chunks."""
    return bytes(range(256)) * 2048


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def refused(call, *words: str) -> str:
    """The call raises InputError; its message is one line with all the words."""
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


# One file


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
    code = "import sys, pathlib; from igconv.download import download; download(sys.argv[1], pathlib.Path(sys.argv[2]))"
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


# Archives


def zipped(members: dict, path: Path, **modes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(name.split("/")[-1], 0o100644) << 16
            archive.writestr(info, data)
    return path


def tarred(members: list, path: Path, mode="w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                archive.addfile(info)
    return path


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


# Image sets


@pytest.fixture
def by_image(server, tmp_path, monkeypatch, photograph):
    """A set "tiny" whose three images are single bmp files on the server, with known pixels. Returns its root."""
    known = {}
    for seed, name in enumerate(NAMES):
        image = photograph(12, 16, seed)
        known[name] = datasets.KnownImage(12, 16, datasets.pixels_sha256(image), "")
        server.files[f"{name}_HR.bmp"] = encoded(image, "bmp")
    entry = datasets.ImageSet("tiny", "train", 3, "made here", "none", folder="train/tiny",
                              addresses=(server.url("{name}_HR.bmp"),))  # fmt: skip
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": entry})
    monkeypatch.setattr(datasets, "known_images", lambda: {"tiny": known})
    monkeypatch.delenv("IGCONV_DATA", raising=False)
    return tmp_path / "root"


@pytest.fixture
def by_archive(server, tmp_path, monkeypatch, photograph):
    """A set "tiny" of images 001 to 003 in a zip archive on the server. Returns its root."""
    members = {f"tiny/HR/{i:03}.png": encoded(photograph(12, 16, i), "png") for i in (1, 2, 3)}
    content = zipped(members | {"tiny/LR/001.png": b"-"}, tmp_path / "made.zip").read_bytes()
    server.files["tiny.zip"] = content
    entry = datasets.ImageSet(
        "tiny", "train", 3, "made here", "none", folder="train/tiny", numbered="001-003",
        addresses=(server.url("tiny.zip"),), checksum=sha256(content), inside="tiny/HR",
    )  # fmt: skip
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": entry})
    return tmp_path / "root"


def encoded(image, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format=kind)
    return file.getvalue()


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_images_are_fetched_and_then_left_alone(by_image, server):
    """Named as in the catalogue, with the suffix of the source; the second call asks the server nothing."""
    assert "3 images fetched" in download.fetch("tiny", by_image)
    assert listing(by_image / "train" / "tiny") == ["a.bmp", "b.bmp", "c.bmp"]
    assert [p.name for p in datasets.image_set("tiny").paths(by_image)] == ["a.bmp", "b.bmp", "c.bmp"]
    asked = len(server.requests)
    assert "here already" in download.fetch("tiny", by_image)
    assert len(server.requests) == asked == 3
    assert listing(by_image / "train") == [".lock-tiny", "tiny"]


def test_only_what_is_wrong_is_fetched_again(by_image, server, photograph, write_png):
    """A copy in another format counts; a missing, a changed and a damaged image are replaced, whatever their format."""
    folder = by_image / "train" / "tiny"
    download.fetch("tiny", by_image)
    write_png(images.read_image(folder / "a.bmp"), folder / "a.png")
    (folder / "a.bmp").unlink()
    write_png(photograph(12, 16, 77), folder / "b.png")
    (folder / "b.bmp").unlink()
    (folder / "c.bmp").write_bytes((folder / "c.bmp").read_bytes()[:100])
    found = datasets.verify("tiny", by_image)
    assert len(found) == 2
    assert "changed: b.png" in found[0]
    assert "unreadable: " in found[1]
    assert "c.bmp" in found[1]
    server.requests.clear()
    assert "2 images fetched" in download.fetch("tiny", by_image)
    assert [path for path, _ in server.requests] == ["b_HR.bmp", "c_HR.bmp"]
    assert listing(folder) == ["a.png", "b.bmp", "c.bmp"]
    assert datasets.verify("tiny", by_image) == []


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(404, "404"), (500, "500"), ("truncate", "broke off"), ("wrong", "has not the image that belongs to b: changed")],
)
def test_failed_image_keeps_the_rest(by_image, server, photograph, behaviour, words):
    """The folder does not appear, or stays as it was; the second call fetches only what the first did not get."""
    good = server.files["b_HR.bmp"]
    if behaviour == "wrong":
        server.files["b_HR.bmp"] = encoded(photograph(12, 16, 9), "bmp")
    else:
        server.behaviour["b_HR.bmp"] = behaviour
    refused(lambda: download.fetch("tiny", by_image), server.url("b_HR.bmp"), words)
    assert not (by_image / "train" / "tiny").exists()
    server.files["b_HR.bmp"] = good
    server.behaviour.clear()
    server.requests.clear()
    download.fetch("tiny", by_image)
    assert [path for path, _ in server.requests] == ["b_HR.bmp", "c_HR.bmp"]
    (by_image / "train" / "tiny" / "b.bmp").write_bytes(b"broken")
    server.behaviour["b_HR.bmp"] = 500
    refused(lambda: download.fetch("tiny", by_image), "500")
    assert (by_image / "train" / "tiny" / "b.bmp").read_bytes() == b"broken"
    server.behaviour.clear()
    download.fetch("tiny", by_image)
    assert datasets.verify("tiny", by_image) == []


def test_second_address_is_tried(by_image, server, monkeypatch):
    """And if none works, the line is about the first."""
    entry = datasets.image_set("tiny")
    addresses = (server.url("gone/{name}.png"), *entry.addresses)
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": replace(entry, addresses=addresses)})
    server.behaviour |= {f"{name}_HR.bmp": 500 for name in NAMES}
    refused(lambda: download.fetch("tiny", by_image), "gone/a.png", "404")
    server.behaviour.clear()
    download.fetch("tiny", by_image)
    assert datasets.verify("tiny", by_image) == []


def test_extra_images_are_the_users_to_remove(by_image, photograph, write_png):
    download.fetch("tiny", by_image)
    extra = write_png(photograph(9, 9), by_image / "train" / "tiny" / "d.png")
    refused(lambda: download.fetch("tiny", by_image), "extra: d.png")
    assert extra.exists()
    extra.unlink()
    assert "here already" in download.fetch("tiny", by_image)


def test_archive_becomes_a_set(by_archive, server):
    assert "3 images fetched" in download.fetch("tiny", by_archive)
    assert listing(by_archive / "train" / "tiny") == ["001.png", "002.png", "003.png"]
    assert "here already" in download.fetch("tiny", by_archive)
    assert len(server.requests) == 1
    assert listing(by_archive / "train") == [".lock-tiny", "tiny"]


def test_archive_repairs_a_set(by_archive):
    """A missing and a damaged image come back, the others are not touched."""
    folder = by_archive / "train" / "tiny"
    download.fetch("tiny", by_archive)
    (folder / "001.png").unlink()
    (folder / "002.png").write_bytes(b"broken")
    before = (folder / "003.png").stat()
    assert "2 images fetched" in download.fetch("tiny", by_archive)
    assert datasets.verify("tiny", by_archive) == []
    assert (folder / "003.png").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("behaviour", "words"), [(500, "500"), ("truncate", "broke off"), ("wrong", "wrong content"), ("evil", "evil")]
)
def test_failed_archive_changes_nothing(by_archive, server, tmp_path, monkeypatch, behaviour, words):
    folder = by_archive / "train" / "tiny"
    download.fetch("tiny", by_archive)
    (folder / "002.png").write_bytes(b"broken")
    before, good, entry = listing(folder), server.files["tiny.zip"], datasets.image_set("tiny")
    if behaviour == "evil":
        evil = zipped({"tiny/HR/001.png": b"-", "../evil": b"-"}, tmp_path / "evil.zip").read_bytes()
        server.files["tiny.zip"] = evil
        changed = replace(entry, checksum=sha256(evil))
        monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": changed})
    elif behaviour == "wrong":
        server.files["tiny.zip"] = good[:-1] + b"!"
    else:
        server.behaviour["tiny.zip"] = behaviour
    refused(lambda: download.fetch("tiny", by_archive), words)
    assert listing(folder) == before
    assert (folder / "002.png").read_bytes() == b"broken"
    assert not list(tmp_path.rglob("evil"))
    server.files["tiny.zip"] = good
    server.behaviour.clear()
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": entry})
    download.fetch("tiny", by_archive)
    assert datasets.verify("tiny", by_archive) == []


def test_archive_without_the_images_is_refused(by_archive, server, tmp_path, monkeypatch):
    """No checksum is known, and what comes is another archive."""
    entry = replace(datasets.image_set("tiny"), checksum="")
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": entry})
    good = server.files["tiny.zip"]
    server.files["tiny.zip"] = zipped({"tiny/HR/001.png": b"no image"}, tmp_path / "other.zip").read_bytes()
    refused(lambda: download.fetch("tiny", by_archive), "is not tiny", "missing: 002", "unreadable: ")
    assert not (by_archive / "train" / "tiny").exists()
    server.files["tiny.zip"] = good
    download.fetch("tiny", by_archive)
    assert datasets.verify("tiny", by_archive) == []


def test_two_fetches_at_once_download_once(by_archive, server):
    """The second waits, then finds the set."""
    calls = [threading.Thread(target=download.fetch, args=("tiny", by_archive)) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(server.requests) == 1
    assert datasets.verify("tiny", by_archive) == []


def test_composition_fetches_its_parts(by_archive, monkeypatch):
    tiny = datasets.image_set("tiny")
    both = {"tiny": tiny, "whole": datasets.ImageSet("whole", "train", 3, "", "", parts=("tiny",))}
    monkeypatch.setattr(datasets, "catalogue", lambda: both)
    download.fetch("whole", by_archive)
    assert len(datasets.image_set("whole").paths(by_archive)) == 3


@pytest.mark.parametrize("name", ["Manga109", "ImageNet", "LSDIR", "DFL"])
def test_sets_that_users_bring_say_how(tmp_path, name):
    """Also as parts of another set, and before anything is downloaded."""
    message = refused(lambda: download.fetch(name, tmp_path), "cannot be fetched: ", "http", str(tmp_path))
    assert os.listdir(tmp_path) == []
    assert "into" in message


def test_bundled_sets_are_there():
    assert "here already" in download.fetch("sample_test")


def test_place_that_cannot_be_written(tmp_path):
    """A file where the folder should be."""
    (tmp_path / "train").write_text("")
    refused(lambda: download.fetch("T91", tmp_path), "cannot write", str(tmp_path / "train"))


# Weights


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """Weights "net" on the server. Returns the root to fetch them to."""
    content = b"PK" + os.urandom(1000)
    (tmp_path / "net").write_bytes(content)
    server.files["net_x2.pth"] = content
    blob = weights.git_blob_id(tmp_path / "net")
    entry = weights.Weights("net", "DIV2K", (2,), "net_x2.pth", blob, "Net", "who/what", "MIT", "params")
    monkeypatch.setattr(weights, "catalogue", lambda: {"net": entry})
    monkeypatch.setattr(weights.Weights, "address", server.url("net_x2.pth"))
    return tmp_path / "root"


def test_weights_are_fetched_once(published, server):
    for _ in range(2):
        download.fetch("net", published)
    assert weights.find("net", published) == published / "weights" / "net.pth"
    assert weights.verify("net", published) == []
    assert len(server.requests) == 1
    assert listing(published / "weights") == [".lock-net", "net.pth"]


@pytest.mark.parametrize(("content", "word"), [(b"<html>", "not a PyTorch file"), (b"PKother", "changed: git blob")])
def test_wrong_weights_are_refused(published, server, content, word):
    """What was there, itself wrong and in another format, stays until the right file is here."""
    before = published / "weights" / "net.safetensors"
    before.parent.mkdir(parents=True)
    before.write_bytes(b"broken")
    good = server.files["net_x2.pth"]
    server.files["net_x2.pth"] = content
    refused(lambda: download.fetch("net", published), "has not the weights net", word)
    assert [p for p in listing(before.parent) if not p.startswith(".")] == ["net.safetensors"]
    server.files["net_x2.pth"] = good
    download.fetch("net", published)
    assert weights.find("net", published).name == "net.pth"
    assert weights.verify("net", published) == []


def test_git_blob_id_is_gits(tmp_path):
    """`printf 'hello\\n' | git hash-object --stdin`."""
    (tmp_path / "x").write_bytes(b"hello\n")
    assert weights.git_blob_id(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"
