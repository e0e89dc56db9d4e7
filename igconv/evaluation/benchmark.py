"""Model x image set x scale -> one row per image, as the literature measures it."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from igconv import files
from igconv.data import datasets, weights
from igconv.data.images import SUFFIXES, read_image
from igconv.data.resize import downsample, imresize, modcrop
from igconv.errors import InputError, choose, out_of_memory, reason
from igconv.evaluation.metrics import psnr_ssim_y
from igconv.files import append, exclusive, records
from igconv.models import inference, published, run_weights
from igconv.models.arithmetic import chosen_device
from igconv.models.inference import Upscaler, upscale
from igconv.study import results
from igconv.study.runs import Run

# What a stored row depends on besides weights and images; a change makes every row stale.
SETTINGS = dict(degradation="matlab", luma="BT.601", shave="scale", crop="multiple of the scale", precision="float32")
METRIC_WORKERS = min(8, os.cpu_count() or 1)  # threads that measure while a GPU upscales
ROW = (
    "run",
    "encoder",
    "upsampler",
    "variant",
    "train_scales",
    "seed",
    "steps",
    "dataset",
    "image",
    "scale",
    "psnr_y_db",
    "ssim_y",
    "seconds",
    "device",
    "weights_sha256",
    "settings_hash",
)


@dataclass(frozen=True)
class Protocol:
    """How images come to a model and back. The default is the study's; its rows are the only ones tables use.

    Args:
        lr: "made" from HR by MATLAB's bicubic, or "stored": ``LR_bicubic/X<r>/<name>x<r>.*`` beside ``HR/``.
        self_ensemble: mean over the eight flips and rotations of the input.
        tile: side of tiles in LR pixels, 0 for whole images. The halo is the encoder's reach.
        authors: the authors' tiles (`igconv.models.inference.authors_tiles`).
    """

    lr: str = "made"
    self_ensemble: bool = False
    tile: int = 0
    authors: bool = False

    def __post_init__(self):
        choose(self.lr, ("made", "stored"), "lr")
        if self.tile and self.authors:
            raise InputError("the authors' protocol has its own tiles; leave tile out")

    def label(self) -> str:
        """Name of the folder of its rows, empty for the study's own protocol."""
        words = (
            "stored_lr" * (self.lr == "stored"),
            "authors" * self.authors,
            f"tile{self.tile}" * bool(self.tile),
            "ensemble" * self.self_ensemble,
        )
        return "-".join(word for word in words if word)

    def applied(self, model: Upscaler) -> Upscaler:
        model = inference.tiled(model, self.tile) if self.tile else model
        model = inference.authors_tiles(model) if self.authors else model
        return inference.self_ensemble(model) if self.self_ensemble else model


STANDARD = Protocol()


