"""The page of a profile: read from the top, whole in one file, never wider than the screen."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from igconv import InputError
from igconv.reporting import browser, catalogue, cells, report, summary
from igconv.study import results
from igconv.study.results import PROJECT

COMMITTED = PROJECT / "results" / "cpu"
SECTIONS = ["asked", "found", "claims-of-the-paper", "results", "figures", "notebooks", "provenance"]
needs_browser = pytest.mark.skipif(browser.find() is None, reason="no Chromium to look at the page with")


class Structure(HTMLParser):
    """What the tests ask of a page: elements in order, with what they lie in."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), [(name, facts.get("class") or "") for name, facts in self.open]))
        if tag not in ("meta", "img", "input", "br", "link"):
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def all(self, tag):
        return [(facts, around) for name, facts, around in self.found if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of the committed study, made anew."""
    root = tmp_path_factory.mktemp("results")
    (root / "cpu").mkdir()
    for folder in ("tables", "figures", "notebooks", "runs"):
        (root / "cpu" / folder).symlink_to(COMMITTED / folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGCONV_RESULTS", str(root))
        return report.build("cpu", pages=False)


@pytest.fixture(scope="module")
def structure(page) -> Structure:
    return Structure(page.read_text())


@pytest.mark.parametrize("profile", ["cpu", "benchmark"])
def test_the_committed_page_is_of_this_template(profile):
    """Made by this code, and of the figures and sentences beside it."""
    text = (PROJECT / "results" / profile / "report" / "index.html").read_text()
    assert [facts["id"] for facts, _ in Structure(text).all("h2")] == SECTIONS
    pictures = {path.stem for path in (PROJECT / "results" / profile / "figures").glob("*.png")}
    assert {facts["id"] for facts, _ in Structure(text).all("figure")} == pictures
    assert all((PROJECT / "results" / profile / "report" / facts["src"]).is_file()
               for facts, _ in Structure(text).all("img"))  # fmt: skip
    template = (Path(report.__file__).parent / "report.html.j2").read_text()
    assert re.search(r"<style>.*</style>", template, re.DOTALL)[0] in text


def test_sections_are_in_the_order_of_a_reader(page, structure):
    assert [facts["id"] for facts, _ in structure.all("h2")] == SECTIONS
    assert not structure.open
    text = page.read_text()
    places = [text.index(part) for part in ('id="found"', "<ol>", 'id="psnr_gain"', 'id="crops"', 'class="cards"',
                                            'class="main"', 'id="training_curves"')]  # fmt: skip
    assert places == sorted(places)
    links = {facts["href"].removeprefix("#") for facts, _ in structure.all("a") if facts["href"].startswith("#")}
    assert links == set(SECTIONS)


def test_the_page_is_whole_and_for_every_width(page, structure):
    """No address but those of executed notebooks and figures beside it, tables in boxes that scroll or fold."""
    assert "http" not in page.read_text()
    assert page.stat().st_size < 500_000, "each version of the committed page stays in the history"
    images = structure.all("img")
    assert len(images) == len(list((COMMITTED / "figures").glob("*.png")))
    assert all((page.parent / facts["src"]).is_file() and facts["alt"] for facts, _ in images)
    for facts, _ in structure.all("a"):
        assert facts["href"].startswith("#") or (COMMITTED / "report" / facts["href"]).is_file()
    assert structure.all("meta")[1][0]["content"] == "width=device-width, initial-scale=1"
    assert len(structure.all("table")) > 10
    for facts, around in structure.all("table"):
        assert facts.get("class") == "cards" or ("div", "wide") in around


def test_the_sentences_are_those_of_the_findings(page):
    text = page.read_text()
    said = re.findall(r"<li>(.*?)</li>", text)
    plain = [re.sub(r"<[^>]+>", "", sentence) for sentence in said]
    assert plain == summary.sentences(results.read_table(COMMITTED / "tables" / "claims.csv"))
    assert len(said) == 5
    assert '<b class="down">behind</b> at x2 <span class="note">(-0.34 dB, -0.63 to -0.06)</span>' in said[0]


def test_what_was_not_run_leaves_its_sentence_out():
    claims = results.read_table(COMMITTED / "tables" / "claims.csv")
    costs = claims[claims.claim.str.startswith(("IGConv+: faster", "IGConv: a third"))]
    (said,) = summary.of_profile("sample", costs, pd.DataFrame())
    assert "on AMD EPYC;" in said
    of_one = claims[claims.about.fillna("").str.contains("SPConv+", regex=False) & (claims.scale == "x2")]
    (said,) = summary.of_profile("sample", of_one, pd.DataFrame({"device": ["one", "one", "two"]}))
    assert said.endswith("one IGConv is behind at x2 (-0.34 dB, -0.63 to -0.06) on one and two at 2,000 steps.")


def test_differences_have_the_colour_of_their_interval():
    table = pd.DataFrame({
        "model": list("abcd"), "difference_db": [0.2, -0.3, 0.1, 0.1], "low_db": [0.1, -0.4, -0.1, np.nan],
        "high_db": [0.3, -0.2, 0.3, np.nan], "difference_ssim": [0.0012, -0.0004, 0.0, 0.0], "seeds": 1,
    })  # fmt: skip
    made = cells.table_html(table)
    assert '<td class="up">+0.20 (+0.10 to +0.30)</td>' in made
    assert '<td class="down">-0.30 (-0.40 to -0.20)</td>' in made
    assert '<td class="even">+0.10 (-0.10 to +0.30)</td>' in made
    assert '<td class="plus">+0.10</td>' in made
    assert '<td class="minus">-0.0004</td>' in made
    assert "In every row: seeds 1." in made
    assert "difference (dB)" in made
    assert "low" not in made
    assert cells.table_html(pd.DataFrame()) == ""


def test_the_main_table_counts_what_was_not_run():
    table = pd.DataFrame({
        "encoder": ["", "e", "e"], "model": ["bicubic", "SPConv", "IGConv"], "networks": ["", "one per scale", "one"],
        "Set5 x2": ["33.67 / 0.9303", "36.14 / 0.9513", "not run"], "Set5 x3": ["30.40 / 0.8689", "not run", "not run"],
    })  # fmt: skip
    made = cells.main_html(table)
    assert '<th colspan="2" scope="colgroup">Set5</th>' in made
    assert '<td>36.14<br><span class="note">0.9513</span></td>' in made
    assert "IGConv" not in made
    assert "Not run: 1 more of 3 models." in made


def test_texts_of_tables_are_no_html():
    row = dict(claim="<a>", about="<b>", scale="x2", verdict="ahead", value=0.1, low=np.nan, high=np.nan, target=0.0,
               unit="dB", source="ours", budget="", p_holm=0.01, measure="a < b & c")  # fmt: skip
    made = cells.claims_html(pd.DataFrame([row]))
    assert "&lt;a&gt;" in made
    assert "a &lt; b &amp; c" in made
    assert '<b class="up">ahead</b>' in made
    assert "&lt;b&gt;" in cells.table_html(pd.DataFrame({"x": ["<b>", "c"]}))
    wide = pd.DataFrame({"claim": ["c"], "about": ["<b>"], "x2": ["+0.10 ± 0.20 dB"], "verdict": ["undecided"]})
    assert '<td data-of="x2" class="even">' in cells.per_scale_html(wide)


def test_an_empty_study_has_a_page(monkeypatch, tmp_path):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    text = report.build("smoke", pages=False).read_text()
    assert [facts["id"] for facts, _ in Structure(text).all("h2")] == SECTIONS
    assert "None of them are trained so far" in text
    assert not Structure(text).all("table")


def test_without_a_browser_there_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    assert browser.find() is None
    with pytest.raises(InputError, match="no Chromium found"):
        browser.to_picture(tmp_path / "a.html", tmp_path / "a.png", 100, 100)
    assert report.main(["smoke", "--index-only", "--pdf"]) == 1
    said = capsys.readouterr()
    assert "index.html" in said.out
    assert said.err.count("\n") == 1


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, tmp_path, width):
    """Measured in a frame, because Chromium has no window as narrow as a phone; folded parts are opened first."""
    measure = (
        "<script>onload = () => { document.querySelectorAll('details').forEach(one => one.open = true);"
        f" const wide = document.documentElement.scrollWidth; if (wide > {width})"
        " document.body.innerHTML = '<div style=\"position:fixed;inset:0;background:#f00\">' + wide; }</script>"
    )
    (tmp_path / "page.html").write_text(page.read_text().replace("</body>", f"{measure}</body>"))
    frame = f'<body style="margin:0"><iframe src="page.html" style="width:{width}px;height:2000px;border:0"></iframe>'
    (tmp_path / "frame.html").write_text(frame)
    browser.to_picture(tmp_path / "frame.html", tmp_path / "seen.png", max(width, 500), 2000)
    with Image.open(tmp_path / "seen.png") as seen:
        pixels = np.asarray(seen.convert("RGB"))[:, :width].reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(1).mean() < 0.5, "something is wider than the page"
    text = (pixels.max(1) < 100).mean()
    assert 0.01 < text < 0.3, "the page does not show its text"


@needs_browser
def test_the_page_prints_with_all_that_is_folded(page, tmp_path):
    shutil.copy(page, tmp_path / "index.html")
    made = browser.to_pdf(tmp_path / "index.html")
    assert made.read_bytes().startswith(b"%PDF-")
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "index.pdf"}
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", made, "-"], check=True, capture_output=True, text=True).stdout
        folded = next(figure.caption for figure in catalogue.FIGURES if figure.topic == catalogue.COSTS)
        assert " ".join(folded.split())[:40] in " ".join(text.split())
