"""The catalogue: what it says, what is on this machine, what is missing."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import skimage

from igconv import InputError, files
from igconv.data import cache, datasets, verify, weights

SAMPLE = ("sample_train", "sample_test")


@pytest.mark.parametrize("name", SAMPLE)
def test_sample_sets_are_as_catalogued(name):
    """Files of the installed scikit-image, by sha256; all are 8-bit RGB."""
    assert verify.verify(name) == []
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
    """Source and licence are given, use is train or test; a folder has a way to be got."""
    for name, entry in datasets.catalogue().items():
        assert entry.use in ("train", "test")
        assert entry.source
        assert entry.licence
        assert entry.images > 0 or name == "ImageNet"
        folder = entry.folder if isinstance(entry, datasets.Folder) else ""
        assert entry.use == ("test" if folder.startswith("benchmarks") or name == "sample_test" else "train")
        if isinstance(entry, datasets.Folder):
            assert folder
            assert bool(entry.addresses) != bool(entry.bring)
            assert entry.images == (len(entry.names()) or entry.images)
            for address in entry.addresses:
                assert address.startswith("https://")
                assert ("{name}" in address) == (name in datasets.known_images())


def test_kinds_of_sets():
    """What a set has decides its kind; the number of images is right where it can be counted."""
    kinds = {kind: {name for name, entry in datasets.catalogue().items() if type(entry) is kind}
             for kind in (datasets.Bundled, datasets.Union)}  # fmt: skip
    assert kinds == {datasets.Bundled: set(SAMPLE), datasets.Union: {"DF2K", "DFL"}}
    for name in SAMPLE:
        assert datasets.image_set(name).images == len(datasets.image_set(name).files)
    assert [entry.name for entry in datasets.image_set("DFL").members()] == ["DIV2K", "Flickr2K", "LSDIR"]
    assert datasets.image_set("Set5").members() == [datasets.image_set("Set5")]


def test_summaries_of_each_kind():
    """State, what it can be compared with, and where it comes from."""
    for name, words in {
        "sample_test": ("here", "checksum: sha256\n", "from: scikit-image"),
        "Set5": ("checksum: sha256 of the pixels\n", " or https://"),
        "Flickr2K": ("2650 images", "checksum: md5 of the archive\n"),
        "DF2K": ("3450 images", "checksum: of its parts\n", "from: DIV2K + Flickr2K"),
        "Manga109": ("checksum: unknown\n", "from: apply at http://www.manga109.org"),
        "ImageNet": ("  any images", "checksum: unknown\n"),
    }.items():
        summary = datasets.image_set(name).summary()
        assert all(word in summary for word in words), summary
        assert summary.count("\n") == 2


def test_checksums_are_whole():
    """No hash is abbreviated, and an unknown one is empty."""
    for entry in datasets.catalogue().values():
        kind, _, digest = (entry.checksum if isinstance(entry, datasets.Folder) else "").partition(":")
        assert (kind, len(digest)) in (("", 0), ("sha256", 64), ("md5", 32))
    for images in datasets.known_images().values():
        for image in images.values():
            assert len(image.pixels_sha256) == 64
            assert len(image.file_sha256) in (0, 64)
    assert all(len(entry.git_blob) in (0, 40) for entry in weights.catalogue().values())


def test_compositions_are_their_parts():
    """DF2K is DIV2K's training part and Flickr2K, not a third copy."""
    sets = datasets.catalogue()
    assert sets["DF2K"].images == 800 + 2650
    assert sets["DFL"].images == 3450 + sets["LSDIR"].images
    assert sets["DIV2K"].names() == [f"{i:04}" for i in range(1, 801)]


def test_no_test_image_is_in_a_training_set():
    """By pixels, over all images that are known; BSD 302003 is not there. T91 has one image twice, as published."""
    known, sets = datasets.known_images(), datasets.catalogue()
    sides = {use: [i.pixels_sha256 for s in known for i in known[s].values() if sets[s].use == use]
             for use in ("train", "test")}  # fmt: skip
    assert not set(sides["train"]) & set(sides["test"])
    assert len(set(sides["test"])) == len(sides["test"]) == 219
    assert len(sides["train"]) - len(set(sides["train"])) == 1
    assert known["T91"]["t36"] == known["T91"]["t65"]
    assert "302003" not in known["BSD200"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["Set5", "Set14", "B100", "Urban100", "T91", "BSD200", "SunHays80"])
