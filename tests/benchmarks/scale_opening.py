"""Opening an archive of very many chunks: on a disk, in shards, on an object store."""

from __future__ import annotations

import os
import shutil
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import zarr

from romzarr.archive import Archive, open_archive
from tests.benchmarks.archives import cache_folder
from tests.benchmarks.measure import Cost, measured

# Keys that a service lists in one request, and seconds that it takes to answer any.
PAGE, LATENCY = 1000, 0.05
CHUNK_BYTES = 640
# Comes after whatever a key goes on with.
LAST = "\U0010ffff"


@dataclass(frozen=True)
class Many:
    """An array of ``times`` x 10 x 10 chunks of 10 x 4 x 4 float32, or as many in shards."""

    times: int
    sharded: bool = False

    @property
    def chunks(self) -> int:
        return 100 * self.times

    @property
    def name(self) -> str:
        return f"many-{self.chunks}{'-in-shards' if self.sharded else ''}.zarr"

    def create(self, path: Path) -> None:
        """Metadata, times, and one chunk (or shard), which stands for all others."""
        group = zarr.open_group(path, mode="w")
        chunk = (100, 40, 40) if self.sharded else (10, 4, 4)
        values = group.create_array(
            "u", shape=(10 * self.times, 40, 40), chunks=(10, 4, 4), dtype="f4",
            shards=chunk if self.sharded else None, dimension_names=("time", "y", "x"),
        )  # fmt: skip
        values[: chunk[0], : chunk[1], : chunk[2]] = 1.5
        times = np.arange(10.0 * self.times)
        group.create_array(
            "time", shape=times.shape, chunks=times.shape, dtype="f8", dimension_names=("time",)
        )[:] = times

    def objects(self) -> Iterator[str]:
        """Keys of all chunks or shards, as zarr names them."""
        if self.sharded:
            yield from (f"u/c/{i}/0/0" for i in range(-(-self.times // 10)))
        else:
            corners = product(range(self.times), range(10), range(10))
            yield from (f"u/c/{i}/{j}/{k}" for i, j, k in corners)


def on_disk(many: Many) -> Path:
    """The archive in the cache folder, made now if it is not there; all chunks are alike."""
    path = cache_folder() / many.name
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        many.create(unfinished)
        content = (unfinished / next(many.objects())).read_bytes()
        for key in many.objects():
            file = unfinished / key
            if not file.exists():
                os.makedirs(file.parent, exist_ok=True)
                file.write_bytes(content)
        unfinished.rename(path)
    return path


@contextmanager
def served(many: Many) -> Iterator[str]:
    """An object store that lists the archive, a page a request, each of which takes its time."""
    folder = cache_folder() / f"served-{many.name}"
    if not folder.exists():
        many.create(folder)
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    handler = type(
        "Handler", (_Handler,), {"files": files, "listed": sorted({*files, *many.objects()})}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """As much of S3 as opening an archive asks for: GET, HEAD and ListObjectsV2."""

    files: dict[str, bytes]
    listed: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(LATENCY)
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            self._answer(200, self._listing(query), "application/xml")
        else:
            content = self.files.get(url.path.split("/", 2)[-1])
            self._answer(200 if content else 404, content or b"", "application/octet-stream")

    do_HEAD = do_GET

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "ETag": '"0"'}
        headers["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        page = list(islice(self._names(prefix, delimiter, after), PAGE))
        entries = "".join(
            f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
            if delimiter and name.endswith(delimiter)
            else f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>0</ETag><Size>{CHUNK_BYTES}</Size></Contents>"
            for name in page
        )
        more = len(page) == PAGE
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            f"<Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{entries}</ListBucketResult>"
        ).encode()

    def _names(self, prefix: str, delimiter: str, after: str) -> Iterator[str]:
        """Keys that begin with `prefix`, or what they have in common up to the delimiter."""
        last = after + LAST if delimiter and after.endswith(delimiter) else after
        place = max(bisect_left(self.listed, prefix), bisect_right(self.listed, last))
        while place < len(self.listed) and self.listed[place].startswith(prefix):
            key = self.listed[place]
            head, found, _ = key[len(prefix) :].partition(delimiter or "\0")
            name = prefix + head + found
            yield name
            place = bisect_right(self.listed, name + LAST) if found else place + 1

    def log_message(self, *_: Any) -> None:
        pass


def opened(location: str) -> tuple[Archive, Cost]:
    return measured(lambda: open_archive(location))


@contextmanager
def credentials(endpoint: str) -> Iterator[None]:
    """The environment in which s3:// URLs lead to the store that is served here."""
    wanted = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
