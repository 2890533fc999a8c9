"""Gradients, divergence and vorticity whose errors are bounded by their own fluctuation."""

from __future__ import annotations

import json
from collections.abc import Mapping

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.archive import open_archive
from romzarr.archive.directions import directions_of
from romzarr.chunked import derivatives as chunked
from romzarr.compression import written
from romzarr.config import CompressionConfig
from romzarr.derivatives import bounded_derivatives
from romzarr.errors import AccuracyError, ConfigError
from romzarr_flows.cli import main
from tests.strategies import seeds

SETTING = "compression.derivatives"


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


# --- the oracle ---------------------------------------------------------------------------


def slopes(x: np.ndarray) -> np.ndarray:
    """The matrix (n, n) that differentiates values at the points x: the slope of the parabola
    through each point and its neighbours, of the line through two points at the ends."""
    n = len(x)
    matrix = np.zeros((n, n))
    for i in range(n):
        near = [k for k in (i - 1, i, i + 1) if 0 <= k < n]
        for k in near:
            others = [j for j in near if j != k]
            scale = np.prod([x[k] - x[j] for j in others])
            terms = [np.prod([x[i] - x[j] for j in others if j != left]) for left in others]
            matrix[i, k] = sum(terms) / scale
    return matrix


def slope(field: xr.DataArray, dim: str, factor: float = 1.0) -> xr.DataArray:
    """The derivative along a dim; NaN at a gap, and beside one."""
    axis, n = field.dims.index(dim), field.sizes[dim]
    x = factor * field[dim].values.astype("f8") if dim in field.coords else np.arange(n)
    values = field.values.astype("f8")
    gaps = np.isnan(values)
    beside = np.moveaxis(gaps, axis, 0)
    beside = (
        beside
        | np.concatenate([beside[1:], beside[-1:]])
        | np.concatenate([beside[:1], beside[:-1]])
    )
    found = np.tensordot(np.where(gaps, 0, values), slopes(x), axes=(axis, 1))
    found = np.where(np.moveaxis(beside, 0, axis), np.nan, np.moveaxis(found, -1, axis))
    return field.copy(data=found)


def relative(
    quantity: xr.DataArray, error: xr.DataArray, weights: xr.DataArray | float = 1.0
) -> float:
    known = quantity.notnull()
    about = quantity - quantity.mean("time")
    squares = [float((each.where(known) ** 2 * weights).sum()) for each in (error, about)]
    return float(np.sqrt(squares[0] / squares[1])) if squares[0] else 0.0


def gradients(source: xr.Dataset, decoded: xr.Dataset, *dims: str) -> dict[str, float]:
    missed = decoded.astype("f8") - source.astype("f8")
    return {
        f"gradient({name}) along {dim}": relative(
            slope(source[name], dim), slope(missed[name], dim)
        )
        for name in source.data_vars
        for dim in dims
    }


def decoded_from(path) -> xr.Dataset:
    return xr.open_dataset(path, engine="romzarr").load()


# --- archives -----------------------------------------------------------------------------


def coordinate(rng: np.random.Generator, n: int, irregular: bool) -> np.ndarray:
    steps = rng.uniform(0.3, 1.7, n) if irregular else np.ones(n)
    return np.cumsum(steps)[:: rng.choice([-1, 1])]


def archive(
    rng: np.random.Generator,
    m: int,
    shape: tuple[int, ...],
    noise: float,
    dtype: str = "f8",
    irregular: bool = False,
) -> xr.Dataset:
    """Two components of waves and noise over z, y and x, or the last of these."""
    dims = ("z", "y", "x")[-len(shape) :]
    coords = {d: coordinate(rng, n, irregular) for d, n in zip(dims, shape, strict=True)}
    t = 0.3 * np.arange(m).reshape(-1, *(1 for _ in dims))
    phase = sum(
        (k + 1) * np.linspace(0, 2, n).reshape([-1 if d == e else 1 for e in dims])
        for k, (d, n) in enumerate(zip(dims, shape, strict=True))
    )
    fields = {
        name: (np.sin(t - phase + shift) + noise * rng.standard_normal((m, *shape))).astype(dtype)
        for name, shift in (("u", 0.0), ("v", 1.0))
    }
    return xr.Dataset({name: (("time", *dims), each) for name, each in fields.items()}, coords)


# --- laws ---------------------------------------------------------------------------------


