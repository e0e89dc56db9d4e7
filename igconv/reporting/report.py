"""The HTML report: an index page and the executed notebooks, readable without a network."""

import base64
import re
import sys
from pathlib import Path

import pandas as pd

from igconv.errors import InputError
from igconv.files import write
from igconv.reporting.tables import over_all_sets
from igconv.study import results
from igconv.study.runs import runs_of

# Figure name -> caption, in the order of the page.
FIGURES = {
    "claims": "Every claim of the paper: our value with its interval against the target.",
    "psnr_gain": "Gain over bicubic in PSNR-Y per scale and model. Bars are means, dots single images. "
    "Ingredients left out or added: see below.",
    "training_curves": "Training: loss of the patches (left) and PSNR of the averaged weights on validation crops.",
    "ablation": "What each ingredient brings IGConv+, as the last of three, and what it brings another model alone: "
    "PSNR-Y with it minus without it, paired by image, with 95 % bootstrap intervals; small dots are single test sets.",
    "cka_maps": "Similarity (unbiased linear CKA) of the encoders of models trained for different scales.",
    "cka_depth": "The same along the depth, with randomly initialised encoders as control.",
    "transfer_loss": "Frozen encoders with an SPConv fitted in closed form, minus the native encoder treated alike: "
    "what an encoder of another scale costs.",
    "kernel_patterns": "What single channels paint into an output cell: SPConv per scale, and one IGConv and one "
    "IGConv+ at several.",
    "correlation_bars": "Correlation of kernel patterns across scales, with the 95 % quantile under shuffling.",
    "alignment_bars": "SPConvs of two scales after the linear map between their encoders' features: similarity (black "
    "bars: chance), and what the predicted SPConv costs.",
    "band_errors": "Error energy relative to the image's energy per radial frequency band. The dashed line is the "
    "Nyquist frequency of the LR image.",
    "band_learning": "Error per frequency band over the training, of the raw weights on the validation crops.",
    "unseen_scales": "At scales nobody trained on: the model itself minus its x4 image enlarged by bicubic.",
    "initialisation": "Before the first step: kernels of SPConv and IGConv, and how many directions the gradient that "
    "reaches the encoder has.",
    "stored_parameters": "Parameters of one multi-scale model over those of three fixed-scale ones, per encoder.",
    "efficiency_bars": "Cost of the upsampler alone on this machine, and the paper's figures for another machine.",
    "cost_sweep": "Latency and memory of the upsamplers against the size of the image and against the scale.",
    "encoder_costs": "Parameters, FLOPs and activation memory of whole models, instantiated, x2.",
    "generation_time": "Time to generate a kernel bank against the scale.",
    "training_budget": "Training time and stored parameters: three fixed-scale models against one multi-scale model.",
}
TABLES = {
    "main": "PSNR-Y in dB / SSIM, means over the test images and seeds.",
    "claims": "The claims at the budget of this profile. Verdicts follow from rules (igconv/reporting/verdicts.py).",
    "claims_per_scale": "Those about single scales in short.",
    "fixed_vs_multi": "One model for all scales minus the fixed-scale model of the same scale, paired by image: at "
    "equal steps per model, at equal total steps, and at equal steps with the frequency loss in both. Single sets are "
    "in the CSV file.",
    "published": "Models beside the paper's values. Published ones should have them; our runs have another budget and "
    "other data.",
    "alternatives": "What a user would pick instead, beside IGConv and SPConv of equal steps.",
    "effects": "What each ingredient of IGConv+ changes beside which others: with it minus without it, paired by "
    "image. Single sets are in the CSV file.",
    "budget": "Training budget and stored parameters.",
    "paper": "Gains over the fixed-scale model, beside the paper's (other budget, encoders and images: compare signs).",
    "runs": "Every run: where it was trained, for how long, how fast, with how much memory, by which code.",
}
EXTERNAL = re.compile(r"<(?:script|link)\b[^>]*\b(?:src|href)=[\"']https?:[^>]*>(?:\s*</script>)?", re.IGNORECASE)


def notebook_html(path: Path) -> str:
    """An executed notebook as one HTML page that loads nothing from elsewhere."""
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", embed_images=True)
    page, _ = exporter.from_notebook_node(nbformat.read(path, 4), resources={"metadata": {"name": path.stem}})
    # The template asks for MathJax and RequireJS on the web; the notebooks use neither formulas nor widgets.
    return EXTERNAL.sub("", page)


def build(profile: str, pages: bool = True) -> Path:
    """Write ``report/index.html`` and a page per executed notebook. Returns the path of the index.

    ``pages=False`` writes the index alone, with links to the executed notebooks: small enough to be committed.
    """
    import jinja2

    root = results.root(profile)
    folder = root / "report"
    links = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        links[path.stem] = f"{path.stem}.html" if pages else f"../notebooks/{path.name}"
        if pages:
            write(folder / links[path.stem], notebook_html(path))
    runs = runs_of(profile)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        profile=profile,
        runs=list(runs.values()),
        trained=sum((results.run_folder(profile, name) / "record.csv").is_file() for name in runs),
        made=results.provenance(),
        tables={name: (caption, _table(root / "tables" / f"{name}.csv")) for name, caption in TABLES.items()},
        figures={name: (caption, _picture(root / "figures" / f"{name}.png")) for name, caption in FIGURES.items()},
        links=links,
    )
    write(folder / "index.html", page)
    return folder / "index.html"


def _table(path: Path) -> str:
    """HTML of a table, nothing for one that is missing or empty. Differences: those measured, over all sets."""
    if not path.is_file() or path.read_bytes() == b"\n":  # a table without rows can be without columns
        return ""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    if "difference_db" in table and "images" in table:
        table = over_all_sets(table[table.images > 0])
    if table.empty:
        return ""
    return table.to_html(index=False, border=0, na_rep="", float_format=lambda v: f"{round(v, 3) + 0.0:.3f}")


def _picture(path: Path) -> dict | None:
    """Base64 data of a figure and its width on the page: 200 pixels of the file are 110 there, for every figure."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as image:
        return {"data": base64.b64encode(path.read_bytes()).decode(), "width": image.width * 110 // 200}


if __name__ == "__main__":
    try:
        print(f"< report: {build(sys.argv[1], pages='--index-only' not in sys.argv)}", flush=True)
    except InputError as error:
        sys.exit(f"FAILED report: {error}")
