"""The training step on a GPU, as far as fake tensors and a CPU show it: operations, devices, types, equality."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import fake_gpu
import pytest
import torch
from torch import nn

from igconv.data import resize
from igconv.data.resize import imresize
from igconv.evaluation.benchmark import bicubic
from igconv.models import hypernetwork, inference, upsamplers
from igconv.models.hypernetwork import HyperNetwork
from igconv.models.super_resolver import UPSAMPLERS, build_model
from igconv.study.runs import get_run
from igconv.training import loop, losses
from igconv.training.feed import Batch
from igconv.training.halves import HalfWeights
from igconv.training.meter import Meter
from igconv.training.state import State

SCALES = (2, 3, 3, 4)


def batch_of(size: int, side: int, device: str) -> Batch:
    def image(n, side):
        return torch.ones(n, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)

    distinct = sorted(set(SCALES))
    hr = tuple(image(size * SCALES.count(scale), side * scale) for scale in distinct)
    return Batch(SCALES, image(size * len(SCALES), side), hr)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """On the CPU what a GPU does: everything at once, and no looking for values that are not finite."""
    monkeypatch.setattr(hypernetwork, "fills_with_everything", lambda tensor: True)
    monkeypatch.setattr(loop, "check_loss", lambda run, meter: None)
    monkeypatch.setattr(upsamplers, "_backward_would_crash", lambda shift: False)


@pytest.mark.parametrize(("name", "most"), [("igconv", 360), ("igconv+", 650)])
def test_operations_per_step(as_on_a_gpu, name, most):
    """A step of the benchmark study launches few kernels: what a small network waits for without graphs.

    Narrow and on small patches, which changes no operation; the encoder has its 16 blocks.
    """
    run = get_run("benchmark", f"edsr_baseline-{name}-s0")
    assert run.precision == "bf16-mixed"
    run = replace(run, hidden_dim=16)
    model = build_model(run.encoder, run.upsampler, channels=8, **run.model_options())
    fabric, batch = fake_gpu.fabric("cpu", half=True), batch_of(1, 12, "cpu")
    state = State(run, fabric, model.to(memory_format=torch.channels_last).train(), {}, rate_on_device=True)
    feed = SimpleNamespace(make=lambda sent: sent)
    step = loop._optimiser_step(run, fabric, state, Meter(fabric.device, 0, 0.0), feed, graphs=False)
    step(batch)
    with fake_gpu.Count() as count:
        step(batch)
    print(name, count.kernels.total())
    assert count.kernels["convolution"] == 34 + 3 * (1 if name == "igconv" else 2)
    assert not fake_gpu.HOST_READS & set(count.kernels)
    assert count.kernels.total() <= most, count.kernels.most_common(30)


SMALL = dict(hidden_dim=8, num_layers=2)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize(
    "encoder", ["edsr_tiny", "smfanet_plus", pytest.param("edsr_baseline", marks=pytest.mark.slow)]
)
def test_models_run_on_a_gpu(encoder, upsampler, half, monkeypatch):
    """No tensor is left on the CPU, nothing is read on the host, images and losses are float32."""
    # Kept kernel banks are compared by value, and fake tensors have none.
    monkeypatch.setattr(hypernetwork, "_same", lambda *_: False)
    options = SMALL if upsampler.startswith("igconv") or upsampler == "liif" else {}
    model = build_model(encoder, upsampler, scales=(2, 3, 4), **options).to(memory_format=torch.channels_last)
    with fake_gpu.fake_gpu():
        fake_gpu.on_fake_gpu(model.train())
        batch = batch_of(2, 16, fake_gpu.DEVICE)
        with fake_gpu.Count() as count, HalfWeights(model.encoder).in_use() if half else nullcontext():
            with fake_gpu.autocast(enabled=half):
                images = model.by_scale(batch.lr, SCALES)
            found = loop._losses(images, batch, 0.05)
        model.eval()
        with torch.no_grad():
            ways = (lambda m: m, inference.self_ensemble, lambda m: inference.tiled(m, 8, 2), inference.authors_tiles)
            upscaled = [way(model)(batch.lr[:1], 2) for way in ways]
    assert not fake_gpu.HOST_READS & set(count.kernels)
    assert all(x.device.type == "cuda" and x.dtype == torch.float32 for x in (*images.values(), *found, *upscaled))
    assert all(image.shape == (1, 3, 32, 32) for image in upscaled)


def test_nothing_fake_is_left_for_the_next_test():
    """What the package keeps between calls, positions and weights by their device, is forgotten: a fake tensor is one
    mode's, and would fail in the next."""
    kept = (hypernetwork._subpixel_centres, hypernetwork._joint_grid, resize._weights)
    for _ in range(2):
        with fake_gpu.fake_gpu():
            net = fake_gpu.on_fake_gpu(HyperNetwork(4, 3, hidden_dim=8, num_layers=1))
            assert net.generate(3).device.type == "cuda"
            assert imresize(torch.empty(1, 3, 9, 9, device=fake_gpu.DEVICE), 1 / 3, "matlab").device.type == "cuda"
            assert sum(function.cache_info().currsize for function in kept) >= 2
        assert not any(function.cache_info().currsize for function in kept)
    assert imresize(torch.ones(1, 3, 9, 9), 1 / 3, "matlab").sum() == pytest.approx(27)


@pytest.mark.parametrize("method", ["matlab", "pil"])
def test_resizing_stays_on_the_gpu(method):
    with fake_gpu.fake_gpu():
        x = torch.empty(2, 3, 48, 36, dtype=torch.uint8, device=fake_gpu.DEVICE)
        assert imresize(x, 1 / 3, method).device.type == "cuda"
        assert bicubic(torch.empty(1, 3, 9, 9, device=fake_gpu.DEVICE), 3).device.type == "cuda"


