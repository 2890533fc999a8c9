"""An S3 server on loopback, and a proxy in front of it that fails as networks do."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from romzarr.archive.location import process_store
from romzarr.objects import requests

# What a request gets instead of its answer; None lets it pass.
Fault = str | None
LONGEST_HANG_SECONDS = 60


@dataclass
class Proxy:
    """What the proxy does, and what it saw.

    ``fault`` is asked for every request, by method and path: a status such as "503", "reset"
    (before the server sees it), "lost" (the server does it, the answer is lost), "truncated",
    "stalled" (half of the body, then silence) or "hang".
    """

    url: str
    fault: Callable[[str, str], Fault] = lambda method, path: None
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    server_address: tuple[str, int]

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            # The client has given up, as it should.
            self.close_connection = True

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.requests.append((self.command, self.path, headers))
        fault = self.proxy.fault(self.command, self.path)
        if fault == "hang":
            self.proxy.released.wait(LONGEST_HANG_SECONDS)
        if fault in ("reset", "hang"):
            self._reset()
        elif fault is not None and fault.isdecimal():
            self._answer(int(fault), {}, b"<Error><Code>InternalError</Code></Error>")
        else:
            status, headers, content = self._asked(body)
            self._passed_on(status, headers, content, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _relay

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection(*self.server_address, timeout=30)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        hops = ("connection", "transfer-encoding", "server", "date", "content-length")
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in hops}
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        return answer.status, headers | {"Content-Length": length or str(len(content))}, content

    def _passed_on(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
        if fault == "lost":
            self._reset()
            return
        half = fault in ("truncated", "stalled")
        self._answer(status, headers, body[: len(body) // 2] if half else body)
        if fault == "stalled":
            self.proxy.released.wait(LONGEST_HANG_SECONDS)
        if half:
            self._reset()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _reset(self) -> None:
        # Without waiting for what was sent: the other side gets a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """An S3 server on loopback: its host and port."""
    moto = pytest.importorskip("moto.server", reason="the S3 server of these tests is moto's")
    with pytest.MonkeyPatch.context() as patch:
        # It would write every request to standard error.
        patch.setattr("werkzeug.serving.WSGIRequestHandler.log", lambda *arguments: None)
        running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        running.start()
        yield running.get_host_and_port()
        running.stop()


@contextmanager
def fresh_connections() -> Iterator[None]:
    """As in a new process, which has yet to look at its environment."""
    kept = (requests.connection, requests._file_system, process_store)
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


def make_bucket(server: tuple[str, int], name: str) -> None:
    """An empty bucket that everybody may read."""
    actions = ["s3:GetObject", "s3:ListBucket"]
    places = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    statement = {"Effect": "Allow", "Principal": "*", "Action": actions, "Resource": places}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    connection = http.client.HTTPConnection(*server)
    for path, body in ((f"/{name}", ""), (f"/{name}?policy", policy)):
        connection.request("PUT", path, body)
        connection.getresponse().read()
    connection.close()


@contextmanager
def proxied(server: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy to the server at that host and port."""

    class Handler(_Handler):
        server_address = server

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        proxy = Proxy(f"http://127.0.0.1:{listening.server_port}")
        Handler.proxy = proxy
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.released.set()
            listening.shutdown()
            thread.join()