def test_benchmark_sets_are_complete(data_root, name):
    """Names and pixels as catalogued, wherever IGCONV_DATA holds the set."""
    if not (data_root / datasets.image_set(name).folder).is_dir():
        pytest.skip(f"{name} is not in IGCONV_DATA")
    assert verify.verify(name) == []


@pytest.mark.data
def test_described_images_are_those_here(data_root):
    """images.csv can be made again; its hashes are those of the image cache."""
    text = verify.describe(("Set5", "Set14"), data_root).splitlines()
    assert set(text) <= set(datasets.IMAGES.read_text().splitlines())
    digests = [image.pixels_sha256 for _, image in sorted(datasets.known_images()["Set14"].items())]
    assert list(cache.decoded("Set14").pixels_sha256) == digests


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
    assert len(verify.verify("Manga109")) == 1


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
    assert verify.verify("tiny_train") == []
    (image_sets / "train" / "tiny" / "1.png").unlink()
    (problem,) = verify.verify("tiny_train")
    assert "has 2 images; tiny_train has 3" in problem
    with pytest.raises(InputError, match="has 2 images"):
        datasets.read_set("tiny_train")


def test_changed_file_is_reported(monkeypatch):
    """`verify` compares sha256."""
    entry = datasets.image_set("sample_test")
    files = ((entry.files[0][0], hashlib.sha256(b"other").hexdigest()), *entry.files[1:])
    monkeypatch.setattr(datasets, "image_set", lambda _: replace(entry, files=files))
    (problem,) = verify.verify("sample_test")
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


# Sets whose images are known


@pytest.fixture
def known_set(image_sets, monkeypatch):
    """ "tiny_train" with names and pixels known. Returns its folder."""
    entry = datasets.image_set("tiny_train")
    known = {}
    for path in entry.paths():
        image = datasets.read_image(path)
        known[path.stem] = datasets.KnownImage(*image.shape[1:], datasets.pixels_sha256(image), "")
    monkeypatch.setattr(datasets, "known_images", lambda: {"tiny_train": known})
    return image_sets / "train" / "tiny"


def test_formats_do_not_matter(known_set):
    """A lossless copy in another format has the same pixels; a lossy one has not."""
    from PIL import Image

    for suffix, options in (("webp", dict(lossless=True)), ("bmp", {})):
        with Image.open(known_set / "0.png") as image:
            image.save(known_set / f"new.{suffix}", **options)
        (known_set / "0.png").unlink()
        (known_set / f"new.{suffix}").rename(known_set / f"0.{suffix}")
        assert verify.verify("tiny_train") == []
        with Image.open(known_set / f"0.{suffix}") as image:
            image.save(known_set / "0.png")
        (known_set / f"0.{suffix}").unlink()
    with Image.open(known_set / "0.png") as image:
        image.save(known_set / "0.jpg", quality=90)
    (known_set / "0.png").unlink()
    (problem,) = verify.verify("tiny_train")
    assert "changed: 0.jpg has pixels of sha256" in problem


def test_each_wrong_image_is_named(known_set, photograph, write_png):
    """Missing, extra, damaged, of another size, with other pixels, there twice: a line each. Wrong names forbid
    reading; `verify` alone looks at pixels."""
    write_png(photograph(72, 80, 9), known_set / "0.png")
    write_png(photograph(72, 81, 1), known_set / "1.png")
    pixels, size = verify.verify("tiny_train")
    assert "changed: 0.png has pixels of sha256" in pixels
    assert size == f"{known_set}: changed: 1.png is 81x72 px, expected 80x72"
    assert len(datasets.image_set("tiny_train").paths()) == 3
    (known_set / "2.png").write_bytes((known_set / "2.png").read_bytes()[:200])
    assert any("unreadable: " in line and "2.png" in line for line in verify.verify("tiny_train"))
    (known_set / "2.png").rename(known_set / "two.png")
    (problem,) = [line for line in verify.verify("tiny_train") if "missing" in line]
    assert problem == f"{known_set}: missing: 2"
    with pytest.raises(InputError, match=r"missing: 2; extra: two\.png"):
        datasets.read_set("tiny_train")
    (known_set / "two.png").unlink()
    write_png(photograph(72, 80, 2), known_set / "2.png")
    write_png(photograph(72, 80, 2), known_set / "2.bmp")
    with pytest.raises(InputError, match="there twice: 2"):
        datasets.read_set("tiny_train")


