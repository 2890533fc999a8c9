"""Bounds on single values hold everywhere, on any machine, and cost where they bite."""

from __future__ import annotations

import json
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import romzarr
from romzarr.coding import wavelet
from romzarr.compression import direct, pointwise
from romzarr.config import NO_TOLERANCE
from romzarr.errors import AccuracyError, ConfigError
from romzarr.numerics.dynamics import sampling
from romzarr.store.reading import fields
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.reader import _opened, open_store
from romzarr_flows.cli import main
from tests.format_page import decoded_by_hand
from tests.oracles import decoded_errors
from tests.strategies import grids, seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


varied = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def worst(source: xr.Dataset, decoded: xr.Dataset, name: str) -> float:
    """Largest error of a single value; NaN must be where it was."""
    x, y = source[name].values, decoded[name].values
    assert np.array_equal(np.isnan(x), np.isnan(y))
    return float(np.nanmax(np.abs(x.astype(np.longdouble) - y.astype(np.longdouble)), initial=0))


def compressed(source: xr.Dataset, folder: Path, **options):
    """Report, and dataset that comes back."""
    report = romzarr.compress(source, folder / "store.romzarr", overwrite=True, **options)
    _opened.cache_clear()
    return report, xr.open_dataset(folder / "store.romzarr", engine="romzarr")


@st.composite
def spiky(draw: st.DrawFn) -> xr.Dataset:
    """One or two variables, smooth or rough, with spikes, masks, and chunks of their own."""
    sizes = {"time": draw(st.integers(12, 60)), "y": draw(st.integers(2, 9))}
    sizes["x"] = draw(st.integers(5, 30))
    rng = np.random.default_rng(draw(seeds))
    axes = {d: np.linspace(0, 1, n) for d, n in sizes.items()}
    t, y, x = np.meshgrid(*axes.values(), indexing="ij")
    variables = {}
    for name in "uv"[: draw(st.integers(1, 2))]:
        values = np.sin(9 * x - 20 * t) + np.cos(4 * y + 7 * t)
        values += draw(st.sampled_from([0.0, 1.0])) * rng.standard_normal(values.shape)
        spikes = rng.random(values.shape) < 0.01
        values[spikes] += 30 * rng.standard_normal(spikes.sum())
        dtype, scale, offset = draw(
            st.sampled_from([("f4", 1.0, 0.0), ("f4", 1e-3, 300.0), ("f8", 1e5, -1e6),
                             ("f2", 1.0, 0.0), (">f8", 1.0, 1e3), ("f4", 1e20, 0.0)])
        )  # fmt: skip
        values = scale * values + offset
        if draw(st.booleans()):
            values[:, rng.random(values.shape[1:]) < 0.3] = np.nan
            values[:, 0, 0] = offset + scale * np.sin(np.arange(len(values)))
        order = draw(st.permutations(["time", "y", "x"]))
        variable = xr.Variable(("time", "y", "x"), values.astype(dtype)).transpose(*order)
        grid = draw(grids(variable.shape, most=3))
        variables[name] = variable.chunk(dict(zip(order, grid, strict=True)))
    return xr.Dataset(variables, {"time": np.arange(float(sizes["time"]))})


def bounds_of(source: xr.Dataset, share: float) -> dict[str, float]:
    """So much of the standard deviation, and what the dtype can tell apart."""
    found = {}
    for name, variable in source.data_vars.items():
        largest = float(np.nanmax(np.abs(variable.values)))
        rounding = float(np.finfo(variable.dtype).eps) * largest
        found[str(name)] = max(
            share * float(np.nanstd(variable.values.astype("f8"))), 1.5 * rounding
        )
    return found


@given(
    source=spiky(),
    share=st.sampled_from([2.0, 0.1, 1e-3, 1e-6]),
    tolerance=st.sampled_from([0.3, 1e-2]),
    most=st.sampled_from([100, 1 << 21]),
    data=st.data(),
)
@varied
def test_no_value_is_off_by_more_than_the_bound(tmp_path, source, share, tolerance, most, data):
    """Rounding of what is read included; in one tile and in many; whole or in parts."""
    bounds = bounds_of(source, share)
    if len(bounds) == 2 and data.draw(st.booleans()):
        del bounds["u"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointwise, "LEAST", most)
        patch.setattr(pointwise, "MOST", most)
        report, decoded = compressed(source, tmp_path, tolerance=tolerance, max_error=bounds)
    assert max(decoded_errors(source, decoded).values()) <= tolerance
    for name, bound in bounds.items():
        found = worst(source, decoded, name)
        assert found <= bound
        assert report.largest_pointwise_error[name] == pytest.approx(
            found, rel=1e-6, abs=1e-3 * bound
        )
    assert report.max_error == bounds
    checked = romzarr.verify(tmp_path / "store.romzarr", source)
    assert checked.ok, checked.problems
    # Reading a part gives what reading everything gives, to the last bit but one.
    part = {
        d: data.draw(st.lists(st.integers(0, n - 1), max_size=5)) for d, n in source.sizes.items()
    }
    name = data.draw(st.sampled_from(sorted(bounds)))
    some = xr.open_dataset(tmp_path / "store.romzarr", engine="romzarr")[name].isel(part)
    expected, lazy = decoded[name].load().isel(part).values, some.values
    assert np.array_equal(np.isnan(lazy), np.isnan(expected))
    there = ~np.isnan(expected)
    off = np.abs(lazy[there].astype("f8") - expected[there])
    last = np.finfo(expected.dtype).eps * np.abs(expected[there].astype("f8"))
    largest = np.nanmax(np.abs(source[name].values.astype("f8")), initial=0)
    assert (off <= last + 1e-9 * largest).all()


