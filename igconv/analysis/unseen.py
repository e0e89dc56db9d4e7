"""Scales nobody trained on: what a multi-scale model gives at x5, x6, x8 and beyond.

IGConv's kernels come from a continuous function, so it accepts any integer scale. Whether that is worth anything is
measured against what a user can do without it: bicubic, and the model's x4 image enlarged by bicubic. The phase
input of the hyper-network is 2 / min(r, max_scale); with the clamp at 4 every larger scale has the phase of x4, which
training has seen, with the clamp at 8 those of x5 to x8 are new to it. `clamped` changes that without training.

LR images are made by MATLAB's bicubic at the scale itself, of HR cropped to a multiple of it, as in the evaluation.
An image takes part at a scale when the shorter side of its LR image has at least `MIN_LR_SIDE` pixels: encoders with
windows or pooling need 8 to 16, and below that most of the image is border. So larger scales have fewer images, the
same for all methods; compare methods at a scale, not scales with each other.

The paper claims arbitrary scales for no model of its tables; these estimators are ours.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from igconv.data import weights
from igconv.data.resize import imresize
from igconv.errors import InputError, positive_integer
from igconv.evaluation import statistics
from igconv.evaluation.benchmark import benchmark_pairs, bicubic
from igconv.evaluation.metrics import psnr_ssim_y
from igconv.models import published
from igconv.models.hypernetwork import HyperNetwork
from igconv.models.inference import Upscaler, prepare, upscale
from igconv.models.run_weights import load_run
from igconv.models.super_resolver import SuperResolver
from igconv.study.labels import run_label
from igconv.study.run import Run

BASE = 4  # the trained scale that bicubic starts from
SCALES = (4, 5, 6, 8, 12, 16)
CLAMPS = (4, 8)
MIN_LR_SIDE = 16
DIRECT, CHAINED = "direct", f"x{BASE}, then bicubic"
BASELINES = ("bicubic", CHAINED)
COLUMNS = ("run", "encoder", "upsampler", "variant", "seed", "method", "max_scale", "dataset", "image", "scale",
           "lr_side_px", "psnr_y_db", "ssim_y")  # fmt: skip
KIND = ["encoder", "upsampler", "variant", "method", "max_scale"]
NOT_RUN = (
    "multi-scale models: not run. Fixed-scale models have no kernels for other scales, so x4 then bicubic is all they "
    "give."
)


def clamped(model: SuperResolver, max_scale: int) -> SuperResolver:
    """A copy of a model whose hyper-networks (IGConv's, IGSample's) clamp the phase input at 2 / ``max_scale``.

    Kernels for scales up to the smaller of old and new clamp stay what they are. Raises InputError for a model
    without a hyper-network.
    """
    positive_integer(max_scale, "max_scale")
    copied = copy.deepcopy(model)
    networks = [module for module in copied.modules() if isinstance(module, HyperNetwork)]
    if not networks:
        raise InputError("the model has no hyper-network, so no phase to clamp")
    for network in networks:
        network.max_scale = max_scale
        network.train(network.training)  # forgets kernel banks made with the old clamp
    if copied.config is not None:
        copied.config = copied.config | dict(max_scale=max_scale)
    return copied


def then_bicubic(model: Upscaler, base: int = BASE) -> Upscaler:
    """(lr, scale) -> the model's image at ``base``, resized by MATLAB's bicubic to scale times the LR size.

    The factor scale / base need not be an integer (x5 is x4 times 1.25): side * base * factor is side * scale exactly,
    and both images cover the same area, so nothing has to be cropped or shifted. Bytes after each axis, as for the
    bicubic baseline.
    """

    def chained(lr, scale: int):
        return imresize(model(lr, base).clamp(0, 1), scale / base, "matlab", quantize=True)

    return chained


def measure(
    methods: Mapping[tuple, Upscaler],
    test_sets: Sequence[str],
    scales: Sequence[int] = SCALES,
    device="cpu",
    min_lr_side: int = MIN_LR_SIDE,
) -> Iterator[dict]:
    """Rows of every method, image and scale: method, max_scale and the last six of `COLUMNS`.

    Args:
        methods: (method, max_scale or NA) -> upscaler.

    Raises InputError for a scale at which no image is large enough.
    """
    prepared = {key: prepare(model, device) for key, model in methods.items()}
    used = set()
    for facts, lr, hr in benchmark_pairs(test_sets, scales):
        side, scale = min(lr.shape[-2:]), facts["scale"]
        if side < min_lr_side:
            continue
        used.add(scale)
        for (method, clamp), model in prepared.items():
            psnr, ssim = psnr_ssim_y(upscale(model, lr, scale, device)[0], hr, scale)
            yield dict(method=method, max_scale=clamp, **facts, lr_side_px=side, psnr_y_db=psnr, ssim_y=ssim)
    for scale in scales:
        if scale not in used:
            raise InputError(f"no image of {', '.join(test_sets)} has an LR side of {min_lr_side} px at x{scale}")


def methods_of(model: SuperResolver, scales: Sequence[int], clamps: Sequence[int] = CLAMPS) -> dict[tuple, Upscaler]:
    """What `measure` takes of a model trained at ``scales``: x4 then bicubic, and if its upsampler takes any scale, the
    model itself with each clamp (LIIF has none).

    Raises InputError for a model that was not trained for x4.
    """
    if BASE not in scales:
        raise InputError(f"not trained for x{BASE}, from which bicubic starts, but for {', '.join(map(str, scales))}")
    methods: dict[tuple, Upscaler] = {(CHAINED, pd.NA): then_bicubic(model)}
    if any(isinstance(module, HyperNetwork) for module in model.modules()):
        methods |= {(DIRECT, clamp): clamped(model, clamp) for clamp in clamps}
    elif not hasattr(model.upsampler, "heads"):
        methods[DIRECT, pd.NA] = model
    return methods


def of_run(run: Run, test_sets: Sequence[str], scales: Sequence[int] = SCALES, device="cpu", **options) -> pd.DataFrame:
    """`COLUMNS` of a trained run. Raises InputError when it is not trained, or not for x4.

    ``options``: of `measure`.
    """
    rows = measure(methods_of(load_run(run), run.scales), test_sets, scales, device, **options)
    return _tidy(rows, run=run.name, encoder=run.encoder, upsampler=run.upsampler, variant=run.variant, seed=run.seed)


def of_published(name: str, test_sets: Sequence[str], scales: Sequence[int] = SCALES, device="cpu", **options):
    """`COLUMNS` of a published model. Raises InputError as `of_run`, and when its weights are not here."""
    model, (encoder, upsampler), entry = published.load(name), published.kind(name), weights.catalogue()[name]
    rows = measure(methods_of(model, entry.scales), test_sets, scales, device, **options)
    return _tidy(rows, run=name, encoder=encoder, upsampler=upsampler, variant=published.family(name), seed="")


def of_bicubic(test_sets: Sequence[str], scales: Sequence[int] = SCALES, **options) -> pd.DataFrame:
    """`COLUMNS` of bicubic upscaling, under the run name "bicubic"."""
    rows = measure({("bicubic", pd.NA): bicubic}, test_sets, scales, **options)
    return _tidy(rows, run="bicubic", encoder="", upsampler="bicubic", variant="", seed="")


def _tidy(rows: Iterator[dict], **facts) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"max_scale": "Int64"}).assign(**facts)[list(COLUMNS)]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Every kind of model and method against bicubic and against x4 then bicubic of the same models, per scale.

    Args:
        rows: `COLUMNS` of several models and of bicubic.

    Returns: encoder, upsampler, variant, method, max_scale, scale, against, psnr_y_db and ssim_y (means over images
        and seeds), and the columns of `igconv.evaluation.statistics.paired_difference`, whose intervals are over
        images and seeds; every image counts the same, whatever its set.

    Raises InputError when rows of bicubic are missing.
    """
    bicubic_rows = rows[rows.run == "bicubic"]
    if bicubic_rows.empty:
        raise InputError("the rows hold no run 'bicubic', with which the others are compared")
    key, values, lines = ["dataset", "image", "scale"], ["psnr_y_db", "ssim_y"], []
    for against in BASELINES:
        base = bicubic_rows[[*key, *values]] if against == "bicubic" else None
        if base is None:
            base = rows[rows.method == against][["run", *key, *values]]
        others = rows[(rows.method != "bicubic") & (rows.method != against)]
        pairs = others.merge(base, on=[c for c in base if c not in values], suffixes=("_model", "_baseline"))
        for kind, of_kind in pairs.groupby([*KIND, "scale"], sort=False, dropna=False):
            means = dict(psnr_y_db=of_kind.psnr_y_db_model.mean(), ssim_y=of_kind.ssim_y_model.mean())
            lines.append(
                dict(zip([*KIND, "scale"], kind, strict=True), against=against)
                | means
                | statistics.paired_summary(of_kind)
            )
    if not lines:  # bicubic alone
        return pd.DataFrame(columns=["against", "scale"])
    return pd.DataFrame(lines).astype({"max_scale": "Int64"})


