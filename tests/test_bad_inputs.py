"""Bad inputs at every boundary of the commands: a status, one line, no traceback, and nothing left behind."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import igconv
from igconv import cli, files
from igconv.study import results
from igconv.workflow import driver, notebooks

RUN = "edsr_tiny-igconv-s0"  # of the profile sample


def tree(folder: Path) -> dict[str, bytes | str]:
    """What lies below a folder: content of files, kind of everything else."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(place, name)
            found[path] = Path(path).read_bytes() if os.path.isfile(path) else str(os.path.islink(path))
    return found


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """``refused(words, *said)``: the command, called where the test's files are, says one line with these words.

    Its status is 2, or 1 where something was tried. All files are as before; locks, which mean nothing once they are
    free, decoded images, and empty folders of results may be new.
    """

    def call(words, *said: str, main=cli.main, out: bool = False) -> str:
        monkeypatch.chdir(tmp_path)
        before = tree(tmp_path)
        capfd.readouterr()
        status = main([str(word) for word in words])
        shown = capfd.readouterr()
        assert status in (1, 2)
        assert "Traceback" not in shown.out + shown.err
        (line,) = (shown.out if out else shown.err).strip().splitlines()[-1 if out else 0 :]
        for word in said:
            assert word in line
        new = {
            path
            for path in tree(tmp_path).items() ^ before.items()
            if "lock" not in Path(path[0]).name and not path[0].startswith(str(tmp_path / "cache"))
        }
        assert {path for path, content in new if content != "False"} == set()
        return line

    return call


