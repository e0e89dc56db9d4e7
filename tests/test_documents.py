"""Texts for people, comments and docstrings name files, modules and functions that exist."""

import importlib
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


def resolves(name: str) -> bool:
    """Whether ``igconv.a.b.c`` is a module, or something that can be reached from one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_dotted_names_exist():
    """In backticks, in every text and source file of the project."""
    files = [PROJECT / page for page in PAGES]
    files += [*PROJECT.glob("igconv/**/*.py"), *PROJECT.glob("benchmarks/*.py"), *PROJECT.glob("notebooks/*.ipynb")]
    named = {(name, file.name) for file in files for name in re.findall(r"`(igconv(?:\.\w+)+)", file.read_text())}
    assert len(named) > 50
    assert [pair for pair in sorted(named) if not resolves(pair[0])] == []
