"""The command igconv: what it prints, and one line with a status for what is wrong."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import igconv
from igconv import cli
from igconv.data import datasets
from igconv.study import runs
from igconv.study.runs import get_run


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    model = igconv.build_model("edsr_tiny", "igconv+", scales=(2, 3), hidden_dim=8, num_layers=1, channels=4, blocks=1)
    igconv.save(model, path)
    return path


def photo(path, size=(20, 12), mode="RGB"):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(
        mode
    ).save(path)
    return path


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
        (lambda p: photo(p / "in.png"), ["--scale", "-2"], "scale must be an integer >= 1, got -2"),
        (lambda p: photo(p / "in.png", mode="L"), [], "is a L image; 8-bit RGB is needed"),
        (lambda p: photo(p / "in.png", mode="RGBA"), [], "is a RGBA image"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nosuch"], "unknown run of profile sample 'nosuch'"),
        (["train", "x", "--profile", "nosuch"], "unknown profile 'nosuch'; choose from benchmark, cpu, paper, sample"),
        (["evaluate", "edsr_tiny-igconv-s0"], "is not trained yet"),
        (["export", "edsr_tiny-igconv-s0"], "is not trained yet"),
        (["export", "nosuch"], "unknown run of profile sample 'nosuch'"),
        (
            ["export", "edsr_tiny-igconv-s0", "edsr_tiny-igconv+-s0", "-o", "x.safetensors"],
            "name one run for -o; got 2",
        ),
        (["data", "verify", "nosuch"], "unknown image set or weights 'nosuch'"),
        (["data", "fetch", "nosuch"], "unknown image set or weights 'nosuch'"),
        (["data", "fetch"], "name what to fetch"),
        (["data", "fetch", "Manga109"], "Manga109 cannot be fetched: apply at http"),
    ],
)
def test_unknown_names_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_train_then_evaluate(tmp_path, monkeypatch, capsys):
    """A run of two steps, from the command line to its rows."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    run = replace(get_run("smoke", "edsr_tiny-spconv-x2-s0"), steps=2)
    monkeypatch.setattr(runs, "get_run", lambda profile, name: run)
    assert cli.main(["train", run.name, "--profile", "smoke", "--accelerator", "cpu"]) == 0
    assert f"{run.name}: step 2/2" in capsys.readouterr().out
    assert cli.main(["evaluate", run.name, "--profile", "smoke"]) == 0
    assert "sample_test" in capsys.readouterr().out
    assert (tmp_path / "smoke" / "rows" / f"{run.name}.csv").is_file()


def test_data_lists_the_catalogue(capsys, tmp_path):
    """Sets and weights with address and terms; a checksum that nobody knows is "unknown"."""
    assert cli.main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for word in ("Set5", "not here", "DIV2K + Flickr2K", "bsrn_x2", "EDSR_IGConv_DIV2K", "checksum: unknown"):
        assert word in shown
    assert cli.main(["data", "list", "DIV2K"]) == 0
    assert "Set5" not in capsys.readouterr().out


def test_data_verify_names_what_is_wrong(image_sets, capsys):
    """A set that is not here is no failure, one that is wrong is; --data-dir names the root."""
    assert cli.main(["data", "verify", "--data-dir", str(image_sets)]) == 0
    shown = capsys.readouterr().out
    assert "tiny_train: ok" in shown
    assert "bsrn_x2: not here" in shown
    (image_sets / "train" / "tiny" / "1.png").write_bytes(b"broken")
    assert cli.main(["data", "verify"]) == 2
    shown = capsys.readouterr()
    assert "tiny_train: wrong\n    " in shown.out
    assert "unreadable: cannot read" in shown.out
    assert shown.err == "error: not as catalogued: tiny_train\n"
    assert cli.main(["data", "verify", "tiny_test", "--data-dir", str(image_sets / "none")]) == 2
    assert "tiny_test not found" in capsys.readouterr().out


def test_data_fetch_says_what_it_did(image_sets, monkeypatch, capsys):
    """A set that users bring, and which is here."""
    mine = replace(datasets.image_set("tiny_train"), name="mine", bring="ask for it")
    monkeypatch.setattr(datasets, "catalogue", lambda: {"mine": mine})
    assert cli.main(["data", "fetch", "mine", "--data-dir", str(image_sets)]) == 0
    assert "mine: 3 images, here already" in capsys.readouterr().out


def test_help_is_light():
    """`igconv --help` imports neither torch nor the plotting libraries."""
    code = """
import sys
from igconv import cli
try:
    cli.main(["--help"])
except SystemExit:
    print([m for m in ("torch", "matplotlib", "lightning_fabric", "skimage") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:] + done.stderr
