"""Rows: the schema, values against metrics by hand, when they are reused."""

import os
from dataclasses import replace

import pandas as pd
import pytest
import torch
from committed import packaged_against_rows

from igconv import InputError, build_model, files, save
from igconv.data import datasets, resize
from igconv.evaluation import benchmark, metrics
from igconv.evaluation.benchmark import ROW, Protocol, evaluate_bicubic, evaluate_run
from igconv.models import checkpoints, run_weights
from igconv.models.inference import prepare
from igconv.models.run_weights import load_run
from igconv.study import results


@pytest.fixture
def finished(tiny_run):
    """``finished(run)``: give the run (random) weights as if it had been trained; returns the run."""

    def store(run=tiny_run, seed: int = 0):
        torch.manual_seed(seed)
        model = build_model(run.encoder, run.upsampler, **run.model_options())
        path = results.model_file(run.profile, run.name)
        save(model, path, run=run.name, config_hash=run.config_hash())
        return run

    return store


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """One entry per evaluation that really measured."""
    calls, original = [], benchmark.measure
    monkeypatch.setattr(benchmark, "measure", lambda *a, **k: calls.append("x") or original(*a, **k))
    return calls


@pytest.fixture
def stop_after(monkeypatch):
    """``stop_after(run, n)``: evaluate again without a table, interrupted after n rows; returns the file of these."""

    def stop(run, count: int):
        path, calls, original = results.rows_file(run.profile, run.name), [], benchmark.append
        path.unlink()

        def append(*row):
            original(*row)
            calls.append(row)
            if len(calls) == count:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "append", append)
            with pytest.raises(KeyboardInterrupt):
                evaluate_run(run)
        return path.with_name(f".{path.name}.partial")

    return stop


def test_rows_have_the_schema_of_the_design(finished, tiny_run):
    """Columns and their order, one row per image and scale, provenance beside."""
    table = evaluate_run(finished())
    assert tuple(table.columns) == ROW == (
        "run", "encoder", "upsampler", "variant", "train_scales", "seed", "steps", "dataset", "image", "scale",
        "psnr_y_db", "ssim_y", "seconds", "device", "weights_sha256", "settings_hash")  # fmt: skip
    assert len(table) == 2 * 3
    assert not table.duplicated(["dataset", "image", "scale"]).any()
    assert set(table.dataset) == {"tiny_test"}
    assert set(table.image) == {"t0", "t1"}
    assert set(table.run) == {tiny_run.name}
    assert set(table.scale) == {2, 3, 4}
    path = results.rows_file(tiny_run.profile, tiny_run.name)
    assert path.is_file()
    assert path.with_suffix(".provenance.json").is_file()
    weights = results.model_file(tiny_run.profile, tiny_run.name)
    assert set(table.weights_sha256) == {files.sha256(weights)}


def test_values_are_the_metrics(finished):
    """LR by MATLAB's bicubic of the cropped HR, the model's image, PSNR and SSIM shaved by the scale."""
    run = finished()
    # Channels last as in the evaluation: another layout may round a byte of the image the other way.
    table, model = evaluate_run(run).set_index(["image", "scale"]), prepare(load_run(run))
    for path in datasets.image_set("tiny_test").paths():
        for scale in (2, 3, 4):
            hr = resize.modcrop(benchmark.read_image(path), scale)
            lr = resize.imresize(hr, 1 / scale, "matlab").float()[None] / 255
            lr = lr.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                sr = model(lr, scale)
            row = table.loc[(path.stem, scale)]
            assert row.psnr_y_db == pytest.approx(metrics.psnr_y(sr, hr, scale), abs=1e-6)
            assert row.ssim_y == pytest.approx(metrics.ssim_y(sr, hr, scale), abs=1e-8)


