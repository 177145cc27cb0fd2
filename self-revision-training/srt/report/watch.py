"""A live report: the page of runs that go on, served on this machine alone. Nothing is written."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from srt.common.errors import UserError
from srt.report.folders import RunFolders
from srt.report.html import document, element

HOST = "127.0.0.1"
SUFFIXES = (".json", ".jsonl")  # of the files that a report reads
DEPTH = 3  # folders below that of a run: evaluation/base, stage1.work/checkpoint-50
RETRY_SECONDS = 3

Find = Callable[[], list[RunFolders]]


class LivePage:
    """The page as of now; `render` makes it again only after a file of the runs has changed."""

    def __init__(self, find: Find, render: Callable[[list[RunFolders]], str]):
        self._find, self._render = find, render
        self._lock = threading.Lock()  # one at a time: matplotlib is not safe in several threads
        self._signature: tuple[object, ...] | None = None
        self._page = b""

    def get(self) -> bytes:
        """Raises UserError while there is nothing to show, or a file is damaged."""
        with self._lock:
            folders = self._find()
            signature = tuple(entry for run in folders for entry in _files(run))
            if signature != self._signature:
                self._page = self._render(folders).encode("utf-8", "xmlcharrefreplace")
                self._signature = signature
            return self._page


def open_server(page: LivePage, port: int) -> ThreadingHTTPServer:
    """Listens on 127.0.0.1; port 0 takes any free one. Raises UserError when the port cannot be had."""

    class Handler(_Handler):
        live_page = page

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
        Handler.port = server.server_port
        return server
    except OSError as error:
        raise UserError(
            f"WATCH_PORT={port}: {HOST}:{port} cannot be opened ({error.strerror}); choose another port, or 0 for "
            "any free one"
        ) from error


def serve(page: LivePage, port: int) -> None:
    """Serves the page until Ctrl-C."""
    with open_server(page, port) as server:
        print(f"live report: http://{HOST}:{server.server_port}/ (Ctrl-C ends it; the runs go on)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


class _Handler(BaseHTTPRequestHandler):
    """GET / alone. Other sites' scripts cannot read it: their names are not accepted as the host."""

    live_page: LivePage
    port: int
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        port = self.port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._send(HTTPStatus.FORBIDDEN, b"this server answers 127.0.0.1 and localhost only", "text/plain")
            return
        if self.path.partition("?")[0] != "/":
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            return
        try:
            page = self.live_page.get()
        except UserError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, _waiting_page(str(error)))
            return
        etag = f'"{hashlib.sha256(page).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == etag:
            self._send(HTTPStatus.NOT_MODIFIED, b"")
            return
        self._send(HTTPStatus.OK, page, etag=etag)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str = "text/html", etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the browser has left the page

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request every two seconds is no news."""


def _waiting_page(reason: str) -> bytes:
    """Shows the reason, and asks again."""
    retry = f'<meta http-equiv="refresh" content="{RETRY_SECONDS}">'
    text = document("SD-Zero", "", element("h1", "Nothing to show yet"), element("p", reason))
    return text.replace("<head>", f"<head>{retry}", 1).encode("utf-8", "xmlcharrefreplace")


def _files(run: RunFolders) -> Iterator[tuple[str, int, int]]:
    """(path, size, time of the last change) of every file that the report of the run may read."""
    for folder in (run.evaluation, run.collection, run.srt, run.distillation):
        if folder is not None:
            yield from _files_below(folder, DEPTH)


def _files_below(folder: Path, depth: int) -> Iterator[tuple[str, int, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not there yet, or no longer
        return
    for entry in entries:
        try:
            if entry.is_dir() and depth > 1:
                yield from _files_below(Path(entry.path), depth - 1)
            elif entry.name.endswith(SUFFIXES):
                yield entry.path, entry.stat().st_size, entry.stat().st_mtime_ns
        except OSError:  # renamed or deleted meanwhile
            continue
