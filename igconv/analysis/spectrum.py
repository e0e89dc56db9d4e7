"""Which spatial frequencies are wrong? Energy of the error per radial frequency band, relative to the image.

Error and image are luma (BT.601, 0-255 scale, border of ``scale`` pixels dropped, as for PSNR). A Hann window is
applied before the DFT: without it the jump between opposite borders of a photograph puts energy of its low
frequencies into the high bands, where the image itself has little. The mean of HR is removed, so that the lowest
band is measured against contrast and not against brightness; the error keeps its mean.

The issue of spectral bias is the paper's motive for the frequency loss; it shows no spectrum (FACTS 6).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from igconv.errors import InputError, choose
from igconv.evaluation import benchmark_pairs, bicubic, load_run
from igconv.inference import Upscaler, upscale
from igconv.metrics import luma
from igconv.study import Run

CORNER = 0.5 * 2**0.5  # highest frequency of a pixel grid, along the diagonal
COLUMNS = ("run", "upsampler", "variant", "dataset", "image", "scale", "band_low_cycles_per_px",
           "band_high_cycles_per_px", "error_energy", "hr_energy", "relative_error_db")  # fmt: skip


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


def _hann(n: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)


def band_errors(sr, hr, scale: int, edges: np.ndarray | None = None) -> pd.DataFrame:
    """Bands of one image pair (as for `igconv.metrics.psnr_y`): the last five of `COLUMNS`.

    Raises InputError for a constant HR image, which has no energy to compare with.
    """
    edges = band_edges() if edges is None else np.asarray(edges)
    target = luma(hr, scale)
    image = band_energy(target - target.mean(), edges)
    if not image.min() > 1e-20:  # rounding of a constant image leaves about 1e-26
        raise InputError("the HR image has a frequency band without energy (a constant image?)")
    error = band_energy(luma(sr, scale) - target, edges)
    with np.errstate(divide="ignore"):
        ratio = 10 * np.log10(error / image)
    values = (edges[:-1], edges[1:], error, image, ratio)
    return pd.DataFrame(dict(zip(COLUMNS[-5:], values, strict=True)))


def measure(
    model: Upscaler, test_sets: Sequence[str], scales: Sequence[int], device="cpu", edges: np.ndarray | None = None
) -> Iterator[pd.DataFrame]:
    """Bands of every test image and scale: dataset, image, scale and the last five of `COLUMNS`."""
    for facts, lr, hr in benchmark_pairs(test_sets, scales):
        sr, _ = upscale(model, lr, facts["scale"], device)
        yield band_errors(sr, hr, facts["scale"], edges).assign(**facts)


def of_run(run: Run, device="cpu", edges: np.ndarray | None = None) -> pd.DataFrame:
    """`COLUMNS` of a trained run on its test sets at its scales. Raises InputError when it is not trained."""
    tables = measure(load_run(run).to(device), run.test_sets, run.scales, device, edges)
    return _tidy(tables, run=run.name, upsampler=run.upsampler, variant=run.variant)


def of_bicubic(test_sets: Sequence[str], scales: Sequence[int], edges: np.ndarray | None = None) -> pd.DataFrame:
    """`COLUMNS` of bicubic upscaling, under the run name "bicubic"."""
    return _tidy(measure(bicubic, test_sets, scales, edges=edges), run="bicubic", upsampler="bicubic", variant="")


def _tidy(tables: Iterator[pd.DataFrame], **facts) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True).assign(**facts)[list(COLUMNS)]