def waves(snapshots: int = 200) -> xr.Dataset:
    """A nonlinear wave that a model can follow, noise beside it, and a spike or two."""
    rng = np.random.default_rng(3)
    t, x = 0.1 * np.arange(snapshots)[:, None], np.linspace(0, 6.28, 80)[None, :]
    phase = x - t - 0.3 * np.sin(t)
    u = np.sin(phase) + 0.2 * np.cos(2 * phase) + 0.03 * np.sin(3 * phase)
    u[50, 20] += 5
    u[51, 20:23] -= 2
    return xr.Dataset(
        {
            "u": (("time", "x"), u),
            "noise": (("time", "x"), rng.standard_normal(u.shape).astype("f4")),
        },
        {"time": t[:, 0], "x": x[0]},
    )


BOUNDS = {"u": 1e-4, "noise": 0.02}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """A dataset with variables of both kinds, and its store."""
    folder = tmp_path_factory.mktemp("bounded")
    source = waves().chunk(time=37)
    with dask.config.set(scheduler="synchronous"):
        romzarr.compress(source, folder / "store.romzarr", tolerance=1e-2, max_error=BOUNDS)
    codings = {n: v["coding"] for n, v in romzarr.info(folder / "store.romzarr").variables.items()}
    assert set(codings.values()) == {"pod", "direct"}
    return source, folder / "store.romzarr"


def test_bounds_hold_where_every_result_of_arithmetic_is_another(bounded, monkeypatch):
    """Each is off by up to 1e-12 of itself: what wavelets, models, sums of modes make."""
    source, store = bounded
    rng = np.random.default_rng(0)

    def shaken(values):
        return values * (1 + 1e-12 * rng.uniform(-1, 1, values.shape))

    transform = wavelet._transform

    def shaken_transform(array, axis, levels, *, inverse):
        transform(array, axis, levels, inverse=inverse)
        array[...] = shaken(array)

    def of(function):
        return lambda *args, **kwargs: shaken(function(*args, **kwargs))

    monkeypatch.setattr(wavelet, "_transform", shaken_transform)
    monkeypatch.setattr(fields.FieldPart, "sums", of(fields.FieldPart.sums))
    monkeypatch.setattr(sampling, "runge_kutta_step", of(sampling.runge_kutta_step))
    monkeypatch.setattr(StoredLatent, "span", of(StoredLatent.span))
    monkeypatch.setattr(fields.AlignedRows, "spread", of(fields.AlignedRows.spread))
    _opened.cache_clear()
    decoded = xr.open_dataset(store, engine="romzarr").load()
    _opened.cache_clear()
    plain = source.load()
    for name, bound in BOUNDS.items():
        assert worst(plain, decoded, name) <= bound


def test_the_snippet_of_the_format_page_decodes_it(bounded):
    source, store = bounded
    found = decoded_by_hand(store, "noise")
    assert np.abs(found - source.noise.values).max() <= BOUNDS["noise"]


def test_other_threads_change_nothing(bounded):
    source, store = bounded
    plain = source.load()
    for threads in (1, 4):
        _opened.cache_clear()
        with threadpool_limits(threads, user_api="blas"):
            decoded = xr.open_dataset(store, engine="romzarr").load()
        for name, bound in BOUNDS.items():
            assert worst(plain, decoded, name) <= bound


def test_one_snapshot_costs_the_tiles_it_lies_in(bounded):
    source, store = bounded
    opened = open_store(store)
    time = opened.last.arrays.chunk("basis/u/residuals")[0]
    assert source.sizes["time"] >= time
    decoded = xr.open_dataset(store, engine="romzarr")
    for name in BOUNDS:
        whole = decoded[name].values
        point = decoded[name].isel(time=50, x=20).values
        np.testing.assert_allclose(point, whole[50, 20], rtol=1e-9)