def settings_hash(test_set: str, protocol: Protocol = STANDARD) -> str:
    """12 hex digits over the evaluation settings and the test images."""
    settings = SETTINGS | (asdict(protocol) if protocol != STANDARD else {})
    content = json.dumps([settings, datasets.data_hash([test_set])], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def benchmark_pair(image: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """(lr, hr), both uint8 (3, h, w): HR cropped to a multiple of the scale, LR by MATLAB's bicubic."""
    hr = modcrop(image, scale)
    return downsample(hr, scale, SETTINGS["degradation"]), hr


def bicubic(lr: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic upscaling, (B, 3, H, W) in [0, 1]: what every model has to beat.

    Bytes after each axis, as MATLAB resizes bytes; without that, Set5 is 0.005 dB above the published values.
    """
    return imresize(lr, scale, "matlab", quantize=True)


def stored_lr(hr_path: Path, scale: int) -> Tensor:
    """The LR image that lies beside an HR image of a benchmark folder: of its name and, if there are several, suffix.

    Raises InputError when there is none, or several that could be meant.
    """
    folder, name = hr_path.parent.parent / "LR_bicubic" / f"X{scale}", f"{hr_path.stem}x{scale}"
    places = folder.iterdir() if folder.is_dir() else ()  # names are data, not patterns
    found = sorted(path for path in places if path.stem == name and path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"no stored LR image at {folder / name}.*; leave out the stored LR images")
    twins = [p for p in hr_path.parent.iterdir() if p.stem == hr_path.stem and p.suffix.lower() in SUFFIXES]
    if len(found) > 1 or len(twins) > 1:
        found = [path for path in found if path.suffix == hr_path.suffix]
    if not found:
        raise InputError(
            f"{folder / name}.* does not say which of {' and '.join(sorted(p.name for p in twins))} it is "
            f"of; give it the suffix {hr_path.suffix}"
        )
    return read_image(found[0], grey_as_rgb=True)


def benchmark_pairs(
    test_sets: Sequence[str], scales: Sequence[int], lr: str = "made", known: frozenset = frozenset()
) -> Iterator[tuple[dict, Tensor, Tensor]]:
    """(dict of dataset, image and scale, lr, hr) of every image of the sets. Grey images count as RGB.

    ``known`` holds (dataset, image, scale) to leave out; ``lr`` as in `Protocol`.
    """
    for name in test_sets:
        paths = datasets.image_set(name).paths()
        for path, title in zip(paths, datasets.image_names(paths), strict=True):
            wanted = [scale for scale in scales if (name, title, scale) not in known]
            if not wanted:
                continue
            image = read_image(path, grey_as_rgb=True)
            for scale in wanted:
                try:
                    low, hr = benchmark_pair(image, scale) if lr == "made" else _stored_pair(path, image, scale)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from None
                yield dict(dataset=name, image=title, scale=scale), low, hr


def _stored_pair(path: Path, image: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    low, hr = stored_lr(path, scale), modcrop(image, scale)
    if tuple(scale * n for n in low.shape) != (3 * scale, *hr.shape[1:]):
        raise InputError(
            f"its stored LR image at x{scale} is {low.shape[2]}x{low.shape[1]}, expected "
            f"{hr.shape[2] // scale}x{hr.shape[1] // scale}"
        )
    return low, hr


def measure(
    model: Upscaler,
    test_sets: Sequence[str],
    scales: Sequence[int],
    device="cpu",
    protocol: Protocol = STANDARD,
    known: frozenset = frozenset(),
) -> Iterator[dict]:
    """Rows with dataset, image, scale, psnr_y_db, ssim_y and seconds, without those that are ``known``."""
    model = protocol.applied(inference.prepare(model, device))
    # A GPU should not wait for what the CPU does to an image: images are read ahead and measured behind.
    behind = 0 if torch.device(device).type == "cpu" else 2 * METRIC_WORKERS
    waiting: deque[tuple[dict, float, Future]] = deque()
    with ThreadPoolExecutor(METRIC_WORKERS if behind else 1, thread_name_prefix="metrics") as pool:
        pairs = benchmark_pairs(test_sets, scales, protocol.lr, known)
        for facts, lr, hr in _ahead(pairs) if behind else pairs:
            with _naming(facts):
                sr, seconds = upscale(model, lr, facts["scale"], device)
            waiting.append((facts, seconds, pool.submit(psnr_ssim_y, sr, hr, facts["scale"])))
            while len(waiting) > behind:
                yield _row(*waiting.popleft())
        while waiting:
            yield _row(*waiting.popleft())


def _row(facts: dict, seconds: float, metrics: Future) -> dict:
    with _naming(facts):
        psnr, ssim = metrics.result()
    return dict(**facts, psnr_y_db=psnr, ssim_y=ssim, seconds=seconds)


@contextmanager
def _naming(facts: dict) -> Iterator[None]:
    """Errors of one image name it; a memory that is too small for it is one of them."""
    try:
        yield
    except (InputError, RuntimeError, MemoryError) as error:
        short = out_of_memory(error)
        if not short and not isinstance(error, InputError):
            raise
        why = f"out of memory ({reason(short, 120)}); evaluate in tiles (--tile)" if short else error
        raise InputError(f"{facts['dataset']}/{facts['image']} at x{facts['scale']}: {why}") from None


def _ahead(items: Iterator, count: int = 4) -> Iterator:
    """The items of an iterator that runs in a thread of its own, up to ``count`` of them ahead."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as worker:
        end = object()
        waiting = deque(worker.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(worker.submit(next, items, end))
            yield item


def evaluate_run(run: Run, device="auto", protocol: Protocol = STANDARD) -> pd.DataFrame:
    """Rows of a trained run on its test sets at its scales, from ``rows/<run>.csv`` as far as they are valid."""
    model = run_weights.load_run(run)  # before the hash: it checks the file
    facts = dict(
        run=run.name,
        encoder=run.encoder,
        upsampler=run.upsampler,
        variant=run.variant,
        train_scales=run.train_scales,
        seed=run.seed,
        steps=run.steps,
    )
    sha = files.sha256(run_weights.find(run))
    return evaluate(run.profile, facts, model, run.test_sets, run.scales, sha, device, protocol)


def evaluate_bicubic(profile: str, test_sets: Sequence[str], scales: Sequence[int], **options) -> pd.DataFrame:
    """Rows of bicubic upscaling, under the run name "bicubic"."""
    facts = dict(run="bicubic", encoder="", upsampler="bicubic", variant="", train_scales="", seed="", steps=0)
    return evaluate(profile, facts, bicubic, test_sets, scales, "", **options)


def evaluate_published(profile: str, name: str, test_sets, device="auto", **options) -> pd.DataFrame:
    """Rows of a published model at the scales of its training; ``seed`` and ``steps`` are empty, as they are not ours.

    ``options``: of `evaluate`.
    """
    model, (encoder, upsampler), entry = published.load(name), published.kind(name), weights.catalogue()[name]
    facts = dict(
        run=name,
        encoder=encoder,
        upsampler=upsampler,
        variant=f"published {entry.training}",
        train_scales="-".join(map(str, entry.scales)),
        seed="",
        steps="",
    )
    sha = files.sha256(weights.find(name))
    return evaluate(profile, facts, model, test_sets, entry.scales, sha, device, **options)


def evaluate(
    profile: str,
    facts: dict,
    model: Upscaler,
    test_sets: Sequence[str],
    scales: Sequence[int],
    weights_sha256: str,
    device="auto",
    protocol: Protocol = STANDARD,
) -> pd.DataFrame:
    """Rows of any model, one per image and scale, stored in ``rows/[<protocol>/]<run>.csv``.

    Rows stay valid while weights, images of their set and settings are the same; only the others are measured. Each
    is written down at once, so that an interrupted evaluation goes on where it stopped.

    Args:
        facts: the first seven columns of `ROW`.
        device: "auto" is the GPU where there is one; rows of both differ by less than 0.002 dB.
        weights_sha256: of the weight file, "" for a function without weights.
    """
    path, device = results.rows_file(profile, facts["run"], protocol.label()), chosen_device(device)
    fixed = dict(device=results.device_name(device), weights_sha256=weights_sha256)
    hashes = {name: settings_hash(name, protocol) for name in test_sets}
    wanted = [
        (name, image, scale)
        for name in test_sets
        for image in datasets.image_names(datasets.image_set(name).paths())
        for scale in scales
    ]
    partial = path.with_name(f".{path.name}.partial")
    with exclusive(path.with_name(f".lock-{path.stem}"), wait=True, who=f"evaluation of {facts['run']}"):
        stored = stored_rows(path)
        valid = _valid(stored.to_dict("records"), weights_sha256, hashes, wanted)
        if len(valid) == len(stored) == len(wanted):
            path.touch()  # checked now: Snakemake compares its time with those of all weights
            return stored
        rows = valid | _valid(records(partial), weights_sha256, hashes, wanted)
        if len(rows) < len(wanted):
            for row in measure(model, test_sets, scales, device, protocol, frozenset(rows)):
                row = {**facts, **row, **fixed, "settings_hash": hashes[row["dataset"]]}
                rows[_key(row)] = row
                append(partial, row)
        table = pd.DataFrame([rows[key] for key in wanted], columns=list(ROW))
        settings = SETTINGS | asdict(protocol)
        results.write_table(table, path, weights_sha256=weights_sha256, settings=settings, test_sets=list(test_sets))
        partial.unlink(missing_ok=True)
    return results.read_table(path)


def stored_rows(path: Path) -> pd.DataFrame:
    """What an evaluation has left, no rows if that is nothing. Raises InputError for what is no table of rows."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    table = results.read_table(path) if path.is_file() else pd.DataFrame(columns=list(ROW))
    missing = [column for column in ROW if column not in table] if len(table) else []
    if missing:
        raise InputError(f"{path} is no table of rows (it has no column {missing[0]}); move it away")
    return table


def _key(row) -> tuple[str, str, int]:
    return row["dataset"], row["image"], int(row["scale"])


def _valid(rows: list[dict], weights_sha256: str, hashes: dict, wanted: list) -> dict[tuple, dict]:
    """Rows that still say what would be measured now, by (dataset, image, scale)."""
    keys = set(wanted)
    return {
        _key(row): row
        for row in rows
        if row["weights_sha256"] == weights_sha256
        and row["settings_hash"] == hashes.get(row["dataset"])
        and _key(row) in keys
    }


def read_rows(profile: str, runs: Sequence[str]) -> pd.DataFrame:
    """All rows that exist of the named runs (others are left out: "not run")."""
    files = [results.rows_file(profile, run) for run in runs]
    tables = [stored_rows(f) for f in files if f.is_file()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ROW))
