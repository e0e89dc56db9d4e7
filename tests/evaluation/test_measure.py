"""Rows of a model in memory: `benchmark.measure` on a CPU, and as it works on a GPU, with threads."""

import threading

import pytest
import torch

from igconv import InputError
from igconv.evaluation import benchmark
from igconv.evaluation.benchmark import measure
from igconv.models.inference import upscale


def test_models_are_evaluated_without_kept_graphs(tiny_model, image_sets):
    """`measure` needs no gradients and generates a kernel bank once per scale, not per image."""
    from igconv.models.hypernetwork import HyperNetwork

    model, calls, original = tiny_model("igconv", igsample=True), [], HyperNetwork.generate
    HyperNetwork.generate = lambda self, s: calls.append(s) or original(self, s)
    try:
        rows = list(measure(model, ["tiny_test"], (2, 3)))
    finally:
        HyperNetwork.generate = original
    assert len(rows) == 4
    assert sorted(calls) == [2, 2, 3, 3]  # IGConv and IGSample


def test_bicubic_is_the_floor_of_the_benchmarks(photograph):
    """Float in, float out: the callable has the interface of a model."""
    lr = photograph(8, 9).float()[None] / 255
    sr = benchmark.bicubic(lr, 3)
    assert sr.shape == (1, 3, 24, 27)
    assert sr.dtype == torch.float32


def test_a_gpu_does_not_wait_for_metrics(image_sets, monkeypatch):
    """Read ahead and measured behind, in threads: the rows of a CPU, in their order."""
    original, threads = benchmark.psnr_ssim_y, set()

    def measured(*pair):
        threads.add(threading.current_thread().name)
        return original(*pair)

    monkeypatch.setattr(benchmark, "psnr_ssim_y", measured)
    expected = list(benchmark.measure(benchmark.bicubic, ["tiny_test"], (2, 3, 4), "cpu"))
    monkeypatch.setattr(benchmark, "upscale", lambda model, lr, scale, device: upscale(model, lr, scale, "cpu"))
    found = list(benchmark.measure(benchmark.bicubic, ["tiny_test"], (2, 3, 4), "cuda"))
    assert [{**row, "seconds": 0} for row in found] == [{**row, "seconds": 0} for row in expected]
    assert len(found) == 6
    assert all(name.startswith("metrics") for name in threads)


def test_errors_of_threads_name_their_image(image_sets, monkeypatch):
    monkeypatch.setattr(benchmark, "upscale", lambda model, lr, scale, device: upscale(model, lr, scale, "cpu"))
    with pytest.raises(InputError, match=r"^tiny_test/t0 at x2: images differ in size"):
        list(benchmark.measure(lambda lr, scale: lr, ["tiny_test"], (2,), "cuda"))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_a_memory_too_small_for_an_image_names_it(image_sets, error):
    def full(lr, scale):
        raise error

    with pytest.raises(InputError, match=r"^tiny_test/t0 at x2: out of memory .*--tile"):
        list(benchmark.measure(full, ["tiny_test"], (2,)))
