"""The picture of what the models of a study make of one test image: which models, and which image."""

import pandas as pd

from igconv.analysis import pictures
from igconv.data import datasets
from igconv.data.images import read_image
from igconv.errors import InputError
from igconv.models import run_weights
from igconv.models.arithmetic import chosen_device
from igconv.study.labels import run_label
from igconv.study.run import Run


def side_by_side(rows: pd.DataFrame, runs: dict[str, Run], side: int = 96) -> tuple[pictures.Titled, int]:
    """(crops in rows per scale, crops per row) of the test image on which the models differ most.

    Models are those of the first seed without ingredients more or less that have a network for every scale. The image
    is the one whose PSNR-Y differs most between them at the largest scale: which of them is ahead plays no part.

    Args:
        rows: evaluation rows of these runs.
        runs: by name, of one encoder.
        side: of a crop, in HR pixels.

    Raises InputError where fewer than two models were run, or the test images are not here.
    """
    models: dict[str, dict[int, Run]] = {}
    evaluated = set(rows.run)
    for run in runs.values():
        if run.is_plain and not run.variant and run.seed == 0 and run.name in evaluated and run_weights.is_trained(run):
            models.setdefault(run_label(run.upsampler), {}).update(dict.fromkeys(run.scales, run))
    scales = sorted({scale for of in models.values() for scale in of})
    models = {title: of for title, of in models.items() if sorted(of) == scales}
    if len(models) < 2:
        raise InputError("nothing to compare: fewer than two models were run at every scale")
    names = [of[scales[-1]].name for of in models.values()]
    at = rows[(rows.scale == scales[-1]) & rows.run.isin(names)]
    spread = at.groupby(["dataset", "image"]).psnr_y_db.agg(lambda psnr: psnr.max() - psnr.min())
    dataset, image = spread.idxmax()
    paths = datasets.image_set(dataset).paths()
    path = paths[datasets.image_names(paths).index(image)]
    loaded = {run.name: run_weights.load_run(run) for of in models.values() for run in of.values()}
    upscalers = {title: {scale: loaded[of[scale].name] for scale in scales} for title, of in models.items()}
    hr = read_image(path, grey_as_rgb=True)
    shown = pictures.at_scales(upscalers, hr, f"{dataset}: {image}", side, chosen_device("auto"))
    return shown, len(models) + 2
