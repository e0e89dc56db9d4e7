"""Fixtures that several test modules share. Nothing here writes outside a test's own temporary folder."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trainings
from file_server import serving
from PIL import Image

import igconv
from igconv.data import datasets
from igconv.models import state_files
from igconv.models.hypernetwork import HyperNetwork
from igconv.models.super_resolver import build_model
from igconv.study import results
from igconv.study.runs import Run, get_run
from igconv.workflow import forkserver

# Files that take minutes. They begin, so that at the end no process works on one while the others have nothing left.
LONG = ("test_driver.py",)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def _folder_of(variable: str, what: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set: no {what}")
    if not Path(folder).is_dir():
        pytest.fail(f"{variable} names no folder: {folder}")
    return Path(folder)


@pytest.fixture
def reference():
    """``reference(case)`` -> (its entry in index.json, its tensors); ``reference()`` -> the whole index."""
    folder = _folder_of("IGCONV_REFERENCE", "reference vectors")
    index = json.loads((folder / "index.json").read_text())

    def read(case: str | None = None):
        if case is None:
            return index
        from safetensors.torch import load_file

        return index["cases"][case], load_file(folder / index["cases"][case]["file"])

    return read


@pytest.fixture
def data_root() -> Path:
    """The folder with real benchmarks and published weights."""
    return _folder_of("IGCONV_DATA", "benchmark data")


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread everywhere: repeatable sums, and the same for the tests that train."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_environment_of_kernels(monkeypatch):
    """What a notebook that ran in this process has set, which would be handed on to the processes of other tests."""
    for name in forkserver.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def results_root(tmp_path, monkeypatch) -> Path:
    """Results and decoded images go below the test's temporary folder, always."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("IGCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "results"


@pytest.fixture
def enliven():
    """Give latents and biases of hyper-networks values of order one: freshly made kernels are nearly constant."""

    def apply(module):
        generator = torch.Generator().manual_seed(7)
        for part in module.modules():
            if isinstance(part, HyperNetwork):
                for name, p in part.named_parameters():
                    factor = 1.0 if name in ("freq", "amplitude") else 0.3
                    p.data.copy_(torch.randn(p.shape, generator=generator) * factor)
        return module

    return apply


@pytest.fixture
def tiny_model(enliven):
    """``tiny_model(upsampler, **options)``: an EDSR of 6 channels and 1 block with lively kernels."""

    def make(upsampler: str, scales=(2, 3, 4), **options):
        if upsampler.startswith("igconv"):
            options = dict(hidden_dim=8, num_layers=2) | options
        return enliven(build_model("edsr", upsampler, scales=scales, channels=6, blocks=1, **options))

    return make


@pytest.fixture
def weights(tmp_path):
    """A file of a small model with IGConv+."""
    path = tmp_path / "model.safetensors"
    model = igconv.build_model("edsr_tiny", "igconv+", scales=(2, 3), hidden_dim=8, num_layers=1, channels=4, blocks=1)
    igconv.save(model, path)
    return path


@pytest.fixture
def photograph():
    """``photograph(height, width, seed)``: a (3, H, W) uint8 image with structure at all frequencies."""

    def make(height: int, width: int, seed: int = 0) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        waves = sum(np.sin(x * fx + y * fy + p)[None] * rng.normal(20, 5, (3, 1, 1))
                    for fx, fy, p in rng.uniform(-1.2, 1.2, (6, 3)))  # fmt: skip
        noise = rng.normal(0, 12, (3, height, width))
        return torch.from_numpy((127 + waves + noise).clip(0, 255).round().astype(np.uint8))

    return make


@pytest.fixture
def write_png():
    """``write_png(image, path)``: (3, H, W) uint8 by Pillow, without our code."""

    def write(image: torch.Tensor, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        return path

    return write


@pytest.fixture
def image_sets(tmp_path, monkeypatch, photograph, write_png) -> Path:
    """Two small image sets, "tiny_train" and "tiny_test", on disk and in the catalogue. Returns their root."""
    root = tmp_path / "data"
    for seed in range(3):
        write_png(photograph(72, 80, seed), root / "train" / "tiny" / f"{seed}.png")
    for seed in range(2):
        write_png(photograph(50, 63, 10 + seed), root / "benchmarks" / "tiny" / "HR" / f"t{seed}.png")
    sets = {
        "tiny_train": datasets.Folder("tiny_train", "train", 3, "made here", "none", folder="train/tiny"),
        "tiny_test": datasets.Folder("tiny_test", "test", 2, "made here", "none", folder="benchmarks/tiny/HR"),
    }
    monkeypatch.setattr(datasets, "catalogue", lambda: sets)
    monkeypatch.setenv("IGCONV_DATA", str(root))
    return root


@pytest.fixture
def shrink(image_sets):
    """``shrink(run, **changes)``: the same run on small images with a budget of seconds."""

    def apply(run: Run, **changes) -> Run:
        budget = dict(
            steps=6, lr_patch=8, micro_batches=2, micro_batch_size=1, record_every=2, checkpoint_every=2,
            validate_every=4, threads=1, train_sets=("tiny_train",), test_sets=("tiny_test",),
        )  # fmt: skip
        return replace(run, **(budget | changes))

    return apply


@pytest.fixture
def tiny_run(shrink) -> Run:
    """IGConv+ with both losses, a few seconds of training."""
    return shrink(get_run("smoke", "edsr_tiny-igconv+-s0"), hidden_dim=8, num_layers=2)


@pytest.fixture
def go():
    """``go(run)``: train to the end on the CPU and return the records."""
    return trainings.to_the_end


@pytest.fixture
def weights_of():
    """``weights_of(run)``: the stored weights of a finished run."""
    return lambda run: state_files.read_weights(results.model_file(run.profile, run.name))


@pytest.fixture
def server():
    """A `file_server.Server`."""
    with serving() as running:
        yield running


@pytest.fixture
def content() -> bytes:
    """Half a megabyte, several chunks."""
    return bytes(range(256)) * 2048
