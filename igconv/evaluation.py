"""Model x image set x scale -> one row per image, as the literature measures it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from igconv import checkpoints, datasets, results
from igconv.errors import InputError
from igconv.images import read_image, to_float
from igconv.metrics import psnr_y, ssim_y
from igconv.resize import downsample, imresize, modcrop
from igconv.study import Run

# What a stored row depends on besides weights and images; a change makes every row stale.
SETTINGS = dict(degradation="matlab", luma="BT.601", shave="scale", crop="multiple of the scale", precision="float32")
ROW = ("run", "encoder", "upsampler", "variant", "train_scales", "seed", "steps", "dataset", "image", "scale",
       "psnr_y_db", "ssim_y", "seconds", "device", "weights_sha256", "settings_hash")  # fmt: skip

Upscaler = Callable[[Tensor, int], Tensor]


def settings_hash(test_sets: Sequence[str]) -> str:
    """12 hex digits over the evaluation settings and the test images."""
    content = json.dumps([SETTINGS, datasets.data_hash(test_sets)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def benchmark_pair(image: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """(lr, hr), both uint8 (3, h, w): HR cropped to a multiple of the scale, LR by MATLAB's bicubic."""
    hr = modcrop(image, scale)
    return downsample(hr, scale, SETTINGS["degradation"]), hr


def bicubic(lr: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic upscaling of float images (B, 3, H, W), not clamped: what every model has to beat."""
    return imresize(lr, scale, "matlab", quantize=False)


@torch.no_grad()
def upscale(model: Upscaler, lr: Tensor, scale: int, device="cpu") -> tuple[Tensor, float]:
    """(sr, seconds): one uint8 LR image (3, h, w) through a model -> float32 (3, r h, r w) on the CPU."""
    x = to_float(lr)[None].to(device)
    start = time.perf_counter()
    sr = model(x, scale)[0].float().cpu()
    return sr, time.perf_counter() - start


def benchmark_pairs(test_sets: Sequence[str], scales: Sequence[int]) -> Iterator[tuple[dict, Tensor, Tensor]]:
    """(dict of dataset, image and scale, lr, hr) of every image of the sets. Grey images count as RGB."""
    for name in test_sets:
        for path in datasets.image_set(name).paths():
            image = read_image(path, grey_as_rgb=True)
            for scale in scales:
                try:
                    lr, hr = benchmark_pair(image, scale)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from None
                yield dict(dataset=name, image=path.stem, scale=scale), lr, hr


def measure(model: Upscaler, test_sets: Sequence[str], scales: Sequence[int], device="cpu") -> Iterator[dict]:
    """Rows with dataset, image, scale, psnr_y_db, ssim_y and seconds."""
    for facts, lr, hr in benchmark_pairs(test_sets, scales):
        scale = facts["scale"]
        sr, seconds = upscale(model, lr, scale, device)
        try:
            yield dict(**facts, psnr_y_db=psnr_y(sr, hr, scale), ssim_y=ssim_y(sr, hr, scale), seconds=seconds)
        except InputError as error:
            raise InputError(f"{facts['dataset']}/{facts['image']} at x{scale}: {error}") from None


def load_run(run: Run):
    """The trained model of a run, in eval mode. Raises InputError when the run was not made with these settings."""
    path = results.run_folder(run.profile, run.name) / "model.safetensors"
    if not path.is_file():
        raise InputError(f"run {run.name} of profile {run.profile} is not trained yet (igconv train {run.name})")
    if checkpoints.metadata(path).get("meta", {}).get("config_hash") != run.config_hash():
        raise InputError(f"{path} was trained with other settings of {run.name}; move it away and train again")
    return checkpoints.load(path)


def evaluate_run(run: Run, device="cpu") -> pd.DataFrame:
    """Rows of a trained run on its test sets at its scales, from ``rows/<run>.csv`` if they are still valid."""
    model = load_run(run)  # before the hash: it checks the file
    facts = dict(run=run.name, encoder=run.encoder, upsampler=run.upsampler, variant=run.variant,
                 train_scales="-".join(map(str, run.scales)), seed=run.seed, steps=run.steps)  # fmt: skip
    sha = checkpoints.sha256(results.run_folder(run.profile, run.name) / "model.safetensors")
    return _rows(run.profile, facts, model.to(device), run.test_sets, run.scales, sha, device)


def evaluate_bicubic(profile: str, test_sets: Sequence[str], scales: Sequence[int]) -> pd.DataFrame:
    """Rows of bicubic upscaling, under the run name "bicubic"."""
    facts = dict(run="bicubic", encoder="", upsampler="bicubic", variant="", train_scales="", seed="", steps=0)
    return _rows(profile, facts, bicubic, test_sets, scales, "", "cpu")


def _rows(profile, facts, model, test_sets, scales, weights_sha256, device) -> pd.DataFrame:
    path, settings = results.rows_file(profile, facts["run"]), settings_hash(test_sets)
    if path.is_file():
        known = results.read_table(path)
        same = set(known.weights_sha256) == {weights_sha256} and set(known.settings_hash) == {settings}
        if same and set(known.scale) == set(scales):
            return known
    fixed = dict(device=results.device_name(device), weights_sha256=weights_sha256, settings_hash=settings)
    rows = [{**facts, **row, **fixed} for row in measure(model, test_sets, scales, device)]
    table = pd.DataFrame(rows, columns=list(ROW))
    results.write_table(table, path, weights_sha256=weights_sha256, settings=SETTINGS, test_sets=list(test_sets))
    return results.read_table(path)


@torch.no_grad()
def validation_psnr(model, test_sets: Sequence[str], scales: Sequence[int], images: int = 3, side: int = 144) -> float:
    """Mean PSNR-Y in dB over scales and the centres (``side`` HR pixels) of the first ``images`` images of each set."""
    mode, values = model.training, []
    device = next(model.parameters()).device
    model.eval()
    for name in test_sets:
        for path in datasets.image_set(name).paths()[:images]:
            image = read_image(path, grey_as_rgb=True)
            top, left = ((n - min(side, n)) // 2 for n in image.shape[-2:])
            centre = image[:, top : top + side, left : left + side]
            for scale in scales:
                lr, hr = benchmark_pair(centre, scale)
                values.append(psnr_y(upscale(model, lr, scale, device)[0], hr, scale))
    model.train(mode)
    return sum(values) / len(values)


def read_rows(profile: str, runs: Sequence[str]) -> pd.DataFrame:
    """All rows that exist of the named runs (others are left out: "not run")."""
    files = [results.rows_file(profile, run) for run in runs]
    tables = [results.read_table(f) for f in files if Path(f).is_file()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ROW))
