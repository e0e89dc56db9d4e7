"""Pictures of the README and of docs/: ``python docs/pictures.py``.

scales.png: one crop of a bundled photograph at x2, x3, x4 and x8, by bicubic and by the model of the package.
conversion.png: the published SMFANet+ x4 (where its weights are here) and the same network converted to x2, x3 and x5.
"""

from pathlib import Path

import torch

from igconv import upscaling
from igconv.analysis import photographs, pictures
from igconv.conversion.sources import opened
from igconv.data import resize
from igconv.errors import InputError
from igconv.reporting import figures
from igconv.training.converting import convert

HERE = Path(__file__).parent / "pictures"
SIDE = 40


def crop(name: str, row: int, column: int) -> torch.Tensor:
    """A crop of a bundled test photograph made small by 2: uint8 (3, SIDE, SIDE)."""
    (image,) = [pixels for _, image, pixels in photographs.read(("sample_test",)) if image == name]
    height, width = (side // 2 * 2 for side in image.shape[-2:])
    small = resize.downsample(image[:, :height, :width], 2)
    return small[:, row : row + SIDE, column : column + SIDE]


def save(figure, name: str) -> None:
    HERE.mkdir(exist_ok=True)
    (HERE / f"{name}.png").write_bytes(figure._repr_png_())
    print(HERE / f"{name}.png")


def main() -> None:
    lr = crop("chelsea", 40, 60)
    shown = pictures.enlarged(upscaling.default_model(), lr, (2, 3, 4, 8), SIDE)
    rows = [shown[0], *shown[1::2], ("input", lr), *[(title.replace("model", "IGConv"), p) for title, p in shown[2::2]]]
    save(figures.image_grid(rows, columns=5), "scales")
    try:
        source = opened("smfanet_plus_df2k_x4")
    except InputError as error:
        print(error)
        return
    with torch.no_grad():
        own = source.network(lr[None] / 255)[0].clamp(0, 1).mul(255).round().byte()
    model = convert("smfanet_plus_df2k_x4", scales=(2, 3, 5), images=("T91", "BSD200"))
    after = [
        (title.replace("model", "converted"), p) for title, p in pictures.enlarged(model, lr, (2, 3, 5), SIDE)[2::2]
    ]
    save(figures.image_grid([("input", lr), ("before: SMFANet+ ×4", own), *after], columns=5), "conversion")


if __name__ == "__main__":
    main()
