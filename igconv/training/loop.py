"""Multi-scale training: one loop, made to be read from top to bottom (`_train`).

An optimiser step averages the gradients of ``micro_batches`` micro-batches, each with a scale of its own (the
authors get four of them from four GPUs). The LR patch has the same size at every scale, so the encoder runs once
on all of them and only upsampler and loss go per scale. Patches and learning rate are pure functions of the step:
to resume is to run the same command again.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributed import is_torchelastic_launched

from igconv.errors import InputError, choose, out_of_memory, positive_integer, reason
from igconv.evaluation import bands
from igconv.evaluation.validation import validation_bands, validation_psnr
from igconv.files import exclusive, write
from igconv.models import arithmetic, checkpoints, hypernetwork
from igconv.models.super_resolver import SuperResolver
from igconv.study import results
from igconv.study.runs import Run, learning_rate
from igconv.training import losses
from igconv.training.feed import Batch, DeviceFeed, HostFeed, Sent, make_feed
from igconv.training.halves import HalfWeights
from igconv.training.identity import identity, is_finished
from igconv.training.leases import leased_gpu
from igconv.training.meter import Meter
from igconv.training.start import starting_model, training_patches
from igconv.training.state import State, average

# A slow machine may be stopped long before ``checkpoint_every`` steps are done; seconds between two checkpoints.
CHECKPOINT_S = 60.0


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is kept."""


def train(
    run: Run,
    accelerator: str = "auto",
    devices: int = 1,
    wait: bool = False,
    nodes: int = 1,
    graphs: bool | None = None,
    model: SuperResolver | None = None,
) -> Iterator[dict]:
    """Train a run and yield its records; the files of the run are complete when the iterator ends.

    A finished run yields its stored records and trains nothing; an interrupted one continues from its last
    checkpoint after yielding what is known. Both are refused when the training images or the ``model`` are others
    than they were (`igconv.training.identity`). Files, below ``results/<profile>/runs/<run>/``: config.json,
    last.ckpt, record.csv, bands.csv, provenance.json, model.safetensors (the EMA weights if there are).

    Args:
        accelerator: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "gpu", "mps".
        devices, nodes: processes per node and nodes; their product divides ``run.micro_batches``.
        wait: when another process trains this run, wait for it instead of raising.
        graphs: launch each step as one CUDA graph (`igconv.training.graphs`); one GPU, no fp16. None: where possible.
        model: trained instead of the one the run describes, for an encoder of yours; ``run.encoder`` is then only its
            name. It stays as it is; ``igconv.load(<model.safetensors>, model)`` gives it the trained weights.

    Yields:
        Every ``record_every`` steps: step, loss, l1, frequency_l1 and gradient_norm (means since the last record;
        frequency_l1 before its weight, the norm before clipping), learning_rate, images_per_s, data_wait_share (of
        the time), seconds (training time so far), peak_memory_mb (of the GPU, or of the process), psnr_y_db (of the
        EMA weights on small crops of the test images, mean over scales; only for looking, nothing is chosen by it).

    The training's number of threads, random numbers and arithmetic (`igconv.models.arithmetic`) are set while it
    computes; between two records, and when the iterator ends, fails or is closed, the caller's are as they were.

    Raises:
        InputError: unusable data, settings or checkpoint, or another process is training this run.
        TrainingError: the loss is not finite, or the memory is too small.
    """
    records = _launched(run, accelerator, devices, wait, nodes, graphs, model)
    with closing(records):
        while True:
            with _own_settings(run.threads, run.precision):
                record = next(records, None)
            if record is None:
                return
            yield record


@contextmanager
def _own_settings(threads: int, precision: str) -> Iterator[None]:
    """Threads (0: as many as before), random numbers and arithmetic of a training; the caller's come back afterwards.

    Never around a ``yield`` of records: what is set there would hold in the caller's code until the next record.
    """
    before = torch.get_num_threads()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus), arithmetic.training_arithmetic(precision):
        try:
            if threads:
                torch.set_num_threads(threads)
            yield
        finally:
            if threads:
                torch.set_num_threads(before)


