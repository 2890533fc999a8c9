"""An open coefficient store: values of all its snapshots on demand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr import objects
from romzarr.contracts import Floats
from romzarr.errors import StoreError, StoreReplacedError
from romzarr.store import layout
from romzarr.store.commit import check_root
from romzarr.store.layout import Part, Root
from romzarr.store.reading import decoding
from romzarr.store.reading.arrays import as_store_errors
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Indexer, Positions, across
from romzarr.store.reading.opening import checked_metadata, open_generation
from romzarr.store.reading.tile_cache import TileCache
from romzarr.store.reading.variables import StoredVariable

# Decoding a tile takes as long as using it some hundred times, and a variable in blocks of
# time wants each of its tiles again for every block; a tile takes up to 64 MiB.
_CACHED_BYTES = 256 * 2**20
# Times that a store is opened anew that is replaced while it is opened.
_OPENINGS = 5


@dataclass(frozen=True)
class CoefficientStore:
    """An open store: its generations, one after the other in time.

    Attributes
    ----------
    url : str
    root : Root
        What the root metadata said when it was opened.
    parts : tuple of Generation
        As a rule one; more while a stream runs, or where something was appended.
    """

    url: str
    root: Root
    parts: tuple[Generation, ...] = field(repr=False)

    @property
    def last(self) -> Generation:
        """The newest part: its basis and models, and facts about the whole store."""
        return self.parts[-1]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts of the newest part (FORMAT.md); errors in them are those of the whole store."""
        return self.last.facts

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First snapshot of every part, and at last the number of all snapshots."""
        return np.cumsum([0, *(part.snapshots for part in self.parts)])

    @property
    def snapshots(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def variables(self) -> Mapping[str, StoredVariable]:
        """Variables, over all snapshots, as the newest part describes them."""
        if len(self.parts) == 1:
            return self.last.variables
        return {
            name: _joined([part.variables[name] for part in self.parts])
            for name in self.last.variables
        }

    def decode(
        self, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
    ) -> NDArray[Any]:
        """Values of `variable` at the given places, each dim indexed for itself.

        Parameters
        ----------
        variable : str
        time_indexer : int, slice or integer ndarray (1-d)
            Snapshots; any order, steps and repetitions. An int drops the dim.
        space_indexers : sequence of the same, one per space dim
            In the variable's own order.

        Returns
        -------
        ndarray, dims in the variable's order, its own dtype
            Only the tiles that hold a wanted point are decoded, and only the latent
            coefficients around the wanted snapshots are rebuilt. A value has the same bits
            whatever it is asked for with (FORMAT.md, "The same bits").
        """
        with as_store_errors(f"{self.url}: {variable!r} cannot be decoded"):
            if len(self.parts) == 1:
                return decoding.decode(self.last, variable, time_indexer, space_indexers)
            # Dims before time that an int drops do not count.
            before = space_indexers[: self.variables[variable].time_axis]
            axis = sum(not isinstance(i, int | np.integer) for i in before)

            def read(number: int, rows: Positions) -> NDArray[Any]:
                return decoding.decode(self.parts[number], variable, rows, space_indexers)

            return across(self.starts, time_indexer, axis, read)

    def mean(self, variable: str, space_indexers: Sequence[Indexer] | None = None) -> Floats:
        """Temporal mean of `variable`, everywhere or as in `decode`; NaN at masked points.

        That of a variable coded without POD is taken over its decoded values; that of several
        parts is the mean of theirs, so of parts that share modes it is no more than near it.
        """
        means = [decoding.mean(part, variable, space_indexers) for part in self.parts]
        if len(means) == 1:
            return means[0]
        shares = np.diff(self.starts) / self.snapshots
        return np.asarray(np.tensordot(shares, np.array(means), 1))

    def modes(self, variable: str) -> Floats:
        """POD modes of the newest part (`romzarr.store.reading.decoding.modes`)."""
        return decoding.modes(self.last, variable)

    def check_files(self) -> None:
        """Read every file of the store, also those that decoding has no use for.

        Raises
        ------
        StoreError
            Naming the first that is missing or damaged.
        """
        check_root(self.url)
        for part, (name, checksum) in zip(self.parts, self.root.parts, strict=True):
            # They are remembered by this process, and what counts here is what is there now.
            checked_metadata(self.url, name, checksum)
            part.arrays.check_files()

    def stored_bytes(self) -> int:
        """Bytes of all files of the store that belong to its parts."""
        root = len(layout.read_bytes(layout.joined(self.url, layout.ROOT)))
        return root + sum(self.sizes().values())

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of its parts, by the path in the store."""
        below = objects.folder(self.url)
        found = (below.files(part.name) for part in self.parts)
        return {path: int(each["size"]) for files in found for path, each in files.items()}


