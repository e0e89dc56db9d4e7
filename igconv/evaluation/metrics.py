"""PSNR and SSIM on the luma of BT.601, as the super-resolution literature reports them.

Order of operations: clamp, quantise to bytes, drop the border, luma (16..235, not rounded), measure.
"""

import math

import numpy as np
from torch import Tensor

from igconv.data.images import to_bytes
from igconv.errors import InputError


def luma(image: Tensor, shave: int = 0) -> np.ndarray:
    """Y of one image: float RGB in [0, 1] or uint8, (3, H, W) or (1, 3, H, W) -> float64 (H, W) in 16..235."""
    from skimage.color import rgb2ycbcr

    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"a metric needs one RGB image, got a tensor of shape {tuple(image.shape)}")
    h, w = image.shape[-2:]
    if shave < 0 or min(h, w) <= 2 * shave:
        raise InputError(f"cannot shave {shave} pixels off an image of {w}x{h}")
    pixels = to_bytes(image)[:, shave : h - shave, shave : w - shave].permute(1, 2, 0).cpu().numpy()
    return rgb2ycbcr(pixels)[..., 0]


def psnr_y(sr: Tensor, hr: Tensor, shave: int) -> float:
    """PSNR in dB of two images (see `luma`) without a border of ``shave`` pixels; inf for equal ones."""
    return _psnr(*_pair(sr, hr, shave))


def ssim_y(sr: Tensor, hr: Tensor, shave: int) -> float:
    """SSIM of two images (see `luma`) without a border of ``shave`` pixels: 11x11 Gaussian window, sigma 1.5."""
    return _ssim(*_pair(sr, hr, shave))


def psnr_ssim_y(sr: Tensor, hr: Tensor, shave: int) -> tuple[float, float]:
    """(`psnr_y`, `ssim_y`), the luma computed once."""
    a, b = _pair(sr, hr, shave)
    return _psnr(a, b), _ssim(a, b)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    if min(a.shape) < 11:
        raise InputError(f"SSIM needs 11x11 pixels after shaving, got {a.shape[1]}x{a.shape[0]}")
    mean = structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return float(mean)  # pyright: ignore[reportArgumentType] (more than the mean only if asked for)


def _pair(sr: Tensor, hr: Tensor, shave: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = luma(sr, shave), luma(hr, shave)
    if a.shape != b.shape:
        raise InputError(f"images differ in size: {tuple(sr.shape)} and {tuple(hr.shape)}")
    return a, b
