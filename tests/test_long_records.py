"""Records of several blocks of time are stored as those of one."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.chunked.tables import LeftOut, Table, bridged, consecutive, tall_qr
from romzarr.config import CompressionConfig, Config, LibraryConfig
from romzarr.contracts import BlockSpan
from romzarr.store.reading.reader import open_store
from tests.oracles import decoded_errors
from tests.systems_of_odes import LORENZ
from tests.test_episodes import storm

CUTS = ([40], [7, 20, 13])


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks of time so short that small records have several."""
    monkeypatch.setattr("romzarr.chunked.plan.LONGEST", 128)
    monkeypatch.setattr("romzarr.chunked.tables.BLOCK_VALUES", 1)
    monkeypatch.setattr("romzarr.chunked.tables.LEAST_ROWS", 256)


def chaos() -> xr.Dataset:
    """Lorenz's equations, seen at many points."""
    _, states = LORENZ.record(1600)
    lift = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 3)))[0]
    times = 0.01 * np.arange(1600)
    return xr.Dataset({"u": (("time", "x"), states @ lift.T)}, {"time": times})


SOURCES = {
    "chaos": chaos,
    "episodes": lambda: storm(0, spans=((200, 300), (500, 560)), m=800),
    "noise": lambda: storm(1, spans=((0, 600),), m=600),
}


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
@pytest.mark.parametrize("name", SOURCES)
def test_a_store_of_many_blocks_keeps_the_bound_with_as_few_bytes(
    request, tmp_path, name, tolerance
):
    source = SOURCES[name]().chunk(time=50)
    library = LibraryConfig(degree=2) if name == "chaos" else LibraryConfig(degree=1)
    config = Config(compression=CompressionConfig(tolerance=tolerance), library=library)
    one = romzarr.compress(source, tmp_path / "one", config=config)
    request.getfixturevalue("short_blocks")
    many = romzarr.compress(source, tmp_path / "many", config=config)
    decoded = xr.open_dataset(tmp_path / "many", engine="romzarr")
    assert decoded_errors(source, decoded)["u"] <= many.relative_l2_error["u"] <= tolerance
    assert romzarr.verify(tmp_path / "many", source).ok
    stores = [open_store(tmp_path / each) for each in ("one", "many")]
    assert stores[0].variables["u"].coding == stores[1].variables["u"].coding
    # Each block has an end of its own, and allocation knows wavelets of blocks.
    assert many.stored_bytes <= 1.15 * one.stored_bytes


@pytest.mark.parametrize("lengths", CUTS)
def test_columns_of_a_tall_table_are_made_orthonormal(lengths):
    rows = np.random.default_rng(0).standard_normal((40, 5)) * np.logspace(0, -9, 5)
    q, r = tall_qr(Table.of(rows).cut(consecutive(lengths)))
    np.testing.assert_allclose(q.here().T @ q.here(), np.eye(5), atol=1e-13)
    np.testing.assert_allclose(q.here() @ r, rows, rtol=0, atol=1e-14)


@pytest.mark.parametrize("lengths", CUTS)
@pytest.mark.parametrize("spans", [((0, 3), (5, 9), (20, 35)), ((0, 2), (36, 40)), ((3, 30),)])
def test_lines_across_rough_rows_are_those_of_numpy(lengths, spans):
    rows, rough = np.random.default_rng(0).standard_normal((40, 3)), np.zeros(40, bool)
    for start, stop in spans:
        rough[start:stop] = True
    places, quiet = np.flatnonzero(rough), np.flatnonzero(~rough)
    expected = rows.copy()
    for column in expected.T:
        column[places] = np.interp(places, quiet, column[quiet])
    left_out = LeftOut(tuple(BlockSpan(*span) for span in spans))
    found = bridged(Table.of(rows).cut(consecutive(lengths)), left_out).here()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("lengths", CUTS)
def test_rows_that_are_taken_out_are_put_back(lengths):
    rows = np.random.default_rng(0).standard_normal((40, 3))
    table, some = Table.of(rows).cut(consecutive(lengths)), LeftOut((BlockSpan(5, 29),))
    quiet = table.where(some, inside=False)
    np.testing.assert_array_equal(table.where(some, inside=True).here(), rows[5:29])
    np.testing.assert_allclose(quiet.mean(), np.delete(rows, slice(5, 29), axis=0).mean(axis=0))
    back = quiet.filled(some, table.spans).here()
    np.testing.assert_array_equal(back[:5], rows[:5])
    np.testing.assert_array_equal(back[29:], rows[29:])
    assert not back[5:29].any()
