"""The kernel function: formula, symmetry, memory, and the reuse of kernels in eval mode."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from igconv import InputError
from igconv.models import hypernetwork
from igconv.models.hypernetwork import HyperNetwork, dihedral_average, subpixel_centres

BAD_SCALES = (0, -1, 2.5, 2.0, True, "2", None, math.nan, (2,))


@pytest.fixture
def net(enliven):
    """``net(**options)``: a small hyper-network with lively kernels, in training mode."""

    def make(**options):
        return enliven(HyperNetwork(**(dict(in_channels=4, out_channels=3, hidden_dim=8, num_layers=2) | options)))

    return make


@pytest.fixture
def generated(monkeypatch) -> list[int]:
    """The scales for which a kernel bank was generated, in order."""
    calls, original = [], HyperNetwork.generate

    def generate(self, scale):
        calls.append(scale)
        return original(self, scale)

    monkeypatch.setattr(HyperNetwork, "generate", generate)
    return calls


def formula(net: HyperNetwork, scale: int) -> torch.Tensor:
    """FACTS 1.3, entry by entry and sub-pixel by sub-pixel, in float64 (one branch)."""
    net = copy.deepcopy(net).double()
    c, k, half = net.in_channels, net.kernel_size, net.freq.shape[1] // 2
    bank = torch.zeros(3, scale, scale, c, k, k, dtype=torch.float64)
    phase = net.phase.weight[:, 0] * (2 / min(scale, net.max_scale)) + net.phase.bias
    for row in range(scale):
        for column in range(scale):
            dy, dx = (-1 + (2 * j + 1) / scale for j in (row, column))
            theta = net.freq[:, :half] * dx + net.freq[:, half:] * dy + phase
            h = net.amplitude * torch.cat([torch.cos(math.pi * theta), torch.sin(math.pi * theta)], dim=1)
            for layer in net.query_kernel:
                h = F.linear(h, layer.weight, layer.bias) if hasattr(layer, "weight") else h.relu()
            bank[:, row, column] = h.T.reshape(3, c, k, k)
    return bank.reshape(3 * scale**2, c, k, k).detach()


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("options", [{}, dict(max_scale=8), dict(kernel_size=1), dict(kernel_size=5, num_layers=1)])
def test_bank_is_the_published_formula(net, scale, options):
    """Coordinates, axes, phase clamp, cos before sin, and the order (colour, sub-row, sub-column, c_in, k_y, k_x)."""
    hyper = net(**options)
    torch.testing.assert_close(hyper.generate(scale).double(), formula(hyper, scale), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 3, 32])
def test_centres_are_those_of_equal_cells(scale):
    """-1 + (2 j + 1) / r, and a dtype as asked."""
    expected = [-1 + (2 * j + 1) / scale for j in range(scale)]
    assert subpixel_centres(scale, dtype=torch.float64).tolist() == pytest.approx(expected, abs=1e-15)
    assert subpixel_centres(scale, dtype=torch.float16).dtype == torch.float16


def test_branches_read_interleaved_latents_and_are_independent(net):
    """Branch g of IGSample's hyper-network is a plain one on the latents g, g + 2, ... with its own layers."""
    both = net(out_channels=6, groups=2)
    bank = both.generate(3)
    for g in range(2):
        one = net(out_channels=3)
        with torch.no_grad():
            # The amplitude is joined per branch already: [cos; sin] of branch g are its g-th half.
            one.freq.copy_(both.freq[:, g::2])
            one.amplitude.copy_(both.amplitude[:, g * 8 : (g + 1) * 8])
            one.phase.weight.copy_(both.phase.weight[g::2])
            one.phase.bias.copy_(both.phase.bias[g::2])
            for mine, theirs in zip(one.query_kernel[::2], both.query_kernel[::2], strict=True):
                mine.weight.copy_(theirs.weight.chunk(2)[g])
                mine.bias.copy_(theirs.bias.chunk(2)[g])
        torch.testing.assert_close(one.generate(3), bank.chunk(2)[g], atol=1e-5, rtol=1e-4)


def test_dihedral_average_is_the_mean_of_eight():
    """Against the eight transforms written out; the average is invariant under each of them."""
    kernels = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    rotated = kernels.rot90(-1, (-2, -1))
    eight = [k for base in (kernels, rotated) for k in (base, base.flip(-1), base.flip(-2), base.flip(-1, -2))]
    average = dihedral_average(kernels)
    torch.testing.assert_close(average, torch.stack(eight).mean(0))
    for transformed in (average.flip(-1), average.flip(-2), average.transpose(-1, -2)):
        torch.testing.assert_close(average, transformed)


