"""Multi-scale training: one loop, made to be read from top to bottom.

An optimiser step averages the gradients of ``micro_batches`` micro-batches, each with a scale of its own (the
authors get four of them from four GPUs). The LR patch has the same size at every scale, so the encoder runs once
on all of them and only upsampler and loss go per scale. Patches and learning rate are pure functions of the step:
to resume is to run the same command again.
"""

import copy
import io
import math
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pandas as pd
import torch
from torch import Tensor, nn
from torch.distributed import is_torchelastic_launched

from igconv.data import cache, datasets
from igconv.data.patches import PatchSource
from igconv.errors import InputError, reason
from igconv.evaluation import bands
from igconv.evaluation.validation import validation_bands, validation_psnr
from igconv.files import exclusive, write
from igconv.models import checkpoints, state_files
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.study import results
from igconv.study.runs import Run, get_run, learning_rate, runs_of
from igconv.training.feed import Batch, make_feed
from igconv.training.leases import leased_gpu
from igconv.training.losses import frequency_l1, l1

CHECKPOINT_FORMAT = 3  # of last.ckpt; to be raised when its content changes


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is kept."""


def train(
    run: Run,
    accelerator: str = "auto",
    devices: int = 1,
    wait: bool = False,
    nodes: int = 1,
    graphs: bool = False,
    model: SuperResolver | None = None,
) -> Iterator[dict]:
    """Train a run and yield its records; the files of the run are complete when the iterator ends.

    A finished run yields its stored records and trains nothing; an interrupted one continues from its last
    checkpoint after yielding what is known. Files, below ``results/<profile>/runs/<run>/``: config.json,
    last.ckpt, record.csv, bands.csv, provenance.json, model.safetensors (the EMA weights if there are).

    Args:
        devices, nodes: processes per node and nodes; their product divides ``run.micro_batches``.
        wait: when another process trains this run, wait for it instead of raising.
        graphs: launch each step as one CUDA graph (`igconv.training.graphs`); one GPU, no fp16.
        model: trained instead of the one the run describes, for an encoder of yours; ``run.encoder`` is then only its
            name. It stays as it is; ``igconv.load(<model.safetensors>, model)`` gives it the trained weights.

    Yields:
        Every ``record_every`` steps: step, loss, l1, frequency_l1 and gradient_norm (means since the last record;
        frequency_l1 before its weight, the norm before clipping), learning_rate, images_per_s, data_wait_share (of
        the time), seconds (training time so far), peak_memory_mb (of the GPU, or of the process), psnr_y_db (of the
        EMA weights on small crops of the test images, mean over scales; only for looking, nothing is chosen by it).

    Raises:
        InputError: unusable data, settings or checkpoint, or another process is training this run.
        TrainingError: the loss is not finite, or the memory is too small.
    """
    try:  # imported here, because it takes seconds
        from lightning_fabric import Fabric
    except ImportError:  # the same engine inside the larger package
        from lightning.fabric import Fabric

    if run.threads:
        torch.set_num_threads(run.threads)
    with ExitStack() as lease:
        chosen: int | list[int] = devices
        gpus = torch.cuda.device_count() if accelerator != "cpu" else 0
        if gpus > 1 and devices == nodes == 1 and not is_torchelastic_launched():
            chosen = [lease.enter_context(leased_gpu(gpus))]
        fabric = Fabric(accelerator=accelerator, devices=chosen, num_nodes=nodes, precision=run.precision)
        fabric.launch()
        yield from _checked(run, fabric, wait, graphs, model)


def _checked(run: Run, fabric, wait: bool, graphs: bool, model: SuperResolver | None) -> Iterator[dict]:
    if run.micro_batches % fabric.world_size:
        raise InputError(f"{fabric.world_size} devices cannot share {run.micro_batches} micro-batches evenly")
    if graphs and (fabric.device.type != "cuda" or fabric.world_size > 1 or run.precision == "16-mixed"):
        raise InputError("graphs need one CUDA device and a precision other than 16-mixed")
    folder = results.run_folder(run.profile, run.name)
    with exclusive(folder / f".lock{fabric.global_rank}", wait=wait, who=f"run {run.name}"):
        try:
            yield from _train(run, fabric, folder, graphs, model)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{run.name}: out of memory ({reason(error, 120)}); the last checkpoint is kept, lower "
                f"micro_batch_size ({run.micro_batch_size}) or lr_patch ({run.lr_patch}), or use more devices"
            ) from None


def _train(run: Run, fabric, folder, graphs: bool, own: SuperResolver | None) -> Iterator[dict]:
    finished = results.model_file(run.profile, run.name)
    if finished.is_file() and checkpoints.metadata(finished).get("meta", {}).get("config_hash") == run.config_hash():
        yield from results.read_table(folder / "record.csv").to_dict("records")
        return
    patches = _patches(run)
    if patches.left_out() and fabric.is_global_zero:
        print(f"{run.name}: {patches.left_out()}", flush=True)

    device, on_cpu = fabric.device, fabric.device.type == "cpu"
    raw = starting_model(run, own)
    ema = copy.deepcopy(raw).eval().requires_grad_(False).to(device)
    adam = torch.optim.Adam(
        [p for p in raw.parameters() if p.requires_grad],
        # A tensor, because a recorded step reads the rate from the device.
        lr=torch.tensor(run.learning_rate, device=device) if graphs else run.learning_rate,
        betas=run.betas, fused=device.type in ("cpu", "cuda") or None, capturable=graphs,
    )  # fmt: skip
    model, optimizer = fabric.setup(raw, adam)
    model.mark_forward_method("multi_scale")
    first, records, spectrum = _resume(run, folder, raw, ema, optimizer, fabric)
    yield from records
    results.write_json({**run.config(), "name": run.name, "config_hash": run.config_hash()}, folder / "config.json")

    # Sums live on the device and are read only when a record is made: no synchronisation in between.
    sums = torch.zeros(3, device=device)  # L1, frequency L1, norm of the gradient
    now = torch.zeros((), device=device)
    broken_at = torch.full((), math.inf, device=device)

    def optimise(batch: Batch) -> None:
        """One optimiser step."""
        with fabric.autocast():  # on one device Fabric enters it for `forward` only, whatever is marked
            images = model.multi_scale(batch.lr, batch.scales)
        pixel, frequency = _losses(images, batch.hr, run.frequency_weight)
        loss = pixel + run.frequency_weight * frequency
        broken_at.copy_(torch.where(torch.isfinite(loss.detach()), broken_at, torch.minimum(broken_at, now)))
        if on_cpu and broken_at < math.inf:
            raise TrainingError(_broken(run, "loss is", int(broken_at)))
        fabric.backward(loss)
        norm = fabric.clip_gradients(model, optimizer, max_norm=run.clip_norm or math.inf, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.ema:
            _average(ema, raw, run.ema)
        sums.add_(torch.stack([pixel.detach(), frequency.detach(), norm]))

    if graphs:
        from igconv.training.graphs import StepGraphs

        optimise = StepGraphs(optimise)
    measured_at = band_steps(run)
    if first == 0 and measured_at:
        spectrum += validation_bands(raw, run.test_sets, run.scales, 0)
    raw.train()
    mine = range(fabric.global_rank, run.micro_batches, fabric.world_size)
    clock, trained_s, waited_s, since = time.perf_counter(), records[-1]["seconds"] if records else 0.0, 0.0, first
    with closing(make_feed(patches, mine, device)) as feed:
        for step in range(first, run.steps):
            done = step + 1
            for group in optimizer.param_groups:
                group["lr"] = group["lr"].fill_(learning_rate(run, step)) if graphs else learning_rate(run, step)
            now.fill_(done)
            torch.manual_seed(hash((run.seed, step, fabric.global_rank)) & 0xFFFFFFFF)  # for stochastic depth
            asked = time.perf_counter()
            batch = feed.batch(step)
            waited_s += time.perf_counter() - asked
            optimise(batch)
            if done in measured_at:
                if broken_at < math.inf:  # which also waits for the device, whose time is training time
                    raise TrainingError(_broken(run, "loss is", int(broken_at)))
                paused = time.perf_counter()
                spectrum += validation_bands(raw, run.test_sets, run.scales, done)
                clock += time.perf_counter() - paused
            events = (run.record_every, run.checkpoint_every, run.validate_every)
            if done < run.steps and not any(every and done % every == 0 for every in events):
                continue

            if broken_at < math.inf:
                raise TrainingError(_broken(run, "loss is", int(broken_at)))
            # A gradient can overflow under a finite loss; nothing is stored from broken weights.
            if not torch.isfinite(torch.stack(torch._foreach_norm(list(raw.parameters())))).all():
                raise TrainingError(_broken(run, "weights are", done))
            pixel, frequency, norm = (fabric.all_reduce(sums, reduce_op="mean") / (done - since)).tolist()
            seconds = time.perf_counter() - clock
            trained_s += seconds
            record = {
                "step": done,
                "loss": pixel + run.frequency_weight * frequency,
                "l1": pixel,
                "frequency_l1": frequency,
                "gradient_norm": norm,
                "learning_rate": learning_rate(run, step),
                "images_per_s": (done - since) * run.batch / seconds,
                "data_wait_share": waited_s / seconds,
                "seconds": trained_s,
                "peak_memory_mb": _peak_memory_mb(device),
                "psnr_y_db": math.nan,
            }
            since, waited_s = done, 0.0
            sums.zero_()
            if run.validate_every and (done % run.validate_every == 0 or done == run.steps):
                record["psnr_y_db"] = validation_psnr(ema if run.ema else raw, run.test_sets, run.scales)
            records.append(record)
            if fabric.is_global_zero and (done % run.checkpoint_every == 0 or done == run.steps):
                _checkpoint(run, folder, done, records, spectrum, raw, ema, optimizer, fabric)
            yield record
            clock = time.perf_counter()  # validation, checkpoints and plots are not training time

    if fabric.is_global_zero:
        _finish(run, fabric, folder, records, spectrum, ema if run.ema else raw)


def _patches(run: Run) -> PatchSource:
    for name in (*run.train_sets, *run.test_sets):
        datasets.image_set(name).paths()  # what is missing is said before the first step
    sets = [cache.decoded(name) for name in run.train_sets]
    pixels = {stem: digest for images in sets for stem, digest in zip(images.names, images.pixels_sha256, strict=True)}
    datasets.refuse_leaks(run.train_sets, pixels)
    images = [image for decoded in sets for image in decoded.images]
    return PatchSource(images, run.scales, run.lr_patch, run.micro_batch_size, run.seed, run.degradation)


def starting_model(run: Run, own: SuperResolver | None = None) -> SuperResolver:
    """The model before the first step, channels last: the seed's (or a copy of ``own``), with weights of
    ``run.start_from`` if there are."""
    torch.manual_seed(run.seed)
    model = copy.deepcopy(own) if own else build_model(run.encoder, run.upsampler, **run.model_options())
    if run.start_from and run.start_from in runs_of(run.profile):
        earlier = get_run(run.profile, run.start_from)
        path = results.model_file(run.profile, run.start_from)
        if not path.is_file():
            raise InputError(f"{run.name} starts from {earlier.name}, which is not trained yet")
        source, target = checkpoints.load(path), model
    elif run.start_from:
        from igconv.models import published

        source, target = published.load(run.start_from).encoder, model.encoder
    if run.start_from:
        try:
            target.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise InputError(f"{run.name} cannot start from {run.start_from}: {reason(error)}") from None
    if run.freeze_encoder:
        model.encoder.requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


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


def _broken(run: Run, what: str, step: int) -> str:
    return (f"{run.name}: the {what} not finite at step {step}; the last checkpoint is kept, "
            f"lower the learning rate ({run.learning_rate:g}) or change the seed")  # fmt: skip


def _losses(images: list[Tensor], hr: Sequence[Tensor], frequency_weight: float) -> tuple[Tensor, Tensor]:
    """Mean L1 and mean frequency L1 (0 when it has no weight) over the micro-batches."""
    pairs = list(zip(images, hr, strict=True))
    pixel = torch.stack([l1(sr, true) for sr, true in pairs]).mean()
    if not frequency_weight:
        return pixel, pixel.new_zeros(())
    return pixel, torch.stack([frequency_l1(sr, true) for sr, true in pairs]).mean()


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, all tensors in one call; it starts as a copy of the model."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def _peak_memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _checkpoint(run: Run, folder, step: int, records: list, spectrum: list, model, ema, optimizer, fabric) -> None:
    state = dict(format=CHECKPOINT_FORMAT, config_hash=run.config_hash(), step=step, steps=run.steps, records=records,
                 bands=spectrum, model=model.state_dict(), ema=ema.state_dict(), optimizer=optimizer.state_dict(),
                 precision=fabric.strategy.precision.state_dict())  # fmt: skip
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(folder / "last.ckpt", buffer.getvalue())


def _resume(run: Run, folder, model, ema, optimizer, fabric) -> tuple[int, list[dict], list[dict]]:
    """(first step, records and bands so far) after loading ``last.ckpt``, or (0, [], []) if there is none."""
    path = folder / "last.ckpt"
    if not path.is_file():
        return 0, [], []
    state = state_files.read_pickle(path)
    if state.get("config_hash") != run.config_hash():
        if state.get("step") is not None and state["step"] == state.get("steps"):
            return 0, [], []  # a finished training under other settings: nothing is lost by starting anew
        raise InputError(f"{path} belongs to other settings of {run.name}; move it away to start again")
    if state.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path} was written by another version of igconv; move it away to start again")
    # How Adam runs is this device's matter, not the checkpoint's.
    own = [{key: group[key] for key in ("lr", "fused", "capturable", "foreach")} for group in optimizer.param_groups]
    try:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        for group, options in zip(optimizer.param_groups, own, strict=True):
            group.update(options)
        return state["step"], state["records"], state["bands"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not fit {run.name}: {reason(error)}") from None


def _finish(run: Run, fabric, folder, records: list[dict], spectrum: list[dict], model: nn.Module) -> None:
    facts = dict(
        run=run.name, config_hash=run.config_hash(), data_hash=datasets.data_hash(run.train_sets), seed=run.seed,
        device=results.device_name(fabric.device), world_size=fabric.world_size, threads=torch.get_num_threads(),
        precision=run.precision, training_seconds=round(records[-1]["seconds"], 1),
        images_seen=run.steps * run.batch, peak_memory_mb=records[-1]["peak_memory_mb"],
    )  # fmt: skip
    write(folder / "record.csv", pd.DataFrame(records).to_csv(index=False))
    write(folder / "bands.csv", pd.DataFrame(spectrum, columns=list(bands.COLUMNS)).to_csv(index=False))
    results.write_json(results.provenance(**facts), folder / "provenance.json")
    # The weights come last: their presence says that the run is finished. The last checkpoint stays, because
    # Snakemake deletes the outputs of a job that was killed after this line and calls it again.
    checkpoints.save(model, results.model_file(run.profile, run.name), rebuildable=model.config is not None,
                     run=run.name, config_hash=run.config_hash())  # fmt: skip
