"""How good is a converted network, and what does it cost? Published x4 weights made multi-scale, on the test sets.

python benchmarks/conversion.py [--network NAME] [--scales 2 3 4] [--crops 512] [--test-sets Set5 Set14]

Writes conversion_<label>-<device>.csv: PSNR-Y per test set and scale, mean over images, of bicubic, of the SPConvs in
closed form, of the IGConv fitted to them, of that IGConv in half precision, at its own scale of the network as it was
published, and above it of the network's image enlarged further by bicubic; the seconds and the peak memory of the
conversion beside them. ``--save FILE`` keeps the model.
"""

import copy
import resource
import time
from pathlib import Path

import pandas as pd
import torch
import tyro
from timing import RESULTS, report

from igconv.conversion import convert
from igconv.conversion.sources import Source, opened
from igconv.data.resize import imresize
from igconv.evaluation.benchmark import bicubic, measure
from igconv.models import checkpoints, inference

TRAIN = ("T91", "BSD200", "SunHays80")


def main(
    network: str = "smfanet_plus_df2k_x4", scales: tuple[int, ...] = (2, 3, 4), crops: int = 512,
    images: tuple[str, ...] = TRAIN, test_sets: tuple[str, ...] = ("Set5", "Set14", "B100", "Urban100"), side: int = 48,
    ridge: float | None = None, keep_own: bool = True, label: str = "", save: Path | None = None, out: Path = RESULTS,
    quick: bool = False,
) -> None:  # fmt: skip
    """Convert, measure, write.

    Args:
        label: of the file; left out, network, scales and crops.
        quick: a tiny network of random weights on bundled photographs, numbers without meaning.
    """
    from igconv import build_model

    inference.keep_freed_memory()  # as `igconv convert` does
    source = opened(build_model("edsr", "spconv", scales=(4,), channels=8, blocks=1) if quick else network)
    if quick:
        network, crops, images, test_sets, scales = "tiny", 32, ("sample_train",), ("sample_test",), (2, 4)
    start, processor = time.perf_counter(), time.process_time()
    width = dict(hidden_dim=64, num_layers=1) if quick else {}
    done = convert.conversion(source, scales, images=images, crops=crops, side=side, ridge=ridge, keep_own=keep_own,
                              held_out=("sample_test",), **width)  # fmt: skip
    cost = dict(seconds=time.perf_counter() - start, processor_seconds=time.process_time() - processor,
                peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # fmt: skip
    if save:
        checkpoints.save(done.model, save, network=network, scales=list(scales), crops=crops, images=list(images))

    halved = copy.deepcopy(done.model)
    for parameter in halved.parameters():
        parameter.data = parameter.data.half().float()
    models = {"bicubic": bicubic, "IGConv": done.model, "IGConv, half precision": halved}
    models["SPConvs in closed form"] = convert.with_spconvs(source, done.closed, done.basis)
    models["as published"] = lambda lr, scale: source.network(lr)
    models["as published, enlarged by bicubic"] = enlarged(source)
    tables = []
    for name, model in models.items():
        wanted = [s for s in scales if not name.startswith("as published")
                  or (s == source.scale if name == "as published" else s > source.scale)]  # fmt: skip
        if wanted:
            with torch.no_grad():
                rows = pd.DataFrame(measure(model, test_sets, wanted))
            tables.append(means(rows).assign(upsampler=name))
    facts = dict(
        network=Path(network).stem,
        train_sets=" ".join(images),
        crops=crops,
        relative_kernel_error=done.errors[-1],
        **cost,
    )
    name = label or f"{Path(network).stem}-x{''.join(map(str, scales))}-{crops}"
    columns = ["upsampler", "dataset", "scale", "images", "psnr_y_db", "ssim_y"]
    report(pd.concat(tables)[columns].assign(**facts), "conversion" if quick else f"conversion_{name}", out=out)


def enlarged(source: Source):
    """(lr, scale) -> the network's image, enlarged further by bicubic to a scale above its own."""
    return lambda lr, scale: imresize(source.network(lr), scale / source.scale, "matlab", quantize=False)


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """dataset, scale, images, psnr_y_db, ssim_y: how many images, and their means, of rows of single images."""
    kinds = rows.groupby(["dataset", "scale"], sort=False)
    return kinds.agg(
        images=("psnr_y_db", "size"), psnr_y_db=("psnr_y_db", "mean"), ssim_y=("ssim_y", "mean")
    ).reset_index()


if __name__ == "__main__":
    tyro.cli(main)