def test_bicubic_rows(image_sets):
    """Bicubic down and up, under its own name."""
    table = evaluate_bicubic("smoke", ["tiny_test"], [2, 3])
    assert tuple(table.columns) == ROW
    assert set(table.run) == {"bicubic"}
    row = table[(table.image == "t0") & (table.scale == 3)].iloc[0]
    hr = resize.modcrop(benchmark.read_image(datasets.image_set("tiny_test").paths()[0]), 3)
    sr = resize.imresize(resize.imresize(hr, 1 / 3, "matlab"), 3, "matlab")  # bytes throughout
    assert row.psnr_y_db == pytest.approx(metrics.psnr_y(sr, hr, 3), abs=1e-6)


def test_bicubic_rows_follow_the_scales_asked_for(image_sets):
    """Stored rows of other scales are not an answer."""
    evaluate_bicubic("smoke", ["tiny_test"], [2])
    assert set(evaluate_bicubic("smoke", ["tiny_test"], [2, 3, 4]).scale) == {2, 3, 4}


def test_rows_are_reused(finished, measured):
    """Nothing is measured twice; the same table comes back."""
    run = finished()
    first, second = evaluate_run(run), evaluate_run(run)
    assert len(measured) == 1
    pd.testing.assert_frame_equal(first, second)
    evaluate_bicubic("smoke", ["tiny_test"], [2])
    evaluate_bicubic("smoke", ["tiny_test"], [2])
    assert len(measured) == 2


def test_rows_end_with_the_weights(finished, measured):
    """Trained again: measured again, and the old values are gone."""
    run = finished()
    first = evaluate_run(run)
    finished(run, seed=1)
    second = evaluate_run(run)
    assert len(measured) == 2
    assert not set(first.weights_sha256) & set(second.weights_sha256)
    assert (first.psnr_y_db != second.psnr_y_db).all()


def test_rows_end_with_the_test_images(finished, measured, image_sets, photograph, write_png):
    """A changed image makes them stale."""
    run = finished()
    evaluate_run(run)
    write_png(photograph(50, 63, 77), image_sets / "benchmarks" / "tiny" / "HR" / "t0.png")
    evaluate_run(run)
    assert len(measured) == 2


def test_rows_end_with_the_settings(finished, measured, monkeypatch):
    """So does a changed way of measuring."""
    run = finished()
    evaluate_run(run)
    monkeypatch.setitem(benchmark.SETTINGS, "degradation", "pil")
    evaluate_run(run)
    assert len(measured) == 2


@pytest.mark.parametrize("digest", ["012345678901", "12345e678901", "1234567890ab"])
def test_hashes_stay_text(finished, measured, monkeypatch, digest):
    """A hash that looks like a number is still that hash when it is read again."""
    monkeypatch.setattr(benchmark, "settings_hash", lambda *_: digest)
    run = finished()
    evaluate_run(run)
    assert list(evaluate_run(run).settings_hash.unique()) == [digest]
    assert len(measured) == 1


def test_image_names_stay_text(finished, image_sets):
    """DIV2K's "0801" and B100's "3096" are names, not numbers."""
    folder = image_sets / "benchmarks" / "tiny" / "HR"
    for path, stem in zip(sorted(folder.iterdir()), ("0801", "3096"), strict=True):
        path.rename(folder / f"{stem}.png")
    assert list(evaluate_run(finished()).image.unique()) == ["0801", "3096"]


def test_train_scales_stay_text(finished, tiny_run):
    """ "2" of a fixed-scale run and "2-3-4" have one type."""
    fixed = replace(tiny_run, upsampler="spconv", scales=(2,), igsample=False, dihedral=False)
    assert list(evaluate_run(finished(fixed)).train_scales.unique()) == ["2"]
    assert list(evaluate_run(finished()).train_scales.unique()) == ["2-3-4"]


def test_a_failed_write_leaves_no_table(finished, monkeypatch, tiny_run, measured):
    """A full disk: one line, no half table; what was measured is not lost."""
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    run = finished()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space"):
            evaluate_run(run)
    folder = results.rows_file(tiny_run.profile, tiny_run.name).parent
    assert not list(folder.glob("[!.]*"))
    assert len(evaluate_run(run)) == 6
    assert len(measured) == 1
    assert not list(folder.glob(".*partial"))


