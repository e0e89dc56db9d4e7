"""Fetch image sets and weights: resumed where it stopped, checked, and all or nothing.

Everything is downloaded and unpacked in a hidden folder beside the place where it belongs, checked there, and then
moved. What was there before stays until then; after a failure the same command goes on.
"""

import hashlib
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from igconv.data import datasets, verify, weights
from igconv.data.datasets import Bundled, Folder, KnownImage, images_in, shortened
from igconv.data.images import SUFFIXES
from igconv.errors import InputError, choose, reason
from igconv.files import exclusive
from igconv.progress import follow_items

CHUNK = 1 << 16  # bytes that are written at once; when the connection breaks, the unfinished chunk is lost
TIMEOUT = (20, 60)  # seconds to connect, and between two pieces


def fetch(name: str, root: str | Path | None = None) -> str:
    """Get an image set or published weights, below ``root`` (default: the first of `datasets.data_roots`).

    Nothing happens to what is there and right; of a set that comes as single images only those that are missing or
    wrong are fetched. Returns one line that says what was done.

    Raises InputError, one line, for: an unknown name, a set that users bring, no network, an error of the server, a
    download that broke off, wrong content, a bad archive, no space. What was there before stays as it was.
    """
    both = {**datasets.catalogue(), **weights.catalogue()}
    entry = both[choose(name, both, "image set or weights")]
    try:
        if isinstance(entry, weights.Weights):
            return _fetch_weights(entry, root)
        members = entry.members()
        for member in members:  # before the first of many gigabytes
            if isinstance(member, Folder) and member.bring and member.found(root) is None:
                place = datasets.data_roots(root)[0] / member.folder
                raise InputError(f"{member.name} cannot be fetched: {member.bring} into {place} ({member.licence})")
        return "; ".join([_fetch_images(member, root) for member in members])
    except OSError as error:
        raise InputError(f"cannot fetch {name}: {error.filename or ''} {error.strerror or error}") from None


def _fetch_images(entry: Bundled | Folder, root) -> str:
    if isinstance(entry, Bundled) or entry.bring:  # nothing that could be fetched; it is right, or says what is wrong
        return f"{entry.name}: {len(entry.paths(root))} images, here already"
    folder = (entry.found(root) or datasets.data_roots(root)[0] / entry.folder).resolve()
    if folder.is_dir() and not verify.examine(entry, folder):
        return f"{entry.name}: here already, {folder}"
    with exclusive(folder.parent / f".lock-{folder.name}", wait=True, who=f"{folder} (for fetching)"):
        wrong = verify.examine(entry, folder)  # again: another process may have fetched it meanwhile
        stage = folder.parent / f".fetch-{folder.name}"
        wanted = [name for name in entry.names() if name in wrong]
        if wanted:
            ready = _fetch_each(entry, wanted, stage) if _by_image(entry) else _fetch_archive(entry, stage)
            _place(ready, folder, wanted)
            shutil.rmtree(stage, ignore_errors=True)
        left = list(entry.wrong_names(images_in(folder, entry.nested)).values())
        if left:  # images that do not belong there are the user's to remove
            raise InputError(f"{folder}: {'; '.join(shortened(left))}")
    return f"{entry.name}: {len(wanted)} images fetched, {folder}"


def _by_image(entry: Folder) -> bool:
    return any("{name}" in address for address in entry.addresses)


def _fetch_each(entry: Folder, wanted: list[str], stage: Path) -> Path:
    """Download single images; an image is in the returned folder only if its pixels are the known ones."""
    ready, known = stage / "images", datasets.known_images()[entry.name]
    ready.mkdir(parents=True, exist_ok=True)
    done = {path.stem for path in ready.iterdir()}  # by an earlier call
    for name in follow_items(wanted, len(wanted), f"fetch {entry.name}"):
        if name not in done:
            _fetch_image([address.format(name=quote(name)) for address in entry.addresses], name, known[name], stage)
    return ready


def _fetch_image(addresses: list[str], name: str, known: KnownImage, stage: Path) -> None:
    """One image into ``stage/images``, from the first address that has it. Raises what the first one failed with."""
    failures = []
    for address in addresses:
        path = stage / f"{name}{Path(urlsplit(address).path).suffix}"
        try:
            download(address, path)
            wrong = verify.wrong_content(path, known)
            if not wrong:
                os.replace(path, stage / "images" / path.name)
                return
            path.unlink()
            raise InputError(f"{address} has not the image that belongs to {name}: {wrong}")
        except InputError as failure:
            failures.append(failure)
    raise failures[0]


