"""Caches objects while a dataset is compressed and verified.

Written objects are cached if storage confirms them: most S3 services return the MD5 of the received
content as the ETag. All others are read back.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

# As large as a dataset of those that nightly runs process in parallel, one per core.
CACHE_BYTES = 64 * 2**20

Wanted = Callable[[str], bool]


class Cache:
    """Content of objects by URL (None: missing), up to `CACHE_BYTES`."""

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
    """Cache the objects whose URLs are `wanted` while the context lasts.

    They must not change meanwhile. A URL with a trailing slash stands for the names directly below
    it. An inner context starts with an empty cache.
    """
    _caches.append(Cache(wanted))
    try:
        yield
    finally:
        _caches.pop()


async def cached(url: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result of `ask`, from the cache of the innermost context if possible."""
    if _caches and _caches[-1].wants(url):
        return await _caches[-1].content(url, ask)
    return await ask()


def written(url: str, content: Any, tag: str | None) -> None:
    """Cache written content if its ETag confirms that it was received completely."""
    if not _caches or not _caches[-1].wants(url):
        return
    content = bytes(content)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if tag is not None and tag.strip('"') == digest:
        _caches[-1].keep(url, content)
    else:
        _caches[-1].forget(url)
