"""Energy of an image or of its error per radial frequency band.

Image and error are luma (BT.601, 0-255 scale, border of ``shave`` pixels dropped, as for PSNR). A Hann window is
applied before the DFT: without it the jump between opposite borders of a photograph puts energy of its low
frequencies into the high bands, where the image itself has little. The mean of HR is removed, so that the lowest
band is measured against contrast and not against brightness; the error keeps its mean.
"""

import numpy as np
from torch import Tensor

from igconv.errors import InputError, choose
from igconv.evaluation.metrics import luma

CORNER = 0.5 * 2**0.5  # highest frequency of a pixel grid, along the diagonal
COLUMNS = ("step", "scale", "band_low_cycles_per_px", "band_high_cycles_per_px", "error_energy", "hr_energy")


def band_edges(bands: int = 10) -> np.ndarray:
    """Edges of equal bands from 0 to 0.5 cycles per HR pixel and one last band for the corners, (bands + 2,)."""
    return np.append(np.linspace(0, 0.5, bands + 1), CORNER)


def band_energy(signal: np.ndarray, edges: np.ndarray | None = None, window: str = "hann") -> np.ndarray:
    """Energy of a real signal (H, W) per radial band, in squared units of the signal: (bands,).

    Normalised by the energy of the window, so that the bands add up to the (window-weighted) mean square of the
    signal; with ``window="none"`` to its mean square exactly (Parseval). A frequency on an inner edge belongs to
    the higher band.
    """
    choose(window, ("hann", "none"), "window")
    edges = band_edges() if edges is None else np.asarray(edges)
    if signal.ndim != 2 or min(signal.shape) < 4:
        raise InputError(f"a spectrum needs a plane of at least 4x4 pixels, got {signal.shape}")
    weights = np.ones(signal.shape) if window == "none" else np.outer(*(_hann(n) for n in signal.shape))
    power = np.abs(np.fft.fft2(signal * weights)) ** 2 / (signal.size * np.sum(weights**2))
    fy, fx = (np.fft.fftfreq(n) for n in signal.shape)
    # fftfreq and hypot round in the last digit; without the margin a frequency on an edge falls on either side.
    band = np.digitize(np.hypot(fy[:, None], fx) + 1e-12, edges[1:-1])
    return np.bincount(band.ravel(), power.ravel(), minlength=len(edges) - 1)


def error_and_hr_energy(
    sr: Tensor, hr: Tensor, shave: int, edges: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(error energy, HR energy) per band of one image pair (as for `psnr_y`), in grey levels squared."""
    target = luma(hr, shave)
    return band_energy(luma(sr, shave) - target, edges), band_energy(target - target.mean(), edges)


def _hann(n: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)
