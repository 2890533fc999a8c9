"""Creates the arrays of variables: fields, values, residuals, masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.sync import sync

from romzarr.coding.exact import LEVEL, ExactCoding
from romzarr.coding.tiles import field_levels, grid, value_levels
from romzarr.contracts import Floats, Region
from romzarr.store import layout
from romzarr.store.checksums import ChecksumCodec
from romzarr.store.codec import WaveletCodec
from romzarr.store.exact import ExactCodec
from romzarr.store.writing.arrays import ArrayWriter
from romzarr.store.writing.files import put_chunk, write_errors
from romzarr.store.writing.tiles import TileWriter


class BasisWriter(ArrayWriter):
    """Creates the arrays of variables; tasks in any process fill them (`TileWriter`)."""

    url: str

    def __init__(self) -> None:
        self._groups: dict[str, str] = {}
        self._grids: dict[tuple[str, str], tuple[int, ...]] = {}
        self._offsets: dict[str, float] = {}
        self._masks: dict[str, str | None] = {}
        self._columns: dict[str, tuple[int, float]] = {}

    @property
    def fields(self) -> TileWriter:
        """Writer of the fields created so far."""
        return self._tile_writer("fields", leading=(0,))

    @property
    def values(self) -> TileWriter:
        """Writer of the values created so far."""
        return self._tile_writer("values")

    @property
    def episodes(self) -> TileWriter:
        """Writer of the values of episodes created so far."""
        return self._tile_writer("episodes")

    @property
    def exact(self) -> TileWriter:
        """Writer of the lossless values created so far."""
        return self._tile_writer("exact")

    @property
    def residuals(self) -> TileWriter:
        """Writer of the residuals created so far."""
        return self._tile_writer("residuals")

    @property
    def gaps(self) -> TileWriter:
        """Writer of the codes of gaps created so far."""
        return self._tile_writer("gaps")

    def _tile_writer(self, array: str, leading: tuple[int, ...] = ()) -> TileWriter:
        grids = {variable: grid for (variable, of), grid in self._grids.items() if of == array}
        documents = self._store.documents
        masks = {
            variable: documents[key]
            for variable, group in self._groups.items()
            if (key := f"basis/{group}/mask/{layout.ROOT}") in documents
        }
        return TileWriter(self.url, array, dict(self._groups), grids, masks, leading)

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
            Lengths of a tile (`romzarr.coding.tiles.tile_shape`).
        rank : int
        step : float
            Quantisation step of all fields.
        dtype : float32 or float64
            The dtype of decoded fields.
        mask : str, optional
            The variable whose mask applies, if points are masked. Its own mask has to be written.
        """
        shape, tile = tuple(space_shape), tuple(tile)
        levels = field_levels(tile)
        with write_errors(self.target):
            group = self._group_of(variable)
            self.create(
                f"basis/{group}/fields",
                (rank + 1, *shape),
                (rank + 1, *tile),
                np.dtype(dtype),
                ("field", *space_dims),
                WaveletCodec(float(step), levels),
            )
            if mask == variable:
                self.create(f"basis/{group}/mask", shape, tile, np.dtype(bool), space_dims)
        self._masks[variable] = mask
        self._grids[variable, "fields"] = grid(shape, tile)

    def write_shared_fields(
        self,
        columns: Mapping[str, tuple[int, float]],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        content: bytes,
    ) -> None:
        """Write the fields of several variables side by side.

        Parameters
        ----------
        columns : mapping of str to pair
            For each variable its first column, and the step that its fields are in parts of.
        shape : tuple of int
            Fields, and the points of all variables.
        dtype : float32 or float64
            The dtype of decoded fields.
        content : bytes
            The coded array.
        """
        with write_errors(self.target):
            codec = WaveletCodec(1.0, (0, 0))
            self.create(layout.SHARED_FIELDS, shape, shape, dtype, ("field", "column"), codec)
            put_chunk(self._store, layout.SHARED_FIELDS, (0, 0), content)
        for variable in columns:
            if variable not in self._groups:
                self._groups[variable] = layout.segment(variable, list(self._groups.values()))
        self._columns.update(columns)

    def create_values(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        step: float,
        offset: float,
        dtype: np.dtype[Any] | type[np.floating[Any]],
        mask: str | None = None,
    ) -> None:
        """Create the values of a `variable`, or of what its fields leave, or replace them.

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
            A constant that is added to decoded values.
        dtype : float32 or float64
            The dtype of decoded values.
        mask : str, optional
            As for fields; of a variable that has fields it is theirs.
        """
        shape, tile = tuple(shape), tuple(tile)
        with write_errors(self.target):
            group = self._group_of(variable)
            if mask == variable:
                path, bits = f"basis/{group}/mask", np.dtype(bool)
                self.create(path, shape[1:], tile[1:], bits, dims[1:], again=True)
        self._masks.setdefault(variable, mask)
        self._create_tiles("values", variable, dims, shape, tile, step, offset, dtype)

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
        self._create_tiles("episodes", variable, dims, shape, tile, step, offset, dtype)

    def _create_tiles(
        self,
        array: str,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        step: float,
        offset: float,
        dtype: np.dtype[Any] | type[np.floating[Any]],
    ) -> None:
        """Create an array of values of a `variable` that has a group, and note its offset."""
        shape, tile = tuple(shape), tuple(tile)
        codec = WaveletCodec(float(step), value_levels(tile))
        path = f"basis/{self._groups[variable]}/{array}"
        with write_errors(self.target):
            self.create(path, shape, tile, np.dtype(dtype), dims, codec, again=True)
        self._grids[variable, array] = grid(shape, tile)
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
        """Create the values of a lossless `variable`, with dims in its order, or replace them."""
        self._create_exact("exact", variable, dims, shape, tile, dtype, coding)

    def create_gaps(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        coding: ExactCoding,
    ) -> None:
        """Create the codes of the gaps of a `variable`, with dims in its order."""
        self._create_exact("gaps", variable, dims, shape, tile, np.dtype(np.uint8), coding)

    def _create_exact(
        self,
        array: str,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        dtype: np.dtype[Any],
        coding: ExactCoding,
    ) -> None:
        shape, tile, native = tuple(shape), tuple(tile), dtype.newbyteorder("=")
        codec = None if coding.is_plain else ExactCodec(coding.axes, coding.packing)
        size, shuffle = coding.itemsize(native), coding.shuffle
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=LEVEL, shuffle=shuffle)  # type: ignore[arg-type]
        with write_errors(self.target):
            group = self._group_of(variable)
            path = f"basis/{group}/{array}"
            compressors = (blosc, ChecksumCodec())
            self.create(path, shape, tile, native, dims, codec, True, compressors)
        self._grids[variable, array] = grid(shape, tile)

    def create_residuals(
        self,
        variable: str,
        dims: Sequence[str],
        shape: Sequence[int],
        tile: Sequence[int],
        step: float,
    ) -> None:
        """Create the residuals of a `variable`, with dims in its order, or replace them.

        All residuals are multiples of `step`.
        """
        shape, tile = tuple(shape), tuple(tile)
        codec = WaveletCodec(float(step), (0,) * len(tile))
        with write_errors(self.target):
            path = f"basis/{self._groups[variable]}/residuals"
            self.create(path, shape, tile, np.dtype(np.float64), dims, codec, again=True)
        self._grids[variable, "residuals"] = grid(shape, tile)

    def layered_arrays(self, variable: str) -> dict[str, tuple[int, ...]]:
        """Return the arrays of a `variable` that may be split into layers, and their tiles."""
        return {
            array: self._grids[variable, array]
            for array in layout.LAYERED
            if (variable, array) in self._grids
        }

    def path_of(self, variable: str, array: str) -> str:
        """Return the path of an array of a `variable`."""
        return f"basis/{self._groups[variable]}/{array}"

    def step_of(self, variable: str, array: str) -> float:
        """Return the quantisation step of a coded array of a `variable`."""
        return self._codec(self.path_of(variable, array)).step

    def _codec(self, path: str) -> WaveletCodec:
        metadata: Any = zarr.open_array(self._store, path=path, mode="r").metadata
        codec: WaveletCodec = metadata.codecs[0]
        return codec

    def create_layers(self, variable: str, array: str, steps: Sequence[float]) -> list[TileWriter]:
        """Create the layers of a coded array of a `variable`, or replace them.

        Parameters
        ----------
        variable : str
        array : str
            One of `layered_arrays`.
        steps : sequence of float
            Of all layers but the last, which has that of the array.

        Returns
        -------
        list of TileWriter
            One for each layer. `drop_layers` removes the array once these are written.
        """
        path = self.path_of(variable, array)
        # There may have been more of them.
        self.drop_layers(variable, array, keep=False)
        whole, codec = zarr.open_array(self._store, path=path, mode="r"), self._codec(path)
        dims, writers = [str(dim) for dim in whole.metadata.dimension_names or ()], []  # type: ignore[union-attr]
        for number, step in enumerate((*steps, codec.step), start=1):
            name = layout.layer(array, number)
            layer = WaveletCodec(step, codec.levels)
            with write_errors(self.target):
                self.create(
                    layout.layer(path, number),
                    whole.shape,
                    whole.chunks,
                    whole.dtype,
                    dims,
                    layer,
                    again=True,
                )
            self._grids[variable, name] = self._grids[variable, array]
            writers.append(self._tile_writer(name, (0,) if array == layout.FIELDS else ()))
        return writers

    def drop_layers(self, variable: str, array: str, keep: bool) -> None:
        """Remove the layers of an array, or, to `keep` these, the array without layers."""
        names = [layout.layer(array, k) for k in range(1, layout.MAX_LAYERS + 1)]
        for name in [array] if keep else names:
            if (variable, name) in self._grids:
                self._drop(variable, name)

    def drop_residuals(self, variable: str) -> None:
        """Remove the residuals of a `variable` if they are all zero."""
        self._drop(variable, "residuals")

    def drop_values(self, variable: str) -> None:
        """Remove the values of a `variable` that is coded in another way after all."""
        self._drop(variable, "values")
        del self._offsets[variable]

    def drop_gaps(self, variable: str) -> None:
        """Remove the codes of the gaps of a `variable` that are not needed."""
        self._drop(variable, "gaps")

    def _drop(self, variable: str, array: str) -> None:
        with write_errors(self.target):
            sync(self._store.delete_dir(f"basis/{self._groups[variable]}/{array}"))
        del self._grids[variable, array]

    def write_mask(
        self,
        variable: str,
        space_dims: Sequence[str],
        tile: Sequence[int],
        parts: Sequence[tuple[Region, NDArray[np.bool_]]],
    ) -> None:
        """Write the mask of a `variable` whose values are there (True: masked), by regions that
        are tiles and together all of space."""
        shape = [max(region[a].stop for region, _ in parts) for a in range(len(space_dims))]
        path = f"basis/{self._groups[variable]}/mask"
        with write_errors(self.target):
            self.create(path, shape, tile, np.dtype(bool), space_dims)
        self._masks[variable] = variable
        writer = self.values
        for region, mask in parts:
            writer.write_mask(variable, region, mask)

    def share_mask(self, variable: str, home: str) -> None:
        """Note that the mask of a `variable` is that of another one, its `home`."""
        self._masks[variable] = home

    def write_constant(self, variable: str, space_dims: Sequence[str], mean: Floats) -> None:
        """Write a `variable` that is constant in time: its `mean`, NaN at masked points."""
        with write_errors(self.target):
            group = self._group_of(variable)
        native = mean.astype(mean.dtype.newbyteorder("="), copy=False)
        self.write(f"basis/{group}/mean", native, space_dims)

    def write_steady(self, variable: str, space_dims: Sequence[str], values: Floats) -> None:
        """Write what is constant at some indices of a `variable`, NaN elsewhere."""
        with write_errors(self.target):
            group = self._group_of(variable)
        self.write(f"basis/{group}/steady", values, space_dims)

    def write_sums(
        self, variable: str, fields: NDArray[np.int8], multiples: NDArray[np.floating[Any]]
    ) -> None:
        """Write what is added to decoded values of a `variable`, so that weighted sums are exact.

        These are ``fields`` (J, *space), which broadcast over space, times ``multiples`` (J, m,
        *rest), with the dims over which fields have the length 1, but for those summed over.
        """
        names = [f"dim{a}" for a in range(1, max(fields.ndim, multiples.ndim))]
        path = f"basis/{self._groups[variable]}"
        self.write(f"{path}/sum_fields", fields, ("sum", *names[: fields.ndim - 1]))
        self.write(f"{path}/sums", multiples, ("sum", *names[: multiples.ndim - 1]))

    def drop_steady(self, variable: str) -> None:
        """Remove what is constant of a `variable` whose values are all kept exactly after all."""
        with write_errors(self.target):
            sync(self._store.delete_dir(f"basis/{self._groups[variable]}/steady"))

    def _group_of(self, variable: str) -> str:
        return self._groups.get(variable) or self._new_group(variable)

    def _new_group(self, variable: str) -> str:
        group = layout.segment(variable, list(self._groups.values()))
        self.create_group("basis")
        self.create_group(f"basis/{group}")
        self._groups[variable] = group
        return group

    def write_singular_values(self, values: NDArray[np.float64]) -> None:
        """Write sigma (r,), largest first."""
        self.write("basis/singular_values", values, ("mode",))
