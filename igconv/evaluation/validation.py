"""A quick look at a model while it trains: small crops of the test images, PSNR and error per frequency band."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from igconv.data import datasets
from igconv.data.images import read_image
from igconv.evaluation.bands import COLUMNS as BAND_COLUMNS
from igconv.evaluation.bands import band_edges, error_and_hr_energy
from igconv.evaluation.benchmark import benchmark_pair
from igconv.evaluation.metrics import psnr_y
from igconv.models.inference import upscale

IMAGES = 3  # that are looked at of each test set


def looked_at(test_set: str) -> list[Path]:
    """The images of a test set that validation reads: its first ones. Raises InputError as `ImageSet.paths`."""
    return datasets.image_set(test_set).paths()[:IMAGES]


def validation_psnr(model, test_sets: Sequence[str], scales: Sequence[int], side: int = 144) -> float:
    """Mean PSNR-Y in dB over scales and the centres (``side`` HR pixels) of the `looked_at` images of each set."""
    values = [psnr_y(sr, hr, scale) for scale, sr, hr in _validation(model, test_sets, scales, side)]
    return sum(values) / len(values)


def validation_bands(
    model, test_sets: Sequence[str], scales: Sequence[int], step: int, side: int = 144, bands: int = 20
) -> list[dict]:
    """Error and HR energy per scale and frequency band (`igconv.evaluation.bands`), *summed* over the crops of
    `validation_psnr`.

    Returns: rows with the columns of `igconv.evaluation.bands.COLUMNS`, in grey levels squared, ``step`` as given. The
        bands are half as wide as elsewhere, so that several lie below the Nyquist frequency of a x4 LR image.
    """
    edges = band_edges(bands)
    sums = {scale: np.zeros((2, len(edges) - 1)) for scale in scales}
    for scale, sr, hr in _validation(model, test_sets, scales, side):
        sums[scale] = sums[scale] + np.stack(error_and_hr_energy(sr, hr, scale, edges))
    return [
        dict(zip(BAND_COLUMNS, (step, scale, *map(float, values)), strict=True))
        for scale, energies in sums.items()
        for values in zip(edges[:-1], edges[1:], *energies, strict=True)
    ]


@lru_cache(maxsize=64)  # of some 0.1 MB each: a training looks at the same ones fifty times
def _centre_pair(path: Path, written: int, side: int, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(lr, hr) of the centre of an image file that was ``written`` at that time, ``side`` HR pixels."""
    image = read_image(path, grey_as_rgb=True)
    top, left = ((n - min(side, n)) // 2 for n in image.shape[-2:])
    return benchmark_pair(image[:, top : top + side, left : left + side], scale)


@torch.no_grad()
def _validation(model, test_sets: Sequence[str], scales: Sequence[int], side: int) -> Iterator[tuple]:
    """(scale, sr, hr) of the centres of the first images of each set; the model's mode comes back at the end."""
    mode, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for name in test_sets:
            for path in looked_at(name):
                for scale in scales:
                    lr, hr = _centre_pair(path, path.stat().st_mtime_ns, side, scale)
                    yield scale, upscale(model, lr, scale, device)[0], hr
    finally:
        model.train(mode)