def _fetch_archive(entry: Folder, stage: Path) -> Path:
    """Download and unpack the archive of a set; the returned folder has all images, all readable."""
    (address,) = entry.addresses
    ready, archive = stage / "images", stage / Path(urlsplit(address).path).name
    if not ready.is_dir():
        download(address, archive, entry.checksum, label=entry.name)
        unpack(archive, ready, entry.inside)
    wrong = list(verify.examine(entry, ready).values())
    if wrong:
        shutil.rmtree(stage)  # the archive is not what it should be
        raise InputError(f"{address} is not {entry.name}: {'; '.join(shortened(wrong))}")
    return ready


def _place(ready: Path, folder: Path, wanted: list[str]) -> None:
    """Move checked images to where they belong: the whole folder at once if there is none yet."""
    if not folder.exists():
        os.replace(ready, folder)
        return
    for path in ready.iterdir():
        if path.stem in wanted:
            before = [old for old in folder.iterdir() if old.stem == path.stem and old.suffix in SUFFIXES]
            os.replace(path, folder / path.name)
            for old in before:  # the wrong image, maybe in another format
                if old.name != path.name:
                    old.unlink()


def _fetch_weights(entry: weights.Weights, root) -> str:
    there = entry.found(root)
    if there and not weights.wrong_file(entry, there):
        return f"{entry.name}: here already, {there}"
    folder = there.parent if there else datasets.data_roots(root)[0] / "weights"
    target = folder / f"{entry.name}{Path(entry.path).suffix}"
    with exclusive(folder / f".lock-{entry.name}", wait=True, who=f"{target} (for fetching)"):
        stage = folder / f".fetch-{entry.name}"
        path = stage / target.name
        download(entry.address, path, label=entry.name)
        wrong = weights.wrong_file(entry, path)
        if wrong:
            shutil.rmtree(stage)
            raise InputError(f"{entry.address} has not the weights {entry.name}: {wrong}")
        os.replace(path, target)
        if there and there != target:
            there.unlink()  # it was wrong, and would be found first
        shutil.rmtree(stage, ignore_errors=True)
    return f"{entry.name}: fetched, {target}"


# One file over HTTP


def download(address: str, target: Path, checksum: str = "", label: str = "") -> None:
    """A file from the network; ``target`` appears, or is replaced, when it is complete and, with a checksum, right.

    An interrupted download leaves ``<target>.part`` and goes on from there when the server allows it and still has the
    same file.

    Args:
        checksum: "sha256:<hex>" or "md5:<hex>"; a target that has it is not downloaded again.
        label: shown in front of the progress bar; "" for no bar.

    Raises InputError with one line, as `fetch`.
    """
    import requests

    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.tag")
    try:
        if checksum and target.is_file() and _checksum(target, checksum) == checksum:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _receive(address, part, tag, label)
        received = _checksum(part, checksum) if checksum else ""
        if received != checksum:
            part.unlink()
            tag.unlink()
            raise InputError(f"{address}: wrong content, {received} instead of {checksum}; it was thrown away")
        os.replace(part, target)
        tag.unlink()
    except requests.HTTPError as error:
        answer = error.response
        raise InputError(f"{address}: the server answers {answer.status_code} {answer.reason}") from None
    except (requests.ConnectionError, requests.Timeout) as error:
        host = urlsplit(address).netloc
        raise InputError(f"{address}: no network, or {host} is down ({_cause(error)})") from None
    except requests.RequestException as error:
        raise InputError(f"{address}: cannot be downloaded ({_cause(error)})") from None
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from None


def _checksum(path: Path, like: str) -> str:
    """Checksum of a file, by the same function as another one: "sha256:<hex>" or "md5:<hex>"."""
    function = like.split(":")[0]
    with open(path, "rb") as file:
        return f"{function}:{hashlib.file_digest(file, function).hexdigest()}"


def _receive(address: str, part: Path, tag: Path, label: str) -> None:
    """Download into ``part``, from where an earlier call stopped if possible; ``tag`` holds the version of the file."""
    import requests

    version = tag.read_text() if tag.is_file() and part.is_file() else ""
    have = part.stat().st_size if version else 0
    headers = {"Accept-Encoding": "identity"}  # so that Content-Length counts the bytes of the file
    if have:
        # A server whose file has changed since sends all of it; so does one that knows no ranges.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and not _continues(answer, have, version):
            if answer.headers.get("Content-Range") == f"bytes */{have}":  # all of it is here
                return
            have = 0
            if answer.status_code != 200:
                tag.unlink()
                return _receive(address, part, tag, label)
        answer.raise_for_status()
        length = int(answer.headers.get("Content-Length", 0))
        free = shutil.disk_usage(part.parent).free
        if length > free:
            needed = f"{length / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free in {part.parent}"
            raise InputError(f"no space for {address}: {needed}")
        if not have:
            part.unlink(missing_ok=True)  # before the tag says what it is a part of
        tag.write_text(_version(answer))
        with open(part, "ab" if have else "wb") as file, _bar(label, have, have + length) as bar:
            try:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar(len(chunk))
                broken = ""
            except requests.RequestException as error:
                broken = _cause(error)
    size = part.stat().st_size
    if broken or (length and size < have + length):
        raise InputError(
            f"{address}: the download broke off after {size} of {have + length or 'unknown'} bytes; "
            "the same command goes on from there"
        )


