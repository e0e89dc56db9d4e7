"""How a device calculates with float32: whether convolutions and matrix products may take the short cut of TF32.

TF32 reads 10 of float32's 23 bits of the mantissa; NVIDIA's GPUs are several times as fast with it. PyTorch allows it
in convolutions and not in matrix products unless told otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from igconv.errors import InputError

# PyTorch 2.9 has a setting for each of these beside the older ones, and refuses to read the older where they disagree.
_SETTINGS = [
    getattr(backend, part)
    for backend, part in (
        (torch.backends.cuda, "matmul"),
        (getattr(torch.backends, "mkldnn", None), "matmul"),
        (torch.backends.cudnn, "conv"),
        (torch.backends.cudnn, "rnn"),
    )
    if backend is not None and hasattr(getattr(backend, part, None), "fp32_precision")
]


def chosen_device(name="auto") -> str:
    """The name of a torch device of this machine; "auto" is the CUDA GPU where there is one.

    Raises InputError for no device's name, and for a device that is not here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"unknown device {str(name)!r}; choose from auto, cpu, cuda, mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' is not here: it takes macOS on Apple's chips; choose auto or cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {str(name)!r} is not here: PyTorch finds no CUDA GPU; choose auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {str(name)!r} is not here: there are {torch.cuda.device_count()} CUDA GPUs, from 0")
    return str(name)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """float32 means float32: no TF32 in convolutions and matrix products, and the same algorithm at every call.

    cuDNN's convolutions use TF32 unless told otherwise, which moves PSNR values in the third digit.
    """
    with _arithmetic(products="highest", convolutions=False):
        yield


@contextmanager
def training_arithmetic(precision: str) -> Iterator[None]:
    """That of a run of this ``precision``: exact for "32-true"; with half precision, what is left in float32 (the
    hyper-network and its gradients) may use TF32. cuDNN's algorithms are the same at every call, so that a resumed
    training is bit-equal."""
    exact = precision == "32-true"
    with _arithmetic(products="highest" if exact else "high", convolutions=not exact):
        yield


def facts(precision: str) -> dict:
    """`training_arithmetic` in words, for a provenance."""
    exact = precision == "32-true"
    return dict(tf32_products=not exact, tf32_convolutions=not exact, cudnn_deterministic=True)


@contextmanager
def _arithmetic(products: str, convolutions: bool) -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = [setting.fp32_precision for setting in _SETTINGS]
    older = _older_settings()
    flags = cudnn.deterministic, cudnn.benchmark
    try:
        # The older setters set the newer settings as well, and all that is read then agrees.
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        torch.set_float32_matmul_precision(older[0])
        cudnn.allow_tf32 = older[1]
        for setting, value in zip(_SETTINGS, before, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = value


def _older_settings() -> tuple[str, bool]:
    """Precision of products and TF32 of convolutions; PyTorch's defaults where somebody used the newer settings."""
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:
        products = "highest"
    try:
        convolutions = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        convolutions = True
    return products, convolutions
