"""Bars of an image's parts: at a terminal, where they were asked for, and nowhere else."""

import pytest
import torch
import tqdm.auto
from photo import photo

from igconv import cli, progress, upscaling
from igconv.models import strips


@pytest.fixture
def at_once(monkeypatch):
    """A bar shows itself at once, not after a second."""
    real = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *items, **options: real(*items, **options | dict(delay=0)))


@pytest.fixture
def terminal(monkeypatch, at_once):
    """Standard error is a terminal."""
    monkeypatch.setattr(progress, "_at_terminal", lambda: True)


def test_upscale_shows_images_and_tiles_at_a_terminal(terminal, weights, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        photo(tmp_path / "in" / name)
    words = ["upscale", str(tmp_path / "in"), "--weights", str(weights), "--tile", "8", "-o"]
    assert cli.main([*words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "a.png (1/2)" in said.err
    assert "b.png (2/2)" in said.err
    assert "/6 [" in said.err  # 20 x 12 pixels
    assert "(1/2)" not in said.out
    assert cli.main([*words, str(tmp_path / "json"), "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_upscale_is_silent_elsewhere(at_once, weights, tmp_path, capsys):
    source = photo(tmp_path / "in.png")
    words = ["upscale", str(source), "--weights", str(weights), "--tile", "8", "-o", str(tmp_path / "out.png")]
    assert cli.main(words) == 0
    assert capsys.readouterr().err == ""


def test_strips_of_the_default_model_are_shown(terminal, capsys):
    model = upscaling.default_model()
    image = torch.rand(1, 3, 40, 40)
    with progress.following_parts("photo"):
        strips.in_strips(model, 3, pixels=800)(image, 2)
    said = capsys.readouterr().err
    assert "photo" in said
    assert "block" in said
    strips.in_strips(model, 3, pixels=800)(image, 2)
    assert capsys.readouterr().err == ""


def test_one_part_and_parts_outside_are_passed_on(terminal, capsys):
    assert list(progress.parts([1, 2], "tile")) == [1, 2]
    with progress.following_parts("photo"):
        assert list(progress.parts([1], "tile")) == [1]
    with pytest.raises(ValueError, match="inside"), progress.following_parts("photo"):
        raise ValueError("inside")
    assert list(progress.parts([1, 2], "tile")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_what_ends_early_has_not_failed(terminal, monkeypatch):
    """In a notebook a bar below its total would stay, in red."""
    bars, real = [], tqdm.auto.tqdm
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda *items, **options: bars.append(real(*items, **options)) or bars[-1])
    assert list(progress.follow_items(iter("abc"), 20, "fit")) == list("abc")
    assert bars[0].n == bars[0].total == 3