@pytest.mark.cluster
@pytest.mark.parametrize("options", [{"max_error": BOUNDS}, {"tolerance": 0}])
def test_processes_write_what_threads_write(tmp_path, options):
    source = waves().chunk(time=50)
    plain, expected = compressed(source, tmp_path / "a", **options)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        dask.config.set(scheduler="distributed"),
    ):
        report, decoded = compressed(source, tmp_path / "b", **options)
        assert romzarr.verify(tmp_path / "b" / "store.romzarr", source).ok
    assert report.chunks_read == plain.chunks_read
    xr.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-3)


def test_where_no_value_is_off_nothing_is_stored(tmp_path):
    source = waves()[["u"]].isel(time=slice(60, None))
    report, _ = compressed(source, tmp_path, tolerance=1e-3, max_error={"u": 1.0})
    assert "basis/u/residuals" not in open_store(tmp_path / "store.romzarr").last.arrays
    alone, _ = compressed(source, tmp_path, tolerance=1e-3)
    assert report.stored_bytes < alone.stored_bytes + 200
    assert report.largest_pointwise_error["u"] < 1


def test_it_costs_hardly_more_than_the_best_tolerance_that_does_the_same(tmp_path):
    source, tolerance = waves()[["u"]], 0.3
    bounded, _ = compressed(source, tmp_path, tolerance=tolerance, max_error={"u": 0.1})
    assert romzarr.info(tmp_path / "store.romzarr").variables["u"]["corrected"]
    plain, decoded = compressed(source, tmp_path, tolerance=tolerance)
    while worst(source, decoded, "u") > 0.1:
        tolerance *= 0.4
        plain, decoded = compressed(source, tmp_path, tolerance=tolerance)
    assert bounded.stored_bytes <= 1.05 * plain.stored_bytes + 300


def test_a_constant_variable_meets_any_bound(tmp_path):
    source = waves().assign(land=(("time", "x"), np.ones((200, 80), "f4")))
    report, decoded = compressed(source, tmp_path, max_error={"land": 1e-300})
    xr.testing.assert_identical(decoded.land, source.land)
    assert report.largest_pointwise_error == {"land": 0.0}


def test_a_bound_below_rounding_is_refused_with_what_is_allowed(tmp_path):
    source = waves()[["noise"]]
    with pytest.raises(AccuracyError, match=r"'noise'.*max_error is 1e-08.*tolerance 0") as caught:
        compressed(source, tmp_path, max_error={"noise": 1e-8})
    assert list(tmp_path.iterdir()) == []
    least = float(str(caught.value).split("allowed is ")[1].split()[0])
    _, decoded = compressed(source, tmp_path, max_error={"noise": least})
    assert worst(source, decoded, "noise") <= least
    # A unit in the last place of the largest value, or two.
    assert least <= 4 * np.spacing(np.abs(source.noise.values).max())


def test_a_rank_that_is_given_is_kept_and_the_bound_too(tmp_path):
    source = waves()[["u"]].isel(time=slice(60, None))
    report, decoded = compressed(
        source, tmp_path, tolerance=0.3, max_error={"u": 1e-3},
        config=romzarr.load_config(overrides={"compression.max_rank": 3}),
    )  # fmt: skip
    assert report.rank <= 3
    assert worst(source, decoded, "u") <= 1e-3


@pytest.mark.parametrize("bounds", [{"w": 1.0}, {"u": 1.0, "x": 1.0}])
def test_an_unknown_variable_is_named(tmp_path, bounds):
    with pytest.raises(
        ConfigError, match=r"max_error: found variable '[wx]', allowed.*'u', 'noise'"
    ):
        compressed(waves(), tmp_path, max_error=bounds)
    assert list(tmp_path.iterdir()) == []


def test_a_bound_that_is_broken_is_named_with_place_and_error(tmp_path, bounded):
    source, store = bounded
    tampered = source.load().copy(deep=True)
    tampered["u"][33, 44] += 3e-4
    report = romzarr.verify(store, tampered)
    assert not report.ok
    (problem,) = report.problems
    error = report.largest_pointwise_error["u"]
    assert 2e-4 <= error <= 4e-4
    assert problem == (
        f"variable 'u': error {error:.6g} of a single value is above max_error 0.0001, at "
        "time=33 (3.3), x=44"
    )


