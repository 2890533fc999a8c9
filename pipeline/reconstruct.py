"""Decode a store into an ordinary Zarr archive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import xarray as xr

from pipeline.errors import ConfigError, StoreError, StoreExistsError
from pipeline.store.reader import open_store


def reconstruct(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    start: int | None = None,
    stop: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write the dataset that a store decodes to as Zarr, with its original encodings.

    Runs on the current Dask scheduler or cluster, a few chunks per worker in memory.

    Parameters
    ----------
    store : path or URL
    out : path
        Zarr archive to write; it appears when it is complete.
    start, stop : int, optional
        Range of snapshots, as in a slice.
    overwrite : bool
        Replace a Zarr archive at `out`.

    Raises
    ------
    StoreExistsError
        If `out` exists and may not be replaced.
    ConfigError
        If the range holds no snapshot.
    StoreError
        If the store is damaged or `out` cannot be written.
    """
    dataset = xr.open_dataset(store, engine="romzarr", chunks={})
    dim = open_store(store).facts["time"]["dim"]
    chosen = dataset.isel({dim: slice(start, stop)})
    if chosen.sizes[dim] == 0:
        raise ConfigError(
            f"--start {start} --stop {stop}: found no snapshot, allowed are ranges within 0 to "
            f"{dataset.sizes[dim]}"
        )
    target = Path(out)
    if target.exists() and not (overwrite and _is_zarr(target)):
        raise StoreExistsError(f"{target} exists; pass --overwrite to replace a Zarr archive there")
    staged = target.with_name(f".{target.name}.partial-{os.getpid()}")
    version: Literal[2, 3] = 2 if _has_v2_codecs(chosen) else 3
    try:
        chosen.to_zarr(
            staged, mode="w", zarr_format=version, consolidated=version == 2, align_chunks=True
        )
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _is_zarr(target: Path) -> bool:
    return any((target / name).exists() for name in ("zarr.json", ".zgroup"))


def _has_v2_codecs(dataset: xr.Dataset) -> bool:
    """Whether the encodings name codecs that only Zarr v2 knows."""
    codecs = (
        codec
        for variable in dataset.variables.values()
        for codec in variable.encoding.get("compressors") or ()
    )
    return any(type(codec).__module__.startswith("numcodecs") for codec in codecs)
