"""What several fixed-scale models cost against one multi-scale model: training and storage.

Training is what finished runs recorded. Storage needs no training: it follows from the architecture, and is counted
for every encoder with the fixed-scale upsampler that the paper compares it with.
"""

import json
from collections.abc import Sequence

import pandas as pd

from igconv import files
from igconv.errors import InputError, choose
from igconv.models.encoders import ENCODERS
from igconv.models.super_resolver import build_model
from igconv.study import results
from igconv.study.labels import BASELINE_OF, NAMES, PAPER_ENCODERS
from igconv.study.run import Run
from igconv.study.runs import runs_of

RUN_COSTS = ("run", "state", "steps", "batch", "lr_patch", "seconds", "steps_per_s", "peak_memory_mb",
             "validation_psnr_y_db", "device", "processes", "threads", "precision", "torch", "git_commit",
             "weights_sha256")  # fmt: skip
STORED = ("encoder", "paper_encoder", "baseline", "model", "scales", "fixed_models", "fixed_parameters",
          "multi_parameters", "ratio")  # fmt: skip


def run_costs(runs: Sequence[Run]) -> pd.DataFrame:
    """`RUN_COSTS`, a row for every run of a table, also for those that were not made, whose ``state`` is "not run".

    Read from record.csv and provenance.json, so weights need not be here. ``seconds`` is training time without
    validation and checkpoints, of the device for a single process; ``weights_sha256`` is of model.safetensors.
    """
    rows = []
    for run in runs:
        row = dict(run=run.name, state="not run", steps=run.steps, batch=run.batch, lr_patch=run.lr_patch)
        folder = results.run_folder(run.profile, run.name)
        if (folder / "record.csv").is_file() and (folder / "provenance.json").is_file():
            record, facts = pd.read_csv(folder / "record.csv"), json.loads((folder / "provenance.json").read_text())
            seconds = float(record.seconds.iloc[-1])
            row |= dict(
                state="trained",
                seconds=seconds,
                steps_per_s=int(record.step.iloc[-1]) / seconds,
                peak_memory_mb=record.peak_memory_mb.iloc[-1],
                validation_psnr_y_db=record.psnr_y_db.iloc[-1],
                device=facts["device"],
                processes=facts.get("world_size"),
                threads=facts.get("threads"),
                precision=facts.get("precision"),
                torch=facts.get("versions", {}).get("torch"),
                git_commit=facts.get("git_commit"),
                weights_sha256=_weights_sha256(run),
            )
        rows.append(row)
    return pd.DataFrame(rows, columns=list(RUN_COSTS))


def _weights_sha256(run: Run) -> str:
    """Of the weights where they are here, else that its evaluation noted."""
    weights = results.model_file(run.profile, run.name)
    if weights.is_file():
        return files.sha256(weights)
    rows = results.rows_file(run.profile, run.name)
    return results.read_table(rows).weights_sha256.iloc[0] if rows.is_file() else ""


