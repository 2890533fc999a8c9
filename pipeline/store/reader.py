"""Reads a coefficient store, believing nothing it has not checked."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import product
from typing import Any

import fsspec
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync

from pipeline.coding.coefficients import Coefficients
from pipeline.coding.tiles import region_of
from pipeline.contracts import BlockSpan, Floats, LatentCode, Region
from pipeline.encoding import with_shared
from pipeline.errors import StoreError
from pipeline.numerics.integrate import Dynamics
from pipeline.numerics.library import library_from_spec
from pipeline.numerics.sampling import rebuild
from pipeline.store import layout
from pipeline.store.checked import CheckedStore
from pipeline.store.codec import WaveletCodec
from pipeline.store.fields import CodedTile, DecodedTile, FieldTile, Inside, located
from pipeline.store.indexing import Indexer, Positions, as_asked, pieces, points, positions
from pipeline.store.layout import ArrayLayout, Fields, Root
from pipeline.store.memory import TileMemory

# Decoding a tile takes as long as using it some hundred times, and a variable in blocks of
# time wants each of its tiles again for every block; a tile takes up to 64 MiB.
_REMEMBERED_BYTES = 256 * 2**20
# Files fetched side by side to be checked.
_FETCHED = 32
# Snapshots this far apart are decoded as separate spans.
_LARGEST_GAP = 256


@dataclass(frozen=True)
class StoredVariable:
    """A variable that the store decodes, as it was in the archive.

    ``coding`` is "pod", "direct" (its values, about ``offset``), "constant" or "lossless";
    ``mask`` the group that has the mask, if there is one.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    time_axis: int
    group: str
    coding: str
    mask: str | None
    offset: float
    chunks: tuple[Any, ...] | None
    attrs: Mapping[str, Any]
    encoding: Mapping[str, Any]

    @property
    def space_dims(self) -> tuple[str, ...]:
        return self.dims[: self.time_axis] + self.dims[self.time_axis + 1 :]

    @property
    def space_shape(self) -> tuple[int, ...]:
        return self.shape[: self.time_axis] + self.shape[self.time_axis + 1 :]


