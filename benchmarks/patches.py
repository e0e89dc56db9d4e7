"""Training patches per second of one core: from the mapped cache, and as if every patch decoded its PNG file.

python benchmarks/patches.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import tyro
from timing import RESULTS, interleaved, report, summary

from igconv.data.images import read_image
from igconv.data.patches import PatchSource
from igconv.data.picture_files import write_image


def photographs(count: int, height: int, width: int, folder: Path) -> tuple[list[np.ndarray], list[Path]]:
    """(views of one mapped file as in `igconv.data.cache`, PNG files) of smooth noisy images."""
    rng, sizes, paths = np.random.default_rng(0), (height, width), []
    flat = np.memmap(folder / "pixels.u8", np.uint8, "w+", shape=(count, height, width, 3))
    for i in range(count):
        coarse = torch.from_numpy(rng.normal(120, 40, (1, 3, height // 16, width // 16)))
        smooth = torch.nn.functional.interpolate(coarse, size=sizes, mode="bicubic")[0].numpy()
        pixels = (smooth + rng.normal(0, 4, (3, *sizes))).clip(0, 255).astype(np.uint8)
        flat[i] = pixels.transpose(1, 2, 0)
        paths.append(folder / f"{i}.png")
        write_image(torch.from_numpy(pixels), paths[-1])
    flat.flush()
    mapped = np.memmap(folder / "pixels.u8", np.uint8, "r", shape=flat.shape)
    return list(mapped), paths


def main(
    lr_patch: int = 48,
    scale: int = 4,
    images: int = 8,
    rounds: int = 15,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Patches per second; a micro-batch is 16 patches, an image as large as one of DIV2K.

    Args:
        images: how many are made.
        quick: small images, numbers without meaning.
    """
    torch.set_num_threads(1)
    size, (height, width) = 16, (1356, 2040)
    if quick:
        images, rounds, size, height, width = 2, 2, 2, 208, 224
    with tempfile.TemporaryDirectory() as folder:
        mapped, paths = photographs(images, height, width, Path(folder))
        source = PatchSource(mapped, (scale,), lr_patch, size, seed=0)
        step = iter(range(1_000_000))

        def decoded() -> None:
            """The micro-batch of a loader that opens a PNG file per patch."""
            draw = source.draw(next(step), 0)
            for i in range(size):
                pixels = read_image(paths[draw.image[i]])
                top, left, side = draw.top[i], draw.left[i], scale * lr_patch
                source.degrade(pixels[None, :, top : top + side, left : left + side], scale)

        cases = {
            "decode, crop, degrade": decoded,
            "cache: crop": lambda: source.crop(source.draw(next(step), 0)),
            "cache: crop, degrade": lambda: source.micro_batch(next(step), 0),
        }
        table = summary(interleaved(cases, rounds=rounds), "decode, crop, degrade")
    table["patches_per_s"] = size * 1000 / table.ms
    table["patches_per_cpu_s"] = size * 1000 / table.cpu_ms
    report(table.assign(lr_patch=lr_patch, scale=scale, image=f"{width}x{height}"), "patches", out=out)


if __name__ == "__main__":
    tyro.cli(main)