@given(
    seed=seeds,
    shape=st.sampled_from([(40,), (9, 14), (4, 5, 7)]),
    noise=st.sampled_from([0.0, 0.2]),
    dtype=st.sampled_from(["f4", "f8"]),
    irregular=st.booleans(),
    gaps=st.sampled_from(["none", "mask", "come and go"]),
    turned=st.booleans(),
    bound=st.sampled_from([0.03, 2e-3]),
)
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_gradients_are_within_their_bound(
    seed, shape, noise, dtype, irregular, gaps, turned, bound, tmp_path_factory
):
    rng = np.random.default_rng(seed)
    source = archive(rng, 16, shape, noise, dtype, irregular)[["u"]]
    if gaps == "mask":
        source["u"][..., 2:4] = np.nan
    if gaps == "come and go":
        source["u"].values[rng.random(source.u.shape) < 0.01] = np.nan
    if turned:
        source = source.transpose("x", "time", ...)
    path = tmp_path_factory.mktemp("derivatives") / "s"
    report = romzarr.compress(
        source.chunk(time=11, x=5), path, tolerance=1e-2, config={SETTING: bound}
    )
    found = gradients(source, decoded_from(path), *(set(source.u.dims) - {"time"}))
    assert max(found.values()) <= bound, found
    assert report.derivatives == dict.fromkeys(found, bound)
    for name, error in found.items():
        # Recorded errors are rounded up a little.
        assert error * (1 - 1e-9) <= report.derivative_errors[name] <= 1.02 * error + 1e-12
    again = romzarr.verify(path, source)
    assert again.ok, again.problems
    assert again.derivative_errors == pytest.approx(found, rel=1e-6, abs=1e-14)


def test_without_a_bound_they_are_not(tmp_path):
    source = archive(np.random.default_rng(0), 30, (9, 14), 0.2)
    romzarr.compress(source, tmp_path / "s")
    assert max(gradients(source, decoded_from(tmp_path / "s"), "x", "y").values()) > 0.01


def test_a_bound_is_nearly_used_up(tmp_path):
    source = archive(np.random.default_rng(1), 40, (12, 20), 0.1)
    romzarr.compress(source, tmp_path / "s", tolerance=0.05, config={SETTING: 0.02})
    found = gradients(source, decoded_from(tmp_path / "s"), "x", "y")
    for name in ("u", "v"):
        assert max(each for key, each in found.items() if name in key) >= 0.88 * 0.02


@pytest.mark.parametrize("others", [{}, {"compression.max_error": "0.1%"}], ids=["L2", "max"])
def test_a_bound_that_is_kept_anyway_costs_its_record(others, tmp_path):
    source = archive(np.random.default_rng(2), 30, (9, 14), 0.2)
    plain = romzarr.compress(source, tmp_path / "a", config=others)
    bounded = romzarr.compress(source, tmp_path / "b", config={SETTING: 0.9, **others})
    xr.testing.assert_identical(decoded_from(tmp_path / "a"), decoded_from(tmp_path / "b"))
    assert bounded.stored_bytes - plain.stored_bytes < 300


@pytest.mark.parametrize("fluctuation", ["mean", "climatology"])
def test_vorticity_and_divergence_on_a_sphere(fluctuation, tmp_path):
    rng = np.random.default_rng(3)
    source = archive(rng, 48, (13, 16), 0.1).rename(y="lat", x="lon")
    source = source.assign_coords(
        lat=("lat", np.linspace(90, -90, 13), {"units": "degrees_north"}),
        lon=("lon", np.arange(16) * 22.5, {"units": "degrees_east"}),
        time=np.arange("2001-01", "2005-01", dtype="M8[M]").astype("M8[ns]"),
    )
    bounds = {"vorticity(u,v)": 0.02, "divergence(u, v)": 0.03, "gradient(u)": 0.04}
    config = {SETTING: bounds, "compression.fluctuation": fluctuation}
    report = romzarr.compress(source, tmp_path / "s", config=config, weights="cos(latitude)")
    cosines = np.cos(np.deg2rad(source.lat))
    # Nothing is east of a pole.
    inside = cosines.where(cosines > 1e-6)

    def quantities(d: xr.Dataset) -> Mapping[str, xr.DataArray]:
        u, v, degree = d.u, d.v, np.pi / 180
        return {
            "vorticity(u, v)": (slope(v, "lon", degree) - slope(u * cosines, "lat", degree))
            / inside,
            "divergence(u, v)": (slope(u, "lon", degree) + slope(v * cosines, "lat", degree))
            / inside,
            "gradient(u) along lon": slope(u, "lon") / inside,
            "gradient(u) along lat": slope(u, "lat"),
        }

    missed = quantities(decoded_from(tmp_path / "s") - source)
    found = {}
    for name, quantity in quantities(source).items():
        if fluctuation == "climatology":
            mean = quantity.groupby("time.month").mean()
            quantity = quantity - mean.sel(month=quantity.time.dt.month)
        found[name] = relative(quantity, missed[name], cosines)
    assert report.derivative_errors == pytest.approx(found, rel=0.02)
    assert all(found[name] <= bound for name, bound in report.derivatives.items())
    assert found["vorticity(u, v)"] >= 0.85 * 0.02
    assert romzarr.verify(tmp_path / "s", source).ok


