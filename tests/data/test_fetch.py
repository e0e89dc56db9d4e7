"""Image sets and weights from a server on this machine: all or nothing, and only what is missing or wrong."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import encoded, refused, sha256, zipped

from igconv.data import datasets, download, images, verify, weights

NAMES = ("a", "b", "c")


@pytest.fixture
def by_image(server, tmp_path, monkeypatch, photograph):
    """A set "tiny" whose three images are single bmp files on the server, with known pixels. Returns its root."""
    known = {}
    for seed, name in enumerate(NAMES):
        image = photograph(12, 16, seed)
        known[name] = datasets.KnownImage(12, 16, datasets.pixels_sha256(image), "")
        server.files[f"{name}_HR.bmp"] = encoded(image, "bmp")
    entry = datasets.Folder("tiny", "train", 3, "made here", "none", folder="train/tiny",
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
    entry = datasets.Folder(
        "tiny", "train", 3, "made here", "none", folder="train/tiny", numbered="001-003",
        addresses=(server.url("tiny.zip"),), checksum=sha256(content), inside="tiny/HR",
    )  # fmt: skip
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": entry})
    return tmp_path / "root"


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
    found = verify.verify("tiny", by_image)
    assert len(found) == 2
    assert "changed: b.png" in found[0]
    assert "unreadable: " in found[1]
    assert "c.bmp" in found[1]
    server.requests.clear()
    assert "2 images fetched" in download.fetch("tiny", by_image)
    assert [path for path, _ in server.requests] == ["b_HR.bmp", "c_HR.bmp"]
    assert listing(folder) == ["a.png", "b.bmp", "c.bmp"]
    assert verify.verify("tiny", by_image) == []


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
    assert verify.verify("tiny", by_image) == []


def test_second_address_is_tried(by_image, server, monkeypatch):
    """And if none works, the line is about the first."""
    entry = datasets.image_set("tiny")
    addresses = (server.url("gone/{name}.png"), *entry.addresses)
    monkeypatch.setattr(datasets, "catalogue", lambda: {"tiny": replace(entry, addresses=addresses)})
    server.behaviour |= {f"{name}_HR.bmp": 500 for name in NAMES}
    refused(lambda: download.fetch("tiny", by_image), "gone/a.png", "404")
    server.behaviour.clear()
    download.fetch("tiny", by_image)
    assert verify.verify("tiny", by_image) == []


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
    assert verify.verify("tiny", by_archive) == []
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
    assert verify.verify("tiny", by_archive) == []


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
    assert verify.verify("tiny", by_archive) == []


def test_two_fetches_at_once_download_once(by_archive, server):
    """The second waits, then finds the set."""
    calls = [threading.Thread(target=download.fetch, args=("tiny", by_archive)) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(server.requests) == 1
    assert verify.verify("tiny", by_archive) == []


def test_composition_fetches_its_parts(by_archive, monkeypatch):
    tiny = datasets.image_set("tiny")
    both = {"tiny": tiny, "whole": datasets.Union("whole", "train", 3, "", "", parts=("tiny",))}
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
