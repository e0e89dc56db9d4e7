"""The fit to images (`hyperfit.refine`): it goes down, in parts of a step where the whole leads too far, and stops."""

import pytest
import torch

from igconv import build_model
from igconv.conversion import hyperfit

SCALES = (2, 3, 4)


def problem():
    """(entries, targets, metric): more targets than latents, entries that hang together."""
    torch.manual_seed(0)
    options = dict(hidden_dim=16, num_layers=1, bias="subpixel", basis=True, channels=4, blocks=1)
    upsampler = build_model("edsr", "igconv", scales=SCALES, **options).upsampler
    hyperfit.start(upsampler, seed=0)
    freq, amplitude = (torch.cat(pair).detach() for pair in zip(*hyperfit._latents(upsampler), strict=True))
    entries = hyperfit.Entries(upsampler.hyper, freq, amplitude, SCALES)
    widths = [3 * scale**2 for scale in SCALES]
    targets = 0.1 * torch.randn(len(entries.latents), sum(widths))
    parts = []
    for width in widths:
        x = torch.randn(200, len(targets)) @ (torch.eye(len(targets)) + 0.3 * torch.randn(len(targets), len(targets)))
        parts.append((x.T @ x / 200, width))
    return entries, targets, hyperfit.Metric(parts)


def squared_error(entries, targets, metric) -> float:
    errors = entries.values() - targets
    return float((errors * metric(errors)).sum())


def test_the_error_of_images_falls_and_is_that_of_the_latents():
    given = problem()
    values = list(hyperfit.refine(*given))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.7 * values[0]
    assert values[-1] == pytest.approx(squared_error(*given), rel=1e-5)


def test_of_a_step_that_leads_too_far_a_part_is_taken(monkeypatch):
    """Four times too long, it makes things worse; halved twice, it is the step itself."""
    whole = list(hyperfit.refine(*problem(), iterations=1))
    original = hyperfit.conjugate_gradients
    monkeypatch.setattr(hyperfit, "conjugate_gradients", lambda *given: 4 * original(*given))
    monkeypatch.setattr(hyperfit, "PARTS", (1,))
    assert len(set(hyperfit.refine(*problem(), iterations=1))) == 1, "nothing gained by the whole"
    monkeypatch.setattr(hyperfit, "PARTS", (1, 1 / 2, 1 / 4))
    assert list(hyperfit.refine(*problem(), iterations=1)) == pytest.approx(whole, rel=1e-5)


def test_it_ends_where_nothing_is_gained(monkeypatch):
    """Steps uphill are not taken, whatever their length; the damping grows until there is no use in it."""
    monkeypatch.setattr(hyperfit, "conjugate_gradients", lambda product, preconditioned, right, *rest: -right)
    given = problem()
    before = given[0].latents.clone()
    values = list(hyperfit.refine(*given, iterations=40))
    assert len(values) < 12
    assert len(set(values)) == 1
    assert torch.equal(given[0].latents, before)


def test_little_gain_ends_it_after_a_whole_step_and_not_after_a_part(monkeypatch):
    enough = dict(iterations=3, enough=0.999)
    assert len(list(hyperfit.refine(*problem(), **enough))) == 2
    original = hyperfit.conjugate_gradients
    monkeypatch.setattr(hyperfit, "conjugate_gradients", lambda *given: 4 * original(*given))
    assert len(list(hyperfit.refine(*problem(), **enough))) == 4
