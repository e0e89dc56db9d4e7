"""What only a CUDA device can show. Counted as skipped elsewhere.

``python -m pytest tests/test_gpu.py -s`` needs torch, lightning, pandas, scikit-image, safetensors and pytest alone.
"""

import copy
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from committed import packaged_against_rows

import igconv
from igconv.data import cache
from igconv.data.patches import PatchSource
from igconv.data.resize import imresize
from igconv.errors import InputError
from igconv.evaluation import benchmark
from igconv.evaluation.metrics import psnr_y
from igconv.models import checkpoints, inference, state_files
from igconv.models.arithmetic import training_arithmetic
from igconv.models.super_resolver import build_model
from igconv.study import results
from igconv.study.runs import get_run
from igconv.training import loop
from igconv.training.feed import DeviceFeed, HostFeed, make_feed
from igconv.training.graphs import StepGraphs
from igconv.training.loop import TrainingError, train
from igconv.training.meter import Meter
from igconv.training.start import starting_model, training_patches
from igconv.training.state import State
from igconv.upscaling import DEFAULT_WEIGHTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


SMALL = dict(hidden_dim=32, num_layers=2)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("upsampler", ["spconv+", "igconv", "igconv+"])
def test_forward_equals_the_cpu(upsampler):
    small = {} if upsampler == "spconv+" else dict(hidden_dim=32, num_layers=2)
    model = igconv.build_model("edsr_tiny", upsampler, scales=(2, 3), **small).eval()
    lr = torch.rand(1, 3, 24, 20)
    with torch.no_grad():
        expected = [model(lr, scale) for scale in (2, 3)]
        found = [model.cuda()(lr.cuda(), scale).cpu() for scale in (2, 3)]
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["matlab", "pil"])
def test_resize_is_the_same_bytes(method):
    x = torch.randint(0, 256, (2, 3, 48, 36), dtype=torch.uint8)
    assert torch.equal(imresize(x.cuda(), 1 / 3, method).cpu(), imresize(x, 1 / 3, method))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_runs_and_learns(precision, tmp_path, monkeypatch):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    run = replace(get_run("smoke", "edsr_tiny-igconv+-s0"), steps=40, precision=precision, record_every=10,
                  validate_every=0, checkpoint_every=40)  # fmt: skip
    records = list(train(run, "cuda"))
    assert records[-1]["step"] == 40
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    """IGConv+ of the smoke study, 40 steps, one record at the end."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "results"))
    return replace(get_run("smoke", "edsr_tiny-igconv+-s0"), steps=40, record_every=40, validate_every=0,
                   checkpoint_every=40)  # fmt: skip


def weights_of(run) -> dict:
    return state_files.read_weights(results.model_file(run.profile, run.name))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_graphs_train_the_same_model(small_run, tmp_path, monkeypatch, precision):
    """A recorded and replayed step is the step: the same weights as without graphs."""
    small_run = replace(small_run, precision=precision)
    list(train(small_run, "cuda", graphs=False))
    plain = weights_of(small_run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "graphs"))
    list(train(small_run, "cuda", graphs=True))
    for key, value in weights_of(small_run).items():
        torch.testing.assert_close(value, plain[key], atol=1e-4, rtol=1e-3)


def started(run):
    """(state, its step, its feed) of a run before its first step, on the GPU."""
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError:
        from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cuda", devices=1, precision=run.precision)
    fabric.launch()
    state = State(run, fabric, starting_model(run), {}, rate_on_device=True)
    state.raw.train()
    feed = make_feed(training_patches(run), range(run.micro_batches), fabric.device)
    return state, loop._optimiser_step(run, fabric, state, Meter(fabric.device, 0, 0.0), feed, False), feed


def tensors_of(state) -> list:
    """Everything that a step changes: weights, moving average, moments."""
    moments = [x for entry in state.optimizer.state.values() for x in entry.values()]
    return [*state.raw.parameters(), *state.ema.parameters(), *moments]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["edsr_tiny-spconv-x3-s0", "edsr_tiny-igconv-s0", "edsr_tiny-igconv+-s0"])
def test_a_replayed_step_is_the_eager_step(tmp_path, monkeypatch, name, precision):
    """Bit for bit, from the same state, for every combination of scales that comes in the first steps."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    run = replace(get_run("smoke", name), precision=precision)
    state, step, feed = started(run)
    stepped, compared, seen = StepGraphs(step), set(), {}
    with closing(feed), training_arithmetic(precision), torch.no_grad():
        for number in range(200):
            sent = feed.send(number)
            seen[sent.scales] = seen.get(sent.scales, 0) + 1
            with torch.enable_grad():
                stepped(sent)
            if seen[sent.scales] < 2 or sent.scales in compared:
                continue
            kept = [x.clone() for x in tensors_of(state)]
            with torch.enable_grad():
                stepped(sent)
            replayed = [x.clone() for x in tensors_of(state)]
            for x, before in zip(tensors_of(state), kept, strict=True):
                x.copy_(before)
            with torch.enable_grad():
                step(sent)
            for x, other in zip(tensors_of(state), replayed, strict=True):
                assert torch.equal(x, other), sent.scales
            compared.add(sent.scales)
            if len(compared) == min(6, len(seen)) and number > 60:
                break
    assert compared


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_resumes(small_run, tmp_path, monkeypatch, precision, graphs):
    """Stopped and called again, eager or with graphs: bit-equal weights."""
    run = replace(small_run, record_every=10, checkpoint_every=10, precision=precision)
    list(train(run, "cuda", graphs=graphs))
    whole = weights_of(run)
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path / "stopped"))
    with closing(train(run, "cuda", graphs=graphs)) as records:
        next(records), next(records)
    list(train(run, "cuda", graphs=graphs))
    assert all(torch.equal(value, whole[key]) for key, value in weights_of(run).items())