def test_an_interrupted_evaluation_goes_on(finished, monkeypatch, stop_after):
    """Killed in the middle of the fifth of six rows: only two are measured, and the table is the same."""
    run = finished()
    whole, partial = evaluate_run(run), stop_after(run, 5)
    partial.write_bytes(partial.read_bytes()[:-60])
    seen, original = [], benchmark.upscale
    monkeypatch.setattr(benchmark, "upscale", lambda m, lr, s, d: seen.append(s) or original(m, lr, s, d))
    again = evaluate_run(run)
    assert len(seen) == 2
    columns = [c for c in ROW if c != "seconds"]
    pd.testing.assert_frame_equal(again[columns], whole[columns])
    assert not partial.exists()


NAMES = ["a,b", 'quo"te', "two\nlines", "re\rturn", " blanks ", "line\u2028separator", os.fsdecode(b"not \xff utf-8")]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_of_an_image_survives(finished, image_sets, measured, stop_after, monkeypatch, name):
    """In the rows of an interrupted evaluation and in the table: nothing is measured twice."""
    folder = image_sets / "benchmarks" / "tiny" / "HR"
    try:
        (folder / "t0.png").rename(folder / f"{name}.png")
    except OSError:
        pytest.skip("the file system has no such names")
    run = finished()
    whole, _ = evaluate_run(run), stop_after(run, 6)
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "upscale", lambda *_: pytest.fail("measured twice"))
        again = evaluate_run(run)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))
    assert set(again.image) == {name, "t1"}
    measured.clear()
    pd.testing.assert_frame_equal(evaluate_run(run), again)
    assert not measured, "the table is valid"


def test_only_what_changed_is_measured(finished, tiny_run, image_sets, monkeypatch, photograph, write_png):
    """Another test set in the list does not make the rows of the first stale."""
    run = finished()
    evaluate_run(run)
    seen, original = [], benchmark.upscale
    monkeypatch.setattr(benchmark, "upscale", lambda m, lr, s, d: seen.append(s) or original(m, lr, s, d))
    facts = dict(zip(ROW[:7], evaluate_run(run).iloc[0][list(ROW[:7])], strict=True))
    sha = files.sha256(results.model_file(run.profile, run.name))
    benchmark.evaluate(run.profile, facts, load_run(run), ["tiny_test", "tiny_train"], (2,), sha)
    assert set(seen) == {2}
    assert len(seen) == len(datasets.image_set("tiny_train").paths())


@pytest.mark.parametrize("protocol", [Protocol(self_ensemble=True), Protocol(tile=20), Protocol(authors=True)])
def test_rows_of_other_protocols_are_kept_apart(finished, protocol):
    """In a folder of their own, with another hash; tables never see them."""
    run = finished()
    standard, other = evaluate_run(run), evaluate_run(run, protocol=protocol)
    assert results.rows_file(run.profile, run.name, protocol.label()).is_file()
    assert len(other) == len(standard)
    assert not set(standard.settings_hash) & set(other.settings_hash)
    pd.testing.assert_frame_equal(benchmark.read_rows(run.profile, [run.name]), standard)


def test_stored_lr_images_can_be_used(finished, image_sets, write_png):
    """Equal ones give equal rows; missing ones and ones of another size are named."""
    run = finished()
    standard = evaluate_run(run)
    folder = image_sets / "benchmarks" / "tiny" / "LR_bicubic"
    for path in datasets.image_set("tiny_test").paths():
        for scale in run.scales:
            lr = benchmark.benchmark_pair(benchmark.read_image(path), scale)[0]
            write_png(lr, folder / f"X{scale}" / f"{path.stem}x{scale}.png")
    stored = evaluate_run(run, protocol=Protocol(lr="stored"))
    assert (stored.psnr_y_db == standard.psnr_y_db).all()

    write_png(lr[:, :-1], folder / "X2" / "t1x2.png")
    results.rows_file(run.profile, run.name, "stored_lr").unlink()
    with pytest.raises(InputError, match=r"t1.png: its stored LR image at x2 is .*, expected"):
        evaluate_run(run, protocol=Protocol(lr="stored"))
    (folder / "X2" / "t1x2.png").unlink()
    with pytest.raises(InputError, match=r"no stored LR image at .*t1x2"):
        evaluate_run(run, protocol=Protocol(lr="stored"))


