"""Writes one generation of a coefficient store: fields, latent samples, model, coordinates.

Fields, and the values of variables coded without POD, are created by the driver and filled by
tasks on any machine that sees the same path or URL; everything else is small and written by
the driver. What is coded comes as bytes: whoever codes knows what it costs, and nothing is
coded twice.
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
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync

from pipeline.coding.exact import LEVEL, ExactCoding
from pipeline.coding.tiles import field_levels, grid, row_levels, value_levels
from pipeline.contracts import CodedLatent, Floats, Region, TimeAxis
from pipeline.encoding import attributes_to_json, encoding_to_json, share_encodings
from pipeline.errors import StoreError
from pipeline.store import layout
from pipeline.store.codec import WaveletCodec
from pipeline.store.commit import committer
from pipeline.store.exact import ExactCodec
from pipeline.store.layout import Root

# A chunk that is not there is damage, so a chunk full of zeros has to be there.
_WRITE_ALL: Any = {"write_empty_chunks": True}
# What an encoding says about values; the rest says how the source kept them on disk.
_PACKING_KEYS = frozenset(
    {"dtype", "units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value"}
    | {"_Unsigned", "coordinates", "grid_mapping"}
)


@dataclass(frozen=True)
class _TilesWriter:
    """Writes tiles from any process; holds no open file and no credentials.

    ``url`` is the generation, ``groups`` the path segment of each variable, ``grids`` the
    number of its tiles along each dim.
    """

    url: str
    groups: Mapping[str, str]
    grids: Mapping[str, tuple[int, ...]]

    def _write(self, variable: str, array: str, index: tuple[int, ...], content: bytes) -> None:
        tiles = self.grids[variable]
        path = f"basis/{self.groups[variable]}/{array}"
        if len(index) != len(tiles) or not all(
            0 <= i < n for i, n in zip(index, tiles, strict=True)
        ):
            raise StoreError(f"{path}: tile {index} does not fit a grid of {tiles} tiles")
        store = layout.zarr_store(self.url, read_only=False)
        with _reported(self.url):
            _put_chunk(store, path, index, content)

    def write_mask(self, variable: str, region: Region, mask: NDArray[np.bool_]) -> None:
        """Put the mask of one region in place (True: nothing is there).

        Parameters
        ----------
        variable : str
        region : tuple of slice
            Of space. Tasks that run side by side need regions made of whole tiles.
        mask : ndarray of bool, shape of the region

        Raises
        ------
        StoreError
            If shapes do not fit, or the file system refuses.
        """
        path = f"basis/{self.groups[variable]}/mask"
        store = layout.zarr_store(self.url, read_only=False)
        with _reported(self.url):
            array = zarr.open_array(store, path=path, mode="r+").with_config(_WRITE_ALL)
            expected = tuple(
                len(range(*s.indices(n))) for s, n in zip(region, array.shape, strict=True)
            )
            if mask.shape != expected or mask.dtype != bool:
                raise StoreError(
                    f"{path}: a mask of {mask.dtype} {mask.shape} does not fit region {region} "
                    f"of shape {expected}"
                )
            array[region] = mask


class FieldsWriter(_TilesWriter):
    """Writes tiles of fields, which are cut along space, and masks."""

    def write_tile(self, variable: str, index: tuple[int, ...], content: bytes) -> None:
        """Put one tile in place; doing so twice changes nothing.

        Parameters
        ----------
        variable : str
            Name given to `StoreWriter.create_fields`.
        index : tuple of int
            Place of the tile in the grid, as `pipeline.coding.tiles.tiles` yields it.
        content : bytes
            What `pipeline.coding.tiles.encode_tile` made of all fields there.

        Raises
        ------
        StoreError
            If there is no such tile, or the file system refuses (full disk).
        """
        self._write(variable, "fields", (0, *index), content)


class ValuesWriter(_TilesWriter):
    """Writes tiles of values, which are cut along time and space, and masks."""

    def write_values(self, variable: str, index: tuple[int, ...], content: bytes) -> None:
        """Put one tile in place; doing so twice changes nothing.

        Parameters
        ----------
        variable : str
            Name given to `StoreWriter.create_values`.
        index : tuple of int
            Place of the tile in the grid, time first.
        content : bytes
            What `pipeline.coding.tiles.encode_values` made of the values there.

        Raises
        ------
        StoreError
            If there is no such tile, or the file system refuses (full disk).
        """
        self._write(variable, "values", index, content)


class ExactWriter(_TilesWriter):
    """Writes tiles of values that are kept to the bit."""

    def write_exact(self, variable: str, index: tuple[int, ...], content: bytes) -> None:
        """Put one tile in place; doing so twice changes nothing.

        Parameters
        ----------
        variable : str
            Name given to `StoreWriter.create_exact`.
        index : tuple of int
            Place of the tile in the grid, dims in the variable's order.
        content : bytes
            What `pipeline.coding.exact.encode_exact` made of the values there.

        Raises
        ------
        StoreError
            If there is no such tile, or the file system refuses (full disk).
        """
        self._write(variable, "exact", index, content)


class ResidualsWriter(_TilesWriter):
    """Writes tiles of residuals."""

    def write_residuals(self, variable: str, index: tuple[int, ...], content: bytes) -> None:
        """Put one tile in place; doing so twice changes nothing.

        Parameters
        ----------
        variable : str
            Name given to `StoreWriter.create_residuals`.
        index : tuple of int
            Place of the tile in the grid, dims in the variable's order.
        content : bytes
            What `pipeline.coding.residuals.encode_residuals` made of those there.

        Raises
        ------
        StoreError
            If there is no such tile, or the file system refuses (full disk).
        """
        self._write(variable, "residuals", index, content)


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
        self._grids: dict[str, tuple[int, ...]] = {}
        self._residual_grids: dict[str, tuple[int, ...]] = {}
        self._offsets: dict[str, float] = {}
        self._masks: dict[str, str | None] = {}
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            with _reported(self.target):
                self._commit.begin()
                self._store = layout.zarr_store(self._commit.url, read_only=False)
                zarr.create_group(self._store)
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
    def fields(self) -> FieldsWriter:
        """What tasks need to fill the fields created so far."""
        return FieldsWriter(self._commit.url, dict(self._groups), dict(self._grids))

    @property
    def values(self) -> ValuesWriter:
        """What tasks need to fill the values created so far."""
        return ValuesWriter(self._commit.url, dict(self._groups), dict(self._grids))

    @property
    def exact(self) -> ExactWriter:
        """What tasks need to fill the values to the bit created so far."""
        return ExactWriter(self._commit.url, dict(self._groups), dict(self._grids))

    @property
    def residuals(self) -> ResidualsWriter:
        """What tasks need to fill the residuals created so far."""
        return ResidualsWriter(self._commit.url, dict(self._groups), dict(self._residual_grids))

    def create_fields(
        self,
        variable: str,
        space_dims: Sequence[str],
        space_shape: Sequence[int],
        tile: Sequence[int],
        rank: int,
        step: float,
        dtype: np.dtype[Any] | type[np.floating[Any]],
        mask: str | None,
    ) -> None:
        """Create the fields of `variable`: ``sqrt(m) * mean``, then each ``sigma_k phi_k``.

        Parameters
        ----------
        variable : str
        space_dims : sequence of str
            Dims without time, in the variable's order.
        space_shape : sequence of int
        tile : sequence of int
            Lengths of a tile (`pipeline.coding.tiles.tile_shape`).
        rank : int
        step : float
            Quantisation step of all fields.
        dtype : float32 or float64
            What the fields are decoded to.
        mask : str, optional
            Where the variable has points without values, which variable's mask tells them;
            if its own, that has to be written.
        """
        shape, tile = tuple(space_shape), tuple(tile)
        levels = field_levels(tile)
        with _reported(self.target):
            group = self._new_group(variable)
            self._create(
                f"basis/{group}/fields",
                (rank + 1, *shape),
                (rank + 1, *tile),
                np.dtype(dtype),
                ("field", *space_dims),
                WaveletCodec(float(step), levels),
            )
            if mask == variable:
                self._create(f"basis/{group}/mask", shape, tile, np.dtype(bool), space_dims)
        self._masks[variable] = mask
        self._grids[variable] = (1, *grid(shape, tile))

    def create_values(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        step: float,
        offset: float,
        dtype: np.dtype[Any] | type[np.floating[Any]],
        mask: str | None,
    ) -> None:
        """Create the values of a `variable` that is coded without POD.

        With another step it may be done again: what was written before is dropped.

        Parameters
        ----------
        variable : str
        dims : sequence of str
            Time, then the others in the variable's order.
        shape : sequence of int
        tile : sequence of int
            Lengths of a tile.
        step : float
            Quantisation step.
        offset : float
            What is added to the values when they are decoded.
        dtype : float32 or float64
            What the values are decoded to.
        mask : str, optional
            As for fields; each part of space is written once.
        """
        shape, tile = tuple(shape), tuple(tile)
        codec = WaveletCodec(float(step), value_levels(tile))
        with _reported(self.target):
            group = self._groups.get(variable) or self._new_group(variable)
            path = f"basis/{group}"
            self._create(f"{path}/values", shape, tile, np.dtype(dtype), dims, codec, again=True)
            if mask == variable:
                bits = np.dtype(bool)
                self._create(f"{path}/mask", shape[1:], tile[1:], bits, dims[1:], again=True)
        self._masks[variable] = mask
        self._grids[variable] = grid(shape, tile)
        self._offsets[variable] = float(offset)

    def create_exact(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        dtype: np.dtype[Any],
        coding: ExactCoding,
    ) -> None:
        """Create the values of a `variable` that is kept to the bit.

        With another coding it may be done again: what was written before is dropped.

        Parameters
        ----------
        variable : str
        dims, shape : sequence
            In the variable's order.
        tile : sequence of int
            Lengths of a tile.
        dtype : dtype
            Of the variable.
        coding : ExactCoding
        """
        shape, tile, native = tuple(shape), tuple(tile), dtype.newbyteorder("=")
        codec = None if coding.is_plain else ExactCodec(coding.axes, coding.packing)
        size, shuffle = coding.itemsize(native), coding.shuffle
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=LEVEL, shuffle=shuffle)  # type: ignore[arg-type]
        with _reported(self.target):
            group = self._groups.get(variable) or self._new_group(variable)
            path = f"basis/{group}/exact"
            compressors = (blosc, Crc32cCodec())
            self._create(path, shape, tile, native, dims, codec, True, compressors)
        self._grids[variable] = grid(shape, tile)

    def create_residuals(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        step: float,
    ) -> None:
        """Create what is added to the decoded values of a `variable` that has a group.

        With another step it may be done again: what was written before is dropped.

        Parameters
        ----------
        variable : str
        dims, shape : sequence
            In the variable's order.
        tile : sequence of int
            Lengths of a tile.
        step : float
            All residuals are multiples of it.
        """
        shape, tile = tuple(shape), tuple(tile)
        codec = WaveletCodec(float(step), (0,) * len(tile))
        with _reported(self.target):
            path = f"basis/{self._groups[variable]}/residuals"
            self._create(path, shape, tile, np.dtype(np.float64), dims, codec, again=True)
        self._residual_grids[variable] = grid(shape, tile)

    def drop_residuals(self, variable: str) -> None:
        """Take the residuals of a `variable` out again, where there are none but zeros."""
        with _reported(self.target):
            sync(self._store.delete_dir(f"basis/{self._groups[variable]}/residuals"))
        del self._residual_grids[variable]

    def write_constant(self, variable: str, space_dims: Sequence[str], mean: Floats) -> None:
        """Write `variable` as it is at all times, exactly; it gets no fields.

        Parameters
        ----------
        variable : str
        space_dims : sequence of str
            Dims without time, in the variable's order.
        mean : ndarray, shape of space
            NaN at masked points.
        """
        with _reported(self.target):
            group = self._new_group(variable)
        native = mean.astype(mean.dtype.newbyteorder("="), copy=False)
        self._write(f"basis/{group}/mean", native, space_dims)

    def _create_group(self, path: str) -> None:
        with _reported(self.target):
            zarr.open_group(self._store, path=path, mode="a")

    def _new_group(self, variable: str) -> str:
        group = layout.segment(variable, list(self._groups.values()))
        self._create_group("basis")
        self._create_group(f"basis/{group}")
        self._groups[variable] = group
        return group

    def write_singular_values(self, values: NDArray[np.float64]) -> None:
        """Write sigma (r,), largest first."""
        self._write("basis/singular_values", values, ("mode",))

    def write_time(self, time: TimeAxis) -> None:
        """Write the times that a(t) is integrated over, after the coordinates.

        Only what neither a step nor the coordinate of the dim tells is an array of its own.
        """
        self._facts["latent"] = {"snapshots": len(time.values)}
        facts = {"dim": time.dim, "units": time.units, "step": _uniform_step(time.values)}
        if facts["step"] is None:
            facts["scale"] = self._scale_of(time)
            if facts["scale"] is None:
                self._create_group("latent")
                self._write("latent/times", time.values, (time.dim,))
        self._facts["time"] = facts

    def _scale_of(self, time: TimeAxis) -> float | None:
        """Factor on the stored coordinate, less its first value, that gives the very times."""
        path = f"coordinates/{time.dim}"
        if time.dim not in self._facts["carried"]:
            return None
        stored = np.asarray(zarr.open_array(self._store, path=path, mode="r")[...])
        if stored.dtype.kind not in "iuf" or stored.shape != time.values.shape:
            return None
        elapsed = layout.since_first(stored)
        if not elapsed[-1] > 0:
            return None
        scale = float(time.values[-1] / elapsed[-1])
        return scale if np.array_equal(time.values, scale * elapsed) else None

    def write_latent(self, coded: CodedLatent, time_dim: str) -> None:
        """Write what a(t) is rebuilt from, after the time."""
        self._create_group("latent")
        code = coded.code
        steps = np.diff(code.index, prepend=0)
        width = np.min_scalar_type(int(steps.max(initial=0)))
        self._write("latent/steps", steps.astype(width), ("kept",))
        rank, snapshots = code.samples.shape[1], self._facts["latent"]["snapshots"]
        self._write_coded(
            "latent/samples",
            ("kept", "mode"),
            (code.kept, rank),
            WaveletCodec(float(coded.sample_step), row_levels(coded.sample_rows, smooth=False)),
            coded.sample_rows,
            coded.sample_bytes,
        )
        if coded.correction_bytes:
            self._write_coded(
                "latent/corrections",
                (time_dim, "mode"),
                (snapshots, rank),
                WaveletCodec(
                    float(coded.step),
                    row_levels(coded.correction_rows, smooth=True),
                    coded.correction_orders,
                ),
                coded.correction_rows,
                coded.correction_bytes,
            )
        self._write("latent/block_model", code.block_model, ("block",))
        self._facts["latent"] |= {"block_steps": code.block_steps, "substeps": code.substeps}

    def write_model(self, coefficients: NDArray[np.float64], factors: Floats | None = None) -> None:
        """Write Xi of every model (models, p, q) and, if kept, R of every time block."""
        self._create_group("model")
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
        with _reported(self.target):
            metadata = self._finish(self._merged(facts))
            self._commit.publish(layout.root_document(self._commit.generation, metadata))

    def draft(self, facts: Mapping[str, Any]) -> tuple[str, Root]:
        """Complete the generation with `facts`, as `commit` does, without making it the store.

        Returns where it is and its root metadata, for `pipeline.store.draft.Draft` to read
        what is there so far. More may be written and committed after that.
        """
        with _reported(self.target):
            metadata = self._finish(self._merged(facts))
        place = self._commit.url.removesuffix(f"/{self._commit.generation}")
        return place, Root(self._commit.generation, layout.checksum(metadata))

    def _merged(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        variables = {
            name: {**variable, "group": self._groups[name]}
            for name, variable in facts["variables"].items()
        }
        for name, offset in self._offsets.items():
            variables[name]["offset"] = offset
        for name, home in self._masks.items():
            if home is not None:
                variables[name]["mask"] = self._groups[home]
        carried = dict(self._facts["carried"])
        shared = {"shared_encoding": _share(variables, carried)}
        return {**facts, **self._facts, "variables": variables, "carried": carried, **shared}

    def _create(
        self,
        path: str,
        shape: Sequence[int],
        chunk: Sequence[int],
        dtype: np.dtype[Any],
        dims: Sequence[str],
        coding: ArrayBytesCodec | None = None,
        again: bool = False,
        compressors: tuple[BytesBytesCodec, ...] | None = None,
    ) -> zarr.Array[Any]:
        if isinstance(coding, WaveletCodec):
            compressors = (Crc32cCodec(),)
        return zarr.create_array(
            self._store,
            name=path,
            shape=tuple(shape),
            chunks=tuple(chunk),
            dtype=dtype,
            filters=(),
            serializer="auto" if coding is None else coding,
            compressors=compressors or layout.codecs(),
            fill_value=0,
            dimension_names=dims,
            config=_WRITE_ALL,
            overwrite=again,
        )

    def _write(self, path: str, values: NDArray[Any], dims: Sequence[str]) -> None:
        """Write a whole array in chunks of rows."""
        chunk = tuple(max(1, n) for n in values.shape)
        if chunk:
            rows = layout.row_chunk(chunk[0], values.dtype.itemsize * math.prod(chunk[1:]))
            chunk = (rows, *chunk[1:])
        with _reported(self.target):
            codecs = layout.codecs_for(values)
            array = self._create(path, values.shape, chunk, values.dtype, dims, compressors=codecs)
            if values.size:
                array[...] = values

    def _write_coded(
        self,
        path: str,
        dims: Sequence[str],
        shape: tuple[int, int],
        codec: WaveletCodec,
        rows: int,
        contents: Sequence[bytes],
    ) -> None:
        """Write a table from what `pipeline.coding.tiles.encode_rows` made of it."""
        chunk = (rows, max(1, shape[1]))
        with _reported(self.target):
            self._create(path, shape, chunk, np.dtype(np.float64), dims, codec)
            for number, content in enumerate(contents):
                _put_chunk(self._store, path, (number, 0), content)

    def _finish(self, facts: Mapping[str, Any]) -> bytes:
        """Check that every chunk is there, make the metadata small and write the facts."""
        keys = sorted(collect_aiterator(self._store.list()))
        checksums = {}
        for key in keys:
            path = key.removesuffix(layout.ROOT).rstrip("/")
            if key == layout.joined(path, layout.ROOT):
                document, content = _compacted(self._store, key)
                if document["node_type"] == "array":
                    _check_complete(path, document, keys)
                    checksums[path] = layout.checksum(content)
        metadata = layout.compact_json(layout.group_document({**facts, "arrays": checksums}))
        _put(self._store, layout.ROOT, metadata)
        return metadata


def _compacted(store: Store, key: str) -> tuple[Any, bytes]:
    """Metadata document `key`, and how it is rewritten without indents and empty fields."""
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
    content = layout.compact_json(document)
    _put(store, key, content)
    return document, content


def _put(store: Store, key: str, content: bytes) -> None:
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def _put_chunk(store: Store, path: str, index: Sequence[int], payload: bytes) -> None:
    key = layout.joined(path, "c", *map(str, index))
    _put(store, key, layout.with_checksum(payload))


def _check_complete(path: str, document: Mapping[str, Any], keys: Sequence[str]) -> None:
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    expected = math.prod(-(-n // c) for n, c in zip(document["shape"], chunk, strict=True))
    found = sum(key == f"{path}/c" or key.startswith(f"{path}/c/") for key in keys)
    if found != expected:
        raise StoreError(f"{path}: {found} of {expected} chunks were written; the store is dropped")


def _share(*documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Take what several encodings have alike out of the documents of variables."""
    found = {
        (number, name): document.get("encoding", {})
        for number, variables in enumerate(documents)
        for name, document in variables.items()
    }
    shared, own = share_encodings(found)
    for (number, name), encoding in own.items():
        documents[number][name] = {**documents[number][name], "encoding": encoding}
    return shared


def _uniform_step(times: NDArray[np.float64]) -> float | None:
    """Step h with ``times == h * arange(m)`` to the last bit, where there is one."""
    if len(times) < 2:
        return None
    step = float(times[-1] / (len(times) - 1))
    return step if np.array_equal(times, step * np.arange(len(times))) else None


def _beyond_zarr(variable: xr.Variable) -> dict[str, Any]:
    """What Zarr metadata do not give back: the source's encoding, attributes of other types."""
    attrs = attributes_to_json(variable.attrs)
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
    codecs = layout.codecs("noshuffle" if array.dtype.kind in "OSTU" else "shuffle")
    if array.chunks is None and array.nbytes <= layout.CHUNK_BYTES:
        codecs = layout.codecs_for(array.values)
    array.encoding = encoding | {"compressors": codecs}
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
