"""The explorer: what is shown for a view, and controls that change it."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from igconv.analysis import explored
from igconv.analysis.explored import View
from igconv.data import resize
from igconv.errors import InputError
from igconv.evaluation.metrics import psnr_y
from igconv.models import run_weights
from igconv.reporting import figures
from igconv.reporting.explorer import Explorer, profile_to_show


@pytest.fixture
def models(tiny_model):
    plus = tiny_model("igconv+", igsample=True, dihedral=True)
    return {"IGConv+": plus.eval(), "SPConv x2": tiny_model("spconv", scales=(2,)).eval()}


def test_panels_of_a_known_image_are_measured_on_the_crop(models, photograph):
    image = photograph(150, 170)
    view = View(scale=3, side=16)
    lr, hr = explored.cropped(image, view)
    assert hr.shape == (3, 150, 168)
    assert torch.equal(lr, resize.downsample(hr, 3))
    found = explored.panels(models, image, view)
    assert [panel.title for panel in found] == ["LR", "bicubic", "IGConv+", "HR"]  # SPConv x2 has no head for x3
    assert all(panel.pixels.shape == (3, 48, 48) and panel.pixels.dtype == torch.uint8 for panel in found)
    with torch.no_grad():
        sr = models["IGConv+"](lr[None].float() / 255, 3)[0].clamp(0, 1).mul(255).round().byte()
    assert found[2].psnr_y_db == pytest.approx(psnr_y(sr, hr, 3), abs=1e-3)
    assert (found[0].psnr_y_db, found[-1].psnr_y_db) == (None, None)


@pytest.mark.parametrize(("column", "row"), [(0, 0), (1, 1), (0.5, 0.3), (0.93, 0.1)])
@pytest.mark.parametrize("size", [(400, 520), (61, 90)])
def test_the_window_is_where_the_sliders_are(models, photograph, column, row, size):
    """The HR panel is the part of the image at that place, and the windows of all panels are the same part."""
    image = photograph(*size)
    view = View(scale=2, side=12, column=column, row=row)
    window = explored.panels(models, image, view)[-1].pixels
    top, left = (round(place * length - 12) for length, place in zip(size, (row, column), strict=True))
    top, left = (min(max(0, start), length // 2 * 2 - 24) for start, length in zip((top, left), size, strict=True))
    near = [
        image[:, y : y + 24, x : x + 24]
        for y in range(max(0, top - 1), top + 2)
        for x in range(max(0, left - 1), left + 2)
    ]
    assert any(torch.equal(window, part) for part in near)


@pytest.mark.parametrize("known", [True, False])
def test_the_crop_is_around_the_place(photograph, known):
    """So that what a model sees beyond the window is the same on all sides, except at the image's edges."""
    image, view = photograph(700, 700), View(scale=2, side=12, column=0.5, row=0.4, known=known)
    side = explored.CROP * (2 if known else 1)
    lr, hr = explored.cropped(image, view)
    top, left = round(0.4 * 700 - side / 2), round(0.5 * 700 - side / 2)
    assert torch.equal(hr if known else lr, image[:, top : top + side, left : left + side])


def test_without_hr_nothing_is_measured(models, photograph):
    found = explored.panels(models, photograph(40, 50), View(scale=2, known=False, side=20))
    assert [panel.title for panel in found] == ["LR", "bicubic", "IGConv+", "SPConv x2"]
    assert {panel.psnr_y_db for panel in found} == {None}
    assert found[0].pixels.shape == (3, 40, 40)


def test_the_error_of_hr_is_zero_and_a_spectrum_has_its_peak_at_the_wave(models):
    x = torch.arange(128)
    wave = (127 + 100 * torch.cos(2 * torch.pi * x / 8)).round().byte().expand(3, 128, 128)
    assert explored.panels(models, wave, View(scale=2, show="error"))[-1].pixels.max() == 0
    spectrum = explored.panels(models, wave, View(scale=2, side=64, show="spectrum"))[-1].pixels
    row, column = divmod(int(spectrum.argmax()), spectrum.shape[1])
    assert (row, abs(column - 64)) == (64, 16)  # 128 pixels hold 16 periods


def test_switches_change_the_image_and_leave_the_model(models, photograph):
    image, view = photograph(64, 64), View(scale=2, side=32)
    with torch.no_grad():
        models["IGConv+"].sampler.hyper.query_kernel[-1].weight.add_(0.3)
    as_it_is = explored.panels(models, image, view)[2].pixels
    for change in (dict(igsample=False), dict(dihedral=False)):
        assert not torch.equal(explored.panels(models, image, replace(view, **change))[2].pixels, as_it_is)
    assert torch.equal(explored.panels(models, image, view)[2].pixels, as_it_is)


def test_offsets_are_those_of_the_sampler(models, photograph):
    image, view = photograph(64, 64), View(scale=2, side=16)
    window, shifts = explored.offsets(models["IGConv+"], image, view)
    assert window.shape == (3, 32, 32)
    assert shifts.shape == (2, 32, 32)
    assert figures.sampling_offsets(window, shifts).axes
    assert explored.offsets(models["SPConv x2"], image, view) is None


