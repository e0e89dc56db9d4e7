"""Pages through a Chromium that is installed: as PDF, and as a picture, which tests look at. None is needed."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from igconv.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
LIMIT_S = 120


def find() -> str | None:
    """The command of a Chromium, None where there is none on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def to_pdf(page: Path) -> Path:
    """Print an HTML file as the PDF beside it, as its print style says. Raises InputError where this fails."""
    target = page.with_suffix(".pdf")
    with TemporaryDirectory(dir=page.parent) as folder:  # so that a PDF appears only when it is complete
        made = Path(folder) / target.name
        _run(page, "--no-pdf-header-footer", f"--print-to-pdf={made}")
        _check(made)
        os.replace(made, target)
    return target


def to_picture(page: Path, target: Path, width: int, height: int) -> None:
    """The upper left width x height pixels of an HTML file as PNG. Windows narrower than 500 pixels are not made."""
    _run(page, "--hide-scrollbars", f"--window-size={width},{height}", f"--screenshot={target}")
    _check(target)


def _run(page: Path, *options: str) -> None:
    command = find()
    if command is None:
        raise InputError(f"no Chromium found ({', '.join(NAMES)}); any browser prints {page} as PDF")
    with TemporaryDirectory() as profile:
        words = [
            command,
            "--headless",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            *options,
            page.resolve().as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # its sandbox refuses to be root; the page is our own
            words.insert(1, "--no-sandbox")
        try:
            subprocess.run(words, check=True, capture_output=True, timeout=LIMIT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"{command} could not open {page}: {error}") from None


def _check(made: Path) -> None:
    if not made.is_file():
        raise InputError(f"Chromium ended without {made.name}")
