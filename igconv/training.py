"""Multi-scale training: one loop, made to be read from top to bottom.

An optimiser step averages the gradients of ``micro_batches`` micro-batches, each with a scale of its own (the
authors get four of them from four GPUs). The LR patch has the same size at every scale, so the encoder runs once
on all of them and only upsampler and loss go per scale. Patches and learning rate are pure functions of the step:
to resume is to run the same command again.
"""

import copy
import io
import math
import time
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from igconv import checkpoints, datasets, results
from igconv.errors import InputError
from igconv.evaluation import validation_psnr
from igconv.files import exclusive, write
from igconv.losses import frequency_l1, l1
from igconv.model import build_model
from igconv.patches import PatchSource
from igconv.study import Run, learning_rate


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is kept."""


def train(run: Run, accelerator: str = "auto", devices: int = 1, wait: bool = False) -> Iterator[dict]:
    """Train a run and yield its records; the files of the run are complete when the iterator ends.

    A finished run yields its stored records and trains nothing; an interrupted one continues from its last
    checkpoint after yielding what is known. Files, below ``results/<profile>/runs/<run>/``: config.json,
    last.ckpt, record.csv, provenance.json, model.safetensors (the EMA weights if there are).

    Yields:
        Every ``record_every`` steps: step, loss, l1, frequency_l1 (means since the last record; the last one before
        its weight), learning_rate, images_per_s, seconds (training time so far), psnr_y_db (of the EMA weights on
        small crops of the test images, mean over scales; only for looking, nothing is chosen by it).

    Raises:
        InputError: unusable data, settings or checkpoint, or another process is training this run (with ``wait``
            the call waits for it instead, and then finds the run finished or resumes it).
        TrainingError: the loss is not finite.
    """
    try:  # imported here, because it takes seconds
        from lightning_fabric import Fabric
    except ImportError:  # the same engine inside the larger package
        from lightning.fabric import Fabric

    if run.threads:
        torch.set_num_threads(run.threads)
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=run.precision)
    fabric.launch()
    if run.micro_batches % fabric.world_size:
        raise InputError(f"{fabric.world_size} devices cannot share {run.micro_batches} micro-batches evenly")
    folder = results.run_folder(run.profile, run.name)
    with exclusive(folder / f".lock{fabric.global_rank}", wait=wait, who=f"run {run.name}"):
        yield from _train(run, fabric, folder)


def _train(run: Run, fabric, folder) -> Iterator[dict]:
    finished = folder / "model.safetensors"
    if finished.is_file() and checkpoints.metadata(finished).get("meta", {}).get("config_hash") == run.config_hash():
        yield from results.read_table(folder / "record.csv").to_dict("records")
        return
    for name in (*run.train_sets, *run.test_sets):
        datasets.image_set(name).paths()  # what is missing is said before the first step

    torch.manual_seed(run.seed)
    # Channels-last is the layout that convolutions of both kinds of hardware like best.
    raw = build_model(run.encoder, run.upsampler, **run.model_options()).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(raw).eval().requires_grad_(False).to(fabric.device)
    adam = torch.optim.Adam(raw.parameters(), lr=run.learning_rate, betas=run.betas,
                            fused=fabric.device.type == "cuda" or None)  # fmt: skip
    model, optimizer = fabric.setup(raw, adam)
    model.mark_forward_method("multi_scale")
    raw.train()

    images = [image for name in run.train_sets for image in datasets.read_set(name)]
    patches = PatchSource(images, run.scales, run.lr_patch, run.micro_batch_size, run.seed, run.degradation)
    mine = range(fabric.global_rank, run.micro_batches, fabric.world_size)
    if patches.left_out() and fabric.is_global_zero:
        print(f"{run.name}: {patches.left_out()}", flush=True)

    first, records = _resume(run, folder, raw, ema, optimizer, fabric.device)
    yield from records
    results.write_json({**run.config(), "name": run.name, "config_hash": run.config_hash()}, folder / "config.json")

    # Sums live on the device and are read only when a record is made: no synchronisation in between.
    sums = torch.zeros(2, device=fabric.device)
    broken_at = torch.full((), -1, device=fabric.device)
    clock, trained_s, since = time.perf_counter(), records[-1]["seconds"] if records else 0.0, first
    for step in range(first, run.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)
        batches = [patches.micro_batch(step, index) for index in mine]
        lr = torch.cat([b.lr for b in batches]).to(fabric.device, memory_format=torch.channels_last)
        pixel, frequency = _losses(model, lr, batches, run.frequency_weight)
        loss = pixel + run.frequency_weight * frequency
        sums += torch.stack([pixel.detach(), frequency.detach()])
        broken_at = torch.where((broken_at < 0) & ~torch.isfinite(loss.detach()), step, broken_at)
        done = step + 1
        events = (run.record_every, run.checkpoint_every, run.validate_every)
        recorded = done == run.steps or any(every and done % every == 0 for every in events)
        if (recorded or fabric.device.type == "cpu") and broken_at.item() >= 0:
            raise TrainingError(_broken(run, "loss is", broken_at.item() + 1))
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.ema:
            _average(ema, raw, run.ema)
        if not recorded:
            continue

        # A gradient can overflow under a finite loss; nothing is stored from broken weights.
        if not torch.isfinite(torch.stack(torch._foreach_norm(list(raw.parameters())))).all():
            raise TrainingError(_broken(run, "weights are", done))
        pixel_mean, frequency_mean = (sums / (done - since)).tolist()
        seconds = time.perf_counter() - clock
        clock, trained_s = time.perf_counter(), trained_s + seconds
        record = {
            "step": done,
            "loss": pixel_mean + run.frequency_weight * frequency_mean,
            "l1": pixel_mean,
            "frequency_l1": frequency_mean,
            "learning_rate": learning_rate(run, step),
            "images_per_s": (done - since) * run.batch / seconds,
            "seconds": trained_s,
            "psnr_y_db": math.nan,
        }
        since = done
        sums.zero_()
        if run.validate_every and (done % run.validate_every == 0 or done == run.steps):
            record["psnr_y_db"] = validation_psnr(ema if run.ema else raw, run.test_sets, run.scales)
        records.append(record)
        if fabric.is_global_zero and (done % run.checkpoint_every == 0 or done == run.steps):
            _checkpoint(run, folder, done, records, raw, ema, optimizer)
        yield record
        clock = time.perf_counter()  # validation, checkpoints and plots are not training time

    if fabric.is_global_zero:
        _finish(run, fabric, folder, records, ema if run.ema else raw)


def _broken(run: Run, what: str, step: int) -> str:
    return (f"{run.name}: the {what} not finite at step {step}; the last checkpoint is kept, "
            f"lower the learning rate ({run.learning_rate:g}) or change the seed")  # fmt: skip


def _losses(model, lr: Tensor, batches, frequency_weight: float) -> tuple[Tensor, Tensor]:
    """Mean L1 and mean frequency L1 (0 when it has no weight) over the micro-batches."""
    images = model.multi_scale(lr, [b.scale for b in batches])
    pairs = [(sr, b.hr.to(lr.device)) for sr, b in zip(images, batches, strict=True)]
    pixel = torch.stack([l1(sr, hr) for sr, hr in pairs]).mean()
    if not frequency_weight:
        return pixel, pixel.new_zeros(())
    return pixel, torch.stack([frequency_l1(sr, hr) for sr, hr in pairs]).mean()


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, all tensors in one call; it starts as a copy of the model."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def _checkpoint(run: Run, folder, step: int, records: list[dict], model, ema, optimizer) -> None:
    state = dict(config_hash=run.config_hash(), step=step, steps=run.steps, records=records, model=model.state_dict(),
                 ema=ema.state_dict(), optimizer=optimizer.state_dict())  # fmt: skip
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(folder / "last.ckpt", buffer.getvalue())


def _resume(run: Run, folder, model, ema, optimizer, device) -> tuple[int, list[dict]]:
    """(first step, records so far) after loading ``last.ckpt``, or (0, []) if there is none."""
    path = folder / "last.ckpt"
    if not path.is_file():
        return 0, []
    state = checkpoints.read_pickle(path)
    if state.get("config_hash") != run.config_hash():
        if state.get("step") is not None and state["step"] == state.get("steps"):
            return 0, []  # a finished training under other settings: nothing is lost by starting anew
        raise InputError(f"{path} belongs to other settings of {run.name}; move it away to start again")
    try:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        return state["step"], state["records"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not fit {run.name}: {' '.join(str(error).split())[:200]}") from None


def _finish(run: Run, fabric, folder, records: list[dict], model) -> None:
    facts = dict(
        run=run.name, config_hash=run.config_hash(), data_hash=datasets.data_hash(run.train_sets), seed=run.seed,
        device=results.device_name(fabric.device), world_size=fabric.world_size, threads=torch.get_num_threads(),
        precision=run.precision, training_seconds=round(records[-1]["seconds"], 1),
        images_seen=run.steps * run.batch,
    )  # fmt: skip
    if fabric.device.type == "cuda":
        facts["peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    write(folder / "record.csv", pd.DataFrame(records).to_csv(index=False))
    results.write_json(results.provenance(**facts), folder / "provenance.json")
    # The weights come last: their presence says that the run is finished. The last checkpoint stays, because
    # Snakemake deletes the outputs of a job that was killed after this line and calls it again.
    checkpoints.save(model, folder / "model.safetensors", run=run.name, config_hash=run.config_hash())
