"""Writes one generation of a coefficient store.

The driver creates arrays of tiles, and tasks on any machine with access to the same path or URL
fill them (`TileWriter`). The driver writes everything else, which is small. Coded data comes as
bytes, so that nothing is coded twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from romzarr.coding.tiles import row_levels
from romzarr.contracts import CodedLatent, LatentFormat, TimeAxis
from romzarr.errors import LargerStoreError
from romzarr.store import layout
from romzarr.store.codec import WaveletCodec
from romzarr.store.commit import committer
from romzarr.store.inline import INLINE, inline_array
from romzarr.store.layout import JsonObject, Part, Root
from romzarr.store.writing.basis import BasisWriter
from romzarr.store.writing.carried import share, write_carried
from romzarr.store.writing.files import finish, put, write_errors
from romzarr.store.writing.staged import StagedStore
from romzarr.store.writing.tiles import ChunkWriter


class StoreWriter(BasisWriter):
    """Context in which a new store is written; it appears at `target` when `commit` returns.

    Without `commit`, the end of the context removes everything written and leaves `target`
    unchanged.

    Parameters
    ----------
    target : str or path
        Local path or URL of the store.
    overwrite : bool
        Replace a romzarr store or an empty folder at `target`. Nothing else is replaced.
    forbid : sequence of str or path
        Locations that must not be written to: the archive.
    onto : Root, optional
        The expected root metadata of the store at `target`, which is then replaced.
    keep : int, default 0
        Number of leading parts of `onto` that stay current.
    most_bytes : int, optional
        Bytes that all files of the generation may take.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        overwrite: bool = False,
        forbid: Sequence[str | os.PathLike[str]] = (),
        *,
        onto: Root | None = None,
        keep: int = 0,
        most_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.target = layout.normalised(target)
        self._commit = committer(target, overwrite, [os.fspath(place) for place in forbid], onto)
        self.url = self._commit.url
        self._before = onto.parts[:keep] if onto else ()
        self._most_bytes = most_bytes
        self._facts: dict[str, Any] = {}
        self._sizes: Mapping[str, int] = {}

    def __enter__(self) -> Self:
        try:
            with write_errors(self.target):
                self._commit.begin()
                self._store = StagedStore(
                    layout.zarr_store(self._commit.url, read_only=False), self._commit.generation
                )
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

    def write_time(self, time: TimeAxis) -> None:
        """Write the times for the integration of a(t), after the coordinates.

        An array is only written if neither a constant step nor the coordinate gives the times.
        """
        self._facts["latent"] = {"snapshots": len(time.values)}
        facts = {"dim": time.dim, "units": time.units, "step": time.step}
        if facts["step"] is None:
            facts["scale"] = self._scale_of(time)
            if facts["scale"] is None:
                self.create_group("latent")
                self.write("latent/times", time.values, (time.dim,))
        self._facts["time"] = facts

    def _scale_of(self, time: TimeAxis) -> float | None:
        """Find the factor from the stored coordinate, less its first value, to the exact times."""
        if time.dim not in self._facts["carried"]:
            return None
        stored = self._coordinate(time.dim)
        if stored.dtype.kind not in "iuf" or stored.shape != time.values.shape:
            return None
        elapsed = layout.since_first(stored)
        if not elapsed[-1] > 0:
            return None
        scale = float(time.values[-1] / elapsed[-1])
        return scale if np.array_equal(time.values, scale * elapsed) else None

    def _coordinate(self, name: str) -> NDArray[Any]:
        """Return the values of a coordinate as they are stored."""
        path = f"coordinates/{name}"
        if entry := self._store.inline.get(path):
            found = inline_array(JsonObject(entry, self.url))
            document = layout.compact_json(found.metadata)
            alone = MemoryStore()
            for key, content in ((layout.ROOT, document), (found.key, found.chunk)):
                put(alone, key, content)
            return np.asarray(zarr.open_array(alone, mode="r")[...])
        return np.asarray(zarr.open_array(self._store, path=path, mode="r")[...])

    def write_latent(self, coded: CodedLatent, time_dim: str) -> None:
        """Write samples and corrections of a(t), after the time; omit samples that are all zero."""
        sampled, corrected = bool(coded.sample_bytes), bool(coded.correction_bytes)
        samples, corrections = self.create_latent(coded.format, time_dim, sampled, corrected)
        for writer, contents in (
            (samples, coded.sample_bytes),
            (corrections, coded.correction_bytes),
        ):
            for number, content in enumerate(contents):
                writer.write_chunk(number, content)

    def create_latent(
        self, form: LatentFormat, time_dim: str, sampled: bool, corrected: bool
    ) -> tuple[ChunkWriter, ChunkWriter]:
        """Create the arrays of a(t), after the time, as far as there are samples and corrections.

        Returns what writes the chunks of samples and of corrections, from any process.
        """
        self.create_group("latent")
        if sampled:
            self._create_samples(form)
        if corrected:
            self._create_coded(
                "latent/corrections",
                (time_dim, "mode"),
                (self._facts["latent"]["snapshots"], form.rank),
                WaveletCodec(
                    float(form.step),
                    row_levels(form.correction_rows, form.smooth),
                    form.correction_orders,
                ),
                form.correction_rows,
            )
        url = self._commit.url
        return ChunkWriter(url, "latent/samples"), ChunkWriter(url, "latent/corrections")

    def _create_samples(self, form: LatentFormat) -> None:
        steps = np.diff(form.index, prepend=0)
        width = np.min_scalar_type(int(steps.max(initial=0)))
        self.write("latent/steps", steps.astype(width), ("kept",))
        self._create_coded(
            "latent/samples",
            ("kept", "mode"),
            (form.kept, form.rank),
            WaveletCodec(float(form.sample_step), row_levels(form.sample_rows, smooth=False)),
            form.sample_rows,
        )
        if form.block_model.any():
            self.write("latent/block_model", form.block_model, ("block",))
        self._facts["latent"] |= {"block_steps": form.block_steps, "substeps": form.substeps}

    def _create_coded(
        self, path: str, dims: Sequence[str], shape: tuple[int, int], codec: WaveletCodec, rows: int
    ) -> None:
        """Create a table whose chunks are results of `romzarr.coding.tiles.encode_rows`."""
        with write_errors(self.target):
            self.create(path, shape, (rows, max(1, shape[1])), np.dtype(np.float64), dims, codec)

    def write_coordinates(self, carried: xr.Dataset) -> None:
        """Write coordinates and variables that are copied unchanged, with their encodings.

        Parameters
        ----------
        carried : Dataset
            Dask arrays are computed here, chunk by chunk.
        """
        self._facts["coords"] = [str(name) for name in carried.coords]
        with write_errors(self.target):
            self._facts["carried"] = write_carried(self._store, carried)

    def commit(self, facts: Mapping[str, Any]) -> int:
        """Finish the generation with `facts` and make it current.

        Returns the bytes written: the whole store, except parts that stay.

        Parameters
        ----------
        facts : mapping
            Strict JSON. ``variables[name]`` needs ``dims``, ``shape``, ``dtype``,
            ``time_axis``, and may have ``chunks``, ``attrs``, ``encoding``.

        Raises
        ------
        StoreError
            If a chunk is missing or the disk is full; everything written is removed.
        LargerStoreError
            If it takes more than `most_bytes`.
        """
        with write_errors(self.target):
            self._inline_gaps()
            finished = finish(self.url, self._store, self._merged(facts))
            self._refuse_larger(finished.nbytes)
            own = Part(self._commit.generation, finished.checksum)
            root = self._commit.publish((*self._before, own))
        self._sizes = finished.sizes
        return finished.nbytes + len(layout.root_document(root))

    def _refuse_larger(self, nbytes: int) -> None:
        if self._most_bytes is not None and nbytes > self._most_bytes:
            raise LargerStoreError(
                f"{self.target}: {nbytes} bytes were written, allowed are {self._most_bytes}; "
                "everything was left as it was"
            )

    @property
    def bytes_by_variable(self) -> dict[str, int]:
        """Bytes of the arrays that belong to single variables, compressed and carried, once all is
        committed."""
        owners = {f"basis/{group}": name for name, group in self._groups.items()}
        owners |= {f"coordinates/{name}": name for name in self._facts["carried"]}
        found = dict.fromkeys(owners.values(), 0)
        for path, size in self._sizes.items():
            owner = owners.get("/".join(path.split("/")[:2]))
            if owner is not None:
                found[owner] += size
        return found

    @property
    def drafted_bytes(self) -> int:
        """Bytes of all files of the last draft."""
        return sum(self._sizes.values())

    def draft(self, facts: Mapping[str, Any]) -> tuple[str, Part]:
        """Finish the generation with `facts` as in `commit`, without making it current.

        Returns its location and identity for `romzarr.store.reading.draft.Draft`. More may be
        written and committed afterwards.
        """
        with write_errors(self.target):
            self._inline_gaps()
            finished = finish(self.url, self._store, self._merged(facts))
        self._sizes = finished.sizes
        place = self._commit.url.removesuffix(f"/{self._commit.generation}")
        return place, Part(self._commit.generation, finished.checksum)

    def _inline_gaps(self) -> None:
        """Move small codes of gaps among the facts."""
        for variable, array in self._grids:
            path = self.path_of(variable, array)
            if array == "gaps" and path not in self._store.inline:
                self._store.put_inline_chunk(path)

    def _merged(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        for name in facts["variables"]:
            # A variable whose fields are in other generations also needs a group.
            self._groups.setdefault(name, layout.segment(name, list(self._groups.values())))
        variables = {
            name: {**variable, "group": self._groups[name]}
            for name, variable in facts["variables"].items()
        }
        # A draft may have a part of the variables alone.
        for name, variable in variables.items():
            if name in self._offsets:
                variable["offset"] = self._offsets[name]
            if name in self._columns:
                first, step = self._columns[name]
                variable |= {"column": first, "step": step}
                if self._groups[name] == name:
                    del variable["group"]
            if home := self._masks.get(name):
                variable["mask"] = self._groups[home]
            if home := variable.get("gaps", {}).get("home"):
                variable["gaps"] = {**variable["gaps"], "home": self._groups[home]}
        carried = dict(self._facts["carried"])
        shared = {"shared_encoding": share(variables, carried)}
        inline = {INLINE: self._store.inline} if self._store.inline else {}
        return {
            **facts, **self._facts, "variables": variables, "carried": carried, **shared, **inline
        }  # fmt: skip
