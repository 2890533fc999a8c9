"""Writes one generation of a coefficient store: fields, latent samples, model, coordinates.

Arrays of tiles are created by the driver and filled by tasks on any machine that sees the same
path or URL (`TileWriter`); everything else is small and written by the driver. What is coded
comes as bytes: whoever codes knows what it costs, and nothing is coded twice.
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

from romzarr.coding.tiles import row_levels
from romzarr.contracts import CodedLatent, TimeAxis
from romzarr.store import layout
from romzarr.store.codec import WaveletCodec
from romzarr.store.commit import committer
from romzarr.store.layout import Part, Root
from romzarr.store.writing.basis import BasisWriter
from romzarr.store.writing.carried import share, write_carried
from romzarr.store.writing.files import finish, write_errors
from romzarr.store.writing.staged import StagedStore


class StoreWriter(BasisWriter):
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
        super().__init__()
        self.target = layout.normalised(target)
        self._commit = committer(target, overwrite, [os.fspath(place) for place in forbid], onto)
        self.url = self._commit.url
        self._before = onto.parts[:keep] if onto else ()
        self._facts: dict[str, Any] = {}

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
        """Write the times that a(t) is integrated over, after the coordinates.

        Only what neither a step nor the coordinate of the dim tells is an array of its own.
        """
        self._facts["latent"] = {"snapshots": len(time.values)}
        facts = {"dim": time.dim, "units": time.units, "step": _uniform_step(time.values)}
        if facts["step"] is None:
            facts["scale"] = self._scale_of(time)
            if facts["scale"] is None:
                self.create_group("latent")
                self.write("latent/times", time.values, (time.dim,))
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
        """Write what a(t) is rebuilt from, after the time.

        Samples that say nothing are left out: then corrections are all there is.
        """
        self.create_group("latent")
        if not coded.code.says_nothing:
            self._write_samples(coded)
        if coded.correction_bytes:
            shape = self._facts["latent"]["snapshots"], coded.code.samples.shape[1]
            self.write_coded(
                "latent/corrections",
                (time_dim, "mode"),
                shape,
                WaveletCodec(
                    float(coded.step),
                    row_levels(coded.correction_rows, coded.smooth),
                    coded.correction_orders,
                ),
                coded.correction_rows,
                coded.correction_bytes,
            )

    def _write_samples(self, coded: CodedLatent) -> None:
        code = coded.code
        steps = np.diff(code.index, prepend=0)
        width = np.min_scalar_type(int(steps.max(initial=0)))
        self.write("latent/steps", steps.astype(width), ("kept",))
        self.write_coded(
            "latent/samples",
            ("kept", "mode"),
            code.samples.shape,
            WaveletCodec(float(coded.sample_step), row_levels(coded.sample_rows, smooth=False)),
            coded.sample_rows,
            coded.sample_bytes,
        )
        if code.block_model.any():
            self.write("latent/block_model", code.block_model, ("block",))
        self._facts["latent"] |= {"block_steps": code.block_steps, "substeps": code.substeps}

    def write_coordinates(self, carried: xr.Dataset) -> None:
        """Write coordinates and variables that pass through unchanged, with their encodings.

        Parameters
        ----------
        carried : Dataset
            Variables may be backed by Dask: they are computed here, chunk by chunk.
        """
        self._facts["coords"] = [str(name) for name in carried.coords]
        with write_errors(self.target):
            self._facts["carried"] = write_carried(self._store, carried)

    def commit(self, facts: Mapping[str, Any]) -> int:
        """Complete the generation with `facts` and make it the store.

        Returns the bytes of what was written: all of the store, but for parts that stay.

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
        with write_errors(self.target):
            finished = finish(self.url, self._store, self._merged(facts))
            own = Part(self._commit.generation, finished.checksum)
            root = self._commit.publish((*self._before, own))
        return finished.nbytes + len(layout.root_document(root))

    def draft(self, facts: Mapping[str, Any]) -> tuple[str, Part]:
        """Complete the generation with `facts`, as `commit` does, without making it the store.

        Returns where it is and what it is, for `romzarr.store.reading.draft.Draft` to read what is
        there so far. More may be written and committed after that.
        """
        with write_errors(self.target):
            finished = finish(self.url, self._store, self._merged(facts))
        place = self._commit.url.removesuffix(f"/{self._commit.generation}")
        return place, Part(self._commit.generation, finished.checksum)

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


def _uniform_step(times: NDArray[np.float64]) -> float | None:
    """Step h with ``times == h * arange(m)`` to the last bit, where there is one."""
    if len(times) < 2:
        return None
    step = float(times[-1] / (len(times) - 1))
    return step if np.array_equal(times, step * np.arange(len(times))) else None