@pytest.fixture
def image(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


@pytest.fixture
def network(tmp_path) -> Path:
    """A model file of this package."""
    model = igconv.build_model("edsr", "spconv", scales=(2,), channels=4, blocks=1)
    igconv.save(model, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


OPTIONS = [
    ("upscale", "Missing from igconv upscale: -o"),
    ("upscale -o x.png", "no images in nothing"),
    ("upscale in.png -o x.png --scale two", "Error parsing -s/--scale"),
    ("upscale in.png -o x.png -s 2.5", "Error parsing -s/--scale"),
    ("upscale in.png -o x.png -s", "Missing value"),
    ("upscale in.png -o x.png -s 0", "scale must be an integer >= 1, got 0"),
    ("upscale in.png -o x.png -s 1000000000", "this model was made for scale"),
    ("upscale in.png -o x.png --tile -1", "tile must be an integer >= 1, got -1"),
    ("upscale in.png -o x.png --tile 8 --halo -1", "halo must be an integer >= 0, got -1"),
    ("upscale in.png -o x.png --tile 8", "give the halo yourself"),
    ("upscale in.png -o x.png --tile 1e3", "Error parsing --tile"),
    ("upscale in.png -o x.png --quality 90", "lossless"),
    ("upscale in.png -o x.jpg --quality -5", "from 1 to 100"),
    ("upscale in.png -o x.jpg --quality 101", "from 1 to 100"),
    ("upscale in.png -o x.png --weigths net.safetensors", "Unrecognized options: --weigths"),
    ("upscale in.png -o x.png --self-ensemble yes", "Unrecognized options: yes"),
    ("upscale in.png -o x.png --device tpu", "device"),
    ("upscale in.png -o x.png --device cuda:99", ""),
    ("upscale in.png -o x.png --device ''", "device"),
    ("train", "Missing from igconv train"),
    (f"train {RUN} another", "Unrecognized options: another"),
    ("train nosuch", "unknown run"),
    ("train ''", "unknown run"),
    ("train ../../etc/passwd", "unknown run"),
    (f"train {RUN} --profile nosuch", "unknown profile"),
    (f"train {RUN} --devices 1.5", "Error parsing --devices"),
    (f"train {RUN} --devices 0", "devices"),
    (f"train {RUN} --devices -1", "devices"),
    (f"train {RUN} --nodes 0", "nodes"),
    (f"train {RUN} --accelerator abacus", "accelerator"),
    (f"train {RUN} --accelerator cuda", ""),
    *([] if torch.backends.mps.is_available() else [(f"train {RUN} --accelerator mps", "MPSAccelerator")]),
    ("evaluate", "Missing from igconv evaluate"),
    ("evaluate nosuch", "unknown run"),
    (f"evaluate {RUN}", "is not trained yet"),
    ("evaluate bicubic --profile nosuch", "unknown profile"),
    ("evaluate bicubic --lr best", "invalid choice 'best'"),
    ("evaluate bicubic --protocol mine", "invalid choice 'mine'"),
    ("evaluate bicubic --tile -4", "tile"),
    ("evaluate bicubic --device tpu", "device"),
    ("data", "Missing from igconv data"),
    ("data lst", "invalid choice 'lst'"),
    ("data fetch", "name what to fetch"),
    ("data fetch nosuch", "unknown image set or weights"),
    ("data list nosuch", "unknown image set or weights"),
    ("data verify T91 --data-dir in.png", "T91"),
    ("data fetch Manga109 --data-dir in.png", "Manga109"),
    ("export", "name the runs to export"),
    ("export nosuch", "unknown run"),
    (f"export {RUN}", "is not trained yet"),
    (f"export {RUN} {RUN} -o x.safetensors", "name one run for -o; got 2"),
    ("export --profile", "Missing value"),
    ("info in.png net.safetensors", "Unrecognized options"),
    ("info nosuch.safetensors", "no checkpoint at nosuch.safetensors"),
    ("info in.png", "in.png"),
    ("info .", "folder"),
    ("convert net.safetensors", "Missing from igconv convert"),
    ("convert net.safetensors -o x.pth", "ends in .safetensors"),
    ("convert net.safetensors -o net.safetensors", "exists"),
    ("convert nosuch -o x.safetensors", "nosuch"),
    ("convert in.png -o x.safetensors", "in.png"),
    ("convert . -o x.safetensors", ""),
    ("convert net.safetensors -o in.png/x.safetensors", "in.png"),
    ("convert net.safetensors -o x.safetensors --scales 2 a", "Error parsing --scales"),
    ("convert net.safetensors -o x.safetensors --scales", "scales"),
    ("convert net.safetensors -o x.safetensors --scales 2 2", "scales"),
    ("convert net.safetensors -o x.safetensors --scales 0", "scale"),
    ("convert net.safetensors -o x.safetensors --scales 99", "scale"),
    ("convert net.safetensors -o x.safetensors --crops 0", "crops"),
    ("convert net.safetensors -o x.safetensors --crops -3", "crops"),
    ("convert net.safetensors -o x.safetensors --tune -1", "tune"),
    ("convert net.safetensors -o x.safetensors --seed -1", "seed"),
    ("convert net.safetensors -o x.safetensors --images nosuch", "nosuch"),
    ("convert net.safetensors -o x.safetensors --images sample_test", "sample_test"),
    ("convert net.safetensors -o x.safetensors --target better", "invalid choice 'better'"),
    ("convert net.safetensors -o x.safetensors --upsampler spconv", "invalid choice 'spconv'"),
    ("convert net.safetensors -o x.safetensors --device tpu", "device"),
    ("enlarge in.png", "unknown command 'enlarge'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), OPTIONS, ids=[words for words, _ in OPTIONS])
def test_words_that_a_command_cannot_take(refused, image, network, words, said):
    refused([word.strip("'") for word in words.split(" ")], said)


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:1", "meta"])
@pytest.mark.parametrize("words", ["upscale in.png -o x.png", "evaluate bicubic",
                                   "convert net.safetensors -o x.safetensors"])  # fmt: skip
def test_devices_that_are_not_here(refused, image, network, monkeypatch, words, device):
    """Wherever there is a --device, before the work."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    refused([*words.split(), "--device", device], f"device '{device}'")


def test_options_are_asked_for_where_they_belong(capsys):
    """Help is no error, and is not swallowed by what catches the others."""
    with pytest.raises(SystemExit) as end:
        cli.main(["upscale", "--help"])
    assert not end.value.code
    assert "--overwrite" in capsys.readouterr().out


# ---- weights


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


BAD_WEIGHTS = {
    "empty": b"",
    "text": b"hello",
    "a page": b"<!doctype html><html></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "header of terabytes": safetensors(b"{}", 2**60),
    "header that is no JSON": safetensors(b"{no}"),
    "header of a list": safetensors(b"[1, 2]"),
    "no tensors": safetensors(b"{}"),
    "no configuration": safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
    "cut short": safetensors(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}') + bytes(4),
    "unknown type": safetensors(b'{"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
    "configuration that is no JSON": safetensors(b'{"__metadata__":{"igconv":"{"}}'),
    "configuration of a list": safetensors(b'{"__metadata__":{"igconv":"[]"}}'),
    "configuration of nothing": safetensors(b'{"__metadata__":{"igconv":"{}"}}'),
    "unknown encoder": safetensors(json.dumps({"__metadata__": {"igconv": json.dumps(
        dict(config=dict(encoder="x", upsampler="igconv", scales=[2]), meta={}))}}).encode()),
    "scales of words": safetensors(json.dumps({"__metadata__": {"igconv": json.dumps(
        dict(config=dict(encoder="edsr", upsampler="igconv", scales="all"), meta={}))}}).encode()),
    "options of nonsense": safetensors(json.dumps({"__metadata__": {"igconv": json.dumps(
        dict(config=dict(encoder="edsr", upsampler="igconv", scales=[2], channels="many"), meta={}))}}).encode()),
    "negative channels": safetensors(json.dumps({"__metadata__": {"igconv": json.dumps(
        dict(config=dict(encoder="edsr", upsampler="igconv", scales=[2], channels=-4), meta={}))}}).encode()),
    "weights that are missing": safetensors(json.dumps({"__metadata__": {"igconv": json.dumps(
        dict(config=dict(encoder="edsr", upsampler="igconv", scales=[2], channels=4, blocks=1), meta={}))}}).encode()),
}  # fmt: skip


# `igconv info` builds no model, and says what a file says of itself.
DESCRIBED = ("unknown encoder", "options of nonsense", "negative channels", "weights that are missing")


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (command, kind)
        for command in ("upscale", "info", "convert")
        for kind in BAD_WEIGHTS
        if command != "info" or kind not in DESCRIBED
    ],
)
def test_files_that_are_no_weights(refused, tmp_path, image, command, kind):
    """Each command that reads weights; the file is named."""
    (tmp_path / "w.safetensors").write_bytes(BAD_WEIGHTS[kind])
    words = {"upscale": "upscale in.png -o x.png --weights w.safetensors", "info": "info w.safetensors",
             "convert": "convert w.safetensors -o x.safetensors --crops 4"}[command]  # fmt: skip
    refused(words.split(), "w.safetensors")


# ---- variables


def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    return {"a file": "file", "below a file": "file/x", "a loop": "loop", "a system's": "/proc/nosuch",
            "a name too long": "x" * 300, "line break": "a\nb/../../proc"}  # fmt: skip


@pytest.mark.parametrize("name", files.FOLDERS)
@pytest.mark.parametrize("place", ["a file", "below a file", "a loop", "a system's", "a name too long"])
def test_folders_in_variables_that_cannot_be(refused, tmp_path, monkeypatch, name, place, tiny_run, image_sets):
    """Results, data and cache, at the start of a training."""
    from igconv.study import runs

    monkeypatch.setattr(runs, "get_run", lambda *_: tiny_run)
    monkeypatch.setenv(name, places(tmp_path)[place])
    refused(["train", tiny_run.name, "--profile", "smoke", "--accelerator", "cpu"])


# ---- what lies in the results

BAD_TABLES = {
    "empty": b"",
    "bytes": bytes(range(256)),
    "a page": b"<!doctype html>\n<html>a,b</html>\n",
    "other columns": b"a,b\n1,2\n",
    "ragged": b"dataset,image\nSet5,a,b,c,d\nx\n",
    "merge conflict": b"<<<<<<< HEAD\ndataset,image\n=======\n>>>>>>> b\n",
}


@pytest.mark.parametrize("kind", [*BAD_TABLES, "a folder"])
def test_rows_that_are_no_rows(refused, tmp_path, monkeypatch, kind, image_sets, tiny_run):
    """`igconv evaluate` goes on where it stopped, so it reads what lies there."""
    from igconv.study import runs

    monkeypatch.setattr(runs, "runs_of", lambda *_: {tiny_run.name: tiny_run})
    path = results.rows_file("smoke", "bicubic")
    path.parent.mkdir(parents=True)
    if kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(BAD_TABLES[kind])
    refused(["evaluate", "bicubic", "--profile", "smoke", "--device", "cpu"], "bicubic.csv")


@pytest.mark.parametrize("content", [b"", b"no weights", safetensors(b"{no}"), b"<html>"], ids=range(4))
@pytest.mark.parametrize("command", ["export", "evaluate", "train"])
def test_weights_of_a_run_that_are_damaged(refused, command, content, tmp_path):
    """Each command that finds a model.safetensors in the results names it."""
    path = results.model_file("sample", RUN)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    refused([command, RUN, *(["--accelerator", "cpu"] if command == "train" else [])], "model.safetensors")


# ---- the driver and the notebooks' runner


@pytest.mark.parametrize(("words", "said"), [
    (["nosuch"], "unknown profile"),
    (["sample", "--jobs", "-1"], "--jobs must be an integer >= 1"),
    (["paper"], "not found"),
])  # fmt: skip
def test_words_that_the_driver_cannot_take(refused, tmp_path, monkeypatch, words, said):
    monkeypatch.setenv("IGCONV_DATA", str(tmp_path / "none"))
    refused(words, said, main=driver.main)


@pytest.mark.parametrize(("words", "said"), [
    (["nosuch.ipynb", "x.ipynb"], "no notebook at"),
    (["in.png", "x.ipynb"], "in.png"),
    ([results.PROJECT / "notebooks" / "01_train.ipynb", "x.ipynb", "nosuch=3"], "unknown parameter"),
    ([results.PROJECT / "notebooks" / "01_train.ipynb", "x.ipynb", "no_graphs=maybe"], "must be bool"),
    (["empty.ipynb", "x.ipynb"], "empty.ipynb"),
    (["list.ipynb", "x.ipynb"], "list.ipynb"),
    ([".", "x.ipynb"], "no notebook at"),
])  # fmt: skip
def test_notebooks_that_cannot_run(refused, tmp_path, image, words, said):
    (tmp_path / "empty.ipynb").write_text("")
    (tmp_path / "list.ipynb").write_text("[]")
    refused(words, said, main=notebooks.main, out=True)
