"""TF32 and the choice of algorithms: set for a while, and as before afterwards, whichever settings somebody used."""

import pytest
import torch

from igconv import InputError
from igconv.models.arithmetic import chosen_device, exact_arithmetic, facts, training_arithmetic

NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def state() -> tuple:
    cudnn = torch.backends.cudnn
    if NEWER:
        tf32 = (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)
    else:
        tf32 = (torch.get_float32_matmul_precision(), cudnn.allow_tf32)
    return (*tf32, cudnn.deterministic, cudnn.benchmark)


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False


def older(monkeypatch):
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def newer(monkeypatch):
    if not NEWER:
        pytest.skip("this PyTorch has the older settings alone")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"


@pytest.mark.parametrize("settings", [lambda _: None, older, newer], ids=["default", "older", "newer"])
@pytest.mark.parametrize("block", [exact_arithmetic, lambda: training_arithmetic("bf16-mixed")], ids=["exact", "tf32"])
def test_settings_come_back(settings, block, monkeypatch):
    settings(monkeypatch)
    before = state()

    def fails():
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), block():
        fails()
    assert state() == before


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_training_has_the_arithmetic_that_its_provenance_says(precision):
    with training_arithmetic(precision):
        products, convolutions = torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32
        with exact_arithmetic():  # a validation
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == convolutions
    said = facts(precision)
    assert (said["tf32_products"], said["tf32_convolutions"]) == (products, convolutions)
    assert products == convolutions == (precision != "32-true")


def test_auto_is_the_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device() == "cpu"


def test_a_device_has_to_be_here(monkeypatch):
    """By its kind and its number, as a name or as PyTorch's; else one line that says what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("cpu", "cuda", "cuda:1", "mps", "mps:0"):
        assert chosen_device(name) == chosen_device(torch.device(name)) == name
    for name, said in (("cuda:2", "there are 2 CUDA GPUs"), ("meta", "unknown device 'meta'"), ("", "unknown device"),
                       ("gpu", "choose from auto, cpu, cuda, mps"), (None, "unknown device 'None'")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            chosen_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name, said in (("mps", "'mps' is not here"), ("cuda:1", "'cuda:1' is not here: PyTorch finds no CUDA GPU")):
        with pytest.raises(InputError, match=said):
            chosen_device(name)