def test_dihedral_average_equals_eight_convolutions(net):
    """By linearity: one convolution with the average = mean of convolutions of the eight transformed features."""
    features = torch.randn(2, 4, 7, 9)
    plain, averaged = net(), net(dihedral=True)
    bank, total = plain.generate(2), 0
    for turn in (0, 1):
        for flips in ((), (-1,), (-2,), (-1, -2)):
            there = features.rot90(turn, (-2, -1)).flip(flips)
            total = total + F.conv2d(there, bank, padding=1).flip(flips).rot90(-turn, (-2, -1))
    expected = F.conv2d(features, averaged.generate(2), padding=1)
    torch.testing.assert_close(total / 8, expected, atol=1e-4, rtol=1e-4)
    assert (F.conv2d(features, bank, padding=1) - expected).abs().max() > 0.01


@pytest.mark.parametrize("options", [{}, dict(groups=2, out_channels=4, dihedral=True)])
def test_chunks_change_neither_values_nor_gradients(net, monkeypatch, options):
    """Generation in pieces of bounded size, recomputed in the backward pass, is the same function."""
    hyper, cotangent = net(**options), torch.randn(net(**options).generate(4).shape)

    def values_and_gradients():
        hyper.zero_grad()
        bank = hyper.generate(4)
        (bank * cotangent).sum().backward()
        return [bank.detach(), *(p.grad.clone() for p in hyper.parameters())]

    whole = values_and_gradients()
    monkeypatch.setattr(hypernetwork, "ROWS_PER_CHUNK", 5 * 16)  # 36 entries: chunks of 5 and a rest
    for ours, expected in zip(values_and_gradients(), whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(hyper.generate(4), whole[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_rows_in_the_mlp_are_bounded_at_r32(net, grad):
    """x32 never sends more than ROWS_PER_CHUNK rows through the MLP at once."""
    hyper, rows = net(in_channels=20), []
    hyper.query_kernel.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    with torch.set_grad_enabled(grad):
        assert hyper.generate(32).shape == (3 * 32**2, 20, 3, 3)
    assert sum(rows) == 180 * 32**2
    assert max(rows) <= hypernetwork.ROWS_PER_CHUNK < sum(rows)


@pytest.mark.parametrize("scale", BAD_SCALES, ids=repr)
def test_bad_scale_is_refused(net, scale):
    """Only integers >= 1; the message names the value."""
    with pytest.raises(InputError, match="scale must be an integer >= 1"):
        net().generate(scale)


@pytest.mark.parametrize("scale", [True, 2.0, np.float64(2)], ids=repr)
def test_bad_scale_is_refused_when_its_equal_is_kept(net, scale):
    """True == 1 and 2.0 == 2 as dictionary keys: a kept bank must not let them in."""
    hyper = net().eval()
    with torch.no_grad():
        hyper(1), hyper(2)
        with pytest.raises(InputError):
            hyper(scale)


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), torch.tensor(3)], ids=repr)
def test_integers_of_other_libraries_are_scales(net, number):
    """Whatever counts as an index is accepted."""
    hyper = net()
    assert torch.equal(hyper.generate(number), hyper.generate(3))


@pytest.mark.parametrize("options", [dict(kernel_size=2), dict(hidden_dim=7), dict(num_layers=0), dict(max_scale=0),
                                     dict(in_channels=0), dict(hidden_dim="8")], ids=str)  # fmt: skip
def test_bad_options_are_refused(options):
    """One clear line, not a crash in a layer."""
    with pytest.raises(InputError):
        HyperNetwork(**(dict(in_channels=4, out_channels=3) | options))


def test_kernels_are_made_in_full_precision_under_autocast(net):
    """Kernels are weights: bfloat16 autocast must not round them, only the convolution that uses them."""
    hyper = net()
    expected = hyper.generate(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hyper.generate(2), expected)


# ---- reuse in eval mode


def test_eval_generates_once_per_scale(net, generated):
    """Ten forwards over two scales: two generations, equal to fresh ones."""
    hyper = net().eval()
    with torch.no_grad():
        for _ in range(5):
            banks = hyper(2), hyper(3)
        assert generated == [2, 3]
        assert torch.equal(banks[0], hyper.generate(2))
        assert torch.equal(banks[1], hyper.generate(3))


def test_training_generates_every_time(net, generated):
    """Nothing is kept in training mode, with gradients or without."""
    hyper = net()
    hyper(2), hyper(2)
    with torch.no_grad():
        hyper(2)
    assert generated == [2, 2, 2]


