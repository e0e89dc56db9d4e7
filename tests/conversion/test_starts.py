"""Trainings that start from a conversion (block E): the starts are what they say, and trainings go on from them."""

from dataclasses import replace

import pytest
import torch

from igconv import InputError, build_model
from igconv.conversion import starts
from igconv.conversion.sources import opened
from igconv.models import checkpoints
from igconv.models.upsamplers import sample_lr
from igconv.study import results
from igconv.study.run import CONVERTED, Run
from igconv.study.runs import PROFILES, runs_of
from igconv.training import start
from igconv.training.start import starting_model

SMALL = dict(
    hidden_dim=64, num_layers=1, train_sets=("sample_train",), test_sets=("sample_test",), lr_patch=16,
    micro_batches=2, micro_batch_size=1, validate_every=0, record_every=1, checkpoint_every=5, threads=1, ema=0.0,
)  # fmt: skip


@pytest.fixture
def network(monkeypatch):
    """Published weights "w": a tiny x3 network with an SPConv."""
    torch.manual_seed(0)
    model = build_model("edsr_tiny", "spconv", scales=(3,)).eval()
    monkeypatch.setattr(starts, "opened", lambda name: opened(model))
    monkeypatch.setattr(starts, "CROPS", 16)
    return model


def converted_run(upsampler: str, **changes) -> Run:
    plus = dict(dihedral=True, igsample=True) if upsampler == "igconv+" else {}
    return Run("smoke", "edsr_tiny", upsampler, variant="converted", start_from="w" + CONVERTED, steps=1,
               **SMALL | dict(learning_rate=0.0, final_rate=0.0, scales=(2, 3)) | plus | changes)  # fmt: skip


def test_heads_keep_the_network_at_its_scale_and_are_solved_at_others(network):
    model = starting_model(converted_run("spconv"))
    lr = torch.rand(1, 3, 12, 17)
    with torch.no_grad():
        torch.testing.assert_close(model(lr, 3), network(lr, 3), atol=1e-4, rtol=0)
    assert all(p.requires_grad for p in model.parameters()), "everything trains"
    alone = starting_model(converted_run("spconv", scales=(2,)))
    assert list(alone.upsampler.heads) == ["2"]
    kernel, other = (m.upsampler.heads["2"][0].weight for m in (alone, model))
    torch.testing.assert_close(kernel, other, atol=0.05 * float(kernel.abs().max()), rtol=0)


def test_igconv_is_one_function_near_them_and_igconv_plus_samples_the_image(network):
    one, plus = (starting_model(converted_run(u)) for u in ("igconv", "igconv+"))
    heads = starting_model(converted_run("spconv"))
    assert one.sampler is None
    assert one.upsampler.basis is not None
    lr = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4), 16, mode="bicubic")
    with torch.no_grad():
        off = (one(lr, 2) - heads(lr, 2)).square().mean() / heads(lr, 2).var()
        added = plus(lr, 2) - sample_lr(lr, torch.zeros(2, 48, 16, 16), 2)
    assert off < 0.05
    assert float(added.square().mean()) < 0.1 * float(lr.var()), "the rest beside the enlarged image"
    assert plus.config["dihedral"]
    assert plus.sampler is not None
    assert all(p.requires_grad for p in plus.parameters())


def test_a_conversion_is_of_the_run_s_images_and_seed_and_holds_out_no_benchmark(network, monkeypatch):
    asked = {}
    original = starts.conversion
    monkeypatch.setattr(starts, "conversion", lambda *given, **words: asked.update(words) or original(*given, **words))
    starting_model(converted_run("igconv", seed=3))
    assert (asked["seed"], asked["crops"], asked["images"]) == (3, starts.CROPS, ("sample_train",))
    assert asked["held_out"] == ("sample_test",)
    assert runs_of("cpu")["smfanet_plus-igconv-converted-s0"].train_sets == ("T91", "BSD200", "SunHays80")


def test_a_step_at_rate_zero_is_the_start_and_a_training_goes_on_from_it(network, go, monkeypatch):
    first = converted_run("igconv")
    second = replace(first, variant="converted_tuned", start_from=first.name, steps=3, learning_rate=1e-3)
    monkeypatch.setitem(PROFILES, "smoke", lambda: [first, second])
    with pytest.raises(InputError, match="not trained yet"):
        starting_model(second)
    begun = starting_model(first).state_dict()
    go(first)
    stored = checkpoints.load(results.model_file("smoke", first.name)).state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in begun.items())
    again = starting_model(second)
    assert all(torch.equal(value, stored[key]) for key, value in again.state_dict().items())
    go(second)
    after = checkpoints.load(results.model_file("smoke", second.name)).state_dict()
    assert all(not torch.equal(after[key], stored[key]) for key in ("upsampler.basis", "upsampler.bias"))
    other = replace(second, hidden_dim=8)
    with pytest.raises(InputError, match="another kind"):
        starting_model(other)


def test_what_a_conversion_cannot_be(network, tiny_model):
    with pytest.raises(InputError, match="SPConvs, IGConv or IGConv\\+"):
        starting_model(converted_run("igconv", dihedral=True))
    with pytest.raises(InputError, match="SPConvs, IGConv or IGConv\\+"):
        starting_model(converted_run("liif"))
    with pytest.raises(InputError, match="cannot be one"):
        starting_model(converted_run("igconv"), tiny_model("igconv"))


def test_block_e_is_six_starts_and_the_same_six_trained_on():
    """Equal steps per model, the same settings but upsampler and scales, each from its own start."""
    block = [run for run in runs_of("cpu").values() if "converted" in run.variant]
    firsts, tuned = block[:6], block[6:]
    assert {run.start_from for run in firsts} == {"smfanet_plus_df2k_x4" + CONVERTED}
    assert {(run.steps, run.learning_rate, run.ema) for run in firsts} == {(1, 0.0, 0.0)}
    assert [run.start_from for run in tuned] == [run.name for run in firsts]
    assert [(run.upsampler, run.scales) for run in firsts] == [(run.upsampler, run.scales) for run in tuned]
    assert len({(run.steps, run.learning_rate, run.batch, run.lr_patch, run.frequency_weight) for run in tuned}) == 1
    assert sorted((run.upsampler, run.scales) for run in tuned) == [
        ("igconv", (2, 3, 4)), ("igconv+", (2, 3, 4)), *(("spconv", s) for s in ((2,), (2, 3, 4), (3,), (4,)))
    ]  # fmt: skip
    assert start.CONVERTED == CONVERTED
