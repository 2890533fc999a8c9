"""Decoded tiles, kept for whoever asks next."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    """What says how many bytes it takes."""

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class TileCache:
    """Keeps what was decoded, up to a number of bytes; what came first goes first.

    Threads that ask for the same tile at once wait for one of them to decode it.

    Parameters
    ----------
    limit : int
        Bytes kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[Hashable, Any] = {}
        self._bytes = 0
        self._guard = Lock()
        self._decoding: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, decode: Callable[[], T]) -> T:
        """The tile kept under `key`, else what `decode` returns; nobody may write to it."""
        with self._guard:
            lock = self._decoding.setdefault(key, Lock())
        with lock:
            tile: T | None = self.kept(key)
            if tile is None:
                tile = decode()
                self._keep(key, tile)
        return tile

    def kept(self, key: Hashable) -> Any:
        """The tile kept under `key`, None if there is none."""
        return self._kept.get(key)

    def _keep(self, key: Hashable, tile: Sized) -> None:
        if tile.nbytes > self.limit:
            return
        with self._guard:
            while self._bytes + tile.nbytes > self.limit:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
            self._kept[key] = tile
            self._bytes += tile.nbytes