def _optimizer_step(hyper):
    optimizer = torch.optim.SGD(hyper.parameters(), 0.1)
    hyper(2).square().sum().backward()
    optimizer.step()


def _one_value(hyper):
    hyper.query_kernel[0].weight.data[0, 0] += 0.5


WEIGHT_CHANGES = {
    "optimizer step": _optimizer_step,
    "load_state_dict": lambda h: h.load_state_dict({k: v * 1.1 for k, v in h.state_dict().items()}),
    "load_state_dict assign": lambda h: h.load_state_dict({k: v * 2 for k, v in h.state_dict().items()}, assign=True),
    "data.copy_": lambda h: [p.data.copy_(p.data * 1.1) for p in h.parameters()],
    "data =": lambda h: setattr(h.freq, "data", h.freq.data * 1.1),
    "one value": _one_value,
    "a new parameter": lambda h: setattr(h, "freq", torch.nn.Parameter(h.freq.detach() * 1.1)),
    "foreach": lambda h: torch._foreach_mul_([p.data for p in h.parameters()], 1.1),
    "dtype": lambda h: h.double(),
}  # fmt: skip


@pytest.mark.parametrize("change", WEIGHT_CHANGES)
def test_reuse_ends_when_weights_change(net, change):
    """After any kind of change the bank is that of the new weights, at every scale kept before."""
    hyper = net().eval()
    with torch.no_grad():
        before = {s: hyper(s).clone() for s in (2, 3)}
    WEIGHT_CHANGES[change](hyper)
    with torch.no_grad():
        for scale in (2, 3):
            assert torch.equal(hyper(scale), hyper.generate(scale))
            assert hyper(scale).dtype == hyper.freq.dtype
            if change != "dtype":
                assert not torch.equal(hyper(scale), before[scale])


def test_reuse_ends_with_the_mode(net, generated):
    """train() and eval() drop what is kept, also when called on a parent module."""
    parent = torch.nn.Sequential(net()).eval()
    with torch.no_grad():
        parent[0](2)
        parent.train()
        assert not parent[0]._banks
        parent.eval()
        parent[0](2)
    assert generated == [2, 2]


def test_copies_are_independent(net):
    """A deep copy made while banks are kept follows its own weights, and the original keeps its."""
    hyper = net().eval()
    with torch.no_grad():
        original = hyper(2).clone()
        twin = copy.deepcopy(hyper)
        twin.freq.mul_(2)
        assert torch.equal(twin(2), twin.generate(2))
        assert not torch.equal(twin(2), original)
        assert torch.equal(hyper(2), original)


def test_gradients_flow_in_eval_mode(net):
    """Fine-tuning in eval mode: gradients equal those of training mode although a bank was kept before."""
    hyper = net()
    hyper(2).square().sum().backward()
    expected = [p.grad.clone() for p in hyper.parameters()]
    hyper.eval().zero_grad()
    with torch.no_grad():
        hyper(2)
    hyper(2).square().sum().backward()
    for p, gradient in zip(hyper.parameters(), expected, strict=True):
        assert torch.equal(p.grad, gradient)


def test_frozen_weights_are_reused_with_gradients_enabled(net, generated):
    """The EMA copy needs no graph, so it may keep its banks even outside no_grad."""
    hyper = net().eval().requires_grad_(False)
    hyper(2), hyper(2)
    assert generated == [2]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_inference_mode_leaves_nothing_that_blocks_training(net, mode):
    """A forward in inference mode, at a scale never seen before, then an ordinary training step at that scale."""
    hyper, scale = net(), {"eval": 41, "train": 43}[mode]
    hyper.train(mode == "train")
    with torch.inference_mode():
        hyper(scale)
    hyper.train()
    hyper(scale).sum().backward()
    assert all(p.grad is not None for p in hyper.parameters())


def test_kept_bank_allows_gradients_of_the_features(net):
    """A bank made in inference mode is an ordinary tensor: gradients with respect to features still flow."""
    hyper = net().eval().requires_grad_(False)
    with torch.inference_mode():
        hyper(2)
    features = torch.randn(1, 4, 5, 5, requires_grad=True)
    F.conv2d(features, hyper(2)).sum().backward()
    assert features.grad.abs().sum() > 0


def test_kept_banks_are_not_part_of_a_checkpoint(net):
    """The state dict holds parameters only."""
    hyper = net().eval()
    names = set(hyper.state_dict())
    with torch.no_grad():
        hyper(2)
    assert set(hyper.state_dict()) == names == {n for n, _ in hyper.named_parameters()}