@pytest.mark.parametrize(("options", "named"), [(dict(lr="bicubic"), "made"), (dict(tile=9, authors=True), "tile")])
def test_protocols_that_make_no_sense(options, named):
    """One line."""
    with pytest.raises(InputError, match=named):
        Protocol(**options)


def test_untrained_run_is_named(tiny_run):
    """And how to train it."""
    with pytest.raises(InputError, match="not trained yet") as error:
        load_run(tiny_run)
    assert tiny_run.name in str(error.value)


def test_exported_weights_stand_in_where_a_run_was_not_trained(finished, tiny_run):
    """Half precision, with the hash of what they come from; the values stay within 0.002 dB."""
    run = finished(tiny_run)
    path, source = results.weights_file(run.profile, run.name), run_weights.trained_weights(run)
    trained = evaluate_run(run)
    run_weights.export_run(run, path)
    assert path.stat().st_size < 0.6 * source.stat().st_size
    assert checkpoints.metadata(path)["meta"]["source_sha256"] == files.sha256(source)
    assert run_weights.trained_weights(run) == source, "its own weights come first"
    source.unlink()
    assert run_weights.trained_weights(run) == path
    exported = evaluate_run(run)
    assert set(exported.weights_sha256) == {files.sha256(path)}, "measured again, because weights differ"
    assert (exported.psnr_y_db - trained.psnr_y_db).abs().max() < 0.002
    with pytest.raises(InputError, match="is an export itself"):
        run_weights.export_run(run, path)
    with pytest.raises(InputError, match="other settings"):
        load_run(replace(tiny_run, learning_rate=1e-5))


def test_weights_beyond_half_precision_are_not_exported(finished, tiny_run):
    run = finished(tiny_run)
    model = load_run(run)
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    path = run_weights.trained_weights(run)
    checkpoints.save(model, path, **checkpoints.metadata(path)["meta"])
    with pytest.raises(InputError, match="beyond the range of half precision: encoder"):
        run_weights.export_run(run, results.weights_file(run.profile, run.name))
    assert not results.weights_file(run.profile, run.name).exists()


def test_run_of_other_settings_is_refused(finished, tiny_run):
    """Weights under the same name, trained otherwise."""
    finished(tiny_run)
    with pytest.raises(InputError, match="other settings"):
        load_run(replace(tiny_run, learning_rate=1e-5))


def test_damaged_weights_are_named(finished):
    """A truncated file."""
    run = finished()
    path = results.model_file(run.profile, run.name)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        evaluate_run(run)


def test_read_rows_leaves_out_what_was_not_run(finished, tiny_run):
    """Runs without a file are missing, none at all gives an empty table of the schema."""
    evaluate_run(finished())
    evaluate_bicubic(tiny_run.profile, ["tiny_test"], [2])
    table = benchmark.read_rows(tiny_run.profile, ["bicubic", tiny_run.name, "never"])
    assert set(table.run) == {"bicubic", tiny_run.name}
    assert tuple(benchmark.read_rows(tiny_run.profile, ["never"]).columns) == ROW


def test_the_gpu_evaluates_where_there_is_one(finished, monkeypatch):
    """Asked for nothing else, as `igconv evaluate` in the driver's rules."""
    asked = []

    def measure(model, test_sets, scales, device, *_):
        asked.append(device)
        raise ZeroDivisionError

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(results, "device_name", str)
    for here in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(ZeroDivisionError):
            evaluate_run(finished())
    assert asked == ["cuda", "cpu"]


@pytest.mark.data
def test_the_packaged_model_has_the_committed_rows(data_root):
    """The same is asked of a GPU (`tests/test_gpu.py`)."""
    assert 0 < max(packaged_against_rows("cpu")) < 0.002