def test_the_command_line_takes_and_shows_bounds(tmp_path, capsys):
    source, path, store = waves(), tmp_path / "a.zarr", tmp_path / "b.romzarr"
    source.to_zarr(path, consolidated=False)
    asked = ["compress", str(path), str(store), "--max-error", "u=1e-3, noise=0.05"]
    assert main(asked) == 0
    assert "of at most 0.05" in capsys.readouterr().out
    assert main(["info", str(store)]) == 0
    assert "and residuals" in capsys.readouterr().out
    assert main(["verify", str(store), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_error"] == {"u": 1e-3, "noise": 0.05}
    source["noise"][7, 8] += 1
    source.to_zarr(tmp_path / "c.zarr", consolidated=False)
    assert main(["verify", str(store), str(tmp_path / "c.zarr")]) == 1
    out = capsys.readouterr().out
    assert "ABOVE THE BOUND" in out
    assert "max_error 0.05, at time=7" in out


@pytest.mark.parametrize(
    ("text", "words", "what"),
    [
        ("u", "found 'u'", "expected"),
        ("u=1,u=2", "found 'u=2'", "expected"),
        ("=1", "found '=1'", "expected"),
        ("u=big", "'big'", "allowed"),
        ("u=-1", "-1.0", "allowed"),
        ("w=1", "found variable 'w'", "allowed"),
    ],
)
def test_a_wrong_flag_is_told_before_any_worker_starts(
    tmp_path, capsys, monkeypatch, text, words, what
):
    waves().to_zarr(tmp_path / "a.zarr", consolidated=False)
    monkeypatch.setattr("romzarr_flows.commands.connect", None)
    asked = ["compress", str(tmp_path / "a.zarr"), str(tmp_path / "b"), f"--max-error={text}"]
    try:
        status = main(asked)
    except SystemExit as error:
        status = error.code
    assert status == 2
    message = capsys.readouterr().err
    assert words in message
    assert what in message
    assert not (tmp_path / "b").exists()


def test_an_estimate_that_is_too_coarse_costs_a_pass_and_no_accuracy(tmp_path, monkeypatch):
    """Direct coding at an error that is far too large: residuals do it all."""
    monkeypatch.setattr(direct, "RATIOS", np.array([50.0]))
    source = waves()[["noise"]]
    _, decoded = compressed(source, tmp_path, tolerance=0.5, max_error={"noise": 1e-4})
    assert worst(source, decoded, "noise") <= 1e-4


# --- bounds on single values alone ---------------------------------------------------------


def rough_and_smooth() -> xr.Dataset:
    rng, t, x = np.random.default_rng(5), np.arange(120) * 0.1, np.linspace(0, 6, 80)
    u = np.sin(x - t[:, None]) + 0.3 * rng.standard_normal((120, 80))
    v = np.cos(2 * x + t[:, None])
    return xr.Dataset({"u": (("time", "x"), u), "v": (("time", "x"), v)}, {"time": t})


def relative(source: xr.Dataset, decoded: xr.Dataset, name: str) -> float:
    about = source[name] - source[name].mean("time")
    return float(np.linalg.norm(source[name] - decoded[name]) / np.linalg.norm(about))


def test_a_bound_on_all_single_values_is_all_that_is_asked(tmp_path):
    source, bounds = rough_and_smooth(), {"u": 0.5, "v": 0.2}
    alone = romzarr.compress(source, tmp_path / "s", max_error=bounds)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    for name, bound in bounds.items():
        assert np.abs(decoded[name] - source[name]).max() <= bound
    assert relative(source, decoded, "u") > 0.02
    assert alone.tolerance == NO_TOLERANCE
    both = romzarr.compress(source, tmp_path / "b", max_error=bounds, tolerance=1e-2)
    assert alone.stored_bytes < both.stored_bytes / 2
    assert romzarr.verify(tmp_path / "s", source).ok


def test_variables_without_a_bound_keep_the_default_tolerance(tmp_path):
    source = rough_and_smooth()
    report = romzarr.compress(source, tmp_path / "s", max_error={"u": 0.5})
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert report.tolerance == 1e-2
    assert relative(source, decoded, "v") <= 1e-2


def test_the_command_line_and_files_agree(tmp_path, capsys):
    rough_and_smooth().to_zarr(tmp_path / "a.zarr", consolidated=False)
    arguments = ["compress", str(tmp_path / "a.zarr"), "--max-error", "u=0.5,v=0.2"]
    assert main([*arguments[:2], str(tmp_path / "s"), *arguments[2:]]) == 0
    assert "none but the bounds on single values" in capsys.readouterr().out
    settings = tmp_path / "config.yaml"
    settings.write_text("compression: {tolerance: 1.0e-2}")
    more = ["--config", str(settings)]
    assert main([*arguments[:2], str(tmp_path / "t"), *arguments[2:], *more]) == 0
    assert romzarr.info(tmp_path / "s").tolerance == NO_TOLERANCE
    assert romzarr.info(tmp_path / "t").tolerance == 1e-2
