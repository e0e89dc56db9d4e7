"""Model x image set x scale -> one row per image, as the literature measures it."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from igconv import checkpoints, datasets, inference, results
from igconv.bands import COLUMNS as BAND_COLUMNS
from igconv.bands import band_edges, error_and_hr_energy
from igconv.errors import InputError, choose
from igconv.files import append, exclusive, lines
from igconv.images import read_image
from igconv.inference import Upscaler, upscale
from igconv.metrics import psnr_ssim_y, psnr_y
from igconv.resize import downsample, imresize, modcrop
from igconv.study import Run

# What a stored row depends on besides weights and images; a change makes every row stale.
SETTINGS = dict(degradation="matlab", luma="BT.601", shave="scale", crop="multiple of the scale", precision="float32")
ROW = ("run", "encoder", "upsampler", "variant", "train_scales", "seed", "steps", "dataset", "image", "scale",
       "psnr_y_db", "ssim_y", "seconds", "device", "weights_sha256", "settings_hash")  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How images come to a model and back. The default is the study's; its rows are the only ones tables use.

    Args:
        lr: "made" from HR by MATLAB's bicubic, or "stored": ``LR_bicubic/X<r>/<name>x<r>.*`` beside ``HR/``.
        self_ensemble: mean over the eight flips and rotations of the input.
        tile: side of tiles in LR pixels, 0 for whole images. The halo is the encoder's reach.
        authors: the authors' tiles (`igconv.inference.authors_tiles`).
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
        words = ("stored_lr" * (self.lr == "stored"), "authors" * self.authors, f"tile{self.tile}" * bool(self.tile),
                 "ensemble" * self.self_ensemble)  # fmt: skip
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
    """The LR image that lies beside an HR image of a benchmark folder. Raises InputError when there is none."""
    folder = hr_path.parent.parent / "LR_bicubic" / f"X{scale}"
    found = sorted(folder.glob(f"{hr_path.stem}x{scale}.*"))
    if not found:
        raise InputError(f"no stored LR image at {folder / hr_path.stem}x{scale}.*; leave out the stored LR images")
    return read_image(found[0], grey_as_rgb=True)


def benchmark_pairs(
    test_sets: Sequence[str], scales: Sequence[int], lr: str = "made", known: frozenset = frozenset()
) -> Iterator[tuple[dict, Tensor, Tensor]]:
    """(dict of dataset, image and scale, lr, hr) of every image of the sets. Grey images count as RGB.

    ``known`` holds (dataset, image, scale) to leave out; ``lr`` as in `Protocol`.
    """
    for name in test_sets:
        for path in datasets.image_set(name).paths():
            wanted = [scale for scale in scales if (name, path.stem, scale) not in known]
            image = read_image(path, grey_as_rgb=True) if wanted else None
            for scale in wanted:
                try:
                    low, hr = benchmark_pair(image, scale) if lr == "made" else _stored_pair(path, image, scale)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from None
                yield dict(dataset=name, image=path.stem, scale=scale), low, hr


def _stored_pair(path: Path, image: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    low, hr = stored_lr(path, scale), modcrop(image, scale)
    if tuple(scale * n for n in low.shape) != (3 * scale, *hr.shape[1:]):
        raise InputError(f"its stored LR image at x{scale} is {low.shape[2]}x{low.shape[1]}, expected "
                         f"{hr.shape[2] // scale}x{hr.shape[1] // scale}")  # fmt: skip
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
    for facts, lr, hr in benchmark_pairs(test_sets, scales, protocol.lr, known):
        try:
            sr, seconds = upscale(model, lr, facts["scale"], device)
            psnr, ssim = psnr_ssim_y(sr, hr, facts["scale"])
        except InputError as error:
            raise InputError(f"{facts['dataset']}/{facts['image']} at x{facts['scale']}: {error}") from None
        yield dict(**facts, psnr_y_db=psnr, ssim_y=ssim, seconds=seconds)


def trained_weights(run: Run) -> Path | None:
    """File with the final weights of a run: those of its training, or else the exported ones; None if neither is here.

    Exported weights (`export_run`) are those that a clone has of the committed study.
    """
    own = results.model_file(run.profile, run.name)
    return next((file for file in (own, results.weights_file(run.profile, run.name)) if file.is_file()), None)


def is_trained(run: Run) -> bool:
    """Whether the run has final weights here, of these settings or others."""
    return trained_weights(run) is not None


def load_run(run: Run):
    """The trained model of a run, in eval mode. Raises InputError when the run was not made with these settings."""
    path = trained_weights(run)
    if path is None:
        raise InputError(f"run {run.name} of profile {run.profile} is not trained yet (igconv train {run.name})")
    if checkpoints.metadata(path).get("meta", {}).get("config_hash") != run.config_hash():
        raise InputError(f"{path} was trained with other settings of {run.name}; move it away and train again")
    return checkpoints.load(path)


def export_run(run: Run, path: Path) -> None:
    """Write the trained weights of a run in half precision, with the sha256 of the file they come from.

    Raises InputError for a run that is not trained here, or has weights beyond the range of half precision.
    """
    source = results.model_file(run.profile, run.name)
    model = load_run(run)
    if not source.is_file():
        raise InputError(f"{run.name} was not trained here; {results.shown(trained_weights(run))} is an export itself")
    large = [name for name, value in model.state_dict().items() if not torch.isfinite(value.half()).all()]
    if large:
        raise InputError(f"{run.name}: weights beyond the range of half precision: {', '.join(large[:3])}")
    checkpoints.save(model, path, torch.float16, profile=run.profile, run=run.name, config_hash=run.config_hash(),
                     source_sha256=checkpoints.sha256(source))  # fmt: skip


def evaluate_run(run: Run, device="cpu", protocol: Protocol = STANDARD) -> pd.DataFrame:
    """Rows of a trained run on its test sets at its scales, from ``rows/<run>.csv`` as far as they are valid."""
    model = load_run(run)  # before the hash: it checks the file
    facts = dict(run=run.name, encoder=run.encoder, upsampler=run.upsampler, variant=run.variant,
                 train_scales="-".join(map(str, run.scales)), seed=run.seed, steps=run.steps)  # fmt: skip
    sha = checkpoints.sha256(trained_weights(run))
    return evaluate(run.profile, facts, model, run.test_sets, run.scales, sha, device, protocol)


def evaluate_bicubic(profile: str, test_sets: Sequence[str], scales: Sequence[int], **options) -> pd.DataFrame:
    """Rows of bicubic upscaling, under the run name "bicubic"."""
    facts = dict(run="bicubic", encoder="", upsampler="bicubic", variant="", train_scales="", seed="", steps=0)
    return evaluate(profile, facts, bicubic, test_sets, scales, "", **options)


def evaluate(
    profile: str,
    facts: dict,
    model: Upscaler,
    test_sets: Sequence[str],
    scales: Sequence[int],
    weights_sha256: str,
    device="cpu",
    protocol: Protocol = STANDARD,
) -> pd.DataFrame:
    """Rows of any model, one per image and scale, stored in ``rows/[<protocol>/]<run>.csv``.

    Rows stay valid while weights, images of their set and settings are the same; only the others are measured. Each
    is written down at once, so that an interrupted evaluation goes on where it stopped.

    Args:
        facts: the first seven columns of `ROW`.
        weights_sha256: of the weight file, "" for a function without weights.
    """
    path = results.rows_file(profile, facts["run"], protocol.label())
    fixed = dict(device=results.device_name(device), weights_sha256=weights_sha256)
    hashes = {name: settings_hash(name, protocol) for name in test_sets}
    wanted = [(name, image.stem, scale) for name in test_sets
              for image in datasets.image_set(name).paths() for scale in scales]  # fmt: skip
    partial = path.with_name(f".{path.name}.partial")
    with exclusive(path.with_name(f".lock-{path.stem}"), wait=True, who=f"evaluation of {facts['run']}"):
        stored = results.read_table(path) if path.is_file() else pd.DataFrame(columns=list(ROW))
        valid = _valid(stored, weights_sha256, hashes, wanted)
        if len(valid) == len(stored) == len(wanted):
            path.touch()  # checked now: Snakemake compares its time with those of all weights
            return stored
        rows = valid | _valid(_read_partial(partial), weights_sha256, hashes, wanted)
        if len(rows) < len(wanted):
            for row in measure(model, test_sets, scales, device, protocol, frozenset(rows)):
                row = {**facts, **row, **fixed, "settings_hash": hashes[row["dataset"]]}
                rows[_key(row)] = row
                append(partial, ",".join(str(row[column]) for column in ROW))
        table = pd.DataFrame([rows[key] for key in wanted], columns=list(ROW))
        settings = SETTINGS | asdict(protocol)
        results.write_table(table, path, weights_sha256=weights_sha256, settings=settings, test_sets=list(test_sets))
        partial.unlink(missing_ok=True)
    return results.read_table(path)


def _key(row) -> tuple[str, str, int]:
    return row["dataset"], row["image"], int(row["scale"])


def _valid(table: pd.DataFrame, weights_sha256: str, hashes: dict, wanted: list) -> dict[tuple, dict]:
    """Rows that still say what would be measured now, by (dataset, image, scale)."""
    keys = set(wanted)
    return {
        _key(row): row
        for row in table.to_dict("records")
        if row["weights_sha256"] == weights_sha256
        and row["settings_hash"] == hashes.get(row["dataset"])
        and _key(row) in keys
    }


def _read_partial(path: Path) -> pd.DataFrame:
    """Rows of an interrupted evaluation."""
    rows = [row for row in csv.reader(lines(path)) if len(row) == len(ROW)]
    numbers = dict(scale=int, psnr_y_db=float, ssim_y=float, seconds=float)
    return pd.DataFrame(rows, columns=list(ROW)).astype(numbers)


def validation_psnr(model, test_sets: Sequence[str], scales: Sequence[int], images: int = 3, side: int = 144) -> float:
    """Mean PSNR-Y in dB over scales and the centres (``side`` HR pixels) of the first ``images`` images of each set."""
    values = [psnr_y(sr, hr, scale) for scale, sr, hr in _validation(model, test_sets, scales, images, side)]
    return sum(values) / len(values)


def validation_bands(
    model, test_sets: Sequence[str], scales: Sequence[int], step: int, images: int = 3, side: int = 144, bands: int = 20
) -> list[dict]:
    """Error and HR energy per scale and frequency band (`igconv.bands`), *summed* over the crops of `validation_psnr`.

    Returns: rows with the columns of `igconv.bands.COLUMNS`, in grey levels squared, ``step`` as given. The bands are
        half as wide as elsewhere, so that several lie below the Nyquist frequency of a x4 LR image.
    """
    edges, sums = band_edges(bands), {scale: 0.0 for scale in scales}
    for scale, sr, hr in _validation(model, test_sets, scales, images, side):
        sums[scale] = sums[scale] + np.stack(error_and_hr_energy(sr, hr, scale, edges))
    return [
        dict(zip(BAND_COLUMNS, (step, scale, *map(float, values)), strict=True))
        for scale, energies in sums.items()
        for values in zip(edges[:-1], edges[1:], *energies, strict=True)
    ]


@torch.no_grad()
def _validation(model, test_sets: Sequence[str], scales: Sequence[int], images: int, side: int) -> Iterator[tuple]:
    """(scale, sr, hr) of the centres of the first images of each set; the model's mode comes back at the end."""
    mode, device = model.training, next(model.parameters()).device
    model.eval()
    for name in test_sets:
        for path in datasets.image_set(name).paths()[:images]:
            image = read_image(path, grey_as_rgb=True)
            top, left = ((n - min(side, n)) // 2 for n in image.shape[-2:])
            centre = image[:, top : top + side, left : left + side]
            for scale in scales:
                lr, hr = benchmark_pair(centre, scale)
                yield scale, upscale(model, lr, scale, device)[0], hr
    model.train(mode)


def read_rows(profile: str, runs: Sequence[str]) -> pd.DataFrame:
    """All rows that exist of the named runs (others are left out: "not run")."""
    files = [results.rows_file(profile, run) for run in runs]
    tables = [results.read_table(f) for f in files if Path(f).is_file()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ROW))
