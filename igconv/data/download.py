"""Fetch image sets and weights: resumed where it stopped, checked, and all or nothing.

Everything is downloaded and unpacked in a hidden folder beside the place where it belongs, checked there, and then
moved. What was there before stays until then; after a failure the same command goes on.
"""

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
from urllib.parse import quote, urlsplit

from igconv.data import datasets, weights
from igconv.errors import InputError, choose, reason
from igconv.files import exclusive
from igconv.progress import follow_items

CHUNK = 1 << 16  # bytes; what of a chunk has arrived when the line breaks is lost
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
        parts = [datasets.image_set(part) for part in entry.parts] or [entry]
        for part in parts:  # before the first of many gigabytes
            if part.bring and part.found(root) is None:
                place = datasets.data_roots(root)[0] / part.folder
                raise InputError(f"{part.name} cannot be fetched: {part.bring} into {place} ({part.licence})")
        return "; ".join([_fetch_images(part, root) for part in parts])
    except OSError as error:
        raise InputError(f"cannot fetch {name}: {error.filename or ''} {error.strerror or error}") from None


def _fetch_images(entry: datasets.ImageSet, root) -> str:
    if entry.files or entry.bring:  # nothing that could be fetched; it is right, or says what is wrong
        return f"{entry.name}: {len(entry.paths(root))} images, here already"
    folder = (entry.found(root) or datasets.data_roots(root)[0] / entry.folder).resolve()
    if folder.is_dir() and not datasets.examine(entry, folder):
        return f"{entry.name}: here already, {folder}"
    with exclusive(folder.parent / f".lock-{folder.name}", wait=True, who=f"{folder} (for fetching)"):
        wrong = datasets.examine(entry, folder)  # again: another process may have fetched it meanwhile
        stage = folder.parent / f".fetch-{folder.name}"
        wanted = [name for name in entry.names() if name in wrong]
        if wanted:
            ready = _fetch_each(entry, wanted, stage) if _by_image(entry) else _fetch_archive(entry, stage)
            _place(ready, folder, wanted)
            shutil.rmtree(stage, ignore_errors=True)
        left = list(datasets.wrong_names(entry, datasets.images_in(folder, entry.nested)).values())
        if left:  # images that do not belong there are the user's to remove
            raise InputError(f"{folder}: {'; '.join(datasets.shortened(left))}")
    return f"{entry.name}: {len(wanted)} images fetched, {folder}"


def _by_image(entry: datasets.ImageSet) -> bool:
    return any("{name}" in address for address in entry.addresses)


def _fetch_each(entry: datasets.ImageSet, wanted: list[str], stage: Path) -> Path:
    """Download single images; an image is in the returned folder only if its pixels are the known ones."""
    ready, known = stage / "images", datasets.known_images()[entry.name]
    ready.mkdir(parents=True, exist_ok=True)
    done = {path.stem for path in ready.iterdir()}  # by an earlier call
    for name in follow_items(wanted, len(wanted), f"fetch {entry.name}"):
        if name not in done:
            _fetch_image([address.format(name=quote(name)) for address in entry.addresses], name, known[name], stage)
    return ready


def _fetch_image(addresses: list[str], name: str, known: datasets.KnownImage, stage: Path) -> None:
    """One image into ``stage/images``, from the first address that has it. Raises what the first one failed with."""
    failures = []
    for address in addresses:
        path = stage / f"{name}{Path(urlsplit(address).path).suffix}"
        try:
            download(address, path)
            wrong = datasets.wrong_content(path, known)
            if not wrong:
                os.replace(path, stage / "images" / path.name)
                return
            path.unlink()
            raise InputError(f"{address} has not the image that belongs to {name}: {wrong}")
        except InputError as failure:
            failures.append(failure)
    raise failures[0]


def _fetch_archive(entry: datasets.ImageSet, stage: Path) -> Path:
    """Download and unpack the archive of a set; the returned folder has all images, all readable."""
    (address,) = entry.addresses
    ready, archive = stage / "images", stage / Path(urlsplit(address).path).name
    if not ready.is_dir():
        download(address, archive, entry.checksum, label=entry.name)
        unpack(archive, ready, entry.inside)
    wrong = list(datasets.examine(entry, ready).values())
    if wrong:
        shutil.rmtree(stage)  # the archive is not what it should be
        raise InputError(f"{address} is not {entry.name}: {'; '.join(datasets.shortened(wrong))}")
    return ready


