"""What storage need not be asked for again while a dataset is compressed and verified.

Read back is what storage cannot vouch for. Most S3 services say the MD5 of what they have
received: an object with that of what was sent is known to be whole, and its content is here.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Bytes that are held: as many as a dataset has that is worked on beside others.
CACHE_BYTES = 64 * 2**20

Wanted = Callable[[str], bool]


class Cache:
    """Content of objects (None: there is none) by their URLs, up to `CACHE_BYTES`."""

    def __init__(self, wanted: Wanted) -> None:
        self.wants = wanted
        self._content: dict[str, Any] = {}
        self._free_bytes = CACHE_BYTES
        self._lock = threading.Lock()

    def keep(self, url: str, content: Any) -> None:
        size = len(url) + (len(content) if content is not None else 0)
        with self._lock:
            if url not in self._content and size <= self._free_bytes:
                self._free_bytes -= size
                self._content[url] = content

    def forget(self, url: str) -> None:
        with self._lock:
            self._content.pop(url, None)

    async def content(self, url: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        with self._lock:
            if url in self._content:
                return self._content[url]
        found = await ask()
        self.keep(url, found)
        return found


_caches: list[Cache] = []


@contextmanager
def caching(wanted: Wanted) -> Iterator[None]:
    """Ask for no object that is `wanted`, by its URL, twice in this process.

    Meant for what does not change meanwhile, or is checked not to have. Names directly below a
    URL are remembered under that URL with a slash at its end. An inner context begins anew.
    """
    _caches.append(Cache(wanted))
    try:
        yield
    finally:
        _caches.pop()


async def cached(url: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    """What `ask` returns, or has returned since the innermost context began."""
    if _caches and _caches[-1].wants(url):
        return await _caches[-1].content(url, ask)
    return await ask()


def written(url: str, content: Any, tag: str | None) -> None:
    """Note what was written, if the tag that storage gave it says that it was received whole."""
    if not _caches or not _caches[-1].wants(url):
        return
    content = bytes(content)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if tag is not None and tag.strip('"') == digest:
        _caches[-1].keep(url, content)
    else:
        _caches[-1].forget(url)
