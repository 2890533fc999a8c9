"""Weighted sums over space that are exact at every snapshot, but for rounding."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.errors import ConfigError
from tests.oracles import relative_error
from tests.strategies import seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def archive(rng: np.random.Generator, m: int, dtype: str = "f8") -> xr.Dataset:
    """A variable with levels, one without, and weights that are not alike."""
    t, y, x = np.meshgrid(
        0.2 * np.arange(m), np.linspace(-1, 1, 6), np.linspace(0, 6, 9), indexing="ij"
    )
    u = np.sin(t - x) * np.cos(y) + 0.2 * rng.standard_normal(t.shape)
    weights = {"area": 1 + y[0] ** 2, "flux": rng.standard_normal(y[0].shape) * (y[0] > 0)}
    return xr.Dataset(
        {
            "u": (("time", "lev", "y", "x"), np.stack([u + 3, 1e-3 * u], axis=1).astype(dtype)),
            "v": (("y", "time", "x"), np.moveaxis(u, 0, 1).astype(dtype)),
            **{name: (("y", "x"), each) for name, each in weights.items()},
        }
    )


def sums_are_exact(source: xr.Dataset, decoded: xr.Dataset, names: list[str]) -> None:
    for name in ("u", "v"):
        for weights in names:
            true, found = (
                (each[name].astype("f8") * source[weights]) for each in (source, decoded)
            )
            # The roundings of all values, one way or the other.
            unit = float(np.finfo(source[name].dtype).eps) / 2
            size = (abs(true) * unit).sum(("y", "x")) + 1e-14
            error = abs((found - true).sum(("y", "x")))
            assert (error <= size).all(), (name, weights, float((error / size).max()))


@given(
    seed=seeds,
    m=st.sampled_from([2, 9, 30]),
    dtype=st.sampled_from(["f4", "f8"]),
    names=st.sampled_from([["area"], ["flux"], ["area", "flux"]]),
    tolerance=st.sampled_from([0.1, 1e-3]),
    mask=st.booleans(),
    gap=st.booleans(),
    weighted=st.booleans(),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sums_are_exact_at_every_snapshot(
    seed, m, dtype, names, tolerance, mask, gap, weighted, tmp_path_factory
):
    source = archive(np.random.default_rng(seed), m, dtype)
    if mask:
        source["u"][:, 1, 0, 2:5] = np.nan
    if gap:
        source["v"][4, m // 2, 3] = np.nan
    path = tmp_path_factory.mktemp("sums") / "s"
    config = {"compression.sums": names}
    weights = "area" if weighted else None
    chunked = source.chunk(time=7, lev=1, y=4)
    romzarr.compress(chunked, path, tolerance=tolerance, config=config, weights=weights)
    decoded = xr.open_dataset(path, engine="romzarr").load()
    sums_are_exact(source, decoded, names)
    found = romzarr.verify(path, source)
    assert found.ok, found.problems
    if not (gap or weighted):
        assert relative_error(source.v.values, decoded.v.values, 1) <= tolerance


def test_without_they_are_not(tmp_path):
    source = archive(np.random.default_rng(0), 30)
    romzarr.compress(source, tmp_path / "s")
    with pytest.raises(AssertionError):
        sums_are_exact(source, xr.open_dataset(tmp_path / "s", engine="romzarr"), ["area"])


def test_they_are_exact_in_appended_snapshots(tmp_path):
    source = archive(np.random.default_rng(1), 30).assign_coords(time=np.arange(30.0))
    config = {"compression.sums": ["area"]}
    romzarr.compress(source.isel(time=slice(20)), tmp_path / "s", config=config)
    romzarr.append(tmp_path / "s", source)
    sums_are_exact(source, xr.open_dataset(tmp_path / "s", engine="romzarr"), ["area"])
    assert romzarr.verify(tmp_path / "s", source).ok


def test_they_are_exact_on_a_mesh(tmp_path):
    rng = np.random.default_rng(2)
    lon, lat = rng.uniform(0, 360, 3000), rng.uniform(-80, 80, 3000)
    t = 0.1 * np.arange(20)[:, None]
    field = np.sin(np.radians(lon) - t) * np.cos(np.radians(lat))
    source = xr.Dataset(
        {"u": (("time", "cell"), field), "area": ("cell", rng.uniform(1, 2, 3000))},
        {
            "lon": ("cell", lon, {"units": "degrees_east"}),
            "lat": ("cell", lat, {"units": "degrees_north"}),
        },
    )
    report = romzarr.compress(source, tmp_path / "s", config={"compression.sums": ["area"]})
    assert report.orders == {"cell": ("lon", "lat")}
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    error = abs(((decoded - source.u) * source.area).sum("cell"))
    assert float(error.max()) <= 1e-12 * float((abs(source.u) * source.area).sum("cell").max())


def test_constant_levels_and_fill_values_stay_as_they_are(tmp_path):
    source = archive(np.random.default_rng(5), 20)
    source["u"][:, 1], source["v"][2, 7, 3] = source["u"][0, 1].values, -9999.0
    volume = np.stack([source.area.values, 2 * source.area.values])
    source["volume"] = ("lev", "y", "x"), volume
    config = {"compression.sums": ["volume"]}
    romzarr.compress(source[["u", "volume"]], tmp_path / "s", config=config)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    np.testing.assert_array_equal(decoded[:, 1], source.u[:, 1])
    error = abs(((decoded - source.u) * source.volume).sum(("lev", "y", "x")))
    assert float(error.max()) <= 1e-12
    assert romzarr.verify(tmp_path / "s", source[["u", "volume"]]).ok
    romzarr.compress(source[["v", "area"]], tmp_path / "t", config={"compression.sums": ["area"]})
    decoded = xr.open_dataset(tmp_path / "t", engine="romzarr").v
    assert float(decoded[2, 7, 3]) == -9999.0
    assert float(abs(((decoded - source.v) * source.area).sum(("y", "x"))).max()) <= 1e-12


def test_values_have_the_same_bits_in_every_selection(tmp_path):
    source = archive(np.random.default_rng(3), 20, "f4")
    romzarr.compress(source, tmp_path / "s", config={"compression.sums": ["area", "flux"]})
    lazy = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    chosen = {"time": [7, 2], "lev": 1, "y": slice(1, 6, 2), "x": [4, 0]}
    xr.testing.assert_identical(lazy.isel(chosen).load(), lazy.load().isel(chosen))


@pytest.mark.parametrize(
    ("sums", "more", "words"),
    [
        (["volume"], {}, "found 'volume', allowed are"),
        (["u"], {}, "found 'u', allowed are"),
        (["area", "rows"], {}, "all have the same dims"),
        (["other"], {}, "no variable of"),
        (["nothing"], {}, "none but zeros"),
        (["area"], {"compression.max_error": {"u": 0.1}}, "allowed is one of the two"),
        (["area", "twice"], {}, "follow from others"),
    ],
)
def test_other_sums_are_refused(sums, more, words, tmp_path):
    source = archive(np.random.default_rng(4), 9)
    source["rows"], source["other"] = ("y", np.ones(6)), ("z", np.ones(3))
    source["nothing"], source["twice"] = 0 * source.area, 2 * source.area
    with pytest.raises(ConfigError, match=words):
        romzarr.compress(source, tmp_path / "s", config={"compression.sums": sums, **more})
    assert not (tmp_path / "s").exists()
