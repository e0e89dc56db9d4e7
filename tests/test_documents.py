"""Texts for people name files that exist."""

import re

import pytest

from igconv.study.results import PROJECT

PAGES = sorted(
    page.relative_to(PROJECT).as_posix()
    for page in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("data/*.md"),
                 *PROJECT.glob("benchmarks/*.md"), PROJECT / "results" / "README.md")
)  # fmt: skip
THEIRS = {"igconv/train.py", "igconv/test.py"}  # the authors' scripts, in a table of their commands beside ours


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_exist(page):
    """Python files and folders of the package and the tests that a page names, and its relative links."""
    text = (PROJECT / page).read_text()
    named = set(re.findall(r"(?<![\w./])(?:igconv|tests|benchmarks|notebooks|docs)/[\w./*-]*[\w/]", text)) - THEIRS
    links = {link.split("#")[0] for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", text)}
    missing = [name for name in named if not any(any(PROJECT.glob(f"{name.rstrip('/')}{end}")) for end in ("", ".py"))]
    missing += [link for link in links if not ((PROJECT / page).parent / link).exists()]
    assert missing == []
