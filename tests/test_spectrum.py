"""Energy per frequency band: Parseval, sinusoids, and the error of an image."""

import numpy as np
import pytest
import torch

from igconv import InputError, study
from igconv.analysis import spectrum
from igconv.analysis.spectrum import band_edges, band_energy, band_errors


def wave(fy, fx, shape=(80, 120)):
    y, x = np.indices(shape)
    return np.cos(2 * np.pi * (fy * y + fx * x) + 0.3)


@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (5, 4)])
def test_parseval(shape):
    signal = np.random.default_rng(0).standard_normal(shape) + 3
    assert band_energy(signal, window="none").sum() == pytest.approx(np.mean(signal**2), rel=1e-6)
    hann = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape))
    expected = np.sum((signal * hann) ** 2) / np.sum(hann**2)
    assert band_energy(signal).sum() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("window", ["hann", "none"])
@pytest.mark.parametrize(
    ("fy", "fx", "band"), [(0, 0.125, 2), (0.125, 0, 2), (0.3, 0.3, 8), (-0.2, 0.25, 6), (0.45, 0.45, 10)]
)
def test_the_energy_of_a_sinusoid_lies_in_its_band(fy, fx, band, window):
    energy = band_energy(2 * wave(fy, fx), window=window)
    assert len(energy) == 11
    assert energy[band] == pytest.approx(2, rel=0.01)
    assert energy[band] / energy.sum() > 0.999


def test_an_edge_belongs_to_the_higher_band():
    energy = band_energy(wave(0, 0.25, (40, 40)), np.array([0, 0.25, 0.5, spectrum.CORNER]), "none")
    assert energy == pytest.approx([0, 0.5, 0], abs=1e-12)


def test_bands_cover_all_frequencies():
    edges = band_edges(4)
    assert edges == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 2**-0.5])


def test_relative_error_of_a_known_error():
    rng = np.random.default_rng(1)
    hr = torch.from_numpy(rng.integers(40, 200, (1, 80, 80), dtype=np.uint8)).expand(3, -1, -1)
    error = np.round(20 * wave(0, 0.225, (80, 80)))
    sr = (hr.numpy() + error).astype(np.uint8)
    table = band_errors(torch.from_numpy(sr), hr, 2)
    assert tuple(table.columns) == spectrum.COLUMNS[-5:]
    assert table.error_energy.idxmax() == 4
    # A luma step of a grey level is 219 / 255; a quarter of the wave's phases lose some amplitude by rounding.
    assert table.error_energy[4] == pytest.approx(200 * (219 / 255) ** 2, rel=0.03)
    expected = 10 * np.log10(table.error_energy / table.hr_energy)
    assert table.relative_error_db.to_numpy() == pytest.approx(expected.to_numpy())


def test_brightness_is_no_energy_of_the_image_but_is_error():
    rng = np.random.default_rng(2)
    dark = torch.from_numpy(rng.integers(20, 60, (3, 64, 64), dtype=np.uint8))
    tables = [band_errors(dark + shift + 5, dark + shift, 2) for shift in (0, 100)]
    assert tables[0].hr_energy.to_numpy() == pytest.approx(tables[1].hr_energy.to_numpy(), rel=1e-6)
    assert tables[0].error_energy.idxmax() == 0
    assert tables[0].error_energy.sum() == pytest.approx((5 * 219 / 255) ** 2, rel=1e-6)


def test_bicubic_is_right_at_low_and_wrong_at_high_frequencies():
    table = spectrum.of_bicubic(("sample_test",), (2,))
    assert tuple(table.columns) == spectrum.COLUMNS
    assert len(table) == 3 * 11
    bands = table.groupby("band_low_cycles_per_px").relative_error_db.mean()
    assert bands.iloc[0] < -30
    assert bands.iloc[6:].to_numpy() == pytest.approx(0, abs=1.5)


def test_bad_input_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    flat = torch.full((3, 32, 32), 9, dtype=torch.uint8)
    with pytest.raises(InputError, match="without energy"):
        band_errors(flat, flat, 2)
    with pytest.raises(InputError, match="4x4"):
        band_energy(np.ones((3, 9)))
    with pytest.raises(InputError, match="unknown window"):
        band_energy(np.ones((9, 9)), window="hamming")
    run = next(iter(study.runs("smoke").values()))
    with pytest.raises(InputError, match="not trained yet"):
        spectrum.of_run(run)
