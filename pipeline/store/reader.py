"""Reads a coefficient store, believing nothing it has not checked."""

from __future__ import annotations

import asyncio
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import fsspec
import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from pipeline.contracts import BlockSpan, Floats, LatentCode
from pipeline.errors import StoreError
from pipeline.numerics.integrate import Dynamics
from pipeline.numerics.library import library_from_spec
from pipeline.numerics.sampling import rebuild
from pipeline.store import layout
from pipeline.store.layout import ArrayLayout, Fields

Indexer = int | slice | NDArray[np.integer[Any]]
# Snapshots this far apart are decoded as separate spans.
# Modes that an open store keeps decoded.
_REMEMBERED_BYTES = 64 * 2**20
_LARGEST_GAP = 256
# Values a temporary of another type than the result's may hold.
_SLAB_VALUES = 1 << 21
# Rows of this many values make a BLAS call worth its overhead.
_LEAST_ROW = 32
_BLOSC_HEADER = struct.Struct("<4B3I")


class CheckedStore(WrapperStore[Store]):
    """Zarr store whose chunks are complete, undamaged and of the size they should have.

    Zarr takes a missing chunk for zeros, and a codec believes the size that a chunk claims.
    Pickles hold the URL only: every process uses its own credentials.

    Parameters
    ----------
    url : str
    sizes : mapping of str to int or None
        Decoded bytes of every chunk for the path of each array; None if strings vary.
    metadata : bytes, optional
        What the group is opened with: all metadata that were checked.
    """

    def __init__(
        self, url: str, sizes: Mapping[str, int | None], metadata: bytes | None = None
    ) -> None:
        super().__init__(layout.zarr_store(url))
        self.url, self.sizes, self._metadata = url, sizes, metadata

    def __reduce__(self) -> tuple[Any, ...]:
        return CheckedStore, (self.url, self.sizes)

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(self.url, self.sizes, self._metadata)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == layout.ROOT and self._metadata is not None:
            return prototype.buffer.from_bytes(self._metadata)
        return self._checked(key, await self._store.get(key, prototype, byte_range))

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        # Exists from zarr 3.2 on, and only there anything calls it.
        store: Any = self._store
        return self._checked(key, store.get_sync(key, prototype=prototype, byte_range=byte_range))

    def _checked(self, key: str, chunk: Buffer | None) -> Buffer | None:
        path = key.split("/c/")[0].removesuffix("/c")
        if path == key:
            return chunk
        if chunk is None:
            raise StoreError(f"{self.url}/{key}: chunk is missing; the store is damaged")
        self._check_chunk(key, chunk.to_bytes(), self.sizes.get(path))
        return chunk

    def _check_chunk(self, key: str, content: bytes, expected: int | None) -> None:
        payload, checksum = content[:-4], content[-4:]
        if len(payload) < _BLOSC_HEADER.size or (
            google_crc32c.value(payload).to_bytes(4, "little") != checksum
        ):
            raise StoreError(f"{self.url}/{key}: chunk is damaged (its checksum does not fit)")
        *_, decoded, _, encoded = _BLOSC_HEADER.unpack_from(payload)
        fits = decoded == expected if expected is not None else decoded <= layout.MAX_CHUNK_BYTES
        if encoded != len(payload) or not fits:
            raise StoreError(
                f"{self.url}/{key}: chunk claims {encoded} bytes that decode to {decoded}, has "
                f"{len(payload)} and should decode to {expected}"
            )