def _joined(pieces: Sequence[StoredVariable]) -> StoredVariable:
    """One variable out of those of consecutive parts."""
    last = pieces[-1]
    axis, chunks = last.time_axis, None
    if last.chunks is not None:
        lengths = [n for piece in pieces for n in _time_chunks(piece)]
        chunks = (*last.chunks[:axis], tuple(lengths), *last.chunks[axis + 1 :])
    snapshots = sum(piece.shape[axis] for piece in pieces)
    shape = (*last.shape[:axis], snapshots, *last.shape[axis + 1 :])
    return replace(last, shape=shape, chunks=chunks)


def _time_chunks(piece: StoredVariable) -> Sequence[int]:
    """Lengths of the chunks along time."""
    size = piece.shape[piece.time_axis]
    lengths = (size,) if piece.chunks is None else piece.chunks[piece.time_axis]
    if isinstance(lengths, int):
        return [min(lengths, size - start) for start in range(0, size, lengths)]
    return list(lengths)


def open_store(target: str | os.PathLike[str], root: Root | None = None) -> CoefficientStore:
    """Open a coefficient store and check everything about it but the values.

    Parameters
    ----------
    target : str or path
        Local path or URL.
    root : Root, optional
        The state of it to open, which may have been replaced meanwhile: a task must read the
        one its graph was built on. That works as long as what was replaced is kept
        (`romzarr.store.commit.RETENTION`).

    Raises
    ------
    StoreReplacedError
        If the state asked for is there no more.
    StoreError
        If there is no store, its format is unknown, or a piece of it is missing, of the
        wrong type or shape, or not allowed; the message names the piece.
    """
    url = layout.normalised(target)
    if root is not None:
        return _opened(url, root.parts)
    for _ in range(_OPENINGS - 1):
        # It may be replaced, and swept, after its root was read.
        with contextlib.suppress(StoreReplacedError):
            return _opened_now(url)
    return _opened_now(url)


def _opened_now(url: str) -> CoefficientStore:
    root = layout.current_root(url)
    return replace(_opened(url, root.parts), root=root)


def open_draft(url: str, part: Part) -> Generation:
    """Open a generation that does not count yet (`StoreWriter.draft`)."""
    return _opened(url, (part,)).last


# Generations never change, so an open one stays right; tasks of one process share it.
@lru_cache(maxsize=16)
def _opened(url: str, named: tuple[Part, ...]) -> CoefficientStore:
    tiles, parts = TileCache(_CACHED_BYTES), list[Generation]()
    for name, checksum in named:
        part = open_generation(url, name, checksum, parts, tiles)
        if parts:
            _check_continues(parts[-1], part, url)
        parts.append(part)
    return CoefficientStore(url, Root(named), tuple(parts))


def _check_continues(before: Generation, part: Generation, url: str) -> None:
    """Refuse a part that holds other variables than the one before."""
    if before.variables.keys() != part.variables.keys():
        raise StoreError(f"{url}: parts {before.name} and {part.name} hold other variables")
    for name, new in part.variables.items():
        old = before.variables[name]
        if (old.dims, old.dtype, old.time_axis, old.space_shape) != (
            new.dims, new.dtype, new.time_axis, new.space_shape,
        ):  # fmt: skip
            raise StoreError(f"{url}: variable {name!r} of part {part.name} does not fit before")