def test_bounds_of_other_kinds_are_kept_beside(tmp_path):
    source = archive(np.random.default_rng(4), 30, (3, 8, 12), 0.1).rename(z="lev")
    source["u"][:, 1] *= 1e-2
    config = {
        SETTING: {"gradient(u)": 0.02, "gradient(v)": 0.02},
        "compression.max_error": {"v": 0.05},
    }
    report = romzarr.compress(source, tmp_path / "s", tolerance=1e-2, config=config)
    decoded = decoded_from(tmp_path / "s")
    assert max(gradients(source, decoded, "lev", "y", "x").values()) <= 0.02
    assert report.variables["u"].bounded_by == ("lev",)
    for level in range(3):
        u, error = source.u[:, level], (decoded.u - source.u)[:, level]
        assert relative(u, error) <= 1e-2
    assert float(abs(decoded.v - source.v).max()) <= 0.05
    assert romzarr.verify(tmp_path / "s", source).ok


def test_all_snapshots_are_within_after_appends(tmp_path):
    source = archive(np.random.default_rng(5), 40, (9, 14), 0.1).assign_coords(time=np.arange(40.0))
    config = {SETTING: {"gradient(u)": 0.03, "vorticity(u, v)": 0.03}}
    romzarr.compress(source.isel(time=slice(20)), tmp_path / "s", config=config)
    for night in (39, 40):
        romzarr.append(tmp_path / "s", source.isel(time=slice(night)))
    decoded = decoded_from(tmp_path / "s")
    found = gradients(source[["u"]], decoded[["u"]], "x", "y")
    assert max(found.values()) <= 0.03
    again = romzarr.verify(tmp_path / "s", source)
    assert again.ok, again.problems
    stored = romzarr.info(tmp_path / "s").derivative_errors
    assert stored.keys() == again.derivative_errors.keys()
    assert all(again.derivative_errors[name] <= error for name, error in stored.items())
    assert "derivatives" in romzarr.compact(tmp_path / "s").why


@given(
    seed=seeds,
    shape=st.sampled_from([(13,), (6, 7), (3, 4, 5)]),
    m=st.sampled_from([1, 2, 9]),
    most=st.sampled_from([8, 60, 1000]),
)
@settings(max_examples=12, deadline=None)
def test_measured_errors_do_not_depend_on_tiles_and_chunks(seed, shape, m, most):
    rng = np.random.default_rng(seed)
    source = archive(rng, m, shape, 0.3, irregular=True)
    source["u"].values[rng.random(source.u.shape) < 0.05] = np.nan
    other = source + 0.1 * rng.standard_normal((m, *shape))
    chunks = {dim: int(rng.integers(1, n + 1)) for dim, n in source.sizes.items()}
    opened = open_archive(source.chunk(chunks), time="time")
    (variable,) = (each for each in opened.variables if each.name == "u")

    class Decoder:
        def decode(self, name, time_axis, region):
            return other[name].values[region]

    asked = bounded_derivatives(opened, CompressionConfig(derivatives={"gradient(u)": 0.1}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunked, "LEAST", most // 2)
        patched.setattr(chunked, "MOST", most)
        errors, cost = chunked.derivative_errors(
            asked, {"u": variable}, Decoder(), {"u": np.array([np.nan])}, np.zeros(m, int)
        )
    assert cost.bytes_read == source.u.nbytes
    for name, found in errors.items():
        dim = name.split()[-1]
        quantity, error = slope(source.u, dim), slope(other.u - source.u, dim)
        about = quantity - (quantity.mean() if m == 1 else quantity.mean("time"))
        assert found.error == pytest.approx(float((error**2).sum()), rel=1e-9)
        assert found.fluctuation == pytest.approx(float((about**2).sum()), rel=1e-9, abs=1e-14)


# --- what is said and refused -------------------------------------------------------------


def test_a_broken_bound_is_found_and_counts(tmp_path, monkeypatch, capsys):
    source = archive(np.random.default_rng(6), 30, (9, 14), 0.2)
    source.to_netcdf(tmp_path / "a.nc")
    store, archived = str(tmp_path / "s"), str(tmp_path / "a.nc")
    with monkeypatch.context() as patched:
        patched.setattr(written, "next_shares", lambda *_: None)
        asked = "gradient(u)=0.01,vorticity(u,v)=0.9"
        assert main(["compress", archived, store, "--derivatives", asked]) == 0
    assert "ABOVE THE BOUND" in capsys.readouterr().out
    assert main(["verify", store, archived, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [each.split(":")[0] for each in said["problems"]] == [
        "gradient(u) along x",
        "gradient(u) along y",
    ]
    assert main(["info", store]) == 0
    assert "vorticity(u, v)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gradient(w)": 0.1}, "names 'w', allowed are"),
        ({"vorticity(u, other)": 0.1}, "different grids"),
        ({"vorticity(line, line2)": 0.1}, "needs 2 dims along x, y and z"),
        ({"gradient(cells)": 0.1}, "no dim to differentiate along"),
        ({"gradient(uneven)": 0.1}, "neither increases nor decreases"),
        ({"divergence(mixed, mixed2)": 0.1}, "in units"),
        ({"gradient(v)": 0.1}, "relative to each value"),
        ({"gradient(u, v)": 0.1}, "allowed is"),
        ({"curl(u, v)": 0.1}, "allowed is"),
        ({"gradient(u)": 1.5}, "allowed is"),
        (0.0, "allowed is"),
    ],
)
def test_other_bounds_are_refused_before_anything_is_read(asked, words, tmp_path):
    source = archive(np.random.default_rng(7), 9, (5, 6), 0.1)
    field = source.u.values
    source["other"] = ("time", "x", "y"), np.swapaxes(field, 1, 2)
    source["line"], source["line2"] = (("time", "x"), field[:, 0]), (("time", "x"), field[:, 1])
    source["cells"] = ("time", "cell"), field[:, 0]
    source["uneven"] = ("time", "p"), field[:, 0]
    source = source.assign_coords(p=[0, 2, 1, 3, 4, 5])
    source["mixed"] = source["mixed2"] = ("time", "lat", "x"), field
    source = source.assign_coords(lat=("lat", np.arange(5.0), {"units": "degrees_north"}))
    source["x"].attrs["units"] = "km"
    config = {SETTING: asked, "compression.max_error": {"v": "1% of value"}}
    with pytest.raises(ConfigError, match=words):
        romzarr.compress(source, tmp_path / "s", tolerance=0.01, config=config)
    assert not (tmp_path / "s").exists()


