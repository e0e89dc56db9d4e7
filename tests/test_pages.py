"""The README stays short, its pictures can be seen, and the citation is a valid file."""

import yaml
from PIL import Image

from igconv.study.results import PROJECT


def test_the_readme_is_one_page_that_begins_with_a_picture():
    lines = (PROJECT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert lines[2].startswith("![")
    assert [line for line in lines[:25] if line.startswith("./run_all.sh")] != []


def test_pictures_of_the_docs_are_wide_enough_to_be_seen():
    found = sorted((PROJECT / "docs" / "pictures").glob("*.png"))
    assert found
    for path in found:
        with Image.open(path) as picture:
            assert picture.width >= 600, path


def test_the_citation_names_this_and_the_paper():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2408.09674"
