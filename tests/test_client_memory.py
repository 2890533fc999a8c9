"""What the client holds does not grow with the record, but for its times."""

from __future__ import annotations

import tracemalloc

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import romzarr
from romzarr.config import (
    CompressionConfig,
    Config,
    LibraryConfig,
    SparseRegressionConfig,
    WeakFormConfig,
)

POINTS, MODES = 32, 12
CHUNK = 1 << 13


def _waves(block_info=None):
    """Some snapshots of a field of `MODES` modes, with a fast and a slow one in each pair."""
    (start, stop), _ = block_info[None]["array-location"]
    t, x = 0.05 * np.arange(start, stop)[:, None, None], np.linspace(0, 1, POINTS)
    k = 1.0 + np.arange(MODES // 2)[:, None]
    waves = np.cos(0.3 * k**1.5 * t) * np.sin(np.pi * k * x)
    waves += np.sin(0.3 * k**1.5 * t) * np.cos(np.pi * k * x)
    return (waves / k).sum(axis=1)


def record(snapshots: int) -> xr.Dataset:
    """An archive whose chunks are made where they are read."""
    chunks = ((CHUNK,) * (snapshots // CHUNK), (POINTS,))
    values = da.map_blocks(_waves, chunks=chunks, dtype="f8", meta=np.zeros((0, 0)))
    return xr.Dataset({"u": (("time", "x"), values)}, {"time": 0.05 * np.arange(snapshots)})


def peak(snapshots: int, store) -> int:
    """Bytes that the client holds at most while it compresses such a record."""
    source = record(snapshots)
    # One model of few terms, as what it is is of no matter.
    config = Config(
        compression=CompressionConfig(tolerance=1e-2),
        library=LibraryConfig(degree=1, modes=2),
        weak_form=WeakFormConfig(support=20.0),
        sparse_regression=SparseRegressionConfig(threshold=1e-3),
    )
    tracemalloc.start()
    try:
        romzarr.compress(source, store, config=config)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.cluster
def test_the_client_holds_the_times_of_a_record_and_nothing_else_of_its_length(
    tmp_path, monkeypatch
):
    """All of these are settings of the client: records need not be as long to have many blocks."""
    monkeypatch.setattr("romzarr.chunked.plan.LONGEST", 2 * CHUNK)
    monkeypatch.setattr("romzarr.chunked.tables.BLOCK_VALUES", 1 << 19)
    monkeypatch.setattr("romzarr.compression.model.SPECTRUM", 2 * CHUNK)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        peak(CHUNK, tmp_path / "first")
        few, many = (peak(n * CHUNK, tmp_path / str(n)) for n in (8, 24))
    grown = (many - few) / (16 * CHUNK)
    # Times are float64, and what opens an archive and writes coordinates holds some copies.
    assert grown < 8 * 5 < 8 * MODES / 2
