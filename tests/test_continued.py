"""Night after night: parts that go on with the modes of others, and what is kept of the past."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import romzarr
from romzarr import StreamCompressor
from romzarr.operations import when_to_compact
from romzarr.store.reading.reader import open_store
from romzarr.streams.continued import whole_orders
from tests.oracles import assert_same_but_values, decoded_errors
from tests.test_stream_compressor import TOLERANCE, decoded_of, record


def waves(snapshots: int, points: int = 800) -> xr.Dataset:
    """Oscillations of rough shapes; the third one grows slowly."""
    t = 0.2 * np.arange(snapshots)[:, None]
    k = np.arange(1, 4)
    size = np.where(k < 3, 1 / k, 0.002 * t)
    states = np.concatenate([size * np.sin(k * t), size * np.cos(k * t)], axis=1)
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((points, 6)))[0].T
    return xr.Dataset({"u": (("time", "x"), 3 + states @ shapes)}, {"time": t[:, 0]})


def until(source: xr.Dataset, stop: int) -> xr.Dataset:
    return source.isel(time=slice(stop))


def appended(store, source: xr.Dataset, first: int, nights, **settings):
    """Compress the beginning, append the others one after the other; yields after each."""
    romzarr.compress(until(source, first), store, tolerance=TOLERANCE, **settings)
    for stop in nights:
        romzarr.append(store, until(source, stop))
        yield until(source, stop)


def assert_within(store, source: xr.Dataset, weights=None) -> None:
    told, decoded = open_store(store).facts["relative_l2_error"], decoded_of(store)
    assert_same_but_values(source, decoded)
    for name, error in decoded_errors(source, decoded, weights).items():
        assert error <= told[name] * (1 + 1e-9) <= TOLERANCE, name


def bytes_of_arrays(store) -> int:
    sizes = open_store(store).sizes()
    return sum(size for path, size in sizes.items() if not path.endswith("zarr.json"))


def test_nights_share_modes_and_the_store_is_hardly_larger_than_at_once(tmp_path):
    store, source = tmp_path / "store", waves(240, points=1500)
    spending = {"compression.compact": "none"}
    for seen in appended(store, source, 60, (120, 180, 240), config=spending):
        assert_within(store, seen)
        opened = open_store(store)
        assert len(opened.parts) == 2
        assert "stream" not in opened.facts
    batch = romzarr.compress(source, tmp_path / "batch", tolerance=TOLERANCE)
    assert bytes_of_arrays(store) <= 1.5 * bytes_of_arrays(tmp_path / "batch")
    assert opened.last.rank <= 2 * batch.rank
    assert romzarr.equations(store).coefficients.any()


@pytest.mark.parametrize("points", [1, 4])
def test_nights_within_the_span_of_known_modes_bring_none(tmp_path, points):
    """As many modes as points: no snapshot has anything else."""
    t = 0.3 * np.arange(300)[:, None]
    k = np.arange(1, 1 + points)
    u = np.sin(k * t + np.sin(0.1 * t)) + 0.01 * np.random.default_rng(0).standard_normal(
        (300, points)
    )
    source = xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0]})
    for seen in appended(tmp_path / "store", source, 100, (150, 153, 300)):
        assert_within(tmp_path / "store", seen)


def test_what_was_there_stays_as_it_is(tmp_path):
    """Where nothing new turns up, the newest part is written again without another loss."""
    store, source, before, own = tmp_path / "store", waves(200), None, -1
    for seen in appended(store, source, 120, (150, 156, 200)):
        now = decoded_of(store).u.values
        if before is not None and open_store(store).last.own == own:
            assert_allclose(now[: len(before)], before, rtol=1e-12)
        before, own = now, open_store(store).last.own
        assert_within(store, seen)


@pytest.mark.parametrize("weights", ["none", "cos(latitude)"])
def test_masks_constants_and_weights_go_on(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(when_to_compact, "EARLY_SHARE", 2.0)
    source = record().drop_vars(["u", "depth"]).drop_dims("x", errors="ignore")
    source["still"] = (("time", "lat"), np.full((160, 9), 0.1))
    store = tmp_path / "store"
    cosines = np.cos(np.deg2rad(source.lat))
    given = None if weights == "none" else {"v": cosines, "still": cosines}
    for seen in appended(store, source, 60, (81, 82, 160), weights=weights):
        assert_within(store, seen, given)
        assert romzarr.verify(store, seen).ok
    assert open_store(store).last.before


def test_a_night_that_was_broken_off_is_gone_on_with(tmp_path):
    store, source = tmp_path / "store", waves(160)
    for _ in appended(store, source, 60, (100,)):
        pass
    stream = StreamCompressor(store)
    stream.update(source.isel(time=slice(100, 130)))
    stream.commit()
    assert "stream" in open_store(store).facts
    assert_within(store, until(source, 130))
    romzarr.append(store, source)
    assert "stream" not in open_store(store).facts
    assert_within(store, source)


def test_other_modes_or_none_begin_a_segment_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    rough = xr.Dataset({"u": (("time", "x"), rng.standard_normal((60, 300)))})
    for number, first in enumerate((rough, waves(60, points=300).drop_vars("time"))):
        store = tmp_path / str(number)
        source = xr.concat([first, rough + 3], "time")
        for seen in appended(store, source, 60, (90, 120)):
            assert_within(store, seen)
        assert not any(part.before for part in open_store(store).parts)
    still = xr.Dataset({"u": (("time", "x"), np.ones((20, 30)))})
    moving = xr.concat([waves(40, points=30).drop_vars("time"), still], "time")
    moving["w"] = (("time", "x"), np.where(np.arange(60)[:, None] < 40, 1.0, moving.u.values))
    moving["w"][50:] += np.sin(np.arange(30))
    for seen in appended(tmp_path / "w", moving, 40, (60,)):
        assert_within(tmp_path / "w", seen)


def test_integers_take_the_order_with_fewest_bits():
    n = np.arange(200.0)
    columns = [n % 50 == 0, n % 2 + 9 * n, n**2 + 7 * n]
    orders = whole_orders(np.column_stack(columns), 1.0)
    assert orders[0] == 0
    assert 1 <= orders[1] <= 2
    assert orders[2] == 3
