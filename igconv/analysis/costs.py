"""Which upsamplers and models are measured, and what that says: the study of efficiency.

`igconv.analysis.efficiency` measures, `igconv.analysis.budget` has what training and storage took; here they are
applied to the runs of a profile and to every encoder, and the tables are put into words.
"""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from igconv.analysis import budget, efficiency
from igconv.errors import InputError
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.models.upsamplers import IGConv
from igconv.progress import follow_items
from igconv.study.labels import run_label
from igconv.study.run import Run

SCALE = 2  # at which whole models are measured
FEW_ENCODERS = ("edsr_tiny", "edsr_baseline", "edsr", "smfanet", "smfanet_plus")


def parts(height: int, width: int, divisors: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) of an LR image divided by each number."""
    return [(height // divisor, width // divisor) for divisor in divisors]


def swept_upsamplers(
    sizes: Sequence[tuple[int, int]], scales: Sequence[int], device="cpu", seconds: float = 0.5
) -> pd.DataFrame:
    """`igconv.analysis.efficiency.upsampler_costs` at x2 over LR sizes, and over scales at the first of them."""
    points = efficiency.sweep_points(sizes, scales, sizes[0])
    tables = [
        efficiency.upsampler_costs(height, width, scale=scale, device=device, seconds=seconds)
        for height, width, scale in follow_items(points, len(points), "sizes and scales")
    ]
    return pd.concat(tables, ignore_index=True)


def models_of(runs: Iterable[Run]) -> dict[str, tuple[SuperResolver, int]]:
    """Label -> (untrained model of a run, `SCALE`); costs do not depend on the weights."""
    return {
        run_label(run.upsampler, run.variant): (build_model(run.encoder, run.upsampler, **run.model_options()), SCALE)
        for run in runs
    }


def swept_models(
    models: dict[str, tuple], sizes: Sequence[tuple[int, int]], device="cpu", seconds: float = 0.5
) -> pd.DataFrame:
    """`igconv.analysis.efficiency.model_costs` over LR sizes."""
    tables = [
        efficiency.model_costs(models, height, width, device, seconds)
        for height, width in follow_items(sizes, len(sizes), "sizes")
    ]
    return pd.concat(tables, ignore_index=True)


def of_encoders(names: Sequence[str], measure: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """What ``measure`` gives for each encoder, in one table; an encoder whose optional package is missing is named."""
    tables = []
    for name in names:
        try:
            tables.append(measure(name))
        except InputError as error:
            print(f"not run: {name}: {error}")
    return pd.concat(tables, ignore_index=True)


def generation_times(
    models: dict[str, tuple], scales: Sequence[int], device="cpu", seconds: float = 0.5
) -> pd.DataFrame:
    """`igconv.analysis.efficiency.generation_time` with a column ``model``: of an IGConv of the paper's size up to x8,
    and of the study's IGConv, if ``models`` has one, at ``scales``."""
    sizes = {"paper's size, 64 channels": (IGConv(64), [scale for scale in scales if scale <= 8])}
    if "IGConv" in models:
        sizes["study's model"] = (models["IGConv"][0].upsampler, scales)
    tables = [
        efficiency.generation_time(upsampler, its_scales, device, seconds).assign(model=name)
        for name, (upsampler, its_scales) in sizes.items()
    ]
    return pd.concat(tables, ignore_index=True)


def first_call_conclusion(sweep: pd.DataFrame) -> str:
    """What making the kernels costs at the first call, a line per upsampler, size and scale of `swept_upsamplers`."""
    key = ["upsampler", "lr_height_px", "lr_width_px", "scale"]
    latency = sweep.set_index(["form", *key]).latency_ms
    later = latency["instantiated"]
    return "\n".join(
        f"{name} x{scale}, LR {width}x{height}: first call {ms:.1f} ms, instantiated "
        f"{later[name, height, width, scale]:.1f} ms."
        for (name, height, width, scale), ms in latency[efficiency.FIRST_CALL].items()
    )


def upsampler_conclusion(ours: pd.DataFrame, paper: pd.DataFrame) -> str:
    """The upsamplers alone against SPConv, ours and the paper's, a line each.

    Args:
        ours: the final form of each upsampler, indexed by its name (`igconv.reporting.tables.final_forms`).
        paper: upsampler, latency_ms, params_k, memory_mb.
    """
    paper = paper.set_index("upsampler")
    latency, memory = ours.latency_ms / ours.latency_ms["SPConv"], ours.peak_memory_mib / ours.peak_memory_mib["SPConv"]
    their_latency, their_memory = (paper[c] / paper[c]["SPConv"] for c in ("latency_ms", "memory_mb"))
    return "\n".join(
        f"{name} against SPConv: latency x{latency[name]:.1f} (paper x{their_latency[name]:.1f}), memory "
        f"x{memory[name]:.2f} (paper x{their_memory[name]:.2f}), {ours.parameters[name] / 1000:.0f} K parameters "
        f"(paper {paper.params_k[name]:.0f} K)."
        for name in ("IGConv", "SPConv+", "IGConv+")
    )


def encoder_conclusion(costs: pd.DataFrame) -> str:
    """What IGConv+ adds to whole models, a line per encoder of `igconv.analysis.efficiency.encoder_costs`."""
    lines = []
    for encoder, rows in costs.groupby("encoder", sort=False):
        flops, size = rows.set_index("upsampler").flops, rows.encoder_parameters.iloc[0]
        lines.append(
            f"{encoder}: {size / 1e6:.2f} M parameters in the encoder, {flops['SPConv'] / 1e9:.2f} GFLOPs with SPConv, "
            f"{flops['IGConv+'] / flops['SPConv'] - 1:+.1%} with IGConv+"
        )
    return "\n".join(lines)


def stored_conclusion(stored: pd.DataFrame) -> str:
    """What one multi-scale model saves in storage, a line per row of `igconv.analysis.budget.stored_parameters`."""
    return "\n".join(
        f"{row.encoder}: one {row.model} model stores {row.ratio:.3f} of the parameters of three {row.baseline} models."
        for row in stored.itertuples()
    )


def training_conclusion(summary: pd.DataFrame) -> str:
    """What one multi-scale model saves in training, a line per plain one of `igconv.analysis.budget.budget_summary`."""
    plain = summary[summary.variant == ""]
    fixed = plain[plain.upsampler == "spconv"]
    multi = plain[plain.upsampler.isin(["igconv", "igconv+"])]
    if fixed.empty or multi.empty:
        return "not run: training budget, which needs three fixed-scale SPConv models and a multi-scale one."
    base = fixed.iloc[0]
    return "\n".join(
        f"One {run_label(row.upsampler)} model took {row.training_seconds / base.training_seconds:.2f} of the training "
        f"time, {row.images / base.images:.2f} of the images and {row.stored_parameters / base.stored_parameters:.2f} "
        f"of the stored parameters of {base.models} SPConv models (the paper claims a third of budget and parameters)."
        for row in multi.itertuples()
    )


def with_storage(names: Sequence[str]) -> list[str]:
    """The encoders of which storage is compared: those that have multi-scale models."""
    return [name for name in names if name not in budget.BASELINE_OF]