def _continues(answer, have: int, version: str) -> bool:
    """Whether an answer is the rest of the file whose first ``have`` bytes are here."""
    start = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    return answer.status_code == 206 and start and _version(answer) in ("", version)


def _version(answer) -> str:
    """What tells versions of a file apart, as If-Range wants it; "" if the server says nothing that does."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")


@contextmanager
def _bar(label: str, start: int, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar in bytes; none without a label or a terminal."""
    from tqdm.auto import tqdm

    hidden = None if label else True  # None: hidden where there is no terminal
    with tqdm(desc=label, initial=start, total=total or None, unit="B", unit_scale=True, disable=hidden) as bar:
        yield bar.update


def _cause(error: Exception) -> str:
    """The innermost reason of an error of requests, which wraps those of urllib3 and of the system."""
    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None)
        if not isinstance(inner, Exception):
            return re.sub(r"^(<.*?>|\w+\(host=.*?\)): ", "", reason(error, None))
        error = inner


# Archives


def unpack(archive: Path, folder: Path, inside: str = "") -> None:
    """Unpack the files of a zip or tar archive that are below ``inside`` into a new folder, all or none.

    All members are looked at before anything is written. Raises InputError, with the name of the member, for an
    absolute path, a path with "..", a link or a device; and for a damaged archive, or no space. Hidden files are left
    out (those that a Mac adds are no images).
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive) as opened:
            if isinstance(opened, tarfile.TarFile) and hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
                opened.extraction_filter = tarfile.data_filter
            chosen = _chosen(archive, _members(opened), PurePosixPath(inside))
            size, free = sum(member.size for member in chosen), shutil.disk_usage(archive.parent).free
            if size > free:
                raise InputError(f"no space to unpack {archive}: {size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free")
            for member in follow_items(chosen, len(chosen), f"unpack {archive.name}"):
                opened.extract(member.entry, temporary)
        os.replace(temporary / inside, folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot unpack {archive}: damaged, or no zip or tar archive ({why})") from None
    except OSError as error:
        raise InputError(f"cannot unpack {archive}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class _Member:
    """What zip and tar archives both say about a member."""

    name: str
    kind: str  # "file", "folder", "link" or "device"
    size: int  # bytes, unpacked; neither library writes more
    entry: Any  # for the library's ``extract``


def _members(opened: zipfile.ZipFile | tarfile.TarFile) -> list[_Member]:
    if isinstance(opened, tarfile.TarFile):
        return [_Member(entry.name, _kind_in_tar(entry), entry.size, entry) for entry in opened.getmembers()]
    return [_Member(entry.filename, _kind_in_zip(entry), entry.file_size, entry) for entry in opened.infolist()]


def _kind_in_tar(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return "link"
    if entry.isdir():
        return "folder"
    return "file" if entry.isreg() else "device"


def _kind_in_zip(entry: zipfile.ZipInfo) -> str:
    """Archives made on Unix keep the file's mode in the upper half of the external attributes."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "link"
    if entry.is_dir():
        return "folder"
    return "file" if kind in (0, stat.S_IFREG) else "device"


def _chosen(archive: Path, members: list[_Member], inside: PurePosixPath) -> list[_Member]:
    """Files below ``inside``. Raises InputError at the first member, chosen or not, that does not belong in an archive
    of images. The libraries would rename some of these and unpack them; an archive that has them is not to be trusted.
    """
    chosen = []
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or re.match(r"[A-Za-z]:", member.name):
            raise InputError(f"{archive}: refused, member {member.name!r} has an absolute path")
        if ".." in path.parts:
            raise InputError(f"{archive}: refused, member {member.name!r} leads out of its folder")
        if "\\" in member.name:  # to Windows it separates folders, to the libraries here it does not
            raise InputError(f"{archive}: refused, member {member.name!r} has a backslash in its name")
        if member.kind not in ("file", "folder"):
            raise InputError(f"{archive}: refused, member {member.name!r} is a {member.kind}")
        if member.kind == "file" and path.is_relative_to(inside) and not path.name.startswith("."):
            chosen.append(member)
    if not chosen:
        raise InputError(f"{archive}: no files below {str(inside)!r}")
    return chosen