def test_a_checkpoint_of_a_cpu_goes_on_here(small_run):
    """Begun on a CPU, ended on the GPU with graphs."""
    run = replace(small_run, record_every=10, checkpoint_every=10)
    with closing(train(run, "cpu")) as records:
        next(records)
    records = list(train(run, "cuda"))
    assert [record["step"] for record in records] == [10, 20, 30, 40]
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize("graphs", [False, True])
def test_a_loss_that_is_not_finite_stops(small_run, graphs):
    """At the next record, with the step at which it happened; nothing is stored."""
    run = replace(small_run, learning_rate=1e30, record_every=20)
    with pytest.raises(TrainingError, match="not finite at step"):
        list(train(run, "cuda", graphs=graphs))
    assert not results.model_file(run.profile, run.name).exists()


@pytest.mark.parametrize("case", ["frozen", "smfanet_plus", "liif", "HostFeed"])
def test_every_kind_of_run_can_be_recorded(small_run, monkeypatch, case):
    run = small_run
    if case == "frozen":
        run = replace(run, freeze_encoder=True)
    elif case == "smfanet_plus":
        run = replace(run, encoder="smfanet_plus", precision="bf16-mixed")
    elif case == "liif":
        run = replace(run, upsampler="liif", igsample=False, dihedral=False, hidden_dim=32, num_layers=2)
    else:
        monkeypatch.setattr(loop, "make_feed", HostFeed)
    records = list(train(run, "cuda", graphs=True))
    assert records[-1]["step"] == run.steps


def test_fp16_trains_without_graphs(small_run):
    run = replace(small_run, precision="16-mixed")
    with pytest.raises(InputError, match="graphs need"):
        next(train(run, "cuda", graphs=True))
    assert list(train(run, "cuda"))[-1]["loss"] > 0


@pytest.mark.parametrize("upsampler", ["spconv", "igconv", "igconv+"])
def test_the_lean_step_equals_the_cpus(upsampler):
    """Joint banks and losses on the GPU in float32: gradients to 1e-3 of the CPU's, summed one by one."""
    model = build_model("edsr_tiny", upsampler, scales=(2, 3, 4), **({} if upsampler == "spconv" else SMALL))
    scales, found = (2, 3, 3, 4), {}
    lr = torch.rand(4, 3, 12, 12)
    hr = tuple(torch.rand(scales.count(s), 3, 12 * s, 12 * s) for s in (2, 3, 4))
    for device in ("cpu", "cuda"):
        here = copy.deepcopy(model).to(device).train()
        batch = loop.Batch(scales, lr.to(device), tuple(x.to(device) for x in hr))
        pixel, frequency = loop._losses(here.by_scale(batch.lr, scales), batch, 0.05)
        (pixel + 0.05 * frequency).backward()
        found[device] = {name: p.grad.cpu() for name, p in here.named_parameters()}
    for name, expected in found["cpu"].items():
        assert (found["cuda"][name] - expected).abs().max() <= 1e-3 * expected.abs().max(), name


