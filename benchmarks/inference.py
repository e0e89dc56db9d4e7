"""Whole-image upscaling: what channels-last layout and an allocator that keeps its memory are worth.

Each setting runs in processes of its own, in turn.

python benchmarks/inference.py [--device cuda]
"""

from itertools import product
from pathlib import Path

import pandas as pd
import torch
import tyro
from timing import RESULTS, in_fresh_process, interleaved, report, summary

from igconv import build_model
from igconv.models.inference import keep_freed_memory

SIZES = ((256, 192), (640, 360))  # width, height of the LR image


def cost(encoder: str, upsampler: str, width: int, height: int, scale: int, device: str, threads: int, repeats: int,
         channels_last: bool, keep_memory: bool) -> tuple[float, float]:  # fmt: skip
    """(median ms, median processor ms) of an image in this process; kernel banks are made before."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if keep_memory:
        keep_freed_memory()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build_model(encoder, upsampler, scales=(scale,)).eval().to(device, memory_format=layout)
    lr = torch.rand(1, 3, height, width, device=device).to(memory_format=layout)
    with torch.inference_mode():
        times = interleaved({"": lambda: model(lr, scale)}, device, repeats)
    return times.ms.median(), times.cpu_ms.median()


def main(
    device: str = "cpu",
    encoders: tuple[str, ...] = ("smfanet_plus", "edsr_baseline"),
    upsampler: str = "igconv",
    scale: int = 2,
    threads: int = 2,
    processes: int = 3,
    repeats: int = 3,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Times of whole images; ratio is to the default layout and allocator.

    Args:
        threads: of the CPU.
        processes: per setting.
        repeats: images per process, after two that are not counted.
        quick: one tiny encoder and image, two settings.
    """
    torch.set_num_threads(threads)
    sizes = SIZES
    if quick:
        encoders, sizes, processes, repeats = ("edsr_tiny",), ((24, 16),), 1, 1
        torch.set_num_threads(1)
    settings = list(product((False, True), (False, True) if torch.device(device).type == "cpu" else (False,)))
    settings = settings[::3] if quick else settings
    names = {(False, False): "default", (True, False): "channels last", (False, True): "kept memory",
             (True, True): "both"}  # fmt: skip
    tables = []
    for encoder, (width, height) in product(encoders, sizes):
        rows = []
        for number, setting in product(range(processes), settings):
            args = encoder, upsampler, width, height, scale, device, torch.get_num_threads(), repeats, *setting
            ms, cpu_ms = in_fresh_process(cost, *args)
            rows.append(dict(case=names[setting], round=number, ms=ms, cpu_ms=cpu_ms))
        table = summary(pd.DataFrame(rows), "default").rename(columns={"rounds": "processes"})
        for name, value in dict(lr_height_px=height, lr_width_px=width, scale=scale, encoder=encoder).items():
            table.insert(0, name, value)
        tables.append(table.assign(upsampler=upsampler))
        print(f"{encoder}, {width}x{height}: done", flush=True)
    report(pd.concat(tables), "inference", device, out)


if __name__ == "__main__":
    tyro.cli(main)
