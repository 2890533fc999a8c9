"""Writes one generation of a coefficient store: basis, latent samples, model, coordinates.

Basis arrays are created by the driver and filled by tasks on any machine that sees the same
path or URL; everything else is small and written by the driver.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import TransposeCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync

from pipeline.contracts import Floats, LatentCode, Region, TimeAxis
from pipeline.encoding import encoding_to_json
from pipeline.errors import StoreError
from pipeline.store import layout
from pipeline.store.commit import committer

# A chunk that is not there is damage, so a chunk full of zeros has to be there.
_WRITE_ALL: Any = {"write_empty_chunks": True}
# What an encoding says about values; the rest says how the source kept them on disk.
_PACKING_KEYS = frozenset(
    {"dtype", "units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value"}
    | {"_Unsigned", "coordinates", "grid_mapping"}
)


@dataclass(frozen=True)
class ModesWriter:
    """Writes blocks of modes from any process; holds no open file and no credentials.

    ``url`` is the generation, ``groups`` the path segment of each variable.
    """

    url: str
    groups: Mapping[str, str]

    def write(self, variable: str, space_region: Region, mean: Floats, modes: Floats) -> None:
        """Put `mean` and `modes` of one space region in place; doing so twice changes nothing.

        Parameters
        ----------
        variable : str
            Name given to `StoreWriter.create_basis`.
        space_region : tuple of slice
            One slice per space dim. Tasks that run side by side need regions that share no
            chunk (`layout.aligned`).
        mean : ndarray, shape of the region
            NaN at masked points.
        modes : ndarray, shape (r, *region)
            0 at masked points.

        Raises
        ------
        StoreError
            If shapes do not fit, or the file system refuses (full disk).
        """
        store = layout.zarr_store(self.url, read_only=False)
        with _reported(self.url):
            for name, region, values in (
                ("mean", space_region, mean),
                ("modes", (slice(None), *space_region), modes),
            ):
                path = f"basis/{self.groups[variable]}/{name}"
                array = zarr.open_array(store, path=path, mode="r+").with_config(_WRITE_ALL)
                expected = tuple(
                    len(range(*s.indices(n))) for s, n in zip(region, array.shape, strict=True)
                )
                if values.shape != expected:
                    raise StoreError(
                        f"{path}: values of shape {values.shape} do not fit region {region} of "
                        f"shape {expected}"
                    )
                if values.size:
                    array[region] = values


class StoreWriter:
    """Context in which a new store is built; it appears at `target` when `commit` returns.

    Leaving the context without `commit`, for whatever reason, removes everything written and
    leaves what was at `target` as it was.

    Parameters
    ----------
    target : str or path
        Local path or URL of the store.
    overwrite : bool
        Replace a romzarr store or an empty folder at `target`. Nothing else is replaced.
    forbid : sequence of str or path
        Places that may not be written to: the archive.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        overwrite: bool = False,
        forbid: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self.target = layout.normalised(target)
        self._commit = committer(target, overwrite, [os.fspath(place) for place in forbid])
        self._groups: dict[str, str] = {}
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            with _reported(self.target):
                self._commit.begin()
                self._store = layout.zarr_store(self._commit.url, read_only=False)
                for path in ("", "basis", "latent", "model"):
                    zarr.create_group(self._store, path=path)
        except BaseException:
            self._commit.abort()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._commit.abort()

    @property
    def modes(self) -> ModesWriter:
        """What tasks need to fill the basis arrays created so far."""
        return ModesWriter(self._commit.url, dict(self._groups))

    def create_basis(
        self,
        variable: str,
        space_dims: Sequence[str],
        space_chunks: layout.Chunks,
        dtype: np.dtype[Any] | type[np.floating[Any]],
        rank: int,
    ) -> bool:
        """Create the mean and the modes of `variable`.

        Parameters
        ----------
        variable : str
        space_dims : sequence of str
            Dims without time, in the variable's order.
        space_chunks : sequence of sequence of int
            Chunk lengths of the archive per space dim; blocks of modes will be written so.
        dtype : float32 or float64
        rank : int

        Returns
        -------
        bool
            Whether the space blocks may be written side by side; else one after another.
        """
        dtype = np.dtype(dtype)
        shape = tuple(sum(lengths) for lengths in space_chunks)
        chunk = layout.basis_chunks(space_chunks, rank, dtype.itemsize)
        alike = layout.aligned(space_chunks, chunk)
        mean_chunk = layout.basis_chunks(space_chunks, 1, dtype.itemsize)
        if alike and not layout.aligned(space_chunks, mean_chunk):
            mean_chunk = chunk
        group = layout.segment(variable, list(self._groups.values()))
        with _reported(self.target):
            zarr.create_group(self._store, path=f"basis/{group}")
            self._create(f"basis/{group}/mean", shape, mean_chunk, dtype, space_dims)
            self._create(
                f"basis/{group}/modes",
                (rank, *shape),
                (max(1, rank), *chunk),
                dtype,
                ("mode", *space_dims),
            )
        self._groups[variable] = group
        return alike

    def write_singular_values(self, values: NDArray[np.float64]) -> None:
        """Write sigma (r,), largest first."""
        self._write("basis/singular_values", values, ("mode",))

    def write_latent(self, code: LatentCode, time: TimeAxis) -> None:
        """Write the kept samples of a(t) and the times they are integrated over."""
        steps = np.diff(code.index, prepend=0)
        width = np.min_scalar_type(int(steps.max(initial=0)))
        row_bytes = code.samples.dtype.itemsize * max(1, code.samples.shape[1])
        rows = layout.row_chunk(code.kept, row_bytes)
        self._write("latent/steps", steps.astype(width), ("kept",))
        # A mode's samples resemble one another more than those of other modes: 6 % smaller.
        self._write("latent/samples", code.samples, ("kept", "mode"), rows, by_column=True)
        self._write("latent/block_model", code.block_model, ("block",))
        step = _uniform_step(time.values)
        if step is None:
            self._write("latent/times", time.values, (time.dim,))
        self._facts["time"] = {"dim": time.dim, "units": time.units, "step": step}
        self._facts["latent"] = {
            "snapshots": len(time.values),
            "block_steps": code.block_steps,
            "substeps": code.substeps,
        }

    def write_model(self, coefficients: NDArray[np.float64], factors: Floats | None = None) -> None:
        """Write Xi of every model (models, p, q) and, if kept, R of every time block."""
        self._write("model/coefficients", coefficients, ("model", "term", "equation"))
        if factors is not None:
            self._write("model/factors", factors, ("block", "row", "column"))

    def write_coordinates(self, carried: xr.Dataset) -> None:
        """Write coordinates and variables that pass through unchanged, with their encodings.

        Parameters
        ----------
        carried : Dataset
            Variables may be backed by Dask: they are computed here, chunk by chunk.
        """
        self._facts["coords"] = [str(name) for name in carried.coords]
        self._facts["carried"] = {
            str(name): _beyond_zarr(variable) for name, variable in carried.variables.items()
        }
        prepared = carried.reset_coords().drop_attrs(deep=False)
        prepared.encoding = {}
        for name in prepared.variables:
            prepared[name] = _prepared(prepared[name])
        with _reported(self.target), _unstable_types_allowed():
            prepared.to_zarr(
                self._store,
                group="coordinates",
                mode="w-",
                zarr_format=3,
                consolidated=False,
                write_empty_chunks=True,
            )

    def commit(self, facts: Mapping[str, Any]) -> None:
        """Complete the generation with `facts` and make it the store.

        Parameters
        ----------
        facts : mapping
            Strict JSON. ``variables[name]`` needs ``dims``, ``shape``, ``dtype``,
            ``time_axis``, and may have ``chunks``, ``attrs``, ``encoding``.

        Raises
        ------
        StoreError
            If a chunk was never written, or the disk is full: nothing is left behind then.
        """
        merged = self._merged(facts)
        with _reported(self.target):
            self._finish(merged)
            root = layout.group_document(
                {"format": layout.FORMAT, "generation": self._commit.generation}
            )
            self._commit.publish(layout.compact_json(root))

    def _merged(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        variables = {
            name: {**variable, "group": self._groups[name]}
            for name, variable in facts["variables"].items()
        }
        time = {**facts.get("time", {}), **self._facts["time"]}
        return {**facts, **self._facts, "time": time, "variables": variables}

    def _create(
        self,
        path: str,
        shape: tuple[int, ...],
        chunk: tuple[int, ...],
        dtype: np.dtype[Any],
        dims: Sequence[str],
        by_column: bool = False,
    ) -> zarr.Array[Any]:
        return zarr.create_array(
            self._store,
            name=path,
            shape=shape,
            chunks=chunk,
            dtype=dtype,
            filters=(TransposeCodec(order=(1, 0)),) if by_column else (),
            compressors=layout.codecs(),
            fill_value=0,
            dimension_names=dims,
            config=_WRITE_ALL,
        )

    def _write(
        self,
        path: str,
        values: NDArray[Any],
        dims: Sequence[str],
        rows: int | None = None,
        by_column: bool = False,
    ) -> None:
        """Write a whole array in chunks of `rows` rows, each by rows or by columns."""
        chunk = tuple(max(1, n) for n in values.shape)
        row_bytes = values.dtype.itemsize * math.prod(chunk[1:])
        rows = rows or layout.row_chunk(chunk[0], row_bytes)
        with _reported(self.target):
            array = self._create(
                path, values.shape, (rows, *chunk[1:]), values.dtype, dims, by_column
            )
            if values.size:
                array[...] = values

    def _finish(self, facts: Mapping[str, Any]) -> None:
        """Check that every chunk is there, and make the metadata small."""
        keys = sorted(collect_aiterator(self._store.list()))
        for key in keys:
            path = key.removesuffix(layout.ROOT).rstrip("/")
            if key == layout.joined(path, layout.ROOT):
                document = _compacted(self._store, key)
                if document["node_type"] == "array":
                    _check_complete(path, document, keys)
        _put(self._store, layout.ROOT, layout.compact_json(layout.group_document(facts)))


def _compacted(store: Store, key: str) -> Any:
    """Metadata document `key`, rewritten without indents and empty fields."""
    buffer = sync(store.get(key, default_buffer_prototype()))
    if buffer is None:
        raise StoreError(f"{key}: vanished while the store was being written")
    document = {
        name: value
        for name, value in json.loads(buffer.to_bytes()).items()
        if value or name not in ("attributes", "storage_transformers", "consolidated_metadata")
    }
    if document["node_type"] == "array":
        # The separator "/" is the default.
        document["chunk_key_encoding"] = {"name": "default"}
    _put(store, key, layout.compact_json(document))
    return document


def _put(store: Store, key: str, content: bytes) -> None:
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def _check_complete(path: str, document: Mapping[str, Any], keys: Sequence[str]) -> None:
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    expected = math.prod(-(-n // c) for n, c in zip(document["shape"], chunk, strict=True))
    found = sum(key == f"{path}/c" or key.startswith(f"{path}/c/") for key in keys)
    if found != expected:
        raise StoreError(f"{path}: {found} of {expected} chunks were written; the store is dropped")


def _uniform_step(times: NDArray[np.float64]) -> float | None:
    """Step h with ``times == h * arange(m)`` to the last bit, where there is one."""
    if len(times) < 2:
        return None
    step = float(times[-1] / (len(times) - 1))
    return step if np.array_equal(times, step * np.arange(len(times))) else None


def _beyond_zarr(variable: xr.Variable) -> dict[str, Any]:
    """What Zarr metadata do not give back: the source's encoding, attributes of other types."""
    attrs = encoding_to_json(variable.attrs)
    kept: dict[str, Any] = {"encoding": encoding_to_json(variable.encoding)}
    if variable.dtype.kind == "O":
        kept["dtype"] = "object"
    return kept if _plain(variable.attrs) and attrs == variable.attrs else kept | {"attrs": attrs}


def _prepared(array: xr.DataArray) -> xr.DataArray:
    """`array` with an encoding that says how the values are packed and not where."""
    if array.chunks is not None:
        # Zarr chunks have one shape; ragged ones grow to the largest.
        array = array.chunk({d: max(c) for d, c in zip(array.dims, array.chunks, strict=True)})
    encoding = {k: v for k, v in array.encoding.items() if k in _PACKING_KEYS}
    for key in ("missing_value", "_FillValue"):
        if _is_nan(encoding.get(key)):
            del encoding[key]
    array.encoding = encoding | {"compressors": layout.codecs(array.dtype.kind not in "OSTU")}
    array.attrs = {k: v for k, v in array.attrs.items() if _plain(v)}
    return array


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _plain(value: Any) -> bool:
    """Whether `value` is strict JSON once numpy's types are taken off."""
    try:
        json.dumps(value.tolist() if hasattr(value, "tolist") else value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _reported(place: str) -> Iterator[None]:
    """Failures of the file system as errors of ours that name the place."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{place}: cannot be written: {error}; nothing was replaced") from error


@contextlib.contextmanager
def _unstable_types_allowed() -> Iterator[None]:
    """Fixed-length strings have no Zarr v3 specification yet; Zarr says so each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield
