"""Streams with gaps, or with bounds that only whole parts can keep: all hold at every commit."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr import StreamCompressor
from romzarr.store.reading.reader import open_store
from romzarr.streams import held
from tests.test_gaps import relative_error, waves

TOLERANCE, M, SPACE = 1e-2, 80, (12, 15)


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def with_gaps(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = waves(rng, M, SPACE, 1e-3)
    t, y = np.arange(M)[:, None, None], np.arange(SPACE[0])[:, None]
    if kind == "a lost sample":
        values[41, 3, 4] = np.nan
    elif kind == "lost snapshots":
        values[[0, 1, 30, 79]] = np.nan
    elif kind == "swaths":
        values[rng.random(values.shape) < 0.3] = np.nan
    elif kind == "ice, land and an overflow":
        values = np.where(y > 8 + 2 * np.sin(t / 10), np.nan, values)
        values[:, :3, :5] = np.nan
        values[60, 6, 6] = np.inf
        values = values.astype("f4")
    elif kind == "a sensor that dies":
        values[36:, 2, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("kind", "length", "commit_steps", "reopened"),
    [
        ("a lost sample", 3, 30, 14),
        ("lost snapshots", 9, 20, 5),
        ("swaths", 1, 40, 33),
        ("ice, land and an overflow", 9, 40, 4),
        ("a sensor that dies", 9, 40, 4),
    ],
)
def test_gaps_are_exact_and_numbers_within_the_bound_at_every_commit(
    tmp_path, kind, length, commit_steps, reopened
):
    values, store = with_gaps(kind), tmp_path / "s"
    stream = StreamCompressor(store, tolerance=TOLERANCE, commit_steps=commit_steps)
    for number, k in enumerate(range(0, M, length), 1):
        buffer = values[k : k + length].copy()
        stream.update(buffer)
        buffer[:] = -1  # a simulation writes the next snapshots into the same memory
        if number % reopened == 0:
            stream.commit()
            checked(values[: k + length], store, stream)
            stream = StreamCompressor(store, commit_steps=commit_steps)
    stream.close()
    checked(values, store, stream)


def checked(values: np.ndarray, store, stream: StreamCompressor) -> None:
    present = np.isfinite(values)
    decoded = xr.open_dataset(store, engine="romzarr").x.values
    np.testing.assert_array_equal(decoded[~present], values[~present])
    assert decoded.dtype == values.dtype
    error, told = relative_error(values, decoded, present), stream.relative_l2_error["x"]
    assert error <= told * (1 + 1e-9) <= TOLERANCE * (1 + 1e-9)


def test_a_segment_goes_on_once_a_part_with_gaps_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "MOST_HELD", 20)
    values = with_gaps("a lost sample")
    values[:, 0, 0] = np.nan
    with StreamCompressor(tmp_path / "s", tolerance=TOLERANCE, commit_steps=20) as stream:
        for k in range(0, M, 4):
            stream.update(values[k : k + 4])
    # Until the lost sample, 20 snapshots from its block on, and after them.
    assert [part.snapshots for part in open_store(tmp_path / "s").parts] == [40, 20, 20]


def test_what_is_held_is_bounded_and_one_part_however_often_it_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "MOST_BYTES", 1)
    values, most = with_gaps("swaths"), 0
    with StreamCompressor(tmp_path / "s", tolerance=TOLERANCE, commit_steps=7) as stream:
        for row in values[:40]:
            stream.update(row[None])
            most = max(most, stream._held.snapshots if stream._held else 0)
    assert most < held.LEAST_HELD
    lengths = [part.snapshots for part in open_store(tmp_path / "s").parts]
    assert lengths == [held.LEAST_HELD] * (40 // held.LEAST_HELD) + [8]


def test_a_sensor_that_has_died_before_an_append_stays_dead(tmp_path):
    """New snapshots that all lack a point cannot go on with modes that have it."""
    values = with_gaps("a sensor that dies")
    source = xr.DataArray(values, dims=("time", "y", "z"), name="u").to_dataset()
    romzarr.compress(source.isel(time=slice(36)), tmp_path / "s", tolerance=TOLERANCE)
    romzarr.append(tmp_path / "s", source)
    found = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))


def levels(snapshots: int = 96) -> xr.Dataset:
    """Two levels that fluctuate by 1 and by 1e-3, over eight years."""
    wave = waves(np.random.default_rng(5), snapshots, (6, 8), 1e-3)
    month = np.arange("2001-01", "2009-01", dtype="datetime64[M]").astype("datetime64[ns]")
    return xr.Dataset(
        {
            "u": (("time", "lev", "y", "z"), np.stack([3 + wave, 1e-3 * wave], axis=1)),
            "area": (("y", "z"), 1 + np.outer(np.arange(6), np.arange(8.0))),
        },
        {"time": month[:snapshots]},
    )


ASKED = {
    "per": {"compression.per": ["lev"]},
    "sums": {"compression.sums": ["area"]},
    "max_error": {"compression.max_error": {"u": 0.1}},
    "climatology": {"compression.fluctuation": "climatology"},
    "layers": {"compression.layers": [0.1]},
}


@pytest.mark.parametrize(
    ("asked", "appended"), [(asked, asked in ("sums", "max_error")) for asked in ASKED]
)
def test_bounds_that_only_whole_parts_can_keep_are_kept_by_streams_and_appends(
    tmp_path, asked, appended
):
    # Bounds on single values are looked for in several ways.
    source, store = levels(30 if asked == "max_error" else 96), tmp_path / "s"
    if appended:
        half = source.sizes["time"] // 2
        romzarr.compress(source.isel(time=slice(half)), store, config=ASKED[asked])
        romzarr.append(store, source)
    else:
        with StreamCompressor(store, config=ASKED[asked], commit_steps=40) as stream:
            for k in range(0, 96, 8):
                stream.update(source.isel(time=slice(k, k + 8)))
    assert romzarr.verify(store, source).ok
    u, found = source.u, xr.open_dataset(store, engine="romzarr").u.load()
    off = found - u
    if asked == "per":
        about = u - u.mean("time")
        assert (
            np.sqrt((off**2).sum(("time", "y", "z")) / (about**2).sum(("time", "y", "z"))) <= 1e-2
        ).all()
    elif asked == "sums":
        assert (
            abs((off * source.area).sum(("y", "z"))).max()
            <= 1e-12 * (u * source.area).sum(("y", "z")).max()
        )
    elif asked == "max_error":
        assert abs(off).max() <= 0.1
    elif asked == "climatology":
        about = u.groupby("time.month") - u.groupby("time.month").mean()
        assert float((off**2).sum() / (about**2).sum()) ** 0.5 <= 1e-2
    else:
        coarse = xr.open_dataset(store, engine="romzarr", tolerance=0.1).u
        about = u - u.mean("time")
        assert 1e-2 < float(((coarse - u) ** 2).sum() / (about**2).sum()) ** 0.5 <= 0.1