def _launched(
    run: Run, accelerator: str, devices: int, wait: bool, nodes: int, graphs: bool | None, model: SuperResolver | None
) -> Generator[dict, None, None]:
    """`train` on the devices that it gets."""
    try:  # here, because it takes seconds
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment
    except ImportError:  # the same code in the package that has all of Lightning
        try:
            from lightning.fabric import Fabric  # pyright: ignore[reportMissingImports]
            from lightning.fabric.plugins.environments import LightningEnvironment  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError("training needs Lightning Fabric; pip install 'igconv[study]'") from None

    choose(accelerator, ("auto", "cpu", "cuda", "gpu", "mps"), "accelerator")
    if accelerator == "auto":  # Fabric's own choice would be Apple's GPU, on which no training was ever tried
        accelerator = arithmetic.chosen_device()
    devices, nodes = positive_integer(devices, "devices"), positive_integer(nodes, "nodes")
    with ExitStack() as lease:
        chosen: int | list[int] = devices
        gpus = torch.cuda.device_count() if accelerator != "cpu" else 0
        if gpus > 1 and devices == nodes == 1 and not is_torchelastic_launched():
            chosen = [lease.enter_context(leased_gpu(gpus))]
        # One process needs nothing of a cluster; Fabric refuses some of SLURM's variables that allocations have.
        alone = devices == nodes == 1 and not is_torchelastic_launched()
        fabric = Fabric(
            accelerator=accelerator,
            devices=chosen,
            num_nodes=nodes,
            precision=run.precision,  # pyright: ignore[reportArgumentType]
            plugins=[LightningEnvironment()] if alone else None,
        )
        fabric.launch()
        yield from _checked(run, fabric, wait, graphs, model)


def _checked(run: Run, fabric, wait: bool, graphs: bool | None, model: SuperResolver | None) -> Iterator[dict]:
    if run.micro_batches % fabric.world_size:
        raise InputError(f"{fabric.world_size} devices cannot share {run.micro_batches} micro-batches evenly")
    possible = fabric.device.type == "cuda" and fabric.world_size == 1 and run.precision != "16-mixed"
    if graphs and not possible:
        raise InputError("graphs need one CUDA device and a precision other than 16-mixed")
    folder = results.run_folder(run.profile, run.name)
    with exclusive(folder / f".lock{fabric.global_rank}", wait=wait, who=f"run {run.name}"):
        try:
            yield from _train(run, fabric, folder, possible if graphs is None else graphs, model)
        except (RuntimeError, MemoryError) as error:
            if not (why := out_of_memory(error)):
                raise
            raise TrainingError(
                f"{run.name}: out of memory ({reason(why, 120)}); the last checkpoint is kept, lower "
                f"micro_batch_size ({run.micro_batch_size}) or lr_patch ({run.lr_patch}), or use more devices"
            ) from None


