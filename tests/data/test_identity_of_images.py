"""Images are told apart by more than their stem; names are data; what is no image is named in one line."""

import os
import shutil
import time

import pytest
from PIL import Image

from igconv import InputError, files
from igconv.data import cache, datasets, fingerprint, leaks, verify
from igconv.evaluation.benchmark import stored_lr
from igconv.training import start


@pytest.fixture
def folder(image_sets):
    return image_sets / "train" / "tiny"


def line(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def copied(image, *parts) -> None:
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).save(part)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("twin", ["0.bmp", "other/0.png"])
def test_a_test_image_hides_behind_no_name(
    tiny_run, image_sets, monkeypatch, tmp_path, photograph, write_png, order, twin
):
    """In another set, in any order, or beside an image of its stem."""
    from dataclasses import replace

    sets = [tmp_path / "A", tmp_path / "B"]
    for seed, place in enumerate(sets):
        write_png(photograph(72, 80, seed), place / "0.png")
    leaked = photograph(72, 80, 50)
    write_png(leaked, sets[0] / twin if "/" not in twin else sets[0] / "1.png")
    write_png(photograph(72, 80, 3), sets[1] / "1.png")
    known = {"tiny_test": {"secret": datasets.KnownImage(72, 80, datasets.pixels_sha256(leaked), "")}}
    monkeypatch.setattr(datasets, "known_images", lambda: known)
    run = replace(tiny_run, test_sets=("tiny_train",), train_sets=tuple(str(sets[place]) for place in order))
    assert "has the pixels of tiny_test's secret" in line(start.training_patches, run)


def test_two_files_of_one_stem_have_two_names(folder, tmp_path):
    """By suffix, else by folder; the rest keep their stems."""
    copied(folder / "0.png", tmp_path / "s" / "a" / "0.png", tmp_path / "s" / "a" / "0.bmp",
           tmp_path / "s" / "b" / "1.png", tmp_path / "s" / "a" / "1.png", tmp_path / "s" / "b" / "2.png")  # fmt: skip
    paths = datasets.images_in(tmp_path / "s", nested=True)
    assert datasets.image_names(paths) == ["0.bmp", "0.png", "a/1.png", "b/1.png", "2"]
    assert datasets.image_names(paths[:1]) == ["0"]
    odd = [tmp_path / name for name in ("1.png.png", "1.png", "1.bmp")]
    assert "cannot be told apart by name: 1.png" in line(datasets.image_names, odd)


def test_a_bad_image_does_not_hide_another(tmp_path, folder):
    """Two broken files of one stem are two lines."""
    for name in ("0.png", "0.bmp"):
        (tmp_path / "s").mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"broken")
    assert len(verify.verify(str(tmp_path / "s"))) == 2


def make(kind: str, path) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to nothing":
        path.symlink_to(path.with_name("gone"))
    elif kind == "a loop":
        path.symlink_to(path)
    elif kind == "a pipe":
        os.mkfifo(path)


@pytest.mark.parametrize("ask", [datasets.data_hash, datasets.read_set, lambda names: cache.decoded(names[0])])
@pytest.mark.parametrize("kind", ["a folder", "a link to nothing", "a loop", "a pipe"])
def test_what_is_only_named_like_an_image(folder, kind, ask):
    """One line with its name, before anything is read (a pipe would be waited for)."""
    make(kind, folder / "x.PNG")
    if ask is datasets.read_set:
        assert "x.PNG is named like an image" in line(ask, str(folder))
    else:
        assert "x.PNG is named like an image" in line(ask, [str(folder)])


def test_folders_may_be_named_like_images_where_sets_are_nested(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "s" / "all.png")
    assert len(datasets.images_in(tmp_path / "s", nested=True)) == 3


