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
HELD_BYTES = 64 * 2**20

Wanted = Callable[[str], bool]


class Memory:
    """Content of objects (None: there is none) by their URLs, up to `HELD_BYTES`."""

    def __init__(self, wanted: Wanted) -> None:
        self.wants = wanted
        self._held: dict[str, Any] = {}
        self._room = HELD_BYTES
        self._lock = threading.Lock()

    def keep(self, url: str, content: Any) -> None:
        size = len(url) + (len(content) if content is not None else 0)
        with self._lock:
            if url not in self._held and size <= self._room:
                self._room -= size
                self._held[url] = content

    def forget(self, url: str) -> None:
        with self._lock:
            self._held.pop(url, None)

    async def content(self, url: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        with self._lock:
            if url in self._held:
                return self._held[url]
        found = await ask()
        self.keep(url, found)
        return found


_memories: list[Memory] = []


@contextmanager
def remembering(wanted: Wanted) -> Iterator[None]:
    """Ask for no object that is `wanted`, by its URL, twice in this process.

    Meant for what does not change meanwhile, or is checked not to have. Names directly below a
    URL are remembered under that URL with a slash at its end. An inner context begins anew.
    """
    _memories.append(Memory(wanted))
    try:
        yield
    finally:
        _memories.pop()


async def remembered(url: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    """What `ask` returns, or has returned since the innermost context began."""
    if _memories and _memories[-1].wants(url):
        return await _memories[-1].content(url, ask)
    return await ask()


def written(url: str, content: Any, tag: str | None) -> None:
    """Note what was written, if the tag that storage gave it says that it was received whole."""
    if not _memories or not _memories[-1].wants(url):
        return
    content = bytes(content)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if tag is not None and tag.strip('"') == digest:
        _memories[-1].keep(url, content)
    else:
        _memories[-1].forget(url)