def test_steps_per_second(small_run, capsys):
    """A figure to look at, not a limit: the encoder of the benchmark study with and without graphs."""
    run = replace(small_run, encoder="edsr_baseline", hidden_dim=256, num_layers=4, micro_batches=4, micro_batch_size=4,
                  lr_patch=24, steps=200, record_every=100, checkpoint_every=0, precision="bf16-mixed")  # fmt: skip
    for graphs in (False, True):
        *_, last = train(replace(run, variant=f"rate{graphs:d}"), "cuda", graphs=graphs)
        with capsys.disabled():
            print(f"\n{run.upsampler}, graphs {graphs}: {last['images_per_s'] / run.batch:.0f} steps/s")
        assert last["images_per_s"] > 0


@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_waits_for_the_device(small_run, monkeypatch, graphs):
    """Between two records nothing synchronises: PyTorch raises where something would."""
    original, steps = DeviceFeed.send, []

    def send(self, step):
        steps.append(step)
        torch.cuda.set_sync_debug_mode("error" if 10 < step < 39 else "default")
        return original(self, step)

    monkeypatch.setattr(DeviceFeed, "send", send)
    try:
        records = []
        for record in train(small_run, "cuda", graphs=graphs):
            torch.cuda.set_sync_debug_mode("default")
            records.append(record)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 40
    assert records[-1]["loss"] > 0


def test_both_feeds_give_the_same_patches():
    """Pixels in the GPU's memory or from the map: bit for bit, LR included."""
    stored = cache.decoded("sample_train")
    patches = PatchSource(stored.images, (2, 3, 4), 24, 4, seed=1)
    on_device, on_host = (feed(patches, range(4), "cuda") for feed in (DeviceFeed, HostFeed))
    for step in range(5):
        a, b = on_device.batch(step), on_host.batch(step)
        assert a.scales == b.scales
        assert torch.equal(a.lr, b.lr)
        assert all(torch.equal(x, y) for x, y in zip(a.hr, b.hr, strict=True))
    on_host.close()


def test_evaluation_equals_the_cpu():
    """float32 without TF32: PSNR within 0.002 dB, also where the user has allowed TF32."""
    torch.backends.cudnn.allow_tf32 = True
    model = igconv.build_model("edsr_baseline", "igconv+", scales=(2, 3, 4)).eval()
    for facts, lr, hr in benchmark.benchmark_pairs(["sample_test"], (3,)):
        values = [
            psnr_y(inference.upscale(inference.prepare(model, device), lr, 3, device)[0], hr, facts["scale"])
            for device in ("cpu", "cuda")
        ]
        assert values[0] == pytest.approx(values[1], abs=0.002)


def test_the_packaged_model_has_the_rows_of_the_cpu(tmp_path, monkeypatch):
    """Evaluation here, metrics in threads: within 0.002 dB of the CPU's, image by image, with the shipped weights."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    model = checkpoints.load(DEFAULT_WEIGHTS)
    rows = {device: list(benchmark.measure(model, ["sample_test"], (2, 3, 4), device)) for device in ("cpu", "cuda")}
    assert len(rows["cuda"]) == len(rows["cpu"]) > 0
    for here, there in zip(rows["cuda"], rows["cpu"], strict=True):
        assert (here["dataset"], here["image"], here["scale"]) == (there["dataset"], there["image"], there["scale"])
        assert here["psnr_y_db"] == pytest.approx(there["psnr_y_db"], abs=0.002)
        assert here["ssim_y"] == pytest.approx(there["ssim_y"], abs=1e-4)


def test_the_packaged_model_has_the_committed_rows():
    """Measured on another machine's CPU, in full precision."""
    assert max(packaged_against_rows("cuda")) < 0.002
