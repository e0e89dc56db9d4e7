"""What the image sets hold, and how much two ways of making LR images differ on them."""

from collections.abc import Iterator, Sequence

import pandas as pd
from torch import Tensor

from igconv.analysis.pictures import Titled, centre
from igconv.data import cache, datasets, images, resize
from igconv.evaluation.benchmark import benchmark_pair


def sizes(sets: Sequence[str]) -> pd.DataFrame:
    """A row per image: dataset, use ("train" or "test"), image, width_px, height_px, short_side_px."""
    rows = []
    for name in sets:
        use, stored = datasets.image_set(name).use, cache.decoded(name)
        for image, pixels in zip(stored.names, stored.images, strict=True):
            height, width = pixels.shape[:2]
            rows.append(dict(dataset=name, use=use, image=image, width_px=width, height_px=height))
    table = pd.DataFrame(rows)
    return table.assign(short_side_px=table[["width_px", "height_px"]].min(axis=1))


def sizes_per_set(table: pd.DataFrame) -> pd.DataFrame:
    """Of `sizes`, per set: how many images, the smallest side, and millions of pixels."""
    table = table.assign(pixels_millions=table.width_px * table.height_px / 1e6)
    return table.groupby(["use", "dataset"]).agg(
        images=("image", "count"), smallest_side_px=("short_side_px", "min"), pixels_millions=("pixels_millions", "sum")
    )


def read(sets: Sequence[str]) -> Iterator[tuple[str, str, Tensor]]:
    """(set, image, pixels uint8 (3, H, W)) of every image; grey ones count as RGB with equal colours."""
    for name in sets:
        paths = datasets.image_set(name).paths()
        for path, image in zip(paths, datasets.image_names(paths), strict=True):
            yield name, image, images.read_image(path, grey_as_rgb=True)


def first(name: str) -> tuple[str, Tensor]:
    """(image, pixels) of the first image of a set."""
    path = datasets.image_set(name).paths()[0]
    return path.stem, images.read_image(path, grey_as_rgb=True)


def preview(sets: Sequence[str], count: int, side: int = 128) -> Titled:
    """Centre crops of about ``count`` images, as many of each set."""
    each = max(1, count // len(sets))
    shown = []
    for name in sets:
        for path in datasets.image_set(name).paths()[:each]:
            shown.append((f"{name}: {path.stem}", centre(images.read_image(path, grey_as_rgb=True), side)))
    return shown


def degradation_gap(sets: Sequence[str], scales: Sequence[int]) -> pd.DataFrame:
    """How far Pillow's bicubic is from MATLAB's, a row per image and scale: dataset, image, scale, differing_share (of
    the values of the LR image) and largest_difference_levels (of 255)."""
    rows = []
    for name, image, pixels in read(sets):
        for scale in scales:
            matlab, hr = benchmark_pair(pixels, scale)
            gap = (matlab.int() - resize.downsample(hr, scale, "pil").int()).abs()
            share, largest = (gap > 0).float().mean().item(), int(gap.max())
            rows.append(
                dict(dataset=name, image=image, scale=scale, differing_share=share, largest_difference_levels=largest)
            )
    return pd.DataFrame(rows)


def degradation_conclusion(gap: pd.DataFrame) -> str:
    """What `degradation_gap` says, in one sentence."""
    shares = gap.groupby("scale").differing_share.mean()
    at_scales = ", ".join(f"{100 * share:.0f} % of the values at ×{scale}" for scale, share in shares.items())
    largest = gap.largest_difference_levels.max()
    return f"MATLAB's and Pillow's LR images differ in {at_scales}, by up to {largest} grey levels."


def bicubic_conclusion(beside: pd.DataFrame) -> str:
    """What `igconv.reporting.tables.bicubic_beside_literature` says; Set14 has a grey image that others treat
    otherwise."""
    if beside.empty:
        return "no published values of bicubic for these sets"
    largest = beside[beside.dataset != "Set14"].difference_db.abs().max()
    return f"largest difference to the published values, Set14 left out: {largest:.3f} dB (they have two digits)"
