"""A cache of decoded tiles."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    """Anything with a size in bytes."""

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class TileCache:
    """Caches decoded tiles, first in, first out.

    Concurrent requests for the same tile wait for one thread to decode it.

    Parameters
    ----------
    limit : int
        Maximum bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[Hashable, Any] = {}
        self._bytes = 0
        self._guard = Lock()
        self._decoding: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, decode: Callable[[], T]) -> T:
        """Return the read-only tile of `key`, from the cache or by `decode`."""
        with self._guard:
            lock = self._decoding.setdefault(key, Lock())
        with lock:
            tile: T | None = self.kept(key)
            if tile is None:
                tile = decode()
                self._keep(key, tile)
        return tile

    def kept(self, key: Hashable) -> Any:
        """Return the cached tile of `key`; None if there is none."""
        return self._kept.get(key)

    def _keep(self, key: Hashable, tile: Sized) -> None:
        if tile.nbytes > self.limit:
            return
        with self._guard:
            while self._bytes + tile.nbytes > self.limit:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
            self._kept[key] = tile
            self._bytes += tile.nbytes