def _train(run: Run, fabric, folder: Path, graphs: bool, own: SuperResolver | None) -> Iterator[dict]:
    if is_finished(run, own):
        yield from results.read_table(folder / "record.csv").to_dict("records")
        return
    patches = training_patches(run)
    if patches.left_out() and fabric.is_global_zero:
        print(f"{run.name}: {patches.left_out()}", flush=True)

    state = State(run, fabric, starting_model(run, own), identity(run, own), rate_on_device=graphs)
    state.resume(folder / "last.ckpt")
    yield from state.records
    results.write_json({**run.config(), "name": run.name, "config_hash": run.config_hash()}, folder / "config.json")

    measured_at = band_steps(run)
    if state.step == 0 and measured_at:
        state.bands += validation_bands(state.raw, run.test_sets, run.scales, 0)
    state.raw.train()
    meter = Meter(fabric.device, state.step, state.records[-1]["seconds"] if state.records else 0.0)
    meter.go_on(state.meter)
    saved_at = time.monotonic()
    mine = range(fabric.global_rank, run.micro_batches, fabric.world_size)
    with closing(make_feed(patches, mine, fabric.device)) as feed:
        optimise = _optimiser_step(run, fabric, state, meter, feed, graphs)
        for step in range(state.step, run.steps):
            rate = learning_rate(run, step)
            state.set_learning_rate(rate)
            meter.step.fill_(step + 1)
            torch.manual_seed(_step_seed(run.seed, step, fabric.global_rank))  # for stochastic depth
            with meter.waiting():
                sent = feed.send(step)
            optimise(sent)
            state.step = step + 1

            if state.step in measured_at:
                check_finite(run, state, meter)  # which waits for the device, whose time is training time
                with meter.paused():
                    state.bands += validation_bands(state.raw, run.test_sets, run.scales, state.step)
            late = time.monotonic() - saved_at > CHECKPOINT_S
            if not any(_due(run, state.step, n) for n in (run.record_every, run.checkpoint_every, run.validate_every)):
                if late and fabric.world_size == 1:  # what other processes have measured since a record is not here
                    check_finite(run, state, meter)
                    with meter.paused():
                        state.save(folder / "last.ckpt", meter.so_far())
                    saved_at = time.monotonic()
                continue

            check_finite(run, state, meter)  # nothing is stored from broken weights
            record = _record(run, fabric, state, meter, rate)
            state.records.append(record)
            if fabric.is_global_zero and (late or _due(run, state.step, run.checkpoint_every)):
                state.save(folder / "last.ckpt")
                saved_at = time.monotonic()
            yield record
            meter.restart(state.step)  # validation, checkpoints and plots are not training time

    if fabric.is_global_zero:
        _finish(run, fabric, folder, state, graphs)


def _optimiser_step(
    run: Run, fabric, state: State, meter: Meter, feed: HostFeed | DeviceFeed, graphs: bool
) -> Callable[[Sent], None]:
    """The function that makes one optimiser step of what the feed has sent."""
    on_cpu = fabric.device.type == "cpu"
    one_bf16_device = run.precision == "bf16-mixed" and fabric.world_size == 1  # DDP watches the weights themselves
    halves = HalfWeights(state.raw.encoder) if one_bf16_device else None

    def optimise(sent: Sent) -> None:
        # Recorded in a CUDA graph: what changes from step to step is read from tensors, nothing waits for the device.
        batch = feed.make(sent)
        with halves.in_use() if halves else nullcontext():
            with fabric.autocast():  # on one device Fabric enters it for `forward` only, whatever is marked
                images = state.model.by_scale(batch.lr, batch.scales)
            pixel, frequency = _losses(images, batch, run.frequency_weight)
            loss = pixel + run.frequency_weight * frequency if run.frequency_weight else pixel
            meter.watch(loss.detach())
            if on_cpu:  # on a CPU the backward pass of grid_sample crashes at NaN
                check_loss(run, meter)
            fabric.backward(loss)
        if run.clip_norm or run.precision == "16-mixed":  # whose gradients Fabric unscales here
            norm = fabric.clip_gradients(
                state.model, state.optimizer, max_norm=run.clip_norm or math.inf, error_if_nonfinite=False
            )
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in state.raw.parameters() if p.grad is not None])
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if run.ema:
            average(state.ema, state.raw, run.ema)
        meter.add(pixel.detach(), frequency.detach(), norm)

    if graphs:
        from igconv.training.graphs import StepGraphs

        return StepGraphs(optimise)
    return optimise


def _record(run: Run, fabric, state: State, meter: Meter, rate: float) -> dict:
    """One row of record.csv, with the columns and units that `train` lists."""
    measured = meter.read(state.step, run.batch, lambda sums: fabric.all_reduce(sums, reduce_op="mean"))
    validated = run.validate_every and _due(run, state.step, run.validate_every)
    return {
        "step": state.step,
        "loss": measured["l1"] + run.frequency_weight * measured["frequency_l1"],
        "l1": measured["l1"],
        "frequency_l1": measured["frequency_l1"],
        "gradient_norm": measured["gradient_norm"],
        "learning_rate": rate,
        "images_per_s": measured["images_per_s"],
        "data_wait_share": measured["data_wait_share"],
        "seconds": measured["seconds"],
        "peak_memory_mb": measured["peak_memory_mb"],
        "psnr_y_db": validation_psnr(state.result, run.test_sets, run.scales) if validated else math.nan,
    }