def uploaded(content: bytes) -> dict:
    """As a browser sends a file."""
    facts = dict(name="up.png", type="image/png", size=len(content), last_modified=datetime.datetime.now())
    return facts | dict(content=content)


class TestExplorer:
    def test_controls_redraw(self, models, photograph):
        explorer = Explorer(models, {"a": photograph(80, 80), "b": photograph(90, 70, seed=1)})
        before = explorer.compared.value
        assert before.count("<img") == len(explored.panels(models, explorer.pictures["a"], explorer.now()))
        for name, value in (("scale", 2), ("column", 0.1), ("show", "spectrum"), ("image", "b"), ("known", False)):
            getattr(explorer, name).value = value
            assert explorer.compared.value != before, name
            before = explorer.compared.value
        kernels = explorer.kernels.value
        explorer.channel.value = 3
        assert explorer.kernels.value != kernels

    def test_a_model_without_the_scale_is_named(self, models, photograph):
        explorer = Explorer(models, {"a": photograph(80, 80)}, View(scale=3))
        assert "SPConv x2" in explorer.said.value
        explorer.scale.value = 2
        assert explorer.said.value == ""

    def test_controls_that_would_do_nothing_are_dead(self, models, photograph):
        explorer = Explorer(models, {"a": photograph(80, 80)})
        assert not explorer.igsample.disabled
        explorer.shown_models.value = ("SPConv x2",)
        assert explorer.igsample.disabled
        assert explorer.dihedral.disabled

    def test_an_error_without_hr_is_explained(self, models, photograph):
        explorer = Explorer(models, {"a": photograph(80, 80)}, View(scale=2, show="error"))
        assert "grey levels" in explorer.said.value
        explorer.known.value = False
        assert "needs the HR image" in explorer.said.value

    def test_offsets_are_drawn_when_they_are_looked_at(self, models, photograph):
        explorer = Explorer(models, {"a": photograph(80, 80)})
        assert explorer.offsets.value == ""
        explorer.below.selected_index = 1
        first = explorer.offsets.value
        assert "<img" in first
        explorer.scale.value = 4
        assert explorer.offsets.value != first
        explorer.shown_models.value = ("SPConv x2",)
        assert "None of the chosen models" in explorer.offsets.value

    def test_another_picture_of_the_same_name_replaces_it(self, models, photograph, write_png, tmp_path):
        explorer = Explorer(models, {"a": photograph(80, 80)})
        for seed in (2, 3):
            before = explorer.compared.value
            content = write_png(photograph(60, 60, seed=seed), tmp_path / f"{seed}.png").read_bytes()
            explorer.upload.value = (uploaded(content),)
            assert explorer.compared.value != before
        assert explorer.image.options == ("up.png", "a")

    def test_a_new_picture_is_drawn_once(self, models, photograph, write_png, tmp_path, monkeypatch):
        explorer, drawn = Explorer(models, {"a": photograph(80, 80), "b": photograph(80, 80)}), []
        explorer.image.value = "b"
        monkeypatch.setattr(explorer, "draw", lambda: drawn.append(explorer.image.value))
        path = str(write_png(photograph(60, 60, seed=2), tmp_path / "mine.png"))
        explorer.file.value = path
        assert drawn == [path]

    def test_names_are_text(self, models, photograph):
        """A file may have any name; a name is never HTML."""
        explorer = Explorer({"<i>": models["SPConv x2"]}, {"a": photograph(80, 80)}, View(scale=2))
        assert "&lt;i&gt;" in explorer.compared.value
        assert "<i>" not in explorer.compared.value
        explorer.file.value = "<i>.png"
        assert "<i>" not in explorer.said.value

    def test_a_file_and_an_upload_become_images(self, models, photograph, write_png, tmp_path):
        explorer = Explorer(models, {"a": photograph(80, 80)})
        path = str(write_png(photograph(60, 60, seed=2), tmp_path / "mine.png"))
        explorer.file.value = path
        assert explorer.image.value == path
        explorer.upload.value = (uploaded(Path(path).read_bytes()),)
        assert explorer.image.value == "up.png"

    @pytest.mark.parametrize("content", [b"no image", b""])
    def test_what_is_no_image_is_said(self, models, photograph, tmp_path, content):
        explorer = Explorer(models, {"a": photograph(80, 80)})
        explorer.file.value = str(tmp_path / "missing.png")
        assert "no image at" in explorer.said.value
        explorer.upload.value = (uploaded(content),)
        assert "up.png is not an image" in explorer.said.value
        assert explorer.image.value == "a"

    def test_before_a_study_is_run_the_committed_models_are_shown(self, monkeypatch):
        assert profile_to_show("cpu") == "cpu"
        monkeypatch.setattr(run_weights, "is_trained", lambda run: run.profile == "cpu")
        assert profile_to_show("sample") == "cpu"
        monkeypatch.setattr(run_weights, "is_trained", lambda run: run.name == "edsr_tiny-igconv-s0")
        assert profile_to_show("sample") == "sample"
        monkeypatch.setattr(run_weights, "is_trained", lambda run: False)
        assert profile_to_show("sample") == "sample"

    def test_nothing_to_explore_is_an_error(self, models):
        with pytest.raises(InputError, match="a model and an image"):
            Explorer(models, {})
