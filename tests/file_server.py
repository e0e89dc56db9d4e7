"""A server of files that misbehaves on request, files to put on it, and what the tests of downloads share."""

import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from igconv import InputError


@dataclass
class Server:
    """Files by path, and for each path how it behaves; it remembers the requests."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    # of a path: "ranges" (the default), "no ranges", "no version", "truncate", "hang", "stale", or a status
    behaviour: dict = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # (path, Range)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@contextmanager
def serving() -> Iterator[Server]:
    """A server on this machine for as long as the context lasts."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            path = self.path.strip("/")
            asked = self.headers.get("Range", "")
            state.requests.append((path, asked))
            behaviour, content = state.behaviour.get(path, "ranges"), state.files.get(path)
            if isinstance(behaviour, int) or content is None:
                return self.send_error(behaviour if isinstance(behaviour, int) else 404)
            tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            start = 0
            if asked and behaviour not in ("no ranges", "no version"):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if self.headers.get("If-Range") != tag and behaviour != "stale":  # "stale" ignores the condition
                    start = 0
                elif start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if behaviour != "no version":
                self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            half = (start + len(content)) // 2
            self.wfile.write(content[start:half])
            if behaviour == "hang":
                self.wfile.flush()
                time.sleep(30)
            if behaviour not in ("truncate", "hang"):
                self.wfile.write(content[half:])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def refused(call, *words: str) -> str:
    """The call raises InputError; its message is one line with all the words."""
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


def zipped(members: dict, path: Path, **modes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(name.split("/")[-1], 0o100644) << 16
            archive.writestr(info, data)
    return path


def tarred(members: list, path: Path, mode="w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                archive.addfile(info)
    return path


def encoded(image, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format=kind)
    return file.getvalue()