def check_loss(run: Run, meter: Meter) -> None:
    """Raise TrainingError if a loss was not finite. Waits for the device."""
    if meter.broken_at < math.inf:
        raise TrainingError(_broken(run, "loss is", int(meter.broken_at)))


def check_finite(run: Run, state: State, meter: Meter) -> None:
    """Raise TrainingError if a loss was not finite, or weights are not: a gradient can overflow under a finite loss."""
    check_loss(run, meter)
    if not state.is_finite():
        raise TrainingError(_broken(run, "weights are", state.step))


def _broken(run: Run, what: str, step: int) -> str:
    return (
        f"{run.name}: the {what} not finite at step {step}; the last checkpoint is kept, "
        f"lower the learning rate ({run.learning_rate:g}) or change the seed"
    )


def _due(run: Run, step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: only at the end) happens after this one."""
    return step == run.steps or (every > 0 and step % every == 0)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random numbers inside the model, independent for every step and process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def band_steps(run: Run) -> set[int]:
    """Steps at whose end the error per frequency band is measured: every validation, and because most is learned
    before the first, also 0 (before training) and the powers of two up to it. Empty for a run without validation.

    It is that of the raw weights: the moving average forgets the start only after 1 / (1 - ema) steps, all bands alike.
    """
    if not run.validate_every:
        return set()
    first = min(run.validate_every, run.steps)
    early = {2**k for k in range(first.bit_length()) if 2**k < first}
    return {0, run.steps} | early | set(range(run.validate_every, run.steps, run.validate_every))


def _losses(images: dict[int, Tensor], batch: Batch, frequency_weight: float) -> tuple[Tensor, Tensor]:
    """Mean L1 and mean frequency L1 (0 when it has no weight) over the micro-batches.

    A GPU takes those of a scale at once. A CPU would gain nothing, and sums them one by one, as it always has.
    """
    values: list[list[Tensor]] = []
    for (scale, sr), hr in zip(images.items(), batch.hr, strict=True):
        count = batch.scales.count(scale)
        if hypernetwork.fills_with_everything(sr):
            values += count * [losses.both(sr, hr, frequency_weight > 0)]
        else:
            pairs = zip(sr.chunk(count), hr.chunk(count), strict=True)
            values += [losses.both(*pair, frequency_weight > 0) for pair in pairs]
    means = [torch.stack(kind).mean() for kind in zip(*values, strict=True)]
    return means[0], means[1] if frequency_weight else means[0].new_zeros(())


def _finish(run: Run, fabric, folder: Path, state: State, graphs: bool) -> None:
    """Write the files of a finished run."""
    last = state.records[-1]
    facts = dict(
        run=run.name,
        **state.identity,
        seed=run.seed,
        device=results.device_name(fabric.device),
        world_size=fabric.world_size,
        threads=torch.get_num_threads(),
        precision=run.precision,
        graphs=graphs,
        **arithmetic.facts(run.precision),
        training_seconds=round(last["seconds"], 1),
        images_seen=run.steps * run.batch,
        peak_memory_mb=last["peak_memory_mb"],
    )
    write(folder / "record.csv", pd.DataFrame(state.records).to_csv(index=False))
    write(folder / "bands.csv", pd.DataFrame(state.bands, columns=list(bands.COLUMNS)).to_csv(index=False))
    results.write_json(results.provenance(**facts), folder / "provenance.json")
    # The weights come last: their presence says that the run is finished. The last checkpoint stays, because
    # Snakemake deletes the outputs of a job that was killed after this line and calls it again.
    checkpoints.save(
        state.result,
        results.model_file(run.profile, run.name),
        rebuildable=state.result.config is not None,
        run=run.name,
        **state.identity,
    )
