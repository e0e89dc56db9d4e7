"""Kernel banks before the first step: statistics with known answers, and how the two initialisations start."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

import igconv
from igconv import IGConv, InputError, build_model
from igconv.analysis import initialisation
from igconv.models.hypernetwork import HyperNetwork
from igconv.study.runs import get_run


@pytest.mark.parametrize("count", [1, 3, 8])
def test_effective_rank_of_known_spectra(count):
    """Orthogonal rows of equal length count one each, rank one is 1."""
    assert initialisation.effective_rank(torch.eye(8)[:count] * 7) == pytest.approx(count)
    assert initialisation.effective_rank(torch.ones(count, 5) * 0.3) == pytest.approx(1)


def test_two_unequal_directions():
    """Powers 3 and 1: 4^2 / (9 + 1)."""
    assert initialisation.effective_rank(torch.diag(torch.tensor([3.0, 1.0]).sqrt())) == pytest.approx(1.6)


def test_zeros_have_no_rank():
    """One line instead of NaN."""
    with pytest.raises(InputError, match="zeros"):
        initialisation.effective_rank(torch.zeros(3, 4))


def test_statistics_of_a_bank_made_by_hand():
    """A colour offset, a ramp over sub-pixels and a sign per entry come out apart."""
    scale, channels = 2, 4
    bank = torch.zeros(3, scale**2, channels, 1, 1)
    bank += torch.tensor([1.0, 2.0, 2.0]).view(3, 1, 1, 1, 1)  # means: root mean square sqrt(3)
    bank += torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1) * 0.5  # over entries
    bank += torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1, 1) * 0.1  # over sub-pixels
    found = initialisation.bank_statistics(bank.flatten(0, 1), scale)
    assert found["entry_mean"] == pytest.approx(math.sqrt(3 + 0.1**2))
    assert found["entry_std"] == pytest.approx(0.5)
    assert found["subpixel_std"] == pytest.approx(0.1)
    assert found["outputs"] == 12


def test_equal_kernels_push_all_channels_the_same_way():
    """Kernels without differences between channels: the gradient has rank one; with independent ones it has not."""
    torch.manual_seed(0)
    model = build_model("edsr", "spconv", scales=(2,), channels=6, blocks=1)
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    assert initialisation.gradient_rank(model, lr, hr, 2) > 3
    weight = model.upsampler.heads["2"][0].weight
    weight.data.copy_(weight.data.mean(1, keepdim=True).expand_as(weight))
    assert initialisation.gradient_rank(model, lr, hr, 2) == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, dict(max_scale=8), dict(kernel_size=1, num_layers=1), dict(dihedral=True)])
def test_kernels_that_start_like_stored_ones(options):
    """Mean 0 and the standard deviation of PyTorch's convolutions over the entries of a colour, at every scale."""
    torch.manual_seed(0)
    stored = torch.nn.Conv2d(32, 300, options.get("kernel_size", 3)).weight
    hyper = IGConv(32, hidden_dim=64, **(dict(num_layers=2) | options), initialisation="spconv").hyper
    hyper.dihedral = False  # which averages entries; the start is that of what it averages
    for scale in (2, 3, hyper.max_scale):
        by_colour = hyper.generate(scale).unflatten(0, (3, -1)).flatten(1)
        exact = scale == hyper.max_scale
        assert by_colour.mean(1).abs().max() < (1e-6 if exact else 0.6 * stored.std())
        assert by_colour.std(1).tolist() == pytest.approx([stored.std().item()] * 3, rel=0.03 if exact else 0.4)


def test_the_authors_start_is_one_constant_and_stays_the_default():
    """What the docstrings say of both: differences between entries against the mean, and independent outputs."""
    torch.manual_seed(0)
    found = {}
    for start in ("authors", "spconv"):
        bank = IGConv(16, initialisation=start).kernel_bank(3)
        found[start] = initialisation.bank_statistics(bank, 3)
    assert found["authors"]["entry_std"] < 0.1 * found["authors"]["entry_mean"]
    assert found["authors"]["effective_rank"] < 1.1
    assert found["spconv"]["entry_std"] > 10 * found["authors"]["entry_std"]
    assert found["spconv"]["effective_rank"] > 1.5
    torch.manual_seed(3)
    default = IGConv(4, hidden_dim=8).state_dict()
    torch.manual_seed(3)
    for name, value in IGConv(4, hidden_dim=8, initialisation="authors").state_dict().items():
        assert torch.equal(default[name], value)


