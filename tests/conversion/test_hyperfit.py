"""The fit to images (`hyperfit.refine`): it goes down, in parts of a step where the whole leads too far, and stops."""

import math

import pytest
import torch

from igconv import build_model
from igconv.conversion import hyperfit
from igconv.conversion.convert import conversion
from igconv.conversion.sources import opened

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


def test_little_gain_ends_it_after_some_whole_steps_and_not_after_one_or_after_parts(monkeypatch):
    """A step that was damped too much gains little in the middle of the work."""
    original = hyperfit.conjugate_gradients
    lengths: list[float] = []
    monkeypatch.setattr(hyperfit, "conjugate_gradients", lambda *given: lengths.pop(0) * original(*given))
    lengths[:] = [1, 1, 1e-3, 1e-3, *[1.0] * 8]
    values = list(hyperfit.refine(*problem(), iterations=12))
    assert values[4] > 0.99 * values[2]
    assert values[-1] < 0.9 * values[4], "two short steps ended it"
    lengths[:] = [1, 1, *[1e-3] * 10]
    assert len(list(hyperfit.refine(*problem(), iterations=12))) == 3 + hyperfit.STALLED
    lengths[:] = [4] * 6  # parts
    assert len(list(hyperfit.refine(*problem(), iterations=6, enough=0.999))) == 7


def test_many_scales_start_from_smoother_functions(monkeypatch):
    """Which then come nearer to the images."""
    started, original = [], hyperfit.start
    monkeypatch.setattr(hyperfit, "start", lambda *given: started.append(given[-1]) or original(*given))
    torch.manual_seed(0)
    source = opened(build_model("edsr", "spconv", scales=(4,), channels=8, blocks=1))
    options = dict(crops=32, side=16, num_layers=2, keep_own=False)
    left = []
    for spread in (hyperfit.SPREAD_MANY, hyperfit.SPREAD):
        monkeypatch.setattr(hyperfit, "SPREAD_MANY", spread)
        done = conversion(source, (2, 3, 4, 5), hidden_dim=24, **options)
        lost = done.table.closed_form_db - done.table.converted_db
        left.append(lost.mean() if done.fitted else math.inf)
    assert left[0] < 0.1 < left[1]
    assert started == [0.2, 0.5]


@pytest.mark.parametrize(("scales", "own", "spread"), [(SCALES, None, 0.2), (SCALES, 4, 0.5), ((2,), None, 0.5)])
def test_fits_to_kernels_themselves_start_rougher(monkeypatch, scales, own, spread):
    """Of few scales, or where the network's own are kept."""
    started, original = [], hyperfit.start
    monkeypatch.setattr(hyperfit, "start", lambda *given: started.append(given[-1]) or original(*given))
    monkeypatch.setattr(hyperfit, "levenberg_marquardt", lambda *given: iter([0.0]))
    options = dict(hidden_dim=24, num_layers=1, bias="subpixel", basis=True, channels=4, blocks=1)
    upsampler = build_model("edsr", "igconv", scales=scales, **options).upsampler
    kernels = {scale: torch.randn(9 * 4 + 1, 3 * scale**2) for scale in scales}
    hyperfit.fit(upsampler, kernels, {}, own, 1e-6, seed=0)
    assert started == [spread]