def _method_label(upsampler: str, variant: str, max_scale) -> str:
    clamp = "" if pd.isna(max_scale) else f", clamp {int(max_scale)}"
    return f"{run_label(upsampler, variant)}{clamp}"


def differences_in_words(summary: pd.DataFrame, against: str = CHAINED) -> str:
    """Every row of a `summary` that is compared with one baseline, a line each."""
    rows = summary[summary.against == against]
    if rows.empty:
        return NOT_RUN
    return "\n".join(
        f"{_method_label(row.upsampler, row.variant, row.max_scale)}, x{row.scale}: {row.difference_db:+.2f} dB "
        f"[{row.low_db:+.2f}, {row.high_db:+.2f}], SSIM {row.difference_ssim:+.4f} [{row.low_ssim:+.4f}, "
        f"{row.high_ssim:+.4f}] over {row.against} ({row.images} images, {row.seeds} seed(s))"
        for row in rows.itertuples()
    )


def conclusion(summary: pd.DataFrame) -> str:
    """At which scales nobody trained on a model beats its own x4 image enlarged by bicubic, a line per kind of model
    and clamp; then the check at x4, where both are the same image."""
    direct = summary[summary.against == CHAINED]
    if direct.empty:
        return NOT_RUN
    lines = []
    kinds = direct[direct.scale > BASE].groupby(["upsampler", "variant", "max_scale"], sort=False, dropna=False)
    for kind, rows in kinds:
        better, worse = (
            ", ".join(f"x{scale}" for scale in rows.scale[beyond]) or "no scale"
            for beyond in (rows.low_db > 0, rows.high_db < 0)
        )
        lines.append(
            f"{_method_label(*kind)}: better than its x4 image enlarged by bicubic at {better}, worse at {worse} "
            f"(interval excludes zero), undecided at the others of {len(rows)} scales."
        )
    trained = direct[direct.scale == BASE].difference_db
    if len(trained):
        lines.append(f"Check at x{BASE}: largest difference between direct and chained {trained.abs().max():.4f} dB.")
    return "\n".join(lines)


def with_titles(models: Mapping[str, tuple[SuperResolver, Sequence[int]]]) -> dict[str, Upscaler]:
    """Title -> upscaler of every method of every model, (model, trained scales) by label, for pictures."""
    titled = {}
    for label, (model, scales) in models.items():
        for (method, clamp), upscaler in methods_of(model, scales).items():
            titled[f"{label}\n{method}" + ("" if pd.isna(clamp) else f", clamp {clamp}")] = upscaler
    return titled
