"""Energy per frequency band: Parseval, sinusoids, and the error of an image."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from igconv import InputError
from igconv.analysis import spectrum
from igconv.analysis.spectrum import band_errors
from igconv.data import datasets
from igconv.evaluation import bands
from igconv.evaluation.bands import CORNER, band_edges, band_energy
from igconv.evaluation.benchmark import benchmark_pair
from igconv.evaluation.validation import validation_bands
from igconv.study import results
from igconv.study.runs import runs_of
from igconv.training.loop import band_steps, train


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
    energy = band_energy(wave(0, 0.25, (40, 40)), np.array([0, 0.25, 0.5, CORNER]), "none")
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
    run = next(iter(runs_of("smoke").values()))
    with pytest.raises(InputError, match="not trained yet"):
        spectrum.of_run(run)


# ---- differences between kinds of runs


def errors_of(upsampler: str, db: float, seeds=(0, 1), variant: str = "", slope: float = 0.0) -> pd.DataFrame:
    """Relative errors of planted size: ``db`` and ``slope`` per band, on three images and two scales."""
    edges = band_edges(4)
    return pd.DataFrame([
        dict(run=f"{upsampler}-{seed}", upsampler=upsampler, variant=variant, seed=seed, dataset="D", image=image,
             scale=scale, band_low_cycles_per_px=edges[band], band_high_cycles_per_px=edges[band + 1],
             relative_error_db=-10.0 + seed + i + db + slope * band)
        for seed in seeds for i, image in enumerate("uvw") for scale in (2, 3) for band in range(5)
    ])  # fmt: skip


def test_differences_are_paired_and_have_intervals():
    """Images and seeds differ by whole decibels; paired, the planted difference is left without any spread."""
    table = pd.concat([errors_of("igconv", 0.0), errors_of("igconv+", 0.5, slope=1.0), errors_of("spconv", 3, (0,))])
    base = ["igconv-0", "igconv-1"]
    found = spectrum.differences(table, base)
    plus = found[(found.upsampler == "igconv+") & (found.scale == 3)]
    for column in ("difference_db", "low_db", "high_db"):
        assert plus[column].to_numpy() == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5])
    assert (plus.images.unique(), plus.seeds.unique()) == ([3], [2])
    assert found[found.upsampler == "spconv"].difference_db.to_numpy() == pytest.approx([3.0] * 10)
    with pytest.raises(InputError, match="no run of liif-0"):
        spectrum.differences(table, ["liif-0"])


# ---- over the steps of a training

STEPS = np.array([0, *2 ** np.arange(11)])


def planted(rates, steps=STEPS, run="a") -> pd.DataFrame:
    """Energy of band i: floor + (1 - floor) exp(-rate_i step), as a linear model learns it; rate 0 never moves."""
    edges = band_edges(len(rates) - 1)
    return pd.concat([
        pd.DataFrame(dict(run=run, upsampler="igconv", variant="", seed=0, step=steps, scale=2,
                          band_low_cycles_per_px=edges[i], band_high_cycles_per_px=edges[i + 1],
                          relative_error_db=10 * np.log10(0.01 + 0.99 * np.exp(-rate * steps))))
        for i, rate in enumerate(rates)
    ])  # fmt: skip


def test_time_to_threshold_of_known_curves():
    """exp(-rate t) has done 90 % of its way after ln(10) / rate steps; records are dense here."""
    rates = [0.5, 0.1, 0.05, 0.02, 0.0]
    times = spectrum.time_to_threshold(planted(rates, np.arange(1200)))
    energy = times[times.measure == "energy"].step.to_numpy()
    assert energy[:4] == pytest.approx(np.log(10) / np.array(rates[:4]), rel=0.01)
    db = times[times.measure == "dB"].step.to_numpy()  # 90 % of 20 dB: at -18 dB
    assert db[:4] == pytest.approx(-np.log((10**-1.8 - 0.01) / 0.99) / np.array(rates[:4]), rel=0.01)
    assert np.isnan([energy[4], db[4]]).all()
    assert times.first_db.to_numpy() == pytest.approx(0)
    assert times[times.measure == "energy"].last_db.to_numpy() == pytest.approx([-20] * 4 + [0], abs=1e-6)


def test_a_band_is_learned_when_it_ends_below_its_image():
    """From 3 dB to 0 dB blocks have vanished and nothing is learned; neither is a band that got worse."""
    edges = dict(run="a", upsampler="igconv", variant="", seed=0, scale=2, band_high_cycles_per_px=1.0)
    ends = {0.0: (0, -1.1), 0.1: (0, -0.9), 0.2: (3, 0), 0.3: (-3, -2), 0.4: (3, -2)}
    curves = [
        pd.DataFrame(dict(step=[0, 9], relative_error_db=db, band_low_cycles_per_px=low)) for low, db in ends.items()
    ]
    times = spectrum.time_to_threshold(pd.concat(curves).assign(**edges)).query("measure == 'energy'")
    assert times.step.notna().tolist() == [True, False, False, False, True]


def test_time_to_threshold_interpolates_between_records():
    """Half of the way in dB from step 3 to step 7 is, in log(step + 1), between 4 and 8."""
    curve = pd.DataFrame(dict(step=[0, 3, 7, 15], relative_error_db=[0.0, 0.0, -10.0, -10.0]))
    curve = curve.assign(run="a", upsampler="igconv", variant="", seed=0, scale=2, band_low_cycles_per_px=0.0,
                         band_high_cycles_per_px=0.1)  # fmt: skip
    times = spectrum.time_to_threshold(curve.sample(frac=1, random_state=0), fraction=0.5).set_index("measure")
    assert times.loc["dB", "step"] == pytest.approx(np.sqrt(4 * 8) - 1)
    share = 0.5  # of the way in energy, from 1 to 0.1
    assert times.loc["energy", "step"] == pytest.approx(4 * 2**share - 1)
    at_once = curve.assign(relative_error_db=[0.0, -10.0, -10.0, -10.0])  # done at the first record after the start
    assert 0 < spectrum.time_to_threshold(at_once).step.max() <= 3
    with pytest.raises(InputError, match="one record"):
        spectrum.time_to_threshold(curve.head(1))
    with pytest.raises(InputError, match="between 0 and 1"):
        spectrum.time_to_threshold(curve, 1.0)


def test_order_of_learning():
    """Low before high gives 1, high before low -1; bands that were not learned are left out and counted."""
    falling = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01]
    curves = [planted(falling, run="low first"), planted(falling[::-1], run="high first"),
              planted([*falling[:4], 0.0, 0.0], run="some"), planted([0.5, 0.1, 0.0], run="few")]  # fmt: skip
    found = spectrum.order(spectrum.time_to_threshold(pd.concat(curves))).query("measure == 'energy'").set_index("run")
    assert found.spearman.to_dict() == pytest.approx(
        {"low first": 1, "high first": -1, "some": 1, "few": np.nan}, nan_ok=True
    )
    assert found.not_learned.to_dict() == {"low first": 0, "high first": 0, "some": 2, "few": 1}
    assert found.p_value["low first"] == pytest.approx(1 / 720, abs=1e-3)
    assert found.p_value["high first"] == pytest.approx(1)
    assert np.isnan(found.p_value["few"])


def test_learning_curve_of_a_trained_run(tiny_run):
    """The ratio of the sums over the crops; a run of an older version, or without validation, gets a line."""
    list(train(tiny_run, accelerator="cpu"))
    curve = spectrum.learning_curve(tiny_run)
    assert sorted(curve.step.unique()) == sorted(band_steps(tiny_run))
    assert curve.relative_error_db.to_numpy() == pytest.approx(10 * np.log10(curve.error_energy / curve.hr_energy))
    assert set(curve.run) == {tiny_run.name}
    path = results.run_folder(tiny_run.profile, tiny_run.name) / "bands.csv"
    path.unlink()
    with pytest.raises(InputError, match="trained by a version that did not record it"):
        spectrum.learning_curve(tiny_run)
    with pytest.raises(InputError, match="other settings"):
        spectrum.learning_curve(replace(tiny_run, steps=7))


def test_validation_bands_are_sums_over_the_crops(tiny_model, image_sets, photograph):
    """Two images, their centres: the sums of what single pairs have; the model's mode comes back."""
    model = tiny_model("igconv").train()
    table = pd.DataFrame(validation_bands(model, ["tiny_test"], (2, 3), 5, side=24, bands=10))
    assert model.training
    assert tuple(table.columns) == bands.COLUMNS
    assert set(table.step) == {5}
    model.eval()
    expected = {scale: 0.0 for scale in (2, 3)}
    for image in datasets.read_set("tiny_test"):
        h, w = image.shape[-2:]
        crop = image[:, (h - 24) // 2 :, (w - 24) // 2 :][:, :24, :24]
        for scale in (2, 3):
            lr, hr = benchmark_pair(crop, scale)
            with torch.no_grad():
                expected[scale] += band_errors(model(lr.float()[None] / 255, scale), hr, scale).error_energy.to_numpy()
    for scale, part in table.groupby("scale"):
        assert part.error_energy.to_numpy() == pytest.approx(expected[scale], rel=1e-6)