def test_only_one_branch_with_a_bias_can_start_so():
    """IGSample has a start of its own."""
    with pytest.raises(InputError, match="one branch"):
        HyperNetwork(4, 12, hidden_dim=8, groups=2, initialisation="spconv")
    with pytest.raises(InputError, match="initialisation"):
        HyperNetwork(4, 3, hidden_dim=8, initialisation="xavier")


def test_a_run_names_its_start_and_a_file_keeps_it(tmp_path):
    """Through the table of runs, the model and the checkpoint."""
    run = get_run("sample", "edsr_tiny-igconv-spconv_init-s0")
    model = build_model(run.encoder, run.upsampler, **run.model_options())
    assert model.config["initialisation"] == "spconv"
    igconv.save(model, tmp_path / "m.safetensors")
    again = igconv.load(tmp_path / "m.safetensors")
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_table_of_starts():
    """One row per model and scale; the better start pushes channels in more directions."""
    models = []
    for start in ("authors", "spconv"):
        torch.manual_seed(0)
        models.append((start, 0, build_model("edsr", "igconv", scales=(2, 3), channels=8, blocks=1, hidden_dim=16,
                                             num_layers=2, initialisation=start)))  # fmt: skip
    pairs = {scale: (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8 * scale, 8 * scale)) for scale in (2, 3)}
    table = initialisation.starts(models, (2, 3), pairs)
    assert list(table.columns) == list(initialisation.COLUMNS)
    assert len(table) == 4
    ranks = table.groupby("model").gradient_rank.mean()
    assert ranks["authors"] == pytest.approx(1, abs=0.05)
    assert ranks["spconv"] > 1.3


def test_untrained_models_differ_in_what_their_name_says(photograph):
    base = get_run("smoke", "edsr_tiny-igconv-s0")
    models = initialisation.untrained(base, seeds=2)
    assert [(name, seed) for name, seed, _ in models] == [
        (name, seed) for seed in (0, 1) for name in ("SPConv", "IGConv, the authors' start", "IGConv, SPConv's start")
    ]
    assert [model.config.get("initialisation") for _, _, model in models[:3]] == [None, "authors", "spconv"]
    batches = initialisation.batches(photograph(50, 99), (2, 3))
    assert [tuple(z.shape) for z in batches[3]] == [(1, 3, 16, 16), (1, 3, 48, 48)]
    assert 0 <= batches[2][0].min() < batches[2][1].max() <= 1


def test_runs_are_compared_with_those_that_differ_in_the_start_alone():
    """Not with shorter ones, and not with those of another upsampler."""
    base = get_run("smoke", "edsr_tiny-igconv-s0")
    started = replace(base, variant="spconv_init", initialisation="spconv")
    shorter = replace(base, variant="short", steps=2)
    changed = get_run("sample", "edsr_tiny-igconv+-no_fft-s0")  # of a name that another upsampler could not have
    psnr = {base: 30.0, started: 31.0, shorter: 10.0, replace(base, upsampler="spconv"): 20.0, changed: 5.0}
    rows = [
        dict(run=run.name, seed=run.seed, dataset="d", image=image, scale=scale, psnr_y_db=value, ssim_y=0.5)
        for run, value in psnr.items()
        for image in "ab"
        for scale in (2, 3, 4)
    ]
    rows = pd.DataFrame(rows)
    table = initialisation.difference(rows, list(psnr))
    assert table.scale.tolist() == [2, 3, 4]
    assert table.difference_db.tolist() == [1.0] * 3
    text = initialisation.conclusion(table).splitlines()
    assert text[0].startswith("IGConv x2: SPConv's start minus the authors' +1.000 dB (")
    assert initialisation.conclusion(initialisation.difference(rows, [base])) == "Runs with both starts: not run."
    assert initialisation.conclusion(initialisation.difference(rows.head(0), list(psnr))).endswith("not run.")


def test_starts_in_words():
    table = pd.DataFrame(dict(model=["SPConv", "IGConv"], entry_mean=[1.0, 4.0], entry_std=[2.0, 1.0],
                              gradient_rank=[6.0, 1.5], channels=24))  # fmt: skip
    first, second = initialisation.start_conclusion(table).splitlines()
    assert first == "SPConv: entries 2 of their mean apart, their spread 1 of SPConv's; gradient rank 6.00 of 24"
    assert second.startswith("IGConv: entries 0.25 of their mean apart, their spread 0.5 of SPConv's")
