"""An open coefficient store, which decodes values on demand."""

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
from romzarr.store.reading.facts import errors_of
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.indexing import Indexer, Positions, across
from romzarr.store.reading.layers import coarser, needed
from romzarr.store.reading.opening import checked_metadata, open_generation
from romzarr.store.reading.tile_cache import TileCache
from romzarr.store.reading.variables import StoredVariable
from romzarr.store.trees import refuse_tree

# Decoding a tile takes as long as using it some hundred times, and reading a variable by blocks of
# time needs each tile for every block. A tile takes up to 64 MiB.
CACHED_BYTES = 256 * 2**20
# Attempts to open a store that is replaced meanwhile, as streams may do several times a second.
_OPENINGS = 5


@dataclass(frozen=True)
class CoefficientStore:
    """An open store with its generations in the order of time.

    Attributes
    ----------
    url : str
    root : Root
        The root metadata when it was opened.
    parts : tuple of Generation
        Usually one; more while a stream runs and after appends.
    """

    url: str
    root: Root
    parts: tuple[Generation, ...] = field(repr=False)

    @property
    def last(self) -> Generation:
        """The newest part, which has the facts about the whole store."""
        return self.parts[-1]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts of the newest part (FORMAT.md); their errors are those of the whole store."""
        return self.last.facts

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First snapshot of every part, and the total number of snapshots."""
        return np.cumsum([0, *(part.snapshots for part in self.parts)])

    @property
    def snapshots(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def variables(self) -> Mapping[str, StoredVariable]:
        """Variables over all snapshots, as described by the newest part."""
        if len(self.parts) == 1:
            return self.last.variables
        return {
            name: _joined([part.variables[name] for part in self.parts])
            for name in self.last.variables
        }

    def decode(
        self, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
    ) -> NDArray[Any]:
        """Decode `variable`, each dim indexed independently.

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
            Only tiles with requested points are decoded, and only the coefficients around the
            requested snapshots are rebuilt. A value has the same bits in every selection
            (FORMAT.md, "The same bits").
        """
        with as_store_errors(f"{self.url}: {variable!r} cannot be decoded"):
            if len(self.parts) == 1:
                return decoding.decode(self.last, variable, time_indexer, space_indexers)
            # Ints drop dims before time.
            before = space_indexers[: self.variables[variable].time_axis]
            axis = sum(not isinstance(i, int | np.integer) for i in before)

            def read(number: int, rows: Positions) -> NDArray[Any]:
                return decoding.decode(self.parts[number], variable, rows, space_indexers)

            return across(self.starts, time_indexer, axis, read)

    def within(self, tolerance: float) -> CoefficientStore:
        """Return the same store, of which no more layers are read than a tolerance needs.

        Its errors are `errors_within`.
        """
        return _within(self.url, self.root.parts, tolerance)

    def errors_within(self, tolerance: float) -> dict[str, float]:
        """Bound the errors of `within`, relative to the fluctuations, by variable.

        What the layers that are read leave of a part is relative to its own fluctuation; the
        squares of these add up to no more than that of the whole.
        """
        errors = errors_of(self.facts, self.variables)
        for name in errors:
            missed = [_missed(part.variables[name], tolerance) for part in self.parts]
            if len(missed) == 1:
                errors[name] = max(errors[name], *missed)
            else:
                errors[name] += max(missed)
        return errors

    def mean(self, variable: str, space_indexers: Sequence[Indexer] | None = None) -> Floats:
        """Compute the temporal mean of `variable`, everywhere or as in `decode`; NaN if masked.

        Without POD it is the mean of decoded values. For several parts it is the weighted mean of
        theirs, which is approximate if parts share modes.
        """
        means = [decoding.mean(part, variable, space_indexers) for part in self.parts]
        if len(means) == 1:
            return means[0]
        shares = np.diff(self.starts) / self.snapshots
        return np.asarray(np.tensordot(shares, np.array(means), 1))

    def modes(self, variable: str) -> Floats:
        """Decode the POD modes of the newest part (`romzarr.store.reading.decoding.modes`)."""
        return decoding.modes(self.last, variable)

    def check_files(self) -> None:
        """Read every file of the store, including those not needed for decoding.

        Raises
        ------
        StoreError
            Naming the first missing or damaged file.
        """
        check_root(self.url)
        for part, (name, checksum) in zip(self.parts, self.root.parts, strict=True):
            # Read again: this process has cached them.
            checked_metadata(self.url, name, checksum)
            part.arrays.check_files()

    def stored_bytes(self) -> int:
        """Sum the bytes of all files of the parts and of the root metadata."""
        root = len(layout.read_bytes(layout.joined(self.url, layout.ROOT)))
        return root + sum(self.sizes().values())

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file of the parts, by path in the store."""
        below = objects.folder(self.url)
        found = (below.files(part.name) for part in self.parts)
        return {path: int(each["size"]) for files in found for path, each in files.items()}


def _joined(pieces: Sequence[StoredVariable]) -> StoredVariable:
    """Concatenate the descriptions of a variable in consecutive parts."""
    last = pieces[-1]
    axis, chunks = last.time_axis, None
    if last.chunks is not None:
        lengths = [n for piece in pieces for n in _time_chunks(piece)]
        chunks = (*last.chunks[:axis], tuple(lengths), *last.chunks[axis + 1 :])
    snapshots = sum(piece.shape[axis] for piece in pieces)
    shape = (*last.shape[:axis], snapshots, *last.shape[axis + 1 :])
    return replace(last, shape=shape, chunks=chunks)


def _time_chunks(piece: StoredVariable) -> Sequence[int]:
    """Return the lengths of the chunks along time."""
    size = piece.shape[piece.time_axis]
    lengths = (size,) if piece.chunks is None else piece.chunks[piece.time_axis]
    if isinstance(lengths, int):
        return [min(lengths, size - start) for start in range(0, size, lengths)]
    return list(lengths)


def open_store(target: str | os.PathLike[str], root: Root | None = None) -> CoefficientStore:
    """Open a coefficient store and check everything except the values.

    Parameters
    ----------
    target : str or path
        Local path or URL.
    root : Root, optional
        The version to open, which may have been superseded: tasks have to read the version that
        their graph was built on. This works as long as superseded generations are kept
        (`romzarr.store.commit.RETENTION`).

    Raises
    ------
    StoreReplacedError
        If the requested version no longer exists.
    StoreError
        If there is no store, its format is unknown, or a part of it is missing, not allowed, or has
        a wrong type or shape; the message names the part.
    """
    url = layout.normalised(target)
    if root is not None:
        return _opened(url, root.parts)
    for _ in range(_OPENINGS - 1):
        # It may be replaced and removed after its root metadata were read.
        with contextlib.suppress(StoreReplacedError):
            return _opened_now(url)
    return _opened_now(url)


def _opened_now(url: str) -> CoefficientStore:
    try:
        root = layout.current_root(url)
    except StoreError:
        refuse_tree(url)
        raise
    return replace(_opened(url, root.parts), root=root)


def open_draft(url: str, part: Part) -> Generation:
    """Open a generation before its commit (`StoreWriter.draft`)."""
    return _opened(url, (part,)).last


# Generations never change, so tasks of one process can share an open one.
@lru_cache(maxsize=16)
def _opened(url: str, named: tuple[Part, ...]) -> CoefficientStore:
    tiles, parts = TileCache(CACHED_BYTES), list[Generation]()
    for name, checksum in named:
        part = open_generation(url, name, checksum, parts, tiles)
        if parts:
            _check_continues(parts[-1], part, url)
        parts.append(part)
    return CoefficientStore(url, Root(named), tuple(parts))


def _missed(variable: StoredVariable, tolerance: float) -> float:
    """Return the error that the layers leave which are read; 0 if these are all."""
    last = needed(variable, tolerance)
    return variable.layers[last - 1] if last <= len(variable.layers) else 0.0


@lru_cache(maxsize=16)
def _within(url: str, named: tuple[Part, ...], tolerance: float) -> CoefficientStore:
    store = _opened(url, named)
    if any(part.before and any(each.arrays.layers for each in part.before) for part in store.parts):
        return store
    tiles = TileCache(CACHED_BYTES)
    parts = (coarser(part, lambda v: needed(v, tolerance), tiles) for part in store.parts)
    return replace(store, parts=tuple(parts))


def _check_continues(before: Generation, part: Generation, url: str) -> None:
    """Refuse a part whose variables differ from those of the one before."""
    if before.variables.keys() != part.variables.keys():
        raise StoreError(f"{url}: parts {before.name} and {part.name} have different variables")
    for name, new in part.variables.items():
        old = before.variables[name]
        if (old.dims, old.dtype, old.time_axis, old.space_shape) != (
            new.dims, new.dtype, new.time_axis, new.space_shape,
        ):  # fmt: skip
            raise StoreError(
                f"{url}: variable {name!r} of part {part.name} differs from that before"
            )
