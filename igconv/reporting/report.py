"""The HTML report: an index page and the executed notebooks, readable without a network."""

import base64
import re
import sys
from html import escape
from pathlib import Path

import pandas as pd

from igconv.errors import InputError
from igconv.files import write
from igconv.reporting import browser, catalogue, cells, summary
from igconv.reporting.verdicts import BAD, GOOD
from igconv.study import results
from igconv.study.runs import runs_of

EXTERNAL = re.compile(r"<(?:script|link)\b[^>]*\b(?:src|href)=[\"']https?:[^>]*>(?:\s*</script>)?", re.IGNORECASE)
NUMBERS = re.compile(r"\([^()]*\d to [^()]*\)")  # an interval in a sentence, with or without its value
WRITTEN = {"main": cells.main_html, "claims": cells.claims_html, "claims_per_scale": cells.per_scale_html}


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

    ``pages=False`` writes the index alone, with links to the executed notebooks and figures that lie beside it: small
    enough to be committed. Else the index holds its figures.
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
    tables = {table.name: _read(root / "tables" / f"{table.name}.csv") for table in catalogue.TABLES}
    pictures = _pictures(root / "figures", embedded=pages)
    topics: dict[str, list[dict]] = {}
    for one in pictures:
        topics.setdefault(one["topic"], []).append(one)
    above = topics.pop("", [])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        profile=profile,
        pages=pages,
        runs=list(runs.values()),
        trained=sum((results.run_folder(profile, name) / "record.csv").is_file() for name in runs),
        made=results.provenance(),
        sentences=_sentences(profile, tables["claims"], tables["runs"]),
        first=[one for one in above if one["name"] != "claims"],
        claims_figure=next((one for one in above if one["name"] == "claims"), None),
        topics=topics,
        tables={
            table.name: dict(caption=table.caption, html=WRITTEN.get(table.name, cells.table_html)(tables[table.name]))
            for table in catalogue.TABLES
        },
        links=links,
    )
    write(folder / "index.html", page)
    return folder / "index.html"


def _read(path: Path) -> pd.DataFrame:
    """A table of the study, without rows where it is missing or empty."""
    if not path.is_file() or path.read_bytes() == b"\n":  # a table without rows can be without columns
        return pd.DataFrame()
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def _sentences(profile: str, claims: pd.DataFrame, costs: pd.DataFrame) -> list[str]:
    """What the study says, as HTML with the verdicts in bold and the numbers in grey; none before it says anything."""
    said = summary.of_profile(profile, claims, costs) if len(claims) else []
    words = re.compile(rf"\b({'|'.join((*GOOD, *BAD, 'undecided'))})(?= at x)")
    marked = (words.sub(lambda found: cells.verdict_html(found[0]), escape(text, quote=False)) for text in said)
    return [NUMBERS.sub(r'<span class="note">\g<0></span>', text) for text in marked]


def _pictures(folder: Path, embedded: bool) -> list[dict]:
    """The figures that are there, numbered: name, topic, caption, number, source, and width on the page.

    200 pixels of a file are 110 on the page, for every figure. The source is the file's data or its relative address.
    """
    from PIL import Image

    shown = []
    for figure in catalogue.FIGURES:
        path = folder / f"{figure.name}.png"
        if path.is_file():
            with Image.open(path) as image:
                width = image.width * 110 // 200
            data = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if embedded else ""
            facts = dict(name=figure.name, topic=figure.topic, caption=figure.caption, number=len(shown) + 1)
            shown.append(facts | dict(source=data or f"../figures/{path.name}", width=width))
    return shown


def main(words: list[str]) -> int:
    """``PROFILE [--index-only] [--pdf]``; returns the exit status."""
    try:
        page = build(words[0], pages="--index-only" not in words)
        print(f"< report: {page}", flush=True)
        if "--pdf" in words:
            print(f"< report: {browser.to_pdf(page)}", flush=True)
    except InputError as error:
        print(f"FAILED report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
