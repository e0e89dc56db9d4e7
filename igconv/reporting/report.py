"""The HTML report: an index page and the executed notebooks, readable without a network."""

import base64
import re
import sys
from pathlib import Path

import pandas as pd

from igconv.errors import InputError
from igconv.files import write
from igconv.reporting import catalogue
from igconv.reporting.tables import over_all_sets
from igconv.study import results
from igconv.study.runs import runs_of

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
        tables={t.name: (t.caption, _table(root / "tables" / f"{t.name}.csv")) for t in catalogue.TABLES},
        figures={f.name: (f.caption, _picture(root / "figures" / f"{f.name}.png")) for f in catalogue.FIGURES},
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
    return table.to_html(index=False, border=0, na_rep="", float_format=_three_digits)


def _three_digits(value: float) -> str:
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def _picture(path: Path) -> dict | None:
    """Base64 data of a figure and its width on the page: 200 pixels of the file are 110 there, for every figure."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as image:
        return {"data": base64.b64encode(path.read_bytes()).decode(), "width": image.width * 110 // 200}


def main(words: list[str]) -> int:
    """``PROFILE [--index-only]``; returns the exit status."""
    try:
        print(f"< report: {build(words[0], pages='--index-only' not in words)}", flush=True)
    except InputError as error:
        print(f"FAILED report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
