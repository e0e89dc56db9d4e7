"""What only a CUDA device can show. Counted as skipped elsewhere."""

from dataclasses import replace

import pytest
import torch

import igconv
from igconv import study
from igconv.resize import imresize
from igconv.training import train

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
    run = replace(study.get("smoke", "edsr_tiny-igconv+-s0"), steps=40, precision=precision, record_every=10,
                  validate_every=0, checkpoint_every=40)  # fmt: skip
    records = list(train(run, "cuda"))
    assert records[-1]["step"] == 40
    assert records[-1]["loss"] < records[0]["loss"]
