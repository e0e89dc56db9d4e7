"""igconv upscale: what it writes, where, and one line with a status for what is wrong."""

import json
import os

import numpy as np
import pytest
import torch
from photo import photo
from PIL import Image

import igconv
from igconv import cli


def test_upscale_writes_the_model_output(weights, tmp_path, capsys):
    source, target = photo(tmp_path / "in.png"), tmp_path / "out.png"
    assert cli.main(["upscale", str(source), "-o", str(target), "--weights", str(weights), "--scale", "3"]) == 0
    assert "60x36 pixels" in capsys.readouterr().out
    lr = torch.from_numpy(np.array(Image.open(source))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = (igconv.load(weights)(lr, 3)[0].clamp(0, 1) * 255).round().byte()
    assert (torch.from_numpy(np.array(Image.open(target))).permute(2, 0, 1) == expected).all()


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (lambda p: photo(p / "in.png"), ["--scale", "0"], "scale must be an integer >= 1, got 0"),
        (lambda p: photo(p / "in.png"), ["--scale", "1000000000"], "2147483647 pixels a side"),
        (lambda p: photo(p / "in.png"), ["--scale", "-2"], "scale must be an integer >= 1, got -2"),
        (lambda p: photo(p / "in.tif", mode="LAB"), [], "is a LAB image"),
        (lambda p: photo(p / "in.png"), ["--quality", "90"], "lossless"),
        (lambda p: photo(p / "in.png"), ["--tile", "-3"], "tile must be an integer >= 1"),
        (lambda p: photo(p / "in.png"), ["--halo", "-3"], "halo must be an integer >= 0"),
        (lambda p: p / "in.png", [], "no image at"),
        (lambda p: photo(p / "in.png"), ["--weights", "nothing.safetensors"], "no checkpoint at nothing.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(weights, tmp_path, capsys, make, words, message):
    source, target = make(tmp_path), tmp_path / "out.png"
    words = words if "--weights" in words else [*words, "--weights", str(weights)]
    assert cli.main(["upscale", str(source), "-o", str(target), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not target.exists()


# ---- upscale: to a size, patterns, JSON


@pytest.mark.parametrize(
    ("words", "size", "scale"),
    [
        (["--width", "50"], (50, 30), 3),
        (["--height", "24"], (40, 24), 2),
        (["--height", "13"], (22, 13), 2),
        (["--width", "45", "--height", "36"], (45, 36), 3),
        (["--width", "20"], (20, 12), 1),
    ],
)
def test_a_size_is_covered_by_a_factor_and_then_made(run, tmp_path, words, size, scale):
    """Equal to the factor's result, made smaller by an antialiased filter."""
    source, target = photo(tmp_path / "in.png"), tmp_path / "out.png"
    status, shown, _ = run(source, "-o", target, "--json", *words)
    assert status == 0
    facts = json.loads(shown)
    assert (facts["width"], facts["height"], facts["scale"]) == (*size, scale)
    assert (facts["source"], facts["output"]) == (str(source), str(target))
    assert run(source, "-o", tmp_path / "whole.png", "--scale", scale)[0] == 0
    with Image.open(tmp_path / "whole.png") as whole, Image.open(target) as made:
        assert made.size == size
        expected = np.asarray(whole.resize(size, Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(np.asarray(made) - expected).mean() < 0.5  # Pillow also clips between its two passes


def test_a_format_has_to_hold_the_size_and_not_what_is_made_on_the_way(run, tmp_path):
    """By x2 it is 16,400 pixels wide, which is more than WebP has."""
    source = photo(tmp_path / "in.png", size=(8200, 4))
    assert run(source, "-o", tmp_path / "out.webp", "--width", 16000)[0] == 0
    with Image.open(tmp_path / "out.webp") as made:
        assert made.size == (16000, 8)
    assert "at most 16383 pixels" in run(source, "-o", tmp_path / "more.webp", "--width", 16390)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "19"], "19x11 pixels are less than the image has (20x12)"),
        (["--width", "40", "--height", "6"], "are less than the image has"),
        (["--width", "0"], "width must be an integer >= 1"),
        (["--width", "40", "--scale", "2"], "give a scale (2) or a size, not both"),
    ],
)
def test_sizes_that_are_none_are_one_line(run, tmp_path, words, message):
    status, _, error = run(photo(tmp_path / "in.png"), "-o", tmp_path / "out.png", *words)
    assert (status, len(error.splitlines())) == (2, 1)
    assert message in error
    assert not (tmp_path / "out.png").exists()


def test_a_size_keeps_to_the_scales_of_a_model(tmp_path, capsys):
    """The next one that it has, if there is one."""
    save_to = tmp_path / "made.safetensors"
    igconv.save(igconv.build_model("edsr_tiny", "spconv", scales=(2, 4), channels=4, blocks=1), save_to)
    words = ["upscale", str(photo(tmp_path / "in.png")), "--model", str(save_to), "--json", "-o"]
    assert cli.main([*words, str(tmp_path / "a.png"), "--width", "50"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 4
    assert cli.main([*words, str(tmp_path / "b.png"), "--width", "90"]) == 2
    assert "need scale 5; this model has 2, 4" in capsys.readouterr().err


def test_sixteen_bits_and_alpha_survive_a_size():
    """In depth and channels; a flat image stays flat, and its values at the end of the range."""
    from igconv.data.sizes import to_size

    for dtype in (np.uint8, np.uint16):
        white = np.full((12, 9, 2), np.iinfo(dtype).max, dtype)
        white[..., 0] = 7
        small = to_size(white, 10, 7)
        assert (small.dtype, small.shape) == (dtype, (10, 7, 2))
        assert (small == white[:10, :7]).all()


def test_patterns_that_no_shell_has_expanded(run, tmp_path):
    """And names with brackets that are files."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.jpg", "[d].png"):
        photo(tmp_path / "in" / name)
    assert run(tmp_path / "in" / "?.png", "-o", tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert run(tmp_path / "in" / "[d].png", "-o", tmp_path / "d.png")[0] == 0
    status, _, error = run(tmp_path / "in" / "*.webp", "-o", tmp_path / "out")
    assert (status, len(error.splitlines())) == (2, 1)
    assert "*.webp" in error


def test_json_lists_what_is_skipped(run, tmp_path):
    """An object a line, on standard output."""
    good = photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    status, shown, error = run(good, tmp_path / "b.png", "-o", tmp_path / "out", "--json")
    lines = [json.loads(line) for line in shown.splitlines()]
    assert (status, error) == (1, "")
    assert lines[0]["output"] == str(tmp_path / "out" / "a.png")
    assert "b.png" in lines[1]["skipped"]


# ---- upscale: where results go


@pytest.fixture
def run(weights, capsys):
    """``run(*words)``: (status, stdout, stderr) of igconv upscale with a tiny model."""

    def call(*words):
        status = cli.main(["upscale", *map(str, words), "--weights", str(weights)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


@pytest.mark.parametrize(
    ("output", "words", "message"),
    [
        ("x.gif", [], "choose one of"),
        ("x", [], "choose one of"),
        ("in.png", [], "it is a source"),
        ("in.png", ["--overwrite"], "it is a source"),
        ("link.png", ["--overwrite"], "it is a source"),
        ("hard.png", ["--overwrite"], "it is a source"),
        ("folder/../in.png", ["--overwrite"], "it is a source"),
        ("old.png", [], "exists; --overwrite replaces it"),
        ("old.png/x.png", [], "cannot write"),
        ("y" * 252 + ".png", [], "cannot write"),
        ("x.jpg", ["--quality", "0"], "from 1 to 100"),
        ("x.webp", ["--scale", "820"], "at most 16383 pixels"),
        ("x.jpg", ["--scale", "3300"], "at most 65500 pixels"),
    ],
)
def test_the_place_is_checked_before_the_work(run, tmp_path, monkeypatch, output, words, message):
    """One line, nothing written, the model not asked."""
    from igconv.models import inference

    monkeypatch.setattr(inference, "upscale", lambda *a: pytest.fail("the work began"))
    source = photo(tmp_path / "in.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.png").symlink_to(source)
    os.link(source, tmp_path / "hard.png")
    photo(tmp_path / "old.png")
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    status, _, error = run(source, "-o", tmp_path / output, *words)
    assert (status, len(error.strip().splitlines())) == (2, 1)
    assert message in error
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == before


def test_overwrite_replaces(run, tmp_path):
    source, old = photo(tmp_path / "in.png"), photo(tmp_path / "old.png")
    assert run(source, "-o", old, "--overwrite")[0] == 0
    assert Image.open(old).size == (40, 24)


def test_profile_alpha_and_orientation_come_along(run, tmp_path):
    """From a JPEG on its side and from a picture with transparency, to files."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 12), "red").save(tmp_path / "a.jpg", exif=exif, icc_profile=profile)
    photo(tmp_path / "b.png", mode="RGBA")
    photo(tmp_path / "c.png", mode="L")
    assert run(tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "c.png", "-o", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "a.jpg") as image:
        assert (image.size, image.info["icc_profile"]) == ((24, 40), profile)
        assert image.getexif().get(0x0112, 1) == 1
    assert [Image.open(tmp_path / "out" / name).mode for name in ("b.png", "c.png")] == ["RGBA", "L"]


def test_folders_keep_names_and_say_what_they_skip(run, tmp_path):
    """Status 1 if something was; what can be done is done."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg", "c.gif"):
        photo(tmp_path / "in" / name)
    status, shown, error = run(tmp_path / "in", "-o", tmp_path / "out")
    assert (status, error, len(shown.splitlines())) == (0, "", 3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg", "c.png"]
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    (tmp_path / "in" / "notes.txt").write_text("")
    (tmp_path / "in" / "sub.png").mkdir()
    photo(tmp_path / "in" / "d.webp")
    status, shown, error = run(tmp_path / "in", "-o", tmp_path / "out")
    lines = error.splitlines()
    assert status == 1
    assert len(lines) == 6
    assert all(line.startswith("skipped: ") for line in lines)
    assert len(shown.splitlines()) == 1, "d.webp is done"


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["in/a.png", "in2/a.png"], "out", "would both be written to"),
        (["in", "in2"], "out", "would both be written to"),
        (["in/a.png", "in/a.gif"], "out", "would both be written to"),
        (["in/a.png", "in2/a.png"], "file", "not a folder"),
        (["empty"], "out", "no images in"),
        (["in", "in2/b.png"], "file/x", "cannot write"),
    ],
)
def test_several_images_without_a_place_are_refused(run, tmp_path, inputs, output, message):
    """Before the work, and nothing appears."""
    for folder in ("in", "in2", "empty"):
        (tmp_path / folder).mkdir()
    for name in ("in/a.png", "in2/a.png", "in2/b.png"):
        photo(tmp_path / name)
    if "gif" in inputs[-1]:
        photo(tmp_path / "in" / "a.gif")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    status, _, error = run(*(tmp_path / name for name in inputs), "-o", tmp_path / output)
    assert (status, len(error.splitlines())) == (2, 1)
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before