@pytest.mark.parametrize("options", [dict(), dict(dihedral=True), dict(groups=2, out_channels=12, output_bias=False)])
def test_banks_made_together_equal_those_made_one_by_one(options):
    """Values and gradients to 1e-5, for scales beyond the clamp of the phase as well."""
    net = HyperNetwork(**{**dict(in_channels=5, out_channels=3, hidden_dim=16, num_layers=2), **options})
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    together = net._generate_jointly((2, 3, 4, 6))
    apart = {scale: net.generate(scale) for scale in (2, 3, 4, 6)}
    weights = {scale: torch.randn_like(bank) for scale, bank in apart.items()}
    gradients = []
    for banks in (together, apart):
        total = sum((bank * weights[scale]).sum() for scale, bank in banks.items())
        gradients.append(torch.autograd.grad(total, list(net.parameters())))
    for scale, bank in apart.items():
        torch.testing.assert_close(together[scale], bank, atol=1e-5, rtol=1e-5)
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_banks_are_made_together_only_where_that_is_faster(monkeypatch):
    net = HyperNetwork(4, 3, hidden_dim=8, num_layers=1)
    with net.jointly([2, 3]):
        assert not net._joint, "a CPU gains nothing"
    with fake_gpu.fake_gpu():
        fake_gpu.on_fake_gpu(net)
        with net.jointly([2, 3]):
            assert set(net._joint) == {2, 3}
            assert net(3) is net._joint[3]
        assert not net._joint
        with net.eval().jointly([2, 3]):
            assert not net._joint, "in evaluation banks are kept"


def gradients_of(model, lr, hr, half: bool, halves=None) -> dict:
    model.zero_grad(set_to_none=True)

    def passes():
        with fake_gpu.autocast("cpu", half):
            images = model.by_scale(lr, SCALES)
        pixel, frequency = loop._losses(images, Batch(SCALES, lr, hr), 0.05)
        (pixel + 0.05 * frequency).backward()

    if halves:
        with halves.in_use():
            passes()
    else:
        passes()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_weights_cast_once_give_the_gradients_of_autocast(tiny_model):
    """Bit for bit, also after the weights have moved; the weights are in their places afterwards."""
    model = tiny_model("igconv+")
    lr = torch.rand(8, 3, 6, 6)
    hr = tuple(torch.rand(2 * SCALES.count(s), 3, 6 * s, 6 * s) for s in sorted(set(SCALES)))
    halves, parameters = HalfWeights(model.encoder), list(model.parameters())
    for _ in range(2):
        expected = gradients_of(model, lr, hr, half=True)
        found = gradients_of(model, lr, hr, half=True, halves=halves)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1.1)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_weights_are_back_after_a_failure(tiny_model):
    model = tiny_model("spconv")
    before = list(model.parameters())

    def fails():
        assert model.encoder.conv_first.weight.dtype == torch.bfloat16
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), HalfWeights(model.encoder).in_use():
        fails()
    assert all(a is b for a, b in zip(model.parameters(), before, strict=True))


def test_a_gpu_sums_the_losses_of_a_scale_at_once():
    """Equal to the mean over micro-batches; on fake tensors one difference per distinct scale."""
    images = {s: torch.rand(2 * SCALES.count(s), 3, 4 * s, 4 * s) for s in (2, 3, 4)}
    hr = tuple(torch.rand_like(image) for image in images.values())
    pixel, frequency = loop._losses(images, Batch(SCALES, images[2], hr), 0.1)
    whole = [(losses.l1(sr, true), losses.frequency_l1(sr, true)) for sr, true in zip(images.values(), hr, strict=True)]
    for found, kind in ((pixel, 0), (frequency, 1)):
        torch.testing.assert_close(found, (whole[0][kind] + 2 * whole[1][kind] + whole[2][kind]) / 4)
    with fake_gpu.fake_gpu(), fake_gpu.Count() as count:
        batch = batch_of(2, 4, fake_gpu.DEVICE)
        loop._losses(dict(zip((2, 3, 4), batch.hr, strict=True)), batch, 0.1)
    assert count.kernels["sub"] == 3


def test_the_lean_step_has_the_gradients_of_the_old_one(tiny_model, monkeypatch):
    """Joint banks and losses per scale, in float32: to 1e-5 of each gradient."""
    model = tiny_model("igconv+")
    lr = torch.rand(8, 3, 6, 6)
    hr = tuple(torch.rand(2 * SCALES.count(s), 3, 6 * s, 6 * s) for s in sorted(set(SCALES)))
    expected = gradients_of(model, lr, hr, half=False)
    lean = copy.deepcopy(model)
    hypers = [lean.upsampler.hyper, lean.sampler.hyper]
    images = {}
    for hyper in hypers:
        hyper._joint = hyper._generate_jointly((2, 3, 4))
    x, features = lean.encode(lr)
    for s, a, b in zip((2, 3, 4), x.split([2, 4, 2]), features.split([2, 4, 2]), strict=True):
        images[s] = lean.post(lean.upsampler(b, s)) + lean.sampler(a, b, s)
    values = [losses.both(images[s], true) for s, true in zip((2, 3, 4), hr, strict=True)]
    pixel, frequency = (values[0][k] + 2 * values[1][k] + values[2][k] for k in (0, 1))
    ((pixel + 0.05 * frequency) / 4).backward()
    for name, parameter in lean.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max(), name
