"""What only a CUDA device can show. Counted as skipped elsewhere."""

from dataclasses import replace

import pytest
import torch

import igconv
from igconv.data import cache
from igconv.data.patches import PatchSource
from igconv.data.resize import imresize
from igconv.evaluation import benchmark
from igconv.evaluation.metrics import psnr_y
from igconv.models import inference, state_files
from igconv.study import results
from igconv.study.runs import get_run
from igconv.training.feed import DeviceFeed, HostFeed
from igconv.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("upsampler", ["spconv+", "igconv", "igconv+"])
def test_forward_equals_the_cpu(upsampler):
    small = {} if upsampler == "spconv+" else dict(hidden_dim=32, num_layers=2)
    model = igconv.build_model("edsr_tiny", upsampler, scales=(2, 3), **small).eval()
    lr = torch.rand(1, 3, 24, 20)
    with torch.no_grad():
        expected = [model(lr, scale) for scale in (2, 3)]
        found = [model.cuda()(lr.cuda(), scale).cpu() for scale in (2, 3)]
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["matlab", "pil"])
def test_resize_is_the_same_bytes(method):
    x = torch.randint(0, 256, (2, 3, 48, 36), dtype=torch.uint8)
    assert torch.equal(imresize(x.cuda(), 1 / 3, method).cpu(), imresize(x, 1 / 3, method))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_runs_and_learns(precision, tmp_path, monkeypatch):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    run = replace(get_run("smoke", "edsr_tiny-igconv+-s0"), steps=40, precision=precision, record_every=10,
                  validate_every=0, checkpoint_every=40)  # fmt: skip
    records = list(train(run, "cuda"))
    assert records[-1]["step"] == 40
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    """IGConv+ of the smoke study, 40 steps, one record at the end."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "results"))
    return replace(get_run("smoke", "edsr_tiny-igconv+-s0"), steps=40, record_every=40, validate_every=0,
                   checkpoint_every=40)  # fmt: skip


def weights_of(run) -> dict:
    return state_files.read_weights(results.model_file(run.profile, run.name))


def test_graphs_train_the_same_model(small_run, tmp_path, monkeypatch):
    """A recorded and replayed step is the step: the same weights as without graphs, up to float summation."""
    list(train(small_run, "cuda"))
    plain = weights_of(small_run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "graphs"))
    list(train(small_run, "cuda", graphs=True))
    for key, value in weights_of(small_run).items():
        torch.testing.assert_close(value, plain[key], atol=1e-4, rtol=1e-3)


def test_graphs_resume(small_run, tmp_path, monkeypatch):
    """Stopped and called again with graphs: bit-equal weights."""
    run = replace(small_run, record_every=10, checkpoint_every=10)
    list(train(run, "cuda", graphs=True))
    whole = weights_of(run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "stopped"))
    generator = train(run, "cuda", graphs=True)
    next(generator), next(generator)
    generator.close()
    list(train(run, "cuda", graphs=True))
    assert all(torch.equal(value, whole[key]) for key, value in weights_of(run).items())


@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_waits_for_the_device(small_run, monkeypatch, graphs):
    """Between two records nothing synchronises: PyTorch raises where something would."""
    original, steps = DeviceFeed.batch, []

    def batch(self, step):
        steps.append(step)
        torch.cuda.set_sync_debug_mode("error" if 10 < step < 39 else "default")
        return original(self, step)

    monkeypatch.setattr(DeviceFeed, "batch", batch)
    try:
        records = []
        for record in train(small_run, "cuda", graphs=graphs):
            torch.cuda.set_sync_debug_mode("default")
            records.append(record)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 40
    assert records[-1]["loss"] > 0


def test_both_feeds_give_the_same_patches():
    """Pixels in the GPU's memory or from the map: bit for bit, LR included."""
    stored = cache.decoded("sample_train")
    patches = PatchSource(stored.images, (2, 3, 4), 24, 4, seed=1)
    on_device, on_host = (feed(patches, range(4), "cuda") for feed in (DeviceFeed, HostFeed))
    for step in range(5):
        a, b = on_device.batch(step), on_host.batch(step)
        assert a.scales == b.scales
        assert torch.equal(a.lr, b.lr)
        assert all(torch.equal(x, y) for x, y in zip(a.hr, b.hr, strict=True))
    on_host.close()


def test_evaluation_equals_the_cpu():
    """float32 without TF32: PSNR within 0.002 dB, also where the user has allowed TF32."""
    torch.backends.cudnn.allow_tf32 = True
    model = igconv.build_model("edsr_baseline", "igconv+", scales=(2, 3, 4)).eval()
    for facts, lr, hr in benchmark.benchmark_pairs(["sample_test"], (3,)):
        values = [
            psnr_y(inference.upscale(inference.prepare(model, device), lr, 3, device)[0], hr, facts["scale"])
            for device in ("cpu", "cuda")
        ]
        assert values[0] == pytest.approx(values[1], abs=0.002)