@dataclass(frozen=True)
class StoredVariable:
    """A variable that the store decodes, as it was in the archive."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    time_axis: int
    group: str
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
    group : zarr.Group
        The generation; its arrays are read through `CheckedStore`.
    """

    url: str
    generation: str
    facts: Mapping[str, Any]
    variables: Mapping[str, StoredVariable]
    rank: int
    snapshots: int
    group: zarr.Group = field(repr=False)
    _recent: dict[Any, Floats] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def singular_values(self) -> NDArray[np.float64]:
        return self._finite("basis/singular_values")

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """Xi of every model, (models, p, q)."""
        return self._finite("model/coefficients")

    @cached_property
    def factors(self) -> Floats | None:
        """Triangular factors R of every time block, where they are kept."""
        return self._finite("model/factors") if "model/factors" in self.group else None

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Times of the snapshots, counted from the first."""
        step = self.facts["time"]["step"]
        if step is not None:
            uniform: NDArray[np.float64] = step * np.arange(self.snapshots)
            return uniform
        times = self._finite("latent/times")
        if not (np.diff(times) > 0).all():
            raise StoreError(f"{self.url}: latent/times do not increase")
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
            samples=self._finite("latent/samples", slice(first, last)),
            block_steps=self.facts["latent"]["block_steps"],
            block_model=self._block_model,
            substeps=self.facts["latent"]["substeps"],
        )

    def latent(self, span: BlockSpan) -> NDArray[np.float64]:
        """POD coefficients a(t) of the snapshots of `span`, (len(span), r)."""
        if not 0 <= span.start <= span.stop <= self.snapshots:
            raise IndexError(f"{span} is not within the {self.snapshots} snapshots of {self.url}")
        if not len(span) or not self.rank:
            return np.zeros((len(span), self.rank))
        return rebuild(self.code(span), self.models, self.times, span)

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
            Only the chunks of modes that hold a wanted point are read, and only the latent
            coefficients around the wanted snapshots are rebuilt.
        """
        stored = self.variables[variable]
        rows, back = _positions(time_indexer, stored.shape[stored.time_axis])
        latent = self._latent_rows(rows)[back]
        places = [
            _positions(indexer, n)
            for indexer, n in zip(space_indexers, stored.space_shape, strict=True)
        ]
        basis = self._basis(stored, [wanted for wanted, _ in places])
        basis = _taken(basis, [back for _, back in places])
        values = _combined(latent, basis, stored.time_axis, stored.dtype)
        indexers = list(space_indexers)
        indexers.insert(stored.time_axis, time_indexer)
        return _without_ints(values, indexers)

    def decode_mean(self, variable: str, space_indexers: Sequence[Indexer]) -> Floats:
        """Temporal mean of `variable`, places as in `decode`; NaN at masked points."""
        stored = self.variables[variable]
        places = [
            _positions(indexer, n)
            for indexer, n in zip(space_indexers, stored.space_shape, strict=True)
        ]
        mean = self._mean(stored, [wanted for wanted, _ in places])
        return _without_ints(_taken(mean[None], [back for _, back in places])[0], space_indexers)

    def read(self, path: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Array `path` of the generation, or some of its rows.

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        array = self._array(path)
        return self._selected(path, array, (rows,) if array.ndim else ())

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

    def _selected(self, path: str, array: zarr.Array[Any], selection: tuple[Any, ...]) -> Any:
        try:
            return np.asarray(array.oindex[selection] if selection else array[...])
        except StoreError:
            raise
        # A codec may fail in any way on content that was made to harm.
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
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

    def _mean(self, stored: StoredVariable, wanted: Sequence[NDArray[np.int64]]) -> Floats:
        path = f"basis/{stored.group}/mean"
        if not all(map(len, wanted)):
            return np.empty([len(positions) for positions in wanted], self.facts["arithmetic"])
        mean: Floats = self._selected(path, self._array(path), tuple(map(_narrowed, wanted)))
        return mean

    def _basis(self, stored: StoredVariable, wanted: Sequence[NDArray[np.int64]]) -> Floats:
        """Modes, and the mean as the last of them, at the wanted points: (r + 1, ...).

        Those of contiguous places are remembered: whoever reads a variable block by block
        in time asks for the same ones every time.
        """
        if not all(len(positions) for positions in wanted):
            return np.empty((self.rank + 1, *map(len, wanted)), self.facts["arithmetic"])
        places = tuple(map(_narrowed, wanted))
        key = (stored.group, str(places)) if all(isinstance(p, slice) for p in places) else None
        if key in self._recent:
            return self._recent[key]
        shape = (self.rank + 1, *(len(positions) for positions in wanted))
        basis = np.empty(shape, self.facts["arithmetic"])
        if self.rank:
            path = f"basis/{stored.group}/modes"
            basis[:-1] = self._selected(path, self._array(path), (slice(None), *places))
            _check_finite(basis[:-1], f"{self.url}: {path}")
        basis[-1] = self._mean(stored, wanted)
        basis.flags.writeable = False
        if key is not None:
            self._remember(key, basis)
        return basis

    def _remember(self, key: Any, basis: Floats) -> None:
        """Keep `basis` for the next reader, within `_REMEMBERED_BYTES`."""
        held = sum(each.nbytes for each in list(self._recent.values()))
        if held + basis.nbytes > _REMEMBERED_BYTES:
            self._recent.clear()
        if basis.nbytes <= _REMEMBERED_BYTES:
            self._recent[key] = basis


def _check_finite(values: Floats, where: str) -> None:
    # A sum is not finite where a value is not, and needs no array of its own. It may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise StoreError(f"{where} holds NaN or infinity; the store is damaged")


def _positions(indexer: Indexer, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Increasing positions that `indexer` touches, and how to take its result from them."""
    if isinstance(indexer, slice):
        asked = np.arange(*indexer.indices(n))
    else:
        asked = np.atleast_1d(np.asarray(indexer, dtype=np.int64))
        if ((asked < -n) | (asked >= n)).any():
            raise IndexError(f"index {asked.min()} to {asked.max()} is out of range for length {n}")
        asked = np.where(asked < 0, asked + n, asked)
    return np.unique(asked, return_inverse=True)


def _narrowed(positions: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A slice where the positions are contiguous: Zarr reads those much faster."""
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions


def _without_ints(values: NDArray[Any], indexers: Sequence[Indexer]) -> NDArray[Any]:
    """Drop the dims that were indexed by an int."""
    key = (0 if isinstance(i, int | np.integer) else slice(None) for i in indexers)
    return values[tuple(key)]


def _taken(basis: Floats, backs: Sequence[NDArray[np.int64]]) -> Floats:
    for axis, back in enumerate(backs, start=1):
        if not np.array_equal(back, np.arange(basis.shape[axis])):
            basis = np.take(basis, back, axis=axis)
    return basis


def _combined(
    latent: NDArray[np.float64], basis: Floats, time_axis: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """``mean + sum_k a_k(t) phi_k`` with time as dim `time_axis`, by one matrix product.

    The mean is the last row of `basis` and meets a coefficient of 1, so that the result is
    written once. A result of another dtype is made in slabs of time.
    """
    space = basis.shape[1:]
    before, after = math.prod(space[:time_axis]), math.prod(space[time_axis:])
    weights = np.ones((len(latent), latent.shape[1] + 1), basis.dtype)
    weights[:, :-1] = latent
    out = np.empty((before, len(latent), after), dtype)
    rows = len(latent)
    if out.dtype != basis.dtype:
        rows = max(1, _SLAB_VALUES // max(1, before * after))
    for start in range(0, len(latent) if out.size else 0, max(1, rows)):
        slab = slice(start, start + rows)
        _multiply(weights[slab], basis.reshape(len(basis), before, after), out[:, slab])
    return out.reshape(*space[:time_axis], len(latent), *space[time_axis:])


def _multiply(weights: Floats, basis: Floats, out: NDArray[Any]) -> None:
    """``out[i, t, j] = sum_k weights[t, k] basis[k, i, j]`` with few and large BLAS calls."""
    modes, before, after = basis.shape
    if before > 1 and after < _LEAST_ROW:
        flat = basis.reshape(modes, before * after)
        if after == 1 and out.dtype == basis.dtype:
            np.matmul(flat.T, weights.T, out=out[:, :, 0])
        else:
            product = (flat.T @ weights.T).reshape(before, after, len(weights))
            out[...] = product.transpose(0, 2, 1)
    elif out.dtype == basis.dtype:
        np.matmul(weights, basis.transpose(1, 0, 2), out=out)
    else:
        out[...] = np.matmul(weights, basis.transpose(1, 0, 2))


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
        current = layout.parse_root(layout.read_bytes(layout.joined(url, layout.ROOT)), url)
    except FileNotFoundError as error:
        raise StoreError(f"{url}: there is no romzarr store") from error
    if generation is not None and generation != current:
        raise StoreError(f"{url}: the store was replaced since it was opened; open it again")
    return _opened(url, current)


# Generations never change, so an open one stays right; tasks of one process share it.
@lru_cache(maxsize=16)
def _opened(url: str, generation: str) -> CoefficientStore:
    place = layout.joined(url, generation)
    try:
        raw = layout.read_bytes(layout.joined(place, layout.ROOT))
    except FileNotFoundError as error:
        raise StoreError(f"{place}: the generation that the store names is missing") from error
    facts = layout.parse_facts(raw, place)
    documents = _array_documents(place, layout.array_paths(facts))
    parsed = {
        path: layout.parse_array(content, layout.joined(place, path))
        for path, content in documents.items()
    }
    arrays = {path: array for path, (_, array) in parsed.items()}
    rank, snapshots = _check_latent(facts, arrays)
    variables = _variables(facts, arrays, rank, snapshots)
    sizes = {path: array.chunk_bytes for path, array in arrays.items()}
    metadata = layout.consolidated({path: document for path, (document, _) in parsed.items()})
    store = CheckedStore(place, sizes, metadata)
    try:
        group = zarr.open_group(store, mode="r", use_consolidated=True)
    # Zarr parses what was not checked here, such as fill values, and fails in many ways.
    except Exception as error:
        raise StoreError(f"{place}: metadata of an array cannot be used: {error}") from error
    return CoefficientStore(url, generation, facts.document, variables, rank, snapshots, group)


def _array_documents(place: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Metadata files of those arrays that exist, fetched side by side."""
    store = layout.zarr_store(place)

    async def fetched() -> list[Buffer | None]:
        prototype = default_buffer_prototype()
        keys = [layout.joined(path, layout.ROOT) for path in paths]
        return await asyncio.gather(*(store.get(key, prototype) for key in keys))

    try:
        contents = sync(fetched())
    except OSError as error:
        raise StoreError(f"{place}: metadata cannot be read: {error}") from error
    return {
        path: content.to_bytes()
        for path, content in zip(paths, contents, strict=True)
        if content is not None
    }


def _check_latent(facts: Fields, arrays: Mapping[str, ArrayLayout]) -> tuple[int, int]:
    """Rank and number of snapshots, once everything that depends on them agrees."""
    latent = facts.fields("latent")
    snapshots = latent.integer("snapshots", 1, layout.MAX_SNAPSHOTS)
    block_steps = latent.integer("block_steps", 1, layout.MAX_SNAPSHOTS)
    latent.integer("substeps", 1, 1 << 16)
    if facts.text("arithmetic") not in ("float32", "float64"):
        raise StoreError(f"{facts.where}: 'arithmetic' must be 'float32' or 'float64'")
    (rank,) = _shape(arrays, "basis/singular_values", "float64", 1, facts.where)
    (kept,) = _shape(arrays, "latent/steps", "uint", 1, facts.where)
    if not 1 <= kept <= snapshots:
        raise StoreError(f"{facts.where}: latent/steps keeps {kept} of {snapshots} snapshots")
    _agree(arrays, "latent/samples", "float", (kept, rank), facts.where)
    blocks = -(-snapshots // block_steps)
    _agree(arrays, "latent/block_model", "int", (blocks,), facts.where)
    _, _, modelled = _shape(arrays, "model/coefficients", "float64", 3, facts.where)
    if modelled > rank:
        raise StoreError(f"{facts.where}: models of {modelled} coefficients, but rank {rank}")
    time = facts.fields("time")
    time.text("dim")
    if time.document.get("step") is None:
        _agree(arrays, "latent/times", "float64", (snapshots,), facts.where)
    elif time.number("step") <= 0:
        raise StoreError(f"{time.where}: 'step' must be positive")
    return rank, snapshots


def _variables(
    facts: Fields, arrays: Mapping[str, ArrayLayout], rank: int, snapshots: int
) -> dict[str, StoredVariable]:
    listed = facts.fields("variables")
    variables = {name: _variable(name, listed.fields(name)) for name in listed}
    for variable in variables.values():
        if variable.shape[variable.time_axis] != snapshots:
            raise StoreError(
                f"{facts.where}: {variable.name!r} has {variable.shape[variable.time_axis]} "
                f"snapshots, the store {snapshots}"
            )
        path = f"basis/{variable.group}"
        _agree(arrays, f"{path}/mean", "float", variable.space_shape, facts.where)
        _agree(arrays, f"{path}/modes", "float", (rank, *variable.space_shape), facts.where)
    return variables


def _variable(name: str, fields: Fields) -> StoredVariable:
    dims, shape = fields.names("dims"), fields.integers("shape", 1)
    if len(dims) != len(shape) or not dims:
        raise StoreError(f"{fields.where}: dims {dims} do not fit shape {shape}")
    return StoredVariable(
        name=name,
        dims=dims,
        shape=shape,
        dtype=layout.float_dtype(fields.text("dtype"), fields.where),
        time_axis=fields.integer("time_axis", 0, len(dims) - 1),
        group=fields.text("group"),
        chunks=_chunks(fields, shape),
        attrs=fields.fields("attrs").document if "attrs" in fields.document else {},
        encoding=fields.fields("encoding").document if "encoding" in fields.document else {},
    )


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
