"""The catalogue: what it says, what is on this machine, what is missing."""

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import skimage

from igconv import InputError, datasets
from igconv.results import PROJECT

SAMPLE = ("sample_train", "sample_test")


@pytest.mark.parametrize("name", SAMPLE)
def test_sample_sets_are_as_catalogued(name):
    """Files of the installed scikit-image, by sha256; all are 8-bit RGB."""
    assert datasets.verify(name) == []
    images = datasets.read_set(name)
    assert len(images) == datasets.image_set(name).images
    assert all(image.shape[0] == 3 for image in images)


def test_sample_split_is_disjoint():
    """No file, no content and no scene on both sides; both stereo views are on one."""
    names = {s: {p.name for p in datasets.image_set(s).paths()} for s in SAMPLE}
    assert not names["sample_train"] & names["sample_test"]
    digests = [sha for s in SAMPLE for _, sha in datasets.image_set(s).files]
    assert len(set(digests)) == len(digests)
    for side in names.values():
        assert ("motorcycle_left.png" in side) == ("motorcycle_right.png" in side)
    assert all(
        path.parent == Path(skimage.__file__).parent / "data" for path in datasets.image_set("sample_test").paths()
    )


def test_every_set_states_its_terms():
    """Source and licence are given, use is train or test, a set has files or a folder."""
    raw = tomllib.loads((PROJECT / "data" / "datasets.toml").read_text())
    for name, entry in datasets.catalogue().items():
        assert entry.use in ("train", "test")
        assert entry.source
        assert entry.licence
        assert bool(entry.folder) != bool(entry.files)
        assert entry.images == (len(entry.files) or raw[name]["images"]) > 0


@pytest.mark.data
@pytest.mark.parametrize("name", ["Set5", "Set14", "B100", "Urban100", "T91", "BSD200", "SunHays80"])
def test_benchmark_sets_are_complete(data_root, name):
    """Number of images as catalogued, wherever IGCONV_DATA holds the set."""
    if not (data_root / datasets.image_set(name).folder).is_dir():
        pytest.skip(f"{name} is not in IGCONV_DATA")
    assert datasets.verify(name) == []


def test_unknown_set_lists_the_choice():
    """The name and all known ones."""
    with pytest.raises(InputError, match=r"Set55.*Set5, .*sample_train"):
        datasets.image_set("Set55")


def test_missing_set_says_where_it_was_looked_for(monkeypatch, tmp_path):
    """The roots and the variable; `verify` reports instead of raising."""
    monkeypatch.setenv("IGCONV_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(datasets, "PROJECT", tmp_path)
    with pytest.raises(InputError, match="IGCONV_DATA") as error:
        datasets.read_set("Manga109")
    assert str(tmp_path / "nowhere") in str(error.value)
    assert "\n" not in str(error.value)
    assert len(datasets.verify("Manga109")) == 1


def test_empty_folder_is_refused(monkeypatch, tmp_path):
    """A folder without images: the folder and the suffixes."""
    folder = tmp_path / "benchmarks" / "Manga109" / "HR"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    monkeypatch.setenv("IGCONV_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"no images in .*\.png") as error:
        datasets.read_set("Manga109")
    assert str(folder) in str(error.value)
    with pytest.raises(InputError, match="no folder"):
        datasets.images_in(tmp_path / "none")


def test_own_data_comes_before_the_projects(image_sets, monkeypatch, tmp_path, photograph, write_png):
    """IGCONV_DATA wins over data/ of the project."""
    monkeypatch.setattr(datasets, "PROJECT", tmp_path / "project")
    for name in "abc":
        write_png(photograph(9, 9), tmp_path / "project" / "data" / "train" / "tiny" / f"{name}.png")
    assert [p.name for p in datasets.image_set("tiny_train").paths()] == ["0.png", "1.png", "2.png"]
    monkeypatch.delenv("IGCONV_DATA")
    assert [p.name for p in datasets.image_set("tiny_train").paths()] == ["a.png", "b.png", "c.png"]


def test_incomplete_set_is_refused(image_sets):
    """A mean over half a benchmark would look like a result: reading is refused, `verify` reports."""
    assert datasets.verify("tiny_train") == []
    (image_sets / "train" / "tiny" / "1.png").unlink()
    (problem,) = datasets.verify("tiny_train")
    assert "has 2 images; tiny_train has 3" in problem
    with pytest.raises(InputError, match="has 2 images"):
        datasets.read_set("tiny_train")


def test_changed_file_is_reported(monkeypatch):
    """`verify` compares sha256."""
    entry = datasets.image_set("sample_test")
    files = ((entry.files[0][0], hashlib.sha256(b"other").hexdigest()), *entry.files[1:])
    monkeypatch.setattr(datasets, "image_set", lambda _: replace(entry, files=files))
    (problem,) = datasets.verify("sample_test")
    assert entry.files[0][0] in problem


def test_file_missing_from_scikit_image(monkeypatch):
    """Another version of the package may lack one."""
    entry = replace(datasets.image_set("sample_test"), files=(("none.png", ""),))
    with pytest.raises(InputError, match=r"none\.png"):
        entry.paths()


def test_grey_images_of_a_set_count_as_rgb(image_sets):
    """Set14's bridge is 8-bit grey."""
    from PIL import Image

    Image.new("L", (10, 10), 7).save(image_sets / "train" / "tiny" / "2.png")
    assert (datasets.read_set("tiny_train")[2] == 7).all()


def test_data_hash_follows_names_and_contents(image_sets):
    """16 digits that change with a byte, a name or a missing file, and with nothing else."""
    before = datasets.data_hash(["tiny_train"])
    assert len(before) == 16
    assert before == datasets.data_hash(["tiny_train"]) != datasets.data_hash(["tiny_test"])
    first = image_sets / "train" / "tiny" / "0.png"
    first.write_bytes(first.read_bytes() + b"\0")
    changed = datasets.data_hash(["tiny_train"])
    first.rename(first.with_name("00.png"))
    assert len({before, changed, datasets.data_hash(["tiny_train"])}) == 3