def training_records(runs: Sequence[Run]) -> pd.DataFrame:
    """record.csv of every finished run below each other, with run, upsampler, variant and train_scales ("2-3-4").
    Runs that were not made are left out."""
    tables = [
        results.read_table(file).assign(
            run=run.name,
            upsampler=run.upsampler,
            variant=run.variant,
            train_scales=run.train_scales,
        )
        for run in runs
        if (file := results.run_folder(run.profile, run.name) / "record.csv").is_file()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", "upsampler", "variant"])


def training_budget(runs: Sequence[Run]) -> pd.DataFrame:
    """What each finished run took: run, encoder, upsampler, variant, scales, seed, steps, images, training_seconds,
    stored_parameters, device. Runs that were not made are left out."""
    costs = run_costs(runs).set_index("run")
    rows = []
    for run in runs:
        if costs.state[run.name] == "trained":
            steps = int(costs.steps[run.name])
            rows.append(
                dict(
                    run=run.name,
                    encoder=run.encoder,
                    upsampler=run.upsampler,
                    variant=run.variant,
                    scales=run.train_scales,
                    seed=run.seed,
                    steps=steps,
                    images=steps * run.batch,
                    training_seconds=costs.seconds[run.name],
                    stored_parameters=_count(build_model(run.encoder, run.upsampler, **run.model_options())),
                    device=costs.device[run.name],
                )
            )
    return pd.DataFrame(
        rows,
        columns=[
            "run",
            "encoder",
            "upsampler",
            "variant",
            "scales",
            "seed",
            "steps",
            "images",
            "training_seconds",
            "stored_parameters",
            "device",
        ],
    )


def budget_summary(budget: pd.DataFrame) -> pd.DataFrame:
    """Three fixed-scale models against one multi-scale model, rows of `training_budget` (of one variant each).

    Sums over the fixed-scale runs of an encoder, upsampler, variant and seed that together cover all scales of the
    multi-scale runs, which stay as they are. Columns: encoder, upsampler, variant, seed, models, scales, steps,
    images, training_seconds, stored_parameters, device.
    """
    several = budget.scales.astype(str).str.contains("-")
    multi = budget[several]
    wanted = set("-".join(multi.scales).split("-")) if len(multi) else set()
    rows = []
    for key, group in budget[~several].groupby(["encoder", "upsampler", "variant", "seed"], dropna=False):
        if wanted and wanted <= set(group.scales.astype(str)):
            group = group[group.scales.astype(str).isin(wanted)]
            sums = group[["steps", "images", "training_seconds", "stored_parameters"]].sum().to_dict()
            rows.append(
                dict(
                    zip(("encoder", "upsampler", "variant", "seed"), key, strict=True),
                    models=len(group),
                    scales="-".join(sorted(wanted, key=int)),
                    **sums,
                    device=" / ".join(group.device.unique()),
                )
            )
    table = pd.concat([pd.DataFrame(rows), multi.drop(columns="run").assign(models=1)], ignore_index=True)
    table = table.reindex(
        columns=[
            "encoder",
            "upsampler",
            "variant",
            "seed",
            "models",
            "scales",
            "steps",
            "images",
            "training_seconds",
            "stored_parameters",
            "device",
        ]
    )
    # Sums of a row of mixed types come as floats; counts are counts.
    return table.astype({"steps": int, "images": int, "stored_parameters": int})


def fixed_baseline(encoder: str) -> Run | None:
    """The fixed-scale run of the paper profile that an encoder's multi-scale models are compared with, if any."""
    fixed = [run for run in runs_of("paper").values() if run.is_fixed_scale and run.is_main]
    return next((run for run in fixed if BASELINE_OF.get(run.encoder, run.encoder) == encoder), None)


def stored_parameters(encoder: str, scales: Sequence[int] = (2, 3, 4)) -> pd.DataFrame:
    """Parameters of one fixed-scale model per scale against one IGConv or IGConv+ model in the form that is trained.

    The fixed-scale upsampler (and encoder, where it is another one) is that of the paper profile; where the paper has
    no fixed-scale row it is SPConv, the smallest. Counts parameters, no buffers; instantiated copies are not counted.

    Args:
        encoder: a name in `igconv.models.encoders.ENCODERS`.

    Returns:
        `STORED`, a row for IGConv and one for IGConv+; ``paper_encoder`` is empty where the paper has no row, and
        ``ratio`` is multi over fixed.

    Raises:
        InputError: an unknown encoder, or one whose optional package is missing.
    """
    choose(encoder, ENCODERS, "encoder")
    run = fixed_baseline(encoder)
    baseline, options = (run.upsampler, run.model_options() | dict(scales=scales)) if run else ("spconv", {})
    # Heads for all scales in one model: each further fixed-scale model has its own copy of all but the head.
    together = build_model(run.encoder if run else encoder, baseline, **{"scales": scales, **options})
    heads = _count(together.upsampler)
    fixed = heads + len(scales) * (_count(together) - heads)
    module = together.encoder if together.config["encoder"] == encoder else encoder
    rows = []
    for name in ("igconv", "igconv+"):
        multi = _count(build_model(module, name, scales=scales))
        rows.append(
            (
                encoder,
                PAPER_ENCODERS.get(encoder, ""),
                NAMES[baseline],
                NAMES[name],
                "-".join(map(str, scales)),
                len(scales),
                fixed,
                multi,
                multi / fixed,
            )
        )
    return pd.DataFrame(rows, columns=list(STORED))


def _count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def training_in_words(run: Run) -> str:
    """How a finished training went, in one sentence. Raises InputError for a run that was not made."""
    (costs,) = run_costs([run]).itertuples()
    if costs.state != "trained":
        raise InputError(f"run {run.name} of profile {run.profile} is not trained yet")
    last = training_records([run]).iloc[-1]
    scales = ", ".join(f"×{scale}" for scale in run.scales)
    return (
        f"{run.name}: {run.steps} steps of {run.batch} patches in {costs.seconds:.0f} s on {costs.device}; loss "
        f"{last.loss:.4f}, {last.psnr_y_db:.2f} dB on the validation crops (mean over {scales})"
    )