def test_bounds_that_cannot_be_kept_are_refused(tmp_path):
    source = archive(np.random.default_rng(8), 9, (20, 30), 0.1)[["u"]]
    with pytest.raises(AccuracyError, match=r"compression\.derivatives"):
        romzarr.compress(source, tmp_path / "s", config={SETTING: 1e-15})
    source["u"][:] = source.u.values[:, :1, :1]
    with pytest.raises(AccuracyError, match="does not fluctuate"):
        romzarr.compress(source, tmp_path / "s", config={SETTING: {"gradient(u)": 0.1}})
    assert not (tmp_path / "s").exists()


def test_what_does_not_bound_derivatives_says_so(tmp_path):
    source = archive(np.random.default_rng(9), 20, (5, 6), 0.1)
    for refused in (
        lambda: romzarr.StreamCompressor(tmp_path / "s", config={SETTING: 0.1}),
        lambda: romzarr.estimate(source, config={SETTING: 0.1}),
    ):
        with pytest.raises(ConfigError, match=r"compression\.derivatives"):
            refused()


def test_groups_of_a_tree_keep_the_bounds_of_their_variables(tmp_path):
    source = archive(np.random.default_rng(11), 16, (5, 6), 0.1)
    tree = xr.DataTree.from_dict({"/a": source, "/b": source[["u"]]})
    config = {SETTING: {"vorticity(u, v)": 0.02}}
    report = romzarr.compress(tree, tmp_path / "t", config=config)
    assert report.derivatives == {"/a/vorticity(u, v)": 0.02}
    assert romzarr.verify(tmp_path / "t", tree).ok
    with pytest.raises(ConfigError, match="no group has all variables"):
        romzarr.compress(tree, tmp_path / "s", config={SETTING: {"vorticity(u, w)": 0.02}})


def test_lossless_stores_keep_any_bound(tmp_path):
    source = archive(np.random.default_rng(10), 9, (5, 6), 0.1)
    romzarr.compress(source, tmp_path / "s", tolerance=0, config={SETTING: 1e-9})
    xr.testing.assert_equal(decoded_from(tmp_path / "s"), source)
    assert romzarr.verify(tmp_path / "s", source).ok


def test_directions_are_told_by_attributes_before_names():
    east = {"units": "degrees_east"}
    coords = {
        "y": xr.Variable("y", [0.0, 1.0], {"axis": "X"}),
        "x": xr.Variable("x", [0.0, 1.0], {"axis": "Y"}),
        "a": xr.Variable("a", [0.0, 1.0], east),
        "b": xr.Variable("b", [0.0, 1.0], {"standard_name": "projection_y_coordinate"}),
    }
    assert directions_of(("y", "x"), coords) == {"x": "y", "y": "x"}
    assert directions_of(("member", "b", "a"), coords) == {"x": "a", "y": "b"}
    assert directions_of(("z", "y", "x"), {}) == {"x": "x", "y": "y", "z": "z"}
    # Which of two is meant nobody knows.
    assert directions_of(("lon", "rlon"), {}) == {}
