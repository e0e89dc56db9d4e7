"""What goes to a machine with a GPU and what comes back."""

import importlib
import math
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from committed import PACKAGED_ROWS

from igconv.data import datasets
from igconv.errors import InputError
from igconv.evaluation import validation
from igconv.study import results
from igconv.training import loop

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def travel(monkeypatch, tiny_run):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("travel")
    monkeypatch.setattr(module, "runs_of", lambda profile: {tiny_run.name: tiny_run})
    return module


@pytest.fixture
def first_gpu(monkeypatch, tiny_run):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("first_gpu")
    runs = {tiny_run.name: replace(tiny_run, checkpoint_every=2)}
    monkeypatch.setattr(module, "runs_of", lambda profile: runs)
    return module


def test_there_and_back(travel, go, tiny_run, tmp_path, monkeypatch, first_gpu):
    """Images, code and its commit go; a finished run comes back in parts and is the same file."""
    sizes = travel.pack(tmp_path / "a.tar", "smoke", None)
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
        commit = archive.extractfile("igconv-gpu/COMMIT").read().decode()
    assert "igconv-gpu/igconv/training/loop.py" in names
    assert "igconv-gpu/data/train/tiny/0.png" in names
    assert commit == results.git_commit()
    assert f"igconv-gpu/{PACKAGED_ROWS.relative_to(results.PROJECT)}" in names  # which the GPU tests compare with
    assert not [name for name in names if name.startswith("igconv-gpu/results/")]
    assert sizes["archive"] == pytest.approx((tmp_path / "a.tar").stat().st_size / 2**20)

    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "back" / "results"))
    go(tiny_run)
    weights = results.model_file(tiny_run.profile, tiny_run.name)
    content = weights.read_bytes()
    assert first_gpu.split(tmp_path / "back", 0.005)
    weights.unlink()
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "here"))
    assert travel.unpack(tmp_path / "back", tiny_run.profile) == [f"{tiny_run.name}: finished"]
    assert results.model_file(tiny_run.profile, tiny_run.name).read_bytes() == content
    assert go(tiny_run)[-1]["step"] == tiny_run.steps
    assert travel.unpack(tmp_path / "back", tiny_run.profile) == [f"{tiny_run.name}: left out, finished here"]


def test_an_archive_in_parts_is_the_archive(travel, tmp_path):
    """Joined by the line of docs/gpu.md and unpacked they are its files; parts of a larger archive do not stay."""
    travel.pack(tmp_path / "whole.tar", "smoke", None)
    place = tmp_path / "igconv-gpu.tar"
    (tmp_path / f"{place.name}.part999").write_bytes(b"of another time")
    sizes = travel.pack(place, "smoke", None, part_mib=1.0)
    parts = sorted(tmp_path.glob(f"{place.name}*"))
    assert [path.name for path in parts] == [name for name in sizes if ".part" in name]
    assert all(path.stat().st_size <= 2**20 for path in parts)
    assert len(parts) == math.ceil(sizes["archive"]) > 1
    assert b"".join(path.read_bytes() for path in parts) == (tmp_path / "whole.tar").read_bytes()

    line = "cat igconv-gpu.tar.part* | tar x"
    assert line in (results.PROJECT / "docs" / "gpu.md").read_text()
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "whole.tar") as archive:
        for entry in archive:
            assert (tmp_path / entry.name).read_bytes() == archive.extractfile(entry).read()

    travel.pack(place, "smoke", None)
    assert sorted(tmp_path.glob(f"{place.name}*")) == [place]
    with pytest.raises(InputError, match="more than 1000 parts"):
        travel.pack(place, "smoke", None, part_mib=0.001)


def test_images_that_no_training_reads_may_stay_here(travel, go, tiny_run, tmp_path, monkeypatch, image_sets):
    """Of a set left out go the images that validation looks at and empty files for the others: the same training, the
    same validation, and no evaluation."""
    monkeypatch.setattr(validation, "IMAGES", 1)
    whole = travel.pack(tmp_path / "whole.tar", "smoke", None)
    sizes = travel.pack(tmp_path / "a.tar", "smoke", None, ["tiny_test"])
    assert sizes["images"] == whole["images"] - (image_sets / "benchmarks/tiny/HR/t1.png").stat().st_size / 2**20
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    there = tmp_path / "igconv-gpu" / "data"
    assert {path.name: path.stat().st_size > 0 for path in there.rglob("*.png")} == {
        "0.png": True, "1.png": True, "2.png": True, "t0.png": True, "t1.png": False,
    }  # fmt: skip

    expected = go(tiny_run)
    monkeypatch.setenv("IGCONV_DATA", str(there))
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "there"))
    found = go(tiny_run)
    for name in ("step", "loss", "psnr_y_db"):
        assert [record[name] for record in found] == pytest.approx([record[name] for record in expected], nan_ok=True)
    with pytest.raises(InputError, match=r"cannot read .*t1\.png: not an image"):
        datasets.read_set("tiny_test")
    with pytest.raises(InputError, match="unknown test set 'tiny_train'; choose from tiny_test"):
        travel.pack(tmp_path / "a.tar", "smoke", None, ["tiny_train"])


