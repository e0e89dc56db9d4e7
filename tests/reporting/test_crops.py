"""Which image and which models the report's crops show."""

import pandas as pd
import pytest

from igconv import InputError
from igconv.evaluation.benchmark import bicubic
from igconv.models import run_weights
from igconv.reporting import crops
from igconv.study.runs import runs_of


@pytest.fixture
def study(image_sets, monkeypatch):
    """(rows of all runs of the smoke study on two images, runs); on t1 they are further apart, on t0 better."""
    runs = runs_of("smoke")
    psnr = {"t0": (40.0, 40.5), "t1": (20.0, 25.0)}
    rows = [dict(run=name, dataset="tiny_test", image=image, scale=scale, psnr_y_db=values[number % 2])
            for number, (name, run) in enumerate(runs.items()) for scale in run.scales
            for image, values in psnr.items()]  # fmt: skip
    monkeypatch.setattr(run_weights, "is_trained", lambda run: True)
    monkeypatch.setattr(run_weights, "load_run", lambda run: bicubic)
    return pd.DataFrame(rows), runs


def test_the_image_is_the_one_on_which_the_models_differ_most(study):
    """And the models are whole ones: no ingredient more or less, a network for each scale, the first seed."""
    shown, columns = crops.side_by_side(*study, side=12)
    assert shown[0][0] == "tiny_test: t1, HR"
    titles = [title.split(" ×")[0] for title, _ in shown[:columns]]
    assert titles == ["tiny_test: t1, HR", "bicubic", "SPConv", "IGConv", "IGConv+"]
    assert len(shown) == 3 * columns


def test_a_single_model_is_no_comparison(study):
    rows, runs = study
    alone = {name: run for name, run in runs.items() if run.upsampler == "igconv"}
    with pytest.raises(InputError, match="fewer than two models"):
        crops.side_by_side(rows, alone)
    with pytest.raises(InputError, match="fewer than two models"):
        crops.side_by_side(rows[rows.run == ""], runs)
