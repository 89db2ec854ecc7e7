"""What tests of data share: a server that can misbehave, and real data where it is at hand."""

import hashlib
import os
import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fromfound.data import DATASETS, DataSet
from fromfound.files import RemoteFile
from fromfound.official import EDITION_FILE

REAL = Path(os.environ.get("FROMFOUND_DATA", ""))
needs_real = pytest.mark.skipif(
    not (REAL / "mnist").is_dir(), reason="FROMFOUND_DATA names no folder of real data"
)
CONTENT = bytes(range(256)) * 1000  # four reads long
OTHER = bytes(len(CONTENT))


def sha256(content: bytes) -> str:
    """The fingerprint of a file with this content."""
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> list[str]:
    """All files and folders under `folder`, as relative paths, without the note on the edition."""
    found = folder.rglob("*") if folder.exists() else []
    return sorted(
        path.relative_to(folder).as_posix() for path in found if path.name != EDITION_FILE
    )


class Server(ThreadingHTTPServer):
    """Serves its content at /HOW/NAME, in the manner that `how` names.

    It keeps the first byte that each request asks for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.ended = [], threading.Event()
        self.content = CONTENT

    def url(self, how: str) -> str:
        """Where the server behaves in this manner."""
        host = "nowhere.invalid" if how == "nowhere" else f"127.0.0.1:{self.server_port}"
        return f"http://{host}/{how}/numbers.bin"

    def file(self, *how: str, name: str = "numbers.bin", content: bytes = CONTENT) -> RemoteFile:
        """A file that these sources have."""
        return RemoteFile(name, len(content), sha256(content), tuple(map(self.url, how)))


class Handler(BaseHTTPRequestHandler):
    """How each request is answered."""

    def do_GET(self) -> None:
        """Answer as the address asks."""
        how = self.path.split("/")[1]
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        self.server.asked.append(start)
        if how == "hangs":
            self.server.ended.wait(5)
        elif how == "missing":
            self.send_error(404)
        else:
            self.send(how, 0 if how in ("norange", "norange-breaks") else start)

    def send(self, how: str, start: int) -> None:
        """Send the content from a byte on."""
        content = {"wrong": OTHER, "wrong-breaks": OTHER, "page": b"<html>log in first</html>"}.get(
            how, self.server.content
        )
        body = content[start:]
        self.send_response(206 if how not in ("norange", "norange-breaks") else 200)
        if how not in ("norange", "norange-breaks"):
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if how == "endless":
            self.end_headers()
            with suppress(OSError):
                while not self.server.ended.is_set():
                    self.wfile.write(content)
            return
        if how == "length":
            self.send_header("Content-Length", self.server.length)
        elif how == "chunked-breaks":
            self.send_header("Transfer-Encoding", "chunked")
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how == "pauses":
            self.wfile.write(body[:100_000])
            self.server.ended.wait(0.3)
            body = body[100_000:]
        self.wfile.write(body[:100_000] if "breaks" in how else b"" if how == "mute" else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def register(monkeypatch: pytest.MonkeyPatch, *remote: RemoteFile, name: str = "toy") -> None:
    """Register a dataset of these files for one test."""
    monkeypatch.setitem(DATASETS, name, DataSet(name, remote, "none", "none"))
