"""Numbers that are committed, as a measure of what a device computes."""

import pytest

from igconv import files
from igconv.data import datasets
from igconv.errors import InputError
from igconv.evaluation import benchmark
from igconv.models import checkpoints
from igconv.study import results
from igconv.upscaling import DEFAULT_WEIGHTS

PACKAGED_ROWS = results.PROJECT / "benchmarks" / "results" / "default_model.csv"  # of `benchmarks/default_model.py`


def packaged_against_rows(device: str, test_set: str = "Set5") -> list[float]:
    """|dB| between the packaged model here and its committed rows, per image and scale."""
    try:
        datasets.image_set(test_set).paths()
    except InputError as error:
        pytest.skip(str(error))
    rows = results.read_table(PACKAGED_ROWS)
    assert set(rows.weights_sha256) == {files.sha256(DEFAULT_WEIGHTS)}
    committed = rows[rows.dataset == test_set].set_index(["image", "scale"]).psnr_y_db
    model = checkpoints.load(DEFAULT_WEIGHTS)
    scales = tuple(sorted({int(scale) for _, scale in committed.index}))
    here = {(row["image"], row["scale"]): row["psnr_y_db"]
            for row in benchmark.measure(model, [test_set], scales, device)}  # fmt: skip
    assert here.keys() == set(committed.index)
    return [abs(value - committed[key]) for key, value in here.items()]
