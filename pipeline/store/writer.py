"""Writes one generation of a coefficient store: fields, latent samples, model, coordinates.

Arrays of tiles are created by the driver and filled by tasks on any machine that sees the same
path or URL (`TileWriter`); everything else is small and written by the driver. What is coded
comes as bytes: whoever codes knows what it costs, and nothing is coded twice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync

from pipeline.coding.exact import LEVEL, ExactCoding
from pipeline.coding.tiles import field_levels, grid, row_levels, value_levels
from pipeline.contracts import CodedLatent, Floats, TimeAxis
from pipeline.store import layout
from pipeline.store.carried import share, write_carried
from pipeline.store.codec import WaveletCodec
from pipeline.store.commit import committer
from pipeline.store.exact import ExactCodec
from pipeline.store.files import WRITE_ALL, finish, put_chunk, reported
from pipeline.store.layout import Part, Root
from pipeline.store.tile_writer import TileWriter


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
    onto : Root, optional
        What the store at `target` has to be: then it is replaced, by the parts of it that are to
        stay and the new one.
    keep : int, default 0
        How many parts of `onto` stay, from the first on.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        overwrite: bool = False,
        forbid: Sequence[str | os.PathLike[str]] = (),
        *,
        onto: Root | None = None,
        keep: int = 0,
    ) -> None:
        self.target = layout.normalised(target)
        self._commit = committer(target, overwrite, [os.fspath(place) for place in forbid], onto)
        self._before = onto.parts[:keep] if onto else ()
        self._groups: dict[str, str] = {}
        self._grids: dict[tuple[str, str], tuple[int, ...]] = {}
        self._offsets: dict[str, float] = {}
        self._masks: dict[str, str | None] = {}
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            with reported(self.target):
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
    def fields(self) -> TileWriter:
        """What tasks need to fill the fields created so far."""
        return self._tile_writer("fields", leading=(0,))

    @property
    def values(self) -> TileWriter:
        """What tasks need to fill the values created so far."""
        return self._tile_writer("values")

    @property
    def episodes(self) -> TileWriter:
        """What tasks need to fill the values of episodes created so far."""
        return self._tile_writer("episodes")

    @property
    def exact(self) -> TileWriter:
        """What tasks need to fill the values to the bit created so far."""
        return self._tile_writer("exact")

    @property
    def residuals(self) -> TileWriter:
        """What tasks need to fill the residuals created so far."""
        return self._tile_writer("residuals")

    def _tile_writer(self, array: str, leading: tuple[int, ...] = ()) -> TileWriter:
        grids = {variable: grid for (variable, of), grid in self._grids.items() if of == array}
        return TileWriter(self._commit.url, array, dict(self._groups), grids, leading)

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
        with reported(self.target):
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
        self._grids[variable, "fields"] = grid(shape, tile)

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
        with reported(self.target):
            group = self._groups.get(variable) or self._new_group(variable)
            path = f"basis/{group}"
            self._create(f"{path}/values", shape, tile, np.dtype(dtype), dims, codec, again=True)
            if mask == variable:
                bits = np.dtype(bool)
                self._create(f"{path}/mask", shape[1:], tile[1:], bits, dims[1:], again=True)
        self._masks[variable] = mask
        self._grids[variable, "values"] = grid(shape, tile)
        self._offsets[variable] = float(offset)

    def create_episodes(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        step: float,
        offset: float,
        dtype: np.dtype[Any] | type[np.floating[Any]],
    ) -> None:
        """Create the values of a `variable` with fields at the snapshots of episodes.

        Parameters are those of `create_values`; ``shape`` counts these snapshots alone.
        """
        shape, tile = tuple(shape), tuple(tile)
        codec = WaveletCodec(float(step), value_levels(tile))
        path = f"basis/{self._groups[variable]}/episodes"
        with reported(self.target):
            self._create(path, shape, tile, np.dtype(dtype), dims, codec, again=True)
        self._grids[variable, "episodes"] = grid(shape, tile)
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
        with reported(self.target):
            group = self._groups.get(variable) or self._new_group(variable)
            path = f"basis/{group}/exact"
            compressors = (blosc, Crc32cCodec())
            self._create(path, shape, tile, native, dims, codec, True, compressors)
        self._grids[variable, "exact"] = grid(shape, tile)

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
        with reported(self.target):
            path = f"basis/{self._groups[variable]}/residuals"
            self._create(path, shape, tile, np.dtype(np.float64), dims, codec, again=True)
        self._grids[variable, "residuals"] = grid(shape, tile)

    def drop_residuals(self, variable: str) -> None:
        """Take the residuals of a `variable` out again, where there are none but zeros."""
        with reported(self.target):
            sync(self._store.delete_dir(f"basis/{self._groups[variable]}/residuals"))
        del self._grids[variable, "residuals"]

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
        with reported(self.target):
            group = self._new_group(variable)
        native = mean.astype(mean.dtype.newbyteorder("="), copy=False)
        self._write(f"basis/{group}/mean", native, space_dims)

    def _create_group(self, path: str) -> None:
        with reported(self.target):
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
        with reported(self.target):
            self._facts["carried"] = write_carried(self._store, carried)

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
        with reported(self.target):
            metadata = finish(self._store, self._merged(facts))
            own = Part(self._commit.generation, layout.checksum(metadata))
            self._commit.publish(Root((*self._before, own)))

    def draft(self, facts: Mapping[str, Any]) -> tuple[str, Root]:
        """Complete the generation with `facts`, as `commit` does, without making it the store.

        Returns where it is and its root metadata, for `pipeline.store.draft.Draft` to read
        what is there so far. More may be written and committed after that.
        """
        with reported(self.target):
            metadata = finish(self._store, self._merged(facts))
        place = self._commit.url.removesuffix(f"/{self._commit.generation}")
        return place, Root((Part(self._commit.generation, layout.checksum(metadata)),))

    def _merged(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        for name in facts["variables"]:
            # One whose fields other generations have needs a name all the same.
            self._groups.setdefault(name, layout.segment(name, list(self._groups.values())))
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
        shared = {"shared_encoding": share(variables, carried)}
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
            config=WRITE_ALL,
            overwrite=again,
        )

    def _write(self, path: str, values: NDArray[Any], dims: Sequence[str]) -> None:
        """Write a whole array in chunks of rows."""
        chunk = tuple(max(1, n) for n in values.shape)
        if chunk:
            rows = layout.row_chunk(chunk[0], values.dtype.itemsize * math.prod(chunk[1:]))
            chunk = (rows, *chunk[1:])
        with reported(self.target):
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
        with reported(self.target):
            self._create(path, shape, chunk, np.dtype(np.float64), dims, codec)
            for number, content in enumerate(contents):
                put_chunk(self._store, path, (number, 0), content)


def _uniform_step(times: NDArray[np.float64]) -> float | None:
    """Step h with ``times == h * arange(m)`` to the last bit, where there is one."""
    if len(times) < 2:
        return None
    step = float(times[-1] / (len(times) - 1))
    return step if np.array_equal(times, step * np.arange(len(times))) else None