@pytest.mark.parametrize("ask", [datasets.data_hash, lambda names: cache.decoded(names[0])])
def test_unreadable_files_are_named(folder, monkeypatch, ask):
    """A disk that fails, or no permission."""

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.hashlib, "file_digest", fails)
    monkeypatch.setattr("pathlib.Path.read_bytes", fails)
    assert "cannot read" in line(ask, [str(folder)])
    assert "0.png: Input/output error" in line(ask, [str(folder)])


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff\xfe.png", b"img[1].png", b"a b\tc.png", b"*.png"])
def test_names_are_bytes(folder, name):
    """Hash, cache and verification take any."""
    os.rename(folder / "1.png", os.path.join(os.fsencode(folder), name))
    assert len(datasets.data_hash([str(folder)])) == 16
    assert len(cache.decoded(str(folder)).images) == 3
    assert verify.verify(str(folder)) == []
    leaks.refuse_leaks([str(folder)])


DAMAGES = {
    "cut short": lambda place: os.truncate(place / "pixels.u8", 100),
    "empty": lambda place: os.truncate(place / "pixels.u8", 0),
    "longer": lambda place: (place / "pixels.u8").write_bytes((place / "pixels.u8").read_bytes() + b"x"),
    "another pixel": lambda place: (place / "pixels.u8").write_bytes(
        b"\0" * 9 + (place / "pixels.u8").read_bytes()[9:]
    ),
    "zeros": lambda place: (place / "pixels.u8").write_bytes(bytes((place / "pixels.u8").stat().st_size)),
    "no pixels": lambda place: (place / "pixels.u8").unlink(),
    "no index": lambda place: (place / "index.json").unlink(),
    "index cut short": lambda place: os.truncate(place / "index.json", 20),
    "index of something else": lambda place: (place / "index.json").write_text("[[1, 2], 3]"),
    "index not text": lambda place: (place / "index.json").write_bytes(b"\xff\xfe\x00"),
    "a file": lambda place: (shutil.rmtree(place), place.mkdir(), (place / "x").touch()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(folder, capsys, damage):
    """Never trained on; one line says so."""
    before = cache.decoded("tiny_train")
    (place,) = cache.folder().glob("tiny_train-*")
    DAMAGES[damage](place)
    after = cache.decoded("tiny_train")
    assert after.pixels_sha256 == before.pixels_sha256
    assert [datasets.hashlib.sha256(image).hexdigest() for image in after.images] == list(after.pixels_sha256)
    (said,) = capsys.readouterr().out.splitlines()
    assert "the image cache of tiny_train is damaged" in said


@pytest.mark.parametrize("name", ["img[1]", "[!a]1", "*", "img?", "{img}", os.fsdecode(b"caf\xe9")])
def test_stored_lr_images_are_found_by_name_and_not_by_pattern(tmp_path, photograph, write_png, name):
    """Beside another one that the name would match if it were a pattern, and not in its place."""
    stored = tmp_path / "LR_bicubic" / "X2"
    hr = write_png(photograph(16, 20, 0), tmp_path / "HR" / f"{name}.png")
    write_png(photograph(8, 10, 1), stored / "img1x2.png")
    mine = write_png(photograph(8, 10, 2), stored / f"{name}x2.png")
    assert (stored_lr(hr, 2) == photograph(8, 10, 2)).all()
    mine.unlink()
    assert "no stored LR image at" in line(stored_lr, hr, 2)


def test_contents_are_read_once(folder, monkeypatch):
    """A hash is remembered while no file changes; size, time and name alone do not fool it."""
    monkeypatch.setattr(fingerprint, "SETTLED_S", 0.0)
    calls, path = [], folder / "0.png"

    def found() -> str:
        return fingerprint.remembered("x", [path], lambda: calls.append(1) or str(len(calls)))

    assert fingerprint.remembered("x", [path], None) == ""
    assert [found(), found(), fingerprint.remembered("x", [path], None)] == ["1", "1", "1"]
    assert fingerprint.remembered("y", [path], None) == ""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    time.sleep(0.02)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found() == "2"


def test_a_fresh_file_is_not_remembered(folder):
    """It could change again within the granularity of the clock."""
    (folder / "new.png").write_bytes((folder / "0.png").read_bytes())
    datasets.data_hash([str(folder)])
    assert datasets.data_hash([str(folder)], known_only=True) == ""