def _place(ready: Path, folder: Path, wanted: list[str]) -> None:
    """Move checked images to where they belong: the whole folder at once if there is none yet."""
    if not folder.exists():
        os.replace(ready, folder)
        return
    for path in ready.iterdir():
        if path.stem in wanted:
            before = [old for old in folder.iterdir() if old.stem == path.stem and old.suffix in datasets.SUFFIXES]
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
    """A file from the network; ``target`` appears when it is complete and, with a checksum, right.

    An interrupted download leaves ``<target>.part`` and goes on from there when the server allows it and still has the
    same file.

    Args:
        checksum: "sha256:<hex>" or "md5:<hex>"; a target that has it is not downloaded again.
        label: shown in front of the progress bar; "" for no bar.

    Raises InputError with one line, as `fetch`.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    if not checksum:
        target.unlink(missing_ok=True)  # nobody knows whether it is right
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(address, checksum or None, target.name, target.parent,
                       downloader=lambda url, path, _: _receive(url, Path(path), target, label))  # fmt: skip
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
    except ValueError as error:  # of pooch, for a checksum
        if isinstance(error, InputError):
            raise
        raise InputError(f"{address}: wrong content. {str(error).split('. ')[0]}; it was thrown away") from None


def _receive(address: str, path: Path, target: Path, label: str) -> None:
    """Download into ``<target>.part``, from where an earlier call stopped if possible, then move it to ``path``."""
    import requests

    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.tag")
    version = tag.read_text() if tag.is_file() and part.is_file() else ""
    have = part.stat().st_size if version else 0
    headers = {"Accept-Encoding": "identity"}  # so that Content-Length counts the bytes of the file
    if have:
        # A server whose file has changed since sends all of it; so does one that knows no ranges.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and not _continues(answer, have, version):
            if answer.headers.get("Content-Range") == f"bytes */{have}":  # all of it is here; only the move is left
                os.replace(part, path)
                return tag.unlink()
            have = 0
            if answer.status_code != 200:
                tag.unlink()
                return _receive(address, path, target, label)
        answer.raise_for_status()
        length = int(answer.headers.get("Content-Length", 0))
        free = shutil.disk_usage(part.parent).free
        if length > free:
            raise InputError(f"no space for {address}: {length / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free "
                             f"in {part.parent}")  # fmt: skip
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
        raise InputError(f"{address}: the download broke off after {size} of {have + length or 'unknown'} bytes; "
                         "the same command goes on from there")  # fmt: skip
    os.replace(part, path)
    tag.unlink()


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

    with tqdm(desc=label, initial=start, total=total or None, unit="B", unit_scale=True,
              disable=None if label else True) as bar:  # fmt: skip
        yield bar.update


def _cause(error: Exception) -> str:
    """The innermost reason of an error of requests, which wraps those of urllib3 and of the system."""
    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None)
        if not isinstance(inner, Exception):
            return re.sub(r"^(<.*?>|\w+\(host=.*?\)): ", "", reason(error, None))
        error = inner


# Archives


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # "file", "folder", or what it is else
    size: int
    open: Callable


def unpack(archive: Path, folder: Path, inside: str = "") -> None:
    """Unpack the files of a zip or tar archive that are below ``inside`` into a new folder, all or none.

    All members are looked at before anything is written. Raises InputError, with the name of the member, for an
    absolute path, a path with "..", a link or a device; and for a damaged archive, or no space. Hidden files are left
    out (those that a Mac adds are no images).
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with _members(archive) as members:
            chosen = _chosen(archive, members, PurePosixPath(inside))
            size, free = sum(member.size for member in chosen.values()), shutil.disk_usage(archive.parent).free
            if size > free:
                raise InputError(f"no space to unpack {archive}: {size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free")
            temporary.mkdir(parents=True)
            for path, member in follow_items(chosen.items(), len(chosen), f"unpack {archive.name}"):
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
        os.replace(temporary, folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot unpack {archive}: damaged, or no zip or tar archive ({why})") from None
    except OSError as error:
        raise InputError(f"cannot unpack {archive}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [_Member(info.filename, _kind_in_zip(info), info.file_size, lambda info=info: file.open(info))
                   for info in file.infolist()]  # fmt: skip
    else:
        with tarfile.open(archive) as file:
            yield [_Member(info.name, "file" if info.isreg() else "folder" if info.isdir() else
                           "link" if info.issym() or info.islnk() else "device", info.size,
                           lambda info=info: file.extractfile(info)) for info in file.getmembers()]  # fmt: skip


def _kind_in_zip(info: zipfile.ZipInfo) -> str:
    """Archives made on Unix keep the file's mode in the upper half of the external attributes."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "link"
    if info.is_dir():
        return "folder"
    return "file" if kind in (0, stat.S_IFREG) else "device"


def _chosen(archive: Path, members: list[_Member], inside: PurePosixPath) -> dict[PurePosixPath, _Member]:
    """Path in the new folder -> member. Raises InputError at the first member that could get out of the folder."""
    chosen = {}
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or re.match(r"[A-Za-z]:", str(path)):
            raise InputError(f"{archive}: refused, member {member.name!r} has an absolute path")
        if ".." in path.parts:
            raise InputError(f"{archive}: refused, member {member.name!r} leads out of its folder")
        if member.kind not in ("file", "folder"):
            raise InputError(f"{archive}: refused, member {member.name!r} is a {member.kind}")
        if member.kind == "file" and path.is_relative_to(inside) and not path.name.startswith("."):
            chosen[path.relative_to(inside)] = member
    if not chosen:
        raise InputError(f"{archive}: no files below {str(inside)!r}")
    return chosen
