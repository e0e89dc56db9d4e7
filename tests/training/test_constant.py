"""The constant of a published head comes along: into the first weights, the file, and the run that starts from it."""

from dataclasses import replace

import pytest
import torch

from igconv import InputError, build_model
from igconv.models import published
from igconv.study import results
from igconv.study.run import WITH_CONSTANT
from igconv.study.runs import get_run
from igconv.training import start
from igconv.training.start import starting_model


@pytest.fixture
def fixed(monkeypatch):
    """Published weights "w": a tiny x2 network whose head has biases."""
    model = build_model("edsr_tiny", "spconv", scales=(2,)).eval()
    monkeypatch.setattr(published, "load", lambda name: model)
    return model


def test_a_published_head_leaves_its_constant(fixed, shrink, go, monkeypatch, capsys):
    run = shrink(get_run("smoke", "edsr_tiny-igconv-s0"), hidden_dim=8, num_layers=1, start_from="w" + WITH_CONSTANT,
                 freeze_encoder=True)  # fmt: skip
    first = starting_model(run)
    biases = fixed.upsampler.heads["2"][0].bias.unflatten(0, (3, 4)).mean(1)
    assert torch.equal(first.upsampler.bias, biases)
    assert first.upsampler.bias.requires_grad
    go(run)
    later = replace(run, variant="later", start_from=run.name, freeze_encoder=False)
    monkeypatch.setattr(start, "runs_of", lambda profile: {run.name: run})
    begun = starting_model(later)
    assert results.model_file(run.profile, run.name).is_file()
    assert (begun.upsampler.bias - biases).abs().max() > 0  # trained
    assert "stays behind" not in capsys.readouterr().out


def test_without_it_a_line_says_so(fixed, shrink, capsys):
    run = shrink(get_run("smoke", "edsr_tiny-igconv-s0"), hidden_dim=8, num_layers=1, start_from="w",
                 freeze_encoder=True)  # fmt: skip
    assert starting_model(run).upsampler.bias is None
    assert "the constant of w's head stays behind" in capsys.readouterr().out
    fixed.upsampler.heads = torch.nn.ModuleDict()
    with pytest.raises(InputError, match="no head of one scale"):
        starting_model(replace(run, start_from="w" + WITH_CONSTANT))