def test_other_settings_and_empty_folders_are_refused(travel, go, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "back" / "results"))
    go(replace(tiny_run, learning_rate=3e-4))
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "here"))
    assert travel.unpack(tmp_path / "back", tiny_run.profile) == [
        f"{tiny_run.name}: left out, trained with other settings"
    ]
    assert not results.run_folder(tiny_run.profile, tiny_run.name).exists()
    with pytest.raises(InputError, match="holds no runs"):
        travel.unpack(tmp_path, tiny_run.profile)


def test_runs_stop_in_time_and_go_on(first_gpu, tmp_path, monkeypatch, capsys):
    """Out of time: the run ends behind a checkpoint; called again, it goes on and is finished."""
    runs = first_gpu.block_a("smoke")
    monkeypatch.setattr(first_gpu, "CHECKPOINT", 0.0)
    assert first_gpu.train_runs(tmp_path, "smoke", "cpu", 0.0, runs) == []
    folder = results.run_folder("smoke", runs[0].name)
    assert (folder / "last.ckpt").is_file()
    assert not (folder / "model.safetensors").is_file()
    assert first_gpu.train_runs(tmp_path, "smoke", "cpu", 1e12, runs) == [runs[0].name]
    said = capsys.readouterr().out
    assert "step 4/6, loss 0." in said
    assert "nan" not in said  # PSNR of steps at which nothing was validated


def test_rates_and_profile_can_be_asked_for_again(first_gpu, tmp_path, monkeypatch):
    """No trained weights are left to be carried home; measured rates stay, and a profile is of steps that are made."""
    monkeypatch.setattr(first_gpu, "KINDS", {"igconv+": "IGConv+"})
    first_gpu.measure_rates(tmp_path, "smoke", "cpu", 4)
    measured = pd.read_csv(tmp_path / "rates.csv")
    assert measured.steps_per_s[0] > 0
    for _ in range(2):
        first_gpu.profile_steps(tmp_path, "smoke", "cpu", 4)
        assert "aten::convolution_backward" in (tmp_path / "profile.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} <= {"rates.csv", "profile.txt", "data", "cache"}

    first_gpu.measure_rates(tmp_path, "smoke", "cpu", 6)
    assert pd.read_csv(tmp_path / "rates.csv").steps[0] == 6  # 4 steps are another measurement
    monkeypatch.setattr(loop, "train", None)
    first_gpu.measure_rates(tmp_path, "smoke", "cpu", 6)


def test_block_a_is_planned(monkeypatch, tmp_path):
    """14 runs and a million steps, with minutes from the estimate, then from what was measured."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("first_gpu")
    table = module.plan(tmp_path, "benchmark")
    assert len(table) == 14
    assert table.steps.sum() == pytest.approx(1e6, rel=1e-3)
    assert (table["rate"] == "estimated").all()
    (tmp_path / "rates.csv").write_text("upsampler,graphs,steps_per_s\nigconv,True,100\nigconv,False,50\n")
    table = module.plan(tmp_path, "benchmark").set_index("run")
    assert table.loc["edsr_baseline-igconv-s0", "minutes"] == pytest.approx(100_000 / 100 / 60, abs=0.1)
    assert (table["rate"] == "measured").all()


@pytest.mark.parametrize(
    ("last", "status", "expected"),
    [
        ("31 passed, 2 skipped in 40.1s", 0, {"passed": 31, "skipped": 2, "ok": True}),
        ("33 skipped in 1.2s", 0, {"skipped": 33, "ok": False}),  # no GPU: nothing was shown
        ("1 failed, 30 passed in 9s", 1, {"failed": 1, "passed": 30, "ok": False}),
        ("31 passed in 125.02s (0:02:05)\na warning of another library", 0, {"passed": 31, "ok": True}),
        ("out of time after 60 s", 1, {"ok": False}),
    ],
)
def test_skipped_tests_on_a_gpu_are_no_success(last, status, expected):
    assert importlib.import_module("first_gpu").counted(f"....\n{last}\n", status) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="would be the tests themselves")
def test_what_pytest_prints_is_counted(first_gpu, tmp_path):
    """The GPU tests are called as on a GPU; here all are skipped, and that is what is counted."""
    found = first_gpu.run_tests(tmp_path, 300.0)
    assert found.keys() == {"skipped", "ok"}
    assert found["skipped"] > 30
    assert not found["ok"]


def test_gpu_tests_are_collected_without_further_plugins():
    """A rented machine has pytest alone."""
    words = ["-m", "pytest", "-p", "no:xdist", "--collect-only", "-q", "tests/test_gpu.py"]
    done = subprocess.run([sys.executable, *words], cwd=results.PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
