"""Views of a store, coarser or of fewer modes, are what they say and within their bounds."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.contracts import Coding
from romzarr.errors import AnswerError, ConfigError
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests import oracles
from tests.golden.make import STORES

RELATIVE, ABSOLUTE = "romzarr_relative_l2_error", "romzarr_l2_error"
LARGEST = "romzarr_largest_error"


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def waves(y: int = 24, x: int = 43, m: int = 80) -> np.ndarray:
    t, b, a = np.arange(m)[:, None, None], np.linspace(0, 1, y)[:, None], np.linspace(0, 1, x)
    terms = (
        np.cos(0.1 * k * t + k) * np.sin(3 * k * b + k) * np.cos(2 * k * a + k * k) / k
        for k in range(1, 9)
    )
    return 5 + sum(terms)


def rough(y: int = 24, x: int = 43, m: int = 80) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((m, y, x)).cumsum(1).cumsum(2)


def dataset(values: np.ndarray, dtype: str = "f4") -> xr.Dataset:
    m, y, x = values.shape
    lat, lon = np.meshgrid(np.linspace(0, 60, y), np.linspace(0, 90, x), indexing="ij")
    return xr.Dataset(
        {"u": (("time", "y", "x"), values.astype(dtype))},
        {"time": np.arange(m), "x": np.linspace(0, 9, x), "lat": (("y", "x"), lat + 0.1 * lon)},
    )


def written(folder: Path, source: xr.Dataset, **config: object) -> Path:
    store, tolerance = folder / "s", config.pop("tolerance", 1e-2)
    romzarr.compress(source, store, tolerance=tolerance, config=config)
    return store


def opened(store: Path, **view: object) -> xr.Dataset:
    return xr.open_dataset(store, engine="romzarr", **view)


@pytest.fixture(scope="module")
def rough_store(tmp_path_factory):
    return written(tmp_path_factory.mktemp("rough"), dataset(rough()))


@pytest.fixture(scope="module")
def wave_store(tmp_path_factory):
    return written(tmp_path_factory.mktemp("waves"), dataset(waves(m=20)))


def coarse(values: np.ndarray, halvings: dict[int, int], pieces: dict[int, int] | None = None):
    for axis, count in halvings.items():
        values = oracles.coarsened(values, axis, count, (pieces or {}).get(axis))
    return values


def rounding(values: np.ndarray, dtype: np.dtype) -> float:
    """Some roundings of float32, in which fields are added, or of a coarser dtype."""
    eps = max(np.finfo(dtype).eps, np.finfo("f4").eps)
    return 20 * float(eps * np.nanmax(np.abs(values)))


KINDS = {
    "modes": (waves, {}, Coding.POD),
    "values": (rough, {}, Coding.DIRECT),
    "layers": (rough, {"compression.layers": [0.3, 0.1]}, Coding.DIRECT),
    "bounds on single values": (waves, {"compression.max_error": {"u": 0.02}}, Coding.POD),
    "exact": (rough, {"tolerance": 0.0}, Coding.LOSSLESS),
    "constant": (lambda: waves()[:1].repeat(80, 0), {}, Coding.CONSTANT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_is_the_decoded_field_on_a_coarser_grid_within_its_bound(kind, tmp_path):
    make, config, coding = KINDS[kind]
    source = dataset(make())
    store = written(tmp_path, source, **config)
    assert open_store(store).variables["u"].coding == coding
    whole, original = opened(store).u.values.astype("f8"), source.u.values.astype("f8")
    for level in (1, 2, 3):
        view = opened(store, level=level).u
        # Of 24 points two halvings leave 6.
        halvings = {1: min(level, 2), 2: level}
        expected = coarse(whole, halvings)
        np.testing.assert_allclose(view, expected, rtol=0, atol=rounding(expected, view.dtype))
        steps = {"y": slice(None, None, 2 ** min(level, 2)), "x": slice(None, None, 2**level)}
        xr.testing.assert_equal(view.coords.to_dataset(), source.isel(steps).coords.to_dataset())
        assert view.attrs["romzarr_level"] == level
        if coding in (Coding.LOSSLESS, Coding.CONSTANT):
            assert RELATIVE not in view.attrs
            continue
        error = view.values - coarse(original, halvings)
        l2, points = np.linalg.norm(error), 2 ** sum(halvings.values())
        # Errors without smoothness become less, which nobody knows before.
        assert l2 <= view.attrs[ABSOLUTE] < 3 * points**0.5 * l2
        spread = np.linalg.norm(original - original.mean(0)) / points**0.5
        assert view.attrs[RELATIVE] == pytest.approx(view.attrs[ABSOLUTE] / spread, rel=1e-4)
        if LARGEST in view.attrs:
            assert np.abs(error).max() <= view.attrs[LARGEST]


def test_any_part_of_a_level_has_the_bits_of_the_whole(rough_store):
    view = opened(rough_store, level=1, cache=False).u
    whole = view.values
    np.testing.assert_array_equal(view[3:40:7, 2, ::-1], whole[3:40:7, 2, ::-1])
    np.testing.assert_array_equal(view[[5, 1, 5], [3, 0]], whole[[5, 1, 5]][:, [3, 0]])
    again = pickle.loads(pickle.dumps(opened(rough_store, level=1, chunks={})))
    np.testing.assert_array_equal(again.u, whole)


CUTS = [
    (rough, (40, 64), "values", (16, 24)),
    (rough, (40, 64), "values", (15, 22)),
    (waves, (46, 43), "fields", (16, 15)),
]


@pytest.mark.parametrize(("make", "shape", "array", "cut"), CUTS)
def test_tiles_are_coarsened_for_themselves_where_they_begin_at_points(
    make, shape, array, cut, tmp_path, monkeypatch
):
    """What is left to halve is halved on the whole grid: 22 is twice an odd number."""
    monkeypatch.setattr("romzarr.chunked.values.ENOUGH_VALUES", 1)
    monkeypatch.setattr("romzarr.coding.tiles.MOST_POINTS", 256)
    source = dataset(make(*shape, m=40)).chunk(y=cut[0], x=cut[1])
    store = written(tmp_path, source)
    (part,) = open_store(store).parts
    assert part.arrays.chunk(f"basis/u/{array}")[1:] == cut
    whole, original = opened(store).u.values.astype("f8"), source.u.values.astype("f8")
    view = opened(store, level=2).u
    decoded = {axis: _twos(n, 2) for axis, n in enumerate(cut, start=1)}
    rest = {axis: 2 - done for axis, done in decoded.items()}
    expected, exact = (
        coarse(coarse(values, decoded, dict(enumerate(cut, start=1))), rest)
        for values in (whole, original)
    )
    np.testing.assert_allclose(view, expected, rtol=0, atol=rounding(whole, view.dtype))
    l2 = np.linalg.norm(view.values - exact)
    assert l2 <= view.attrs[ABSOLUTE] < 12 * l2


def _twos(number: int, most: int) -> int:
    return next(k for k in range(most, -1, -1) if number % 2**k == 0)


def missing(source: xr.Dataset, kind: str) -> xr.Dataset:
    land = (source.lat < 20) & (source.x < 4)
    if kind == "mask":
        return source.where(~land)
    return source.where(~land | (source.time % 7 > 0))


@pytest.mark.parametrize("make", [waves, rough])
@pytest.mark.parametrize("kind", ["mask", "gaps"])
def test_a_coarse_point_has_a_value_where_the_point_has_one(kind, make, tmp_path):
    source = missing(dataset(make()), kind)
    store = written(tmp_path, source)
    view, whole = opened(store, level=1).u, opened(store).u.values.astype("f8")
    there = np.isfinite(source.u.values)
    np.testing.assert_array_equal(np.isfinite(view), there[:, ::2, ::2])
    # Where no missing value is within reach, what was filled in does not count.
    near = oracles.coarsened(oracles.coarsened(np.where(there, 0.0, np.nan), 1, 1), 2, 1)
    expected = coarse(np.where(there, whole, 0.0), {1: 1, 2: 1})
    clear = np.isfinite(near)
    assert clear.mean() > 0.3
    atol = rounding(whole, view.dtype)
    np.testing.assert_allclose(view.values[clear], expected[clear], rtol=0, atol=atol)
    original = coarse(np.where(there, source.u.values.astype("f8"), 0.0), {1: 1, 2: 1})
    assert np.linalg.norm((view.values - original)[clear]) <= view.attrs[ABSOLUTE]
    # Beside gaps the mean is one of values around.
    apart = np.nanmax(np.abs(view.values - whole[:, ::2, ::2]), initial=0.0, where=~clear)
    assert apart < np.nanmax(np.abs(whole))


def test_what_is_filled_in_does_not_depend_on_what_is_selected(tmp_path):
    """Three levels, with coasts of their own, are too few to be halved."""
    levels = [missing(dataset(k * waves(m=20)), "mask").u.shift(x=k) for k in range(1, 4)]
    source = xr.concat(levels, "lev").transpose("time", "lev", "y", "x").to_dataset(name="u")
    store = written(tmp_path, source, tolerance=0.0)
    view = opened(store, level=1, cache=False).u
    whole = view.values
    np.testing.assert_array_equal(view[:, 1], whole[:, 1])
    np.testing.assert_array_equal(view[3:5, 2, ::-1, 4], whole[3:5, 2, ::-1, 4])


@pytest.mark.parametrize("name", [path.stem for path in sorted(STORES.glob("*.zip"))])
def test_every_coding_has_levels(name, tmp_path):
    with zipfile.ZipFile(STORES / f"{name}.zip") as file:
        file.extractall(tmp_path)
    store, whole = open_store(tmp_path / "store"), opened(tmp_path / "store").load()
    levels = xr.open_datatree(tmp_path / "store", engine="romzarr").load()
    layout = levels.attrs["multiscales"]["layout"]
    assert [each["asset"] for each in layout] == list(levels.children)
    for each in layout:
        scales = zip(levels.attrs["multiscales"]["dims"], each["transform"]["scale"], strict=True)
        steps = {dim: round(scale) for dim, scale in scales}
        view = levels[each["asset"]].to_dataset()
        points = whole.isel({dim: slice(None, None, step) for dim, step in steps.items()})
        assert view.sizes == points.sizes
        xr.testing.assert_equal(view.drop_vars(store.variables), points.drop_vars(store.variables))
        for variable in store.variables:
            values = whole[variable].values
            np.testing.assert_array_equal(
                np.isfinite(view[variable]), np.isfinite(points[variable])
            )
            if np.isfinite(values).all():
                halvings = {
                    axis: steps[dim].bit_length() - 1
                    for axis, dim in enumerate(whole[variable].dims)
                    if dim in steps
                }
                expected = coarse(values.astype("f8"), halvings)
                atol = rounding(values, values.dtype)
                np.testing.assert_allclose(view[variable], expected, rtol=0, atol=atol)


def test_a_pyramid_costs_no_bytes_and_a_level_is_what_opens_alone(rough_store):
    store = rough_store
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    tree = xr.open_datatree(store, engine="romzarr", chunks={})
    assert list(tree.children) == ["0", "1", "2", "3"]
    for level, group in tree.children.items():
        xr.testing.assert_identical(group.to_dataset(), opened(store, level=int(level)))
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    (convention,) = tree.attrs["zarr_conventions"]
    assert convention["uuid"] == "d35379db-88df-4056-af3a-620245f8e347"
    layout = tree.attrs["multiscales"]["layout"]
    assert [each.get("derived_from") for each in layout] == [None, "0", "0", "0"]
    assert layout[3]["transform"] == {"scale": [4.0, 8.0], "translation": [0.0, 0.0]}


def test_levels_and_curves_of_points_stay_as_they_are(tmp_path):
    values = rough(16, 20).reshape(80, 16, 20)
    source = xr.Dataset(
        {"u": (("time", "lev", "x"), values)},
        {"time": np.arange(80), "lev": ("lev", np.arange(16.0), {"axis": "Z"})},
    )
    store = written(tmp_path, source, **{"compression.per": ["lev"]})
    view = opened(store, level=1)
    assert dict(view.sizes) == {"time": 80, "lev": 16, "x": 10}
    expected = coarse(opened(store).u.values, {2: 1})
    np.testing.assert_allclose(view.u, expected, rtol=0, atol=rounding(expected, view.u.dtype))
    with zipfile.ZipFile(STORES / "points_along_a_curve.zip") as file:
        file.extractall(tmp_path)
    with pytest.raises(ConfigError, match=r"allowed are integers from 0 to 0 .* no dim"):
        opened(tmp_path / "store", level=1)


def test_what_was_lost_before_an_exact_copy_is_coarsened_too(wave_store, tmp_path):
    romzarr.compress(opened(wave_store), tmp_path / "s", tolerance=0.0)
    found, before = opened(tmp_path / "s", level=1).u, opened(wave_store, level=1).u
    assert found.attrs == before.attrs
    xr.testing.assert_allclose(found, before, rtol=1e-5)


def test_with_weights_no_bound_is_said_of_a_level_or_of_fewer_modes(tmp_path):
    store = written(tmp_path, dataset(waves()), **{"archive.weights": "x"})
    for view in ({"level": 1}, {"modes": 2}):
        assert RELATIVE in opened(store).u.attrs
        assert not {RELATIVE, ABSOLUTE} & set(opened(store, **view).u.attrs)


# --- fewer modes --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_fewer_modes_are_within_their_bound(count, tmp_path):
    source = dataset(waves())
    source["v"] = 3 * source.u[:, ::-1] ** 2
    store = written(tmp_path, source, tolerance=1e-3)
    part, view = open_store(store).last, opened(store, modes=count)
    a = part.latent.at(np.arange(80))[:, :count]
    for name in ("u", "v"):
        modes = open_store(store).modes(name)[:count].astype("f8")
        expected = open_store(store).mean(name) + np.tensordot(a, modes, 1)
        np.testing.assert_allclose(view[name], expected, rtol=0, atol=1e-4)
        error = float(np.linalg.norm(view[name] - source[name].astype("f8")))
        assert error <= view[name].attrs[ABSOLUTE] <= 1.1 * error + 0.01
        fluctuation = oracles.relative_error(source[name].values, view[name].values)
        assert fluctuation <= view[name].attrs[RELATIVE]
        assert view[name].attrs["romzarr_modes"] == count


def test_values_and_logarithms_stay_whole(tmp_path):
    source = dataset(waves(9, 12, 40)).assign(v=(("time", "y", "x"), rough(9, 12, 40)))
    source["q"] = np.exp(source.u)
    store = written(tmp_path, source, **{"compression.max_error": {"q": "5% of value"}})
    codings = {name: each.coding for name, each in open_store(store).variables.items()}
    assert codings == {"u": Coding.POD, "v": Coding.DIRECT, "q": Coding.POD}
    view, whole = opened(store, modes=1), opened(store)
    xr.testing.assert_identical(view[["v", "q"]], whole[["v", "q"]])
    assert "romzarr_modes" in view.u.attrs


def test_modes_of_parts_are_left_out_of_each(tmp_path):
    whole = dataset(waves(m=240), "f8")
    store = written(tmp_path, whole.isel(time=slice(160)))
    romzarr.append(store, whole)
    assert len(open_store(store).parts) == 2
    view = opened(store, modes=2).u
    error = float(np.linalg.norm(view - whole.u))
    assert error <= view.attrs[ABSOLUTE] < 1.5 * error


def test_views_combine(tmp_path):
    """The bound of what modes and layers leave out grows on a coarser grid as any other."""
    source = dataset(waves())
    store = written(tmp_path, source, **{"compression.layers": [0.1]})
    view = opened(store, tolerance=0.1, modes=3, level=1).u
    flat = opened(store, tolerance=0.1, modes=3).u
    original = coarse(source.u.values, {1: 1, 2: 1})
    atol = rounding(original, view.dtype)
    np.testing.assert_allclose(view, coarse(flat.values, {1: 1, 2: 1}), rtol=0, atol=atol)
    assert np.linalg.norm(view.values - original) <= view.attrs[ABSOLUTE]
    assert {"romzarr_level", "romzarr_modes"} <= view.attrs.keys()


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"level": 4}, "level: found 4, allowed are integers from 0 to 3"),
        ({"level": -1}, "level: found -1"),
        ({"level": 1.5}, r"level: found 1\.5 .* allowed is an integer"),
        ({"modes": -8}, "modes: found -8"),
        ({"modes": "8"}, "modes: found '8'"),
    ],
)
def test_views_that_cannot_be_are_refused(view, message, wave_store):
    with pytest.raises((ConfigError, TypeError), match=message):
        opened(wave_store, **view)


def test_a_tree_refuses_a_level_and_answers_refuse_views(wave_store):
    with pytest.raises(ConfigError, match="all levels of a store"):
        xr.open_datatree(wave_store, engine="romzarr", level=1)
    for view in ({"level": 1}, {"modes": 2}):
        with pytest.raises(AnswerError, match=r"romzarr\.open"):
            opened(wave_store, cache=False, **view).romzarr.mean()


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_a_view_is_reconstructed(name, wave_store, tmp_path):
    out = tmp_path / name
    assert main(["reconstruct", str(wave_store), str(out), "--level", "1", "--modes", "2"]) == 0
    view = opened(wave_store, level=1, modes=2)
    zarr = {"engine": "zarr", "consolidated": False}
    found = xr.open_dataset(out, **(zarr if name == "out.zarr" else {"engine": "h5netcdf"}))
    xr.testing.assert_equal(found[["u"]], view[["u"]])
    assert found.u.attrs[ABSOLUTE] == pytest.approx(view.u.attrs[ABSOLUTE])


def test_a_level_is_written_and_compressed_again(tmp_path):
    """Chunks of the archive would not fit it, and its loss is known."""
    source = dataset(rough()).chunk(time=40, y=24, x=20)
    source.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    romzarr.compress(tmp_path / "a.zarr", tmp_path / "s", tolerance=1e-2)
    view = opened(tmp_path / "s", level=1, chunks={})
    view.to_zarr(tmp_path / "b.zarr", zarr_format=3, consolidated=False)
    romzarr.compress(tmp_path / "b.zarr", tmp_path / "again", tolerance=1e-2)
    found = opened(tmp_path / "again").u
    assert found.attrs["romzarr_compressions"] == 2
    error = np.linalg.norm(found - coarse(source.u.values, {1: 1, 2: 1}))
    assert error <= found.attrs[ABSOLUTE]