@dataclass(frozen=True)
class CoefficientStore:
    """An open store: what it says about itself, and its values on demand.

    Attributes
    ----------
    url, generation : str
        Where it is, and which immutable generation of it is read.
    facts : mapping
        All JSON facts (FORMAT.md).
    variables : mapping of str to StoredVariable
    rank, snapshots : int
    arrays : mapping of str to ArrayLayout
    group : zarr.Group
        The generation; its arrays are read through `CheckedStore`.
    shaking : float
        Relative error to put into samples of a(t), to see how much a model amplifies it.
    """

    url: str
    generation: str
    facts: Mapping[str, Any]
    variables: Mapping[str, StoredVariable]
    rank: int
    snapshots: int
    arrays: Mapping[str, ArrayLayout] = field(repr=False)
    group: zarr.Group = field(repr=False)
    shaking: float = 0.0
    _tiles: TileMemory = field(
        default_factory=lambda: TileMemory(_REMEMBERED_BYTES), repr=False, compare=False
    )

    @cached_property
    def singular_values(self) -> NDArray[np.float64]:
        if not self.rank:
            return np.zeros(0)
        values = self._finite("basis/singular_values")
        # Fields are divided by them.
        if not (values > 0).all():
            raise StoreError(f"{self.url}: basis/singular_values are not all positive")
        return values

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """Xi of every model, (models, p, q)."""
        if not self.rank:
            return np.zeros((0, 0, 0))
        return self._finite("model/coefficients")

    @cached_property
    def factors(self) -> Floats | None:
        """Triangular factors R of every time block, where they are kept."""
        return self._finite("model/factors") if "model/factors" in self.arrays else None

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Times of the snapshots, counted from the first."""
        step = self.facts["time"]["step"]
        if step is not None:
            uniform: NDArray[np.float64] = step * np.arange(self.snapshots)
            return uniform
        scale, path = self.facts["time"].get("scale"), "latent/times"
        if scale is not None:
            path = f"coordinates/{self.facts['time']['dim']}"
        times: NDArray[np.float64] = self._finite(path)
        if scale is not None:
            times = scale * layout.since_first(times)
        if not (np.diff(times) > 0).all():
            raise StoreError(f"{self.url}: {path} do not increase")
        return times

    @cached_property
    def models(self) -> tuple[Dynamics, ...]:
        """Right-hand sides da/dt of the stored models."""
        if not len(self.coefficients):
            return ()
        library = library_from_spec(Fields(self.facts, self.url).fields("library").document)
        if library.size != self.coefficients.shape[1]:
            raise StoreError(
                f"{self.url}: model/coefficients has {self.coefficients.shape[1]} terms, the "
                f"library {library.size}"
            )
        return tuple(Dynamics(library, xi) for xi in self.coefficients)

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Numbers of the snapshots whose coefficients are kept."""
        index: NDArray[np.int64] = np.cumsum(self.read("latent/steps"), dtype=np.int64)
        ends = np.array([0, self.snapshots - 1])
        starts = np.arange(0, self.snapshots, self.facts["latent"]["block_steps"])
        increasing = (np.diff(index) > 0).all()
        # Every block starts anew, which bounds what decoding one snapshot can cost.
        if (
            not increasing
            or index[[0, -1]].tolist() != ends.tolist()
            or (not np.isin(starts, index, assume_unique=True).all())
        ):
            raise StoreError(
                f"{self.url}: latent/steps must lead from snapshot 0 to {ends[1]} by way of the "
                "first snapshot of every block"
            )
        return index

    @cached_property
    def _block_model(self) -> NDArray[np.int16]:
        block_model = self.read("latent/block_model")
        count = len(self.coefficients)
        if ((block_model < -1) | (block_model >= count)).any():
            raise StoreError(f"{self.url}: latent/block_model names a model beyond {count}")
        return block_model.astype(np.int16)

    def code(self, span: BlockSpan | None = None) -> LatentCode:
        """The latent code, or the part of it around `span`."""
        first, last = 0, len(self.index)
        if span is not None:
            first = int(np.searchsorted(self.index, span.start, "right")) - 1
            last = int(np.searchsorted(self.index, span.stop - 1, "left")) + 1
        return LatentCode(
            index=self.index[first:last],
            samples=self._shaken(self._rows("latent/samples", first, last), first),
            block_steps=self.facts["latent"]["block_steps"],
            block_model=self._block_model,
            substeps=self.facts["latent"]["substeps"],
        )

    def _shaken(self, samples: NDArray[np.float64], first: int) -> NDArray[np.float64]:
        if not self.shaking:
            return samples
        return (
            samples * (1 + self.shaking * (-1.0) ** np.arange(first, first + len(samples)))[:, None]
        )

    def latent(self, span: BlockSpan) -> NDArray[np.float64]:
        """POD coefficients a(t) of the snapshots of `span`, (len(span), r)."""
        if not 0 <= span.start <= span.stop <= self.snapshots:
            raise IndexError(f"{span} is not within the {self.snapshots} snapshots of {self.url}")
        if not len(span) or not self.rank:
            return np.zeros((len(span), self.rank))
        return rebuild(self.code(span), self.models, self.times, span) + self.corrections(span)

    def corrections(self, span: BlockSpan) -> NDArray[np.float64]:
        """What is added to the coefficients rebuilt for `span`, (len(span), r)."""
        if "latent/corrections" not in self.arrays:
            return np.zeros((len(span), self.rank))
        return self._rows("latent/corrections", span.start, span.stop)

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
            coefficients around the wanted snapshots are rebuilt. Asked for with others, or
            again, a value may be rounded differently, to the store's arithmetic dtype.
        """
        stored = self.variables[variable]
        axis = stored.time_axis
        rows, back = positions(time_indexer, stored.shape[axis])
        wanted, backs = _places(stored, space_indexers)
        if stored.coding == "lossless":
            values = self._exact(stored, [*wanted[:axis], rows, *wanted[axis:]])
            backs.insert(axis, back)
        elif f"basis/{stored.group}/residuals" in self.arrays:
            values = self._corrected(stored, rows, wanted)
            backs.insert(axis, back)
        elif stored.coding == "direct":
            values = self._direct(stored, rows, wanted)
            backs.insert(axis, back)
        else:
            values = self._combined(stored, rows, back, wanted)
            backs.insert(axis, np.arange(len(back)))
        indexers = list(space_indexers)
        indexers.insert(axis, time_indexer)
        return as_asked(values, backs, indexers)

    def predict(
        self, variable: str, time_indexer: Indexer, space_indexers: Sequence[Indexer]
    ) -> NDArray[np.float64]:
        """What residuals are added to: as `decode`, of increasing indexers, in float64."""
        stored = self.variables[variable]
        rows, _ = positions(time_indexer, stored.shape[stored.time_axis])
        return self._predicted(stored, rows, _places(stored, space_indexers)[0])

    def mean(self, variable: str, space_indexers: Sequence[Indexer] | None = None) -> Floats:
        """Temporal mean of `variable`, everywhere or as in `decode`; NaN at masked points.

        That of a variable coded without POD is taken over its decoded values.
        """
        stored = self.variables[variable]
        indexers = space_indexers or [slice(None)] * len(stored.space_shape)
        wanted, backs = _places(stored, indexers)
        if stored.coding == "direct":
            return as_asked(self._direct_mean(stored, wanted), backs, indexers)
        if stored.coding == "lossless":
            return as_asked(self._exact_mean(stored, wanted), backs, indexers)
        constant = stored.coding == "constant"
        dtype = stored.dtype if constant else self.facts["arithmetic"]
        weight = 1.0 if constant else self._mean_weight
        values = np.empty([len(places) for places in wanted], dtype)
        for region, inside, tile in self._fields(stored, wanted, 1):
            values[region] = tile.first(inside) * weight
        return as_asked(values, backs, indexers)

    def modes(self, variable: str) -> Floats:
        """POD modes phi_k in the variable's units, (r, *space); 0 at masked points.

        All 0 where the variable is coded without them.
        """
        stored = self.variables[variable]
        wanted, _ = _places(stored, [slice(None)] * len(stored.space_shape))
        if stored.coding != "pod":
            return np.zeros((self.rank, *stored.space_shape), self.facts["arithmetic"])
        values = np.empty((self.rank, *stored.space_shape), self.facts["arithmetic"])
        sigma = self.singular_values.reshape(-1, *[1] * len(stored.space_shape))
        path = f"basis/{stored.group}/fields"
        for tile, inside, region in pieces(wanted, self.arrays[path].chunk[1:]):
            fields = points(self._decoded_tile(stored, tile).fields, inside)
            values[(slice(None), *region)] = fields[1:] / sigma
        return values

    def read(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Array `path` of the generation, or some of its rows.

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        array = self._array(path)
        return self._selected(path, array, (rows,) if array.ndim else ())

    def check_files(self) -> None:
        """Read every file of the generation, also those that decoding has no use for.

        Raises
        ------
        StoreError
            Naming the first that is missing or damaged.
        """
        root = layout.read_bytes(layout.joined(self.url, layout.ROOT))
        # Metadata are remembered by this process, and what counts here is what is there now.
        _opened.__wrapped__(self.url, layout.parse_root(root, self.url))
        for path, array in self.arrays.items():
            grid = (range(-(-n // c)) for n, c in zip(array.shape, array.chunk, strict=True))
            keys = [self._array(path).metadata.encode_chunk_key(i) for i in product(*grid)]
            for some in _batched(keys):
                with self._reading(path):
                    sync(_fetched(self.group.store, [layout.joined(path, key) for key in some]))
        place = layout.joined(self.url, self.generation)
        for group in layout.groups_of(self.arrays):
            where = layout.joined(place, group, layout.ROOT)
            try:
                layout.check_group(layout.read_bytes(where), where)
            except FileNotFoundError as error:
                raise StoreError(f"{where}: is missing; the store is damaged") from error

    def stored_bytes(self) -> int:
        """Bytes of all files of the store that belong to this generation."""
        fs, root = fsspec.core.url_to_fs(self.url)
        sizes = fs.du(f"{root}/{self.generation}", total=True)
        return int(sizes) + int(fs.size(f"{root}/{layout.ROOT}"))

    def _array(self, path: str) -> zarr.Array[Any]:
        array = self.group[path]
        if not isinstance(array, zarr.Array):
            raise StoreError(f"{self.url}: {path} is not an array")
        return array

    def _selected(self, path: str, array: zarr.Array[Any], selection: Region) -> Any:
        with self._reading(path):
            return np.asarray(array[selection or ...])

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Name the array in what goes wrong, which it may in any way: content may mean harm."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url}: array {path} cannot be read: {error}") from error

    def _finite(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        values = self.read(path, rows)
        _check_finite(values, f"{self.url}: {path}")
        return values

    def _latent_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Coefficients of increasing snapshot numbers `rows`."""
        if not len(rows):
            return np.zeros((0, self.rank))
        cuts = np.flatnonzero(np.diff(rows) > _LARGEST_GAP) + 1
        return np.concatenate(
            [
                self.latent(BlockSpan(int(run[0]), int(run[-1]) + 1))[run - run[0]]
                for run in np.split(rows, cuts)
            ]
        )

    def _exact(self, stored: StoredVariable, wanted: Sequence[Positions]) -> NDArray[Any]:
        """Values of a variable kept to the bit at increasing positions along each dim."""
        path = f"basis/{stored.group}/exact"
        array, tile_shape = self._array(path), self.arrays[path].chunk
        values = np.empty([len(places) for places in wanted], stored.dtype)
        for tile, inside, region in pieces(wanted, tile_shape):
            whole = region_of(tile, stored.shape, tile_shape)
            read = partial(self._selected, path, array, whole)
            values[region] = points(self._tiles.get((path, tile), read)[None], inside)[0]
        return values

    def _exact_mean(self, stored: StoredVariable, wanted: Sequence[Positions]) -> Floats:
        """Temporal mean of a variable kept to the bit; NaN where it ever is."""
        axis, total = stored.time_axis, np.zeros([len(places) for places in wanted])
        length = self.arrays[f"basis/{stored.group}/exact"].chunk[axis]
        for start in range(0, self.snapshots, length):
            rows = np.arange(start, min(start + length, self.snapshots))
            values = self._exact(stored, [*wanted[:axis], rows, *wanted[axis:]])
            with np.errstate(over="ignore", invalid="ignore"):
                total += values.sum(axis=axis, dtype=np.float64)
        mean: Floats = total / self.snapshots
        return mean

    def _predicted(
        self, stored: StoredVariable, rows: Positions, wanted: Sequence[Positions]
    ) -> NDArray[np.float64]:
        """Values without residuals at the snapshots `rows`, not rounded."""
        wide = np.dtype(np.float64)
        if stored.coding == "direct":
            return self._direct(stored, rows, wanted, wide)
        return self._combined(stored, rows, np.arange(len(rows)), wanted, wide)

    def _corrected(
        self, stored: StoredVariable, rows: Positions, wanted: Sequence[Positions]
    ) -> NDArray[Any]:
        """Values with residuals at the snapshots `rows`, rounded once."""
        path, axis = f"basis/{stored.group}/residuals", stored.time_axis
        values = self._predicted(stored, rows, wanted)
        places = [*wanted[:axis], rows, *wanted[axis:]]
        for tile, inside, region in pieces(places, self.arrays[path].chunk):
            coded = self._tiles.get((path, tile), partial(self._coefficients, path, tile))
            if len(coded.places):
                with located(f"{self.url}: array {path} cannot be read"):
                    values[region] += points(coded.array()[None], inside)[0]
        with np.errstate(over="ignore"):
            return values.astype(stored.dtype, copy=False)

    def _combined(
        self,
        stored: StoredVariable,
        rows: Positions,
        back: Positions,
        wanted: Sequence[Positions],
        dtype: np.dtype[Any] | None = None,
    ) -> NDArray[Any]:
        """Values at the snapshots ``rows[back]``, made of fields or of a constant."""
        axis = stored.time_axis
        constant = stored.coding == "constant"
        weights = np.ones((len(back), 1)) if constant else self._weights(rows)[back]
        shape = [len(places) for places in wanted]
        values = np.empty((*shape[:axis], len(weights), *shape[axis:]), dtype or stored.dtype)
        for region, inside, tile in self._fields(stored, wanted, len(weights)):
            out = values[(*region[:axis], slice(None), *region[axis:])]
            tile.combine(weights, inside, axis, out)
        return values

    def _direct(
        self,
        stored: StoredVariable,
        rows: Positions,
        wanted: Sequence[Positions],
        dtype: np.dtype[Any] | None = None,
    ) -> NDArray[Any]:
        """Values of a variable coded without POD at the snapshots `rows`."""
        shape = [len(places) for places in wanted]
        shape.insert(stored.time_axis, len(rows))
        values = np.empty(shape, dtype or stored.dtype)
        out = np.moveaxis(values, stored.time_axis, 0)
        for region, part in self._parts(stored, rows, wanted):
            # In float64, then rounded once. Only a store made to harm lets sums overflow.
            with np.errstate(over="ignore"):
                np.add(part, stored.offset, out=out[region], dtype=np.float64, casting="same_kind")
        return values

    def _direct_mean(self, stored: StoredVariable, wanted: Sequence[Positions]) -> Floats:
        """Temporal mean of a variable coded without POD."""
        total = np.zeros([len(places) for places in wanted])
        for region, part in self._parts(stored, np.arange(self.snapshots), wanted):
            total[region[1:]] += part.sum(axis=0, dtype=np.float64)
        mean: Floats = total / self.snapshots + stored.offset
        return mean.astype(self.facts["arithmetic"])

    def _parts(
        self, stored: StoredVariable, rows: Positions, wanted: Sequence[Positions]
    ) -> Iterator[tuple[Region, Floats]]:
        """Values about the offset, time first, at the wanted points, tile by tile."""
        path = f"basis/{stored.group}/values"
        for tile, inside, region in pieces((rows, *wanted), self.arrays[path].chunk):
            values = self._tiles.get((path, tile), partial(self._values_tile, stored, tile))
            yield region, points(values[None], inside)[0]

    def _values_tile(self, stored: StoredVariable, tile: tuple[int, ...]) -> Floats:
        """One tile of values about the offset; NaN where nothing is."""
        path = f"basis/{stored.group}/values"
        values = self._decoded(path, tile)
        mask = self._mask(stored, tile[1:], self.arrays[path].chunk[1:])
        if mask is not None:
            values = np.where(mask, np.array(np.nan, values.dtype), values)
            values.flags.writeable = False
        return values

    def _mask(
        self, stored: StoredVariable, tile: tuple[int, ...], shape: tuple[int, ...]
    ) -> NDArray[np.bool_] | None:
        """Where nothing is in a tile of space; None where all of the variable is valid."""
        if stored.mask is None:
            return None
        path = f"basis/{stored.mask}/mask"
        mask: NDArray[np.bool_] = self._selected(
            path, self._array(path), region_of(tile, stored.space_shape, shape)
        )
        return mask

    @property
    def _mean_weight(self) -> float:
        """What the first field of a variable is multiplied by to give its mean."""
        return float(self.snapshots**-0.5)

    def _weights(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the fields are multiplied by at increasing snapshot numbers, (len(rows), r + 1)."""
        weights = np.full((len(rows), self.rank + 1), self._mean_weight)
        np.divide(self._latent_rows(rows), self.singular_values, out=weights[:, 1:])
        return weights

    def _fields(
        self, stored: StoredVariable, wanted: Sequence[Positions], sums: int
    ) -> Iterator[tuple[Region, Inside, FieldTile]]:
        """Tiles of fields, as it pays for that many `sums`, with the wanted points inside each
        and where these go among all of them.

        Those of a constant variable have its values, to be taken once.
        """
        constant = stored.coding == "constant"
        path = f"basis/{stored.group}/{'mean' if constant else 'fields'}"
        tile_shape = self.arrays[path].chunk[0 if constant else 1 :]
        for tile, inside, region in pieces(wanted, tile_shape):
            if constant:
                made: FieldTile = self._constant_tile(stored, tile)
            else:
                made = self._field_tile(stored, tile, sums)
            yield region, inside, made

    def _constant_tile(self, stored: StoredVariable, tile: tuple[int, ...]) -> DecodedTile:
        """One chunk of a constant variable, as the only field."""
        path = f"basis/{stored.group}/mean"

        def read() -> DecodedTile:
            region = region_of(tile, stored.space_shape, self.arrays[path].chunk)
            return DecodedTile(self._selected(path, self._array(path), region)[None])

        return self._tiles.get((path, tile), read)

    def _field_tile(
        self, stored: StoredVariable, tile: tuple[int, ...], sums: int
    ) -> DecodedTile | CodedTile:
        """One tile, decoded if it is already, or if that pays."""
        decoded: DecodedTile | None = self._tiles.kept((stored.group, tile, "decoded"))
        if decoded is not None:
            return decoded
        coded = self._coded_tile(stored, tile)
        return self._decoded_tile(stored, tile) if coded.is_worth_decoding(sums) else coded

    def _decoded_tile(self, stored: StoredVariable, tile: tuple[int, ...]) -> DecodedTile:
        return self._tiles.get(
            (stored.group, tile, "decoded"), lambda: self._coded_tile(stored, tile).decoded()
        )

    def _coded_tile(self, stored: StoredVariable, tile: tuple[int, ...]) -> CodedTile:
        path = f"basis/{stored.group}/fields"

        def read() -> CodedTile:
            region = region_of(tile, stored.space_shape, self.arrays[path].chunk[1:])
            mask = self._mask(stored, tile, self.arrays[path].chunk[1:])
            inside = tuple(slice(0, part.stop - part.start) for part in region)
            coefficients = self._coefficients(path, (0, *tile))
            return CodedTile(coefficients, inside, mask, f"{self.url}: array {path}")

        return self._tiles.get((stored.group, tile, "coded"), read)

    def _rows(self, path: str, start: int, stop: int) -> NDArray[np.float64]:
        """Rows of a coded table."""
        if not self.rank or start >= stop:
            return np.zeros((max(0, stop - start), self.rank))
        length = self.arrays[path].chunk[0]
        first = start // length
        chunks = [
            self._tiles.get((path, number), partial(self._decoded, path, (number, 0)))
            for number in range(first, -(-stop // length))
        ]
        rows: NDArray[np.float64] = np.concatenate(chunks)
        return rows[start - first * length : stop - first * length]

    def _decoded(self, path: str, index: tuple[int, ...]) -> Floats:
        """One chunk of a coded array, cut off where the array ends."""
        array, coefficients = self.arrays[path], self._coefficients(path, index)
        with located(f"{self.url}: array {path} cannot be read"):
            values = coefficients.array()
        region = region_of(index, array.shape, array.chunk)
        values = values[tuple(slice(0, part.stop - part.start) for part in region)]
        values.flags.writeable = False
        return values

    def _coefficients(self, path: str, index: tuple[int, ...]) -> Coefficients:
        """What one chunk of a coded array says."""
        array = self._array(path)
        # What was opened is of Zarr's third format, and coded by our codec first of all.
        metadata: Any = array.metadata
        codec: WaveletCodec = metadata.codecs[0]
        key = layout.joined(path, metadata.encode_chunk_key(index))
        with self._reading(path):
            content: Any = sync(self.group.store.get(key, default_buffer_prototype()))
            # The checksum at its end was right.
            payload = content.to_bytes()[:-4]
            with located(f"{self.url}: array {path} cannot be read"):
                return codec.coefficients(payload, self.arrays[path].chunk, array.dtype)


def _places(
    stored: StoredVariable, space_indexers: Sequence[Indexer]
) -> tuple[list[Positions], list[Positions]]:
    """Increasing positions per space dim, and how to take the result from them."""
    found = [positions(i, n) for i, n in zip(space_indexers, stored.space_shape, strict=True)]
    return [wanted for wanted, _ in found], [back for _, back in found]


def _batched(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[i : i + _FETCHED] for i in range(0, len(keys), _FETCHED))


async def _fetched(store: Any, keys: Sequence[str]) -> None:
    """Fetch files side by side; a `CheckedStore` checks them."""
    await asyncio.gather(*(store.get(key, default_buffer_prototype()) for key in keys))


def _check_finite(values: Floats, where: str) -> None:
    # A sum is not finite where a value is not, and needs no array of its own. It may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise StoreError(f"{where} holds NaN or infinity; the store is damaged")


def open_store(target: str | os.PathLike[str], generation: str | None = None) -> CoefficientStore:
    """Open a coefficient store and check everything about it but the values.

    Parameters
    ----------
    target : str or path
        Local path or URL.
    generation : str, optional
        Insist on this generation: a task must read the one its graph was built on.

    Raises
    ------
    StoreError
        If there is no store, its format is unknown, or a piece of it is missing, of the
        wrong type or shape, or not allowed; the message names the piece.
    """
    url = layout.normalised(target)
    try:
        root = layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
    except FileNotFoundError as error:
        raise StoreError(f"{url}: there is no romzarr store") from error
    if generation is not None and generation != root.generation:
        raise StoreError(f"{url}: the store was replaced since it was opened; open it again")
    return _opened(url, root)


def open_draft(url: str, root: Root) -> CoefficientStore:
    """Open a generation that does not count yet (`pipeline.store.writer.StoreWriter.draft`)."""
    return _opened(url, root)


# Generations never change, so an open one stays right; tasks of one process share it.
@lru_cache(maxsize=16)
def _opened(url: str, root: Root) -> CoefficientStore:
    place = layout.joined(url, root.generation)
    where = layout.joined(place, layout.ROOT)
    try:
        raw = layout.read_bytes(where)
    except FileNotFoundError as error:
        raise StoreError(f"{where}: the generation that the store names is missing") from error
    facts = layout.parse_facts(layout.checked(raw, root.checksum, where), place)
    parsed = {
        path: layout.parse_array(content, layout.joined(place, path), layout.is_coded(path))
        for path, content in _array_documents(place, layout.array_paths(facts)).items()
    }
    arrays = {path: array for path, (_, array) in parsed.items()}
    rank, snapshots = _check_latent(facts, arrays)
    variables = _variables(facts, arrays, rank, snapshots)
    metadata = layout.consolidated({path: document for path, (document, _) in parsed.items()})
    store = CheckedStore(place, arrays, metadata)
    try:
        group = zarr.open_group(store, mode="r", use_consolidated=True)
    # Zarr parses what was not checked here, such as fill values, and fails in many ways.
    except Exception as error:
        raise StoreError(f"{place}: metadata of an array cannot be used: {error}") from error
    generation = root.generation
    return CoefficientStore(
        url, generation, facts.document, variables, rank, snapshots, arrays, group
    )


def _array_documents(place: str, checksums: Mapping[str, int]) -> dict[str, bytes]:
    """Metadata files of arrays, fetched side by side and checked."""
    store = layout.zarr_store(place)

    async def fetched() -> list[Buffer | None]:
        prototype = default_buffer_prototype()
        keys = [layout.joined(path, layout.ROOT) for path in checksums]
        return await asyncio.gather(*(store.get(key, prototype) for key in keys))

    try:
        contents = sync(fetched())
    except OSError as error:
        raise StoreError(f"{place}: metadata cannot be read: {error}") from error
    documents = {}
    for (path, checksum), content in zip(checksums.items(), contents, strict=True):
        where = layout.joined(place, path, layout.ROOT)
        if content is None:
            raise StoreError(f"{where}: is missing; the store is damaged")
        documents[path] = layout.checked(content.to_bytes(), checksum, where)
    return documents


def _check_latent(facts: Fields, arrays: Mapping[str, ArrayLayout]) -> tuple[int, int]:
    """Rank and number of snapshots, once everything that depends on them agrees."""
    latent = facts.fields("latent")
    snapshots = latent.integer("snapshots", 1, layout.MAX_SNAPSHOTS)
    if facts.text("arithmetic") not in ("float32", "float64"):
        raise StoreError(f"{facts.where}: 'arithmetic' must be 'float32' or 'float64'")
    if "basis/singular_values" not in arrays:
        return 0, snapshots
    block_steps = latent.integer("block_steps", 1, layout.MAX_SNAPSHOTS)
    latent.integer("substeps", 1, 1 << 16)
    (rank,) = _shape(arrays, "basis/singular_values", "float64", 1, facts.where)
    (kept,) = _shape(arrays, "latent/steps", "uint", 1, facts.where)
    if not 1 <= kept <= snapshots:
        raise StoreError(f"{facts.where}: latent/steps keeps {kept} of {snapshots} snapshots")
    _agree(arrays, "latent/samples", "float64", (kept, rank), facts.where)
    if "latent/corrections" in arrays:
        _agree(arrays, "latent/corrections", "float64", (snapshots, rank), facts.where)
    blocks = -(-snapshots // block_steps)
    _agree(arrays, "latent/block_model", "int", (blocks,), facts.where)
    _, _, modelled = _shape(arrays, "model/coefficients", "float64", 3, facts.where)
    if modelled > rank:
        raise StoreError(f"{facts.where}: models of {modelled} coefficients, but rank {rank}")
    _check_time(facts.fields("time"), arrays, snapshots)
    return rank, snapshots


def _check_time(time: Fields, arrays: Mapping[str, ArrayLayout], snapshots: int) -> None:
    dim = time.text("dim")
    told = [key for key in ("step", "scale") if time.document.get(key) is not None]
    if not told:
        _agree(arrays, "latent/times", "float64", (snapshots,), time.where)
    elif time.number(told[0]) <= 0:
        raise StoreError(f"{time.where}: {told[0]!r} must be positive")
    if told == ["scale"]:
        path = f"coordinates/{dim}"
        if path not in arrays or not re.match("u?int|float", arrays[path].dtype):
            raise StoreError(f"{time.where}: array {path} is missing, or has no numbers")
        _agree(arrays, path, arrays[path].dtype, (snapshots,), time.where)


def _variables(
    facts: Fields, arrays: Mapping[str, ArrayLayout], rank: int, snapshots: int
) -> dict[str, StoredVariable]:
    listed = facts.fields("variables")
    shared = facts.fields("shared_encoding").document
    variables = {name: _variable(name, listed.fields(name), arrays, shared) for name in listed}
    for variable in variables.values():
        if variable.shape[variable.time_axis] != snapshots:
            raise StoreError(
                f"{facts.where}: {variable.name!r} has {variable.shape[variable.time_axis]} "
                f"snapshots, the store {snapshots}"
            )
        path, space = f"basis/{variable.group}", variable.space_shape
        arithmetic = facts.text("arithmetic")
        if variable.coding == "constant":
            _agree(arrays, f"{path}/mean", variable.dtype.name, space, facts.where)
            continue
        if variable.coding == "lossless":
            _agree(arrays, f"{path}/exact", variable.dtype.name, variable.shape, facts.where)
            continue
        if f"{path}/residuals" in arrays:
            _agree(arrays, f"{path}/residuals", "float64", variable.shape, facts.where)
        if variable.coding == "direct":
            _agree(arrays, f"{path}/values", arithmetic, (snapshots, *space), facts.where)
        else:
            _agree(arrays, f"{path}/fields", arithmetic, (rank + 1, *space), facts.where)
        if variable.mask is not None:
            _agree(arrays, f"basis/{variable.mask}/mask", "bool", space, facts.where)
    return variables


def _variable(
    name: str, fields: Fields, arrays: Mapping[str, ArrayLayout], shared: Mapping[str, Any]
) -> StoredVariable:
    dims, shape = fields.names("dims"), fields.integers("shape", 1)
    coding = _coding(fields.text("group"), arrays)
    if len(dims) != len(shape) or not dims:
        raise StoreError(f"{fields.where}: dims {dims} do not fit shape {shape}")
    return StoredVariable(
        name=name,
        dims=dims,
        shape=shape,
        dtype=layout.float_dtype(fields.text("dtype"), fields.where),
        time_axis=fields.integer("time_axis", 0, len(dims) - 1),
        group=fields.text("group"),
        coding=coding,
        mask=fields.text("mask") if "mask" in fields.document else None,
        offset=fields.number("offset") if coding == "direct" else 0.0,
        chunks=_chunks(fields, shape),
        attrs=fields.fields("attrs").document if "attrs" in fields.document else {},
        encoding=with_shared(
            fields.fields("encoding").document if "encoding" in fields.document else {}, shared
        ),
    )


def _coding(group: str, arrays: Mapping[str, ArrayLayout]) -> str:
    """How a variable is coded, by the array that holds it."""
    if f"basis/{group}/mean" in arrays:
        return "constant"
    if f"basis/{group}/exact" in arrays:
        return "lossless"
    return "direct" if f"basis/{group}/values" in arrays else "pod"


def _chunks(fields: Fields, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Chunks of the archive, a length or the tuple of all lengths per dim."""
    chunks = fields.document.get("chunks")
    if chunks is None:
        return None
    valid = isinstance(chunks, list) and len(chunks) == len(shape)
    for lengths, n in zip(chunks if valid else (), shape, strict=False):
        ragged = isinstance(lengths, list) and all(type(c) is int and c > 0 for c in lengths)
        valid &= (type(lengths) is int and lengths > 0) or (ragged and sum(lengths) == n)
    if not valid:
        raise StoreError(f"{fields.where}: 'chunks' do not fit shape {shape}")
    return tuple(tuple(c) if isinstance(c, list) else c for c in chunks)


def _shape(
    arrays: Mapping[str, ArrayLayout], path: str, dtype: str, ndim: int, where: str
) -> tuple[int, ...]:
    if path not in arrays:
        raise StoreError(f"{where}: array {path} is missing")
    array = arrays[path]
    if not array.dtype.startswith(dtype) or len(array.shape) != ndim:
        raise StoreError(
            f"{where}: array {path} must have {ndim} dims of {dtype}, "
            f"found {array.dtype} {array.shape}"
        )
    return array.shape


def _agree(
    arrays: Mapping[str, ArrayLayout], path: str, dtype: str, shape: tuple[int, ...], where: str
) -> None:
    found = _shape(arrays, path, dtype, len(shape), where)
    if found != shape:
        raise StoreError(f"{where}: array {path} has shape {found}, but {shape} is needed")
    # All fields of a place, and all coefficients of a snapshot, lie in one chunk.
    chunk, whole = arrays[path].chunk, 0 if path.startswith("basis/") else -1
    whole_needed = arrays[path].coded and not path.endswith(("/values", "/residuals"))
    if whole_needed and chunk[whole] != max(1, shape[whole]):
        raise StoreError(f"{where}: array {path} of shape {shape} is cut into chunks {chunk}")