def test_many_problems_are_cut_short(known_set, photograph, write_png):
    """Five lines, and how many more."""
    for i in range(10, 19):
        write_png(photograph(8, 8), known_set / f"{i}.png")
    lines = verify.verify("tiny_train")
    assert len(lines) == 6
    assert lines[-1] == "and 4 more"
    with pytest.raises(InputError, match="and 4 more") as error:
        datasets.read_set("tiny_train")
    assert "\n" not in str(error.value)


def test_published_jpeg_counts_by_its_bytes(known_set, monkeypatch):
    """Decoders differ in JPEG pixels by a grey level; the published file is right whatever they say."""
    wrong = datasets.KnownImage(72, 80, "0" * 64, files.sha256(known_set / "0.png"))
    assert verify.wrong_content(known_set / "0.png", wrong) == ""
    assert "changed" in verify.wrong_content(known_set / "0.png", replace(wrong, file_sha256="0" * 64))


def test_grey_and_equal_colours_are_the_same_image(tmp_path, photograph, write_png):
    """As the literature takes Set14's bridge."""
    from PIL import Image

    grey = photograph(8, 9)[:1].expand(3, -1, -1)
    write_png(grey, tmp_path / "rgb.png")
    with Image.open(tmp_path / "rgb.png") as image:
        image.convert("L").save(tmp_path / "l.png")
    known = datasets.KnownImage(8, 9, datasets.pixels_sha256(grey), "")
    assert [verify.wrong_content(tmp_path / name, known) for name in ("rgb.png", "l.png")] == ["", ""]


def test_hidden_files_are_no_images(image_sets):
    """A Mac leaves ._0.png beside 0.png."""
    (image_sets / "train" / "tiny" / "._0.png").write_bytes(b"mac")
    assert len(datasets.image_set("tiny_train").paths()) == 3


# Folders of the user's


def test_any_folder_is_a_set(image_sets, monkeypatch):
    """By a path, or the name of a folder here; a name of the catalogue comes first."""
    folder = image_sets / "train" / "tiny"
    entry = datasets.image_set(str(folder))
    assert (entry.name, entry.use, len(entry.paths())) == (str(folder), "any", 3)
    assert datasets.data_hash([str(folder)]) != datasets.data_hash(["tiny_train"])  # the name counts
    assert len(datasets.read_set(str(folder))) == 3
    assert verify.verify(str(folder)) == []
    monkeypatch.chdir(folder.parent)
    assert datasets.image_set("tiny").paths() == entry.paths()
    assert datasets.image_set("./tiny").paths() == entry.paths()
    (folder / "0.png").write_bytes(b"broken")
    assert "unreadable" in verify.verify(str(folder))[0]
    with pytest.raises(InputError, match="no folder at some/where"):
        datasets.image_set("some/where")
    with pytest.raises(InputError, match="unknown image set 'nowhere'"):
        datasets.image_set("nowhere")


def test_a_root_can_be_given(image_sets, tmp_path):
    """--data-dir: that folder alone counts."""
    entry = datasets.image_set("tiny_train")
    assert len(entry.paths(image_sets)) == 3
    with pytest.raises(InputError, match="not found") as error:
        entry.paths(tmp_path / "other")
    assert str(image_sets) not in str(error.value)


def test_images_may_lie_deeper(image_sets, monkeypatch, photograph, write_png):
    """LSDIR and ImageNet come in folders."""
    write_png(photograph(8, 8), image_sets / "train" / "tiny" / "deeper" / "9.png")
    entry = replace(datasets.image_set("tiny_train"), nested=True, images=4)
    assert [path.name for path in entry.paths()] == ["0.png", "1.png", "2.png", "9.png"]
