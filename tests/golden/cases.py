"""What the golden stores are made of: one for each coding, dtype and way of writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import xarray as xr

import romzarr
from romzarr.compression import survey, write_archive
from romzarr.config import Config
from romzarr.contracts import Coding

Writer = Callable[[Path], None]
CASES: dict[str, Writer] = {}


def case(write: Writer) -> Writer:
    """Register the writer of a golden store under its name."""
    CASES[write.__name__] = write
    return write


def waves(
    snapshots: int = 60, points: int = 40, dtype: str = "f4", offset: float = 0
) -> xr.Dataset:
    """Three travelling waves about a mean."""
    t, x = 0.1 * np.arange(snapshots)[:, None], np.linspace(0, 1, points)
    u = sum(np.sin((k + 1) * t - 5 * k * x) / k for k in (1, 2, 3))
    return xr.Dataset({"u": (("time", "x"), (u + offset).astype(dtype))}, {"time": t[:, 0], "x": x})


def noise(shape: tuple[int, ...] = (24, 50), dtype: str = "f8") -> xr.Dataset:
    """Values that no basis shortens."""
    values = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    return xr.Dataset({"w": (("time", "x"), values)}, {"time": np.arange(float(shape[0]))})


def ocean() -> xr.Dataset:
    """Two variables on a masked grid, time in the middle of one, and what comes along unchanged."""
    t, y, x = 0.2 * np.arange(40), np.linspace(-1, 1, 24), np.linspace(0, 3, 33)
    grid = np.meshgrid(t, y, x, indexing="ij")
    u = np.sin(grid[0] - 2 * grid[2]) * np.cos(grid[1]) + 0.3 * np.cos(2 * grid[0] + grid[2])
    land = np.hypot(y[:, None], x - 2) < 0.5
    v = np.where(land, np.nan, u + 10)
    time = np.datetime64("2001-01-01", "ns") + np.arange(40) * np.timedelta64(6, "h")
    return xr.Dataset(
        {
            "u": (("time", "y", "x"), np.where(land, np.nan, u).astype("f4"), {"units": "m/s"}),
            "v": (("y", "time", "x"), np.moveaxis(v, 0, 1)),
            "depth": (("y", "x"), np.where(land, 0.0, 100.0)),
            "still": (("time", "y"), np.broadcast_to(y, (40, 24)).astype("f4")),
            "count": ("time", np.arange(40, dtype="i2")),
        },
        {"time": time, "y": y, "x": x, "name": ("y", [f"row {k}" for k in range(24)])},
        {"title": "an ocean", "levels": np.array([1, 2])},
    )


def oscillator(snapshots: int = 400) -> xr.Dataset:
    """A damped oscillation: a model foretells it, and pays where it is long and the bound tight."""
    t = 0.05 * np.arange(snapshots)
    states = np.exp(-0.02 * t)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    shapes = np.random.default_rng(2).standard_normal((2, 30))
    return xr.Dataset({"u": (("time", "x"), states @ shapes)}, {"time": t})


def seasons() -> xr.Dataset:
    """A seasonal cycle on noise that is red in space."""
    rng, t = np.random.default_rng(6), np.arange(240) / 12
    wave = 1 + np.hypot(np.fft.fftfreq(16, 1 / 16)[:, None], np.fft.rfftfreq(24, 1 / 24)) ** 2
    weather = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((240, 16, 24))) / wave, (16, 24))
    cycle = np.cos(2 * np.pi * t)[:, None, None] * np.linspace(-4, 4, 16)[:, None]
    u = (10 + cycle + weather).astype("f4")
    u[:, 3:6, 5:15] = np.nan
    return xr.Dataset({"u": (("time", "y", "x"), u)}, {"time": t})


def storm() -> xr.Dataset:
    """Waves, with noise in a part of the time."""
    source = waves(300, 256)
    u = source.u.values.copy()
    u[100:124] += np.random.default_rng(3).standard_normal((24, 256)).astype("f4")
    return source.assign(u=(("time", "x"), u))


@case
def pod_with_mask_and_carried_variables(path: Path) -> None:
    romzarr.compress(ocean(), path, tolerance=1e-2)


@case
def pod_float16(path: Path) -> None:
    romzarr.compress(waves(400, 60, dtype="f2", offset=3), path, tolerance=1e-1)


@case
def pod_big_endian_float32(path: Path) -> None:
    romzarr.compress(waves(dtype=">f4"), path, tolerance=1e-2)


@case
def pod_float64_uneven_times(path: Path) -> None:
    source = waves(dtype=">f8", offset=100)
    times = np.cumsum(np.random.default_rng(4).uniform(0.05, 1, 60))
    # Under another name than that of the dim.
    source = source.drop_vars("time").assign_coords(when=("time", times, {"axis": "T"}))
    romzarr.compress(source, path, tolerance=1e-5)


@case
def pod_with_a_model(path: Path) -> None:
    romzarr.compress(oscillator(1500), path, tolerance=1e-5)


@case
def pod_with_models_of_two_regimes(path: Path) -> None:
    # An oscillator that turns three times as fast from snapshot 1100 on.
    phase = np.cumsum(np.repeat([0.05, 0.15], [1100, 1460]))
    shapes = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 2)))[0].T
    rows = np.stack([np.cos(phase), np.sin(phase)], axis=1) @ shapes
    source = xr.Dataset({"u": (("time", "x"), rows)}, {"time": 0.05 * np.arange(len(phase))})
    romzarr.compress(source, path, tolerance=1e-4)


@case
def pod_weighted(path: Path) -> None:
    source = ocean()[["u"]]
    weights = (("y", "x"), np.ones((24, 33)) * np.linspace(1, 2, 33))
    romzarr.compress(source.assign_coords(area=weights), path, tolerance=1e-2, weights="area")


@case
def pod_with_symbolic_terms(path: Path) -> None:
    config = Config()
    library = replace(config.library, kind="polynomial+symbolic", expressions=("sin(a1)",))
    romzarr.compress(oscillator(), path, tolerance=1e-3, config=replace(config, library=library))


@case
def pod_with_listed_gaps(path: Path) -> None:
    source = ocean()[["u"]].fillna(-9999.0)
    u = source.u.values
    u[7, 3, 5:9], u[20, 3, 5], u[21, 3, 5] = np.nan, np.inf, -np.inf
    romzarr.compress(source, path, tolerance=1e-1)


@case
def pod_with_a_moving_edge(path: Path) -> None:
    source = ocean()[["u"]]
    edge = 12 + 3 * np.sin(0.3 * np.arange(source.sizes["time"])[:, None] - 0.4 * np.arange(33))
    source["u"] = source.u.where(np.arange(24)[:, None] > edge[:, None])
    romzarr.compress(source, path, tolerance=1e-1)


@case
def values_with_coded_gaps(path: Path) -> None:
    source = noise((300, 60), "f4")
    lost = np.random.default_rng(7).random((300, 60)) < 0.2
    gone = source.assign(v=source.w.astype("f8")).where(~lost)
    romzarr.compress(gone, path, tolerance=1e-1)


@case
def values_float64(path: Path) -> None:
    romzarr.compress(noise(), path, tolerance=1e-1)


@case
def values_with_steps_of_their_own(path: Path) -> None:
    """Coded from the chunks: tiles have shares of the step, the mask is written at the end."""
    rng = np.random.default_rng(7)
    rough = np.cumsum(rng.standard_normal((600, 20)), axis=1) * np.linspace(1, 4, 600)[:, None]
    rough[:, 3] = np.nan
    source = xr.Dataset({"w": (("time", "x"), rough.astype("f4"))}).chunk(time=50)
    with patch.object(write_archive, "LEAST_BYTES", 0), patch.object(survey, "DEAR", 0.0):
        romzarr.compress(source, path, tolerance=1e-1)


@case
def shared_fields(path: Path) -> None:
    """Several variables of few points, in one array; facts so long that they are one, too."""
    t = np.arange(60) * 0.1
    table = {
        f"sensor_{k}": (("time", "x"), np.outer(np.sin(t + k), [1.0, 2.0]) + k) for k in range(40)
    }
    romzarr.compress(xr.Dataset(table, {"time": t}), path, tolerance=1e-2)


@case
def values_float32_several_levels(path: Path) -> None:
    t, x = np.arange(48)[:, None], np.linspace(0, 1, 100)
    rng = np.random.default_rng(5)
    rough = np.cumsum(rng.standard_normal((48, 100)), axis=1)
    source = xr.Dataset({"w": (("time", "x"), (rough + 0 * t * x).astype("f4"))})
    romzarr.compress(source, path, tolerance=1e-2)


@case
def values_float16(path: Path) -> None:
    romzarr.compress(noise(dtype="f2"), path, tolerance=1e-1)


@case
def few_modes_and_values_of_the_rest(path: Path) -> None:
    romzarr.compress(seasons(), path, tolerance=1e-2)
    assert {v["coding"] for v in romzarr.info(path).variables.values()} == {Coding.HYBRID}


@case
def episodes(path: Path) -> None:
    romzarr.compress(storm(), path, tolerance=1e-2)


@case
def bounds_on_single_values(path: Path) -> None:
    source = xr.merge([waves(24, 50), noise((24, 50)).assign_coords(time=waves(24).time)])
    romzarr.compress(source, path, tolerance=1e-2, max_error={"u": 1e-3, "w": 0.05})


@case
def in_layers(path: Path) -> None:
    source = xr.merge([waves(60, 128), noise((60, 128)).assign_coords(time=waves(60).time)])
    romzarr.compress(source, path, tolerance=1e-2, config={"compression.layers": [0.2, 0.05]})


@case
def bounds_on_single_levels(path: Path) -> None:
    """By modes and by values; one level is constant, and some values are bounded one by one."""
    sizes = np.array([1.0, 0.03, 0.0])[:, None]
    smooth, rough = waves(20, 12).u.values[:, None], noise((20, 12)).w.values[:, None]
    steady = np.linspace(0, 1, 12) / 3
    variables = {
        name: (("time", "lev", "x"), (sizes * each + steady).astype("f4"))
        for name, each in {"u": smooth, "w": rough, "v": smooth + 1}.items()
    }
    source = xr.Dataset(variables, {"time": waves(20).time})
    config = {"compression.per": ["lev"]}
    romzarr.compress(source, path, tolerance=1e-2, max_error={"v": 1e-3}, config=config)


@case
def bounds_relative_to_each_value(path: Path) -> None:
    values = np.exp(3 * waves(20, 12).u.values) * np.sign(noise((20, 12)).w.values)
    values[3:5, 4:6] = 0
    source = xr.Dataset({"q": (("time", "x"), values.astype("f4"))}, {"time": waves(20).time})
    romzarr.compress(source, path, max_error="1% of value")


@case
def exact_sums(path: Path) -> None:
    """Of two weights, at each level, with time in the middle."""
    smooth = waves(20, 12).u.values[:, None] * np.array([1.0, 0.1])[:, None]
    variables = {"u": (("lev", "time", "x"), smooth.swapaxes(0, 1).astype("f4"))}
    weights = {"area": ("x", np.linspace(1, 2, 12)), "flux": ("x", noise((1, 12)).w.values[0])}
    source = xr.Dataset({**variables, **weights}, {"time": waves(20).time})
    romzarr.compress(source, path, tolerance=1e-2, config={"compression.sums": ["area", "flux"]})


@case
def constants(path: Path) -> None:
    x = np.linspace(0, 1, 30)
    x[3] = np.nan
    variables = {
        name: (("time", "x"), np.broadcast_to(x, (20, 30)).astype(dtype))
        for name, dtype in (("a", "f2"), ("b", ">f4"), ("c", "f8"))
    }
    romzarr.compress(xr.Dataset(variables), path, tolerance=1e-2)


@case
def lossless(path: Path) -> None:
    variables = {
        f"u{dtype[-2:]}{'b' * dtype.startswith('>')}": waves(24, 30, dtype).u
        for dtype in ("f2", "f4", "f8", ">f2", ">f4", ">f8")
    }
    packed = np.round(waves(24, 30, "f8").u * 100) * 0.01 + 5
    odd = waves(24, 30).u.copy()
    odd[3, :4] = [np.nan, np.inf, -np.inf, -0.0]
    romzarr.compress(xr.Dataset({**variables, "packed": packed, "odd": odd}), path, tolerance=0)


@case
def appended(path: Path) -> None:
    source = waves(180)
    romzarr.compress(source.isel(time=slice(60)), path, tolerance=1e-3)
    for stop in (120, 180):
        romzarr.append(path, source.isel(time=slice(stop)))


@case
def points_along_a_curve(path: Path) -> None:
    rng = np.random.default_rng(6)
    longitude, latitude = rng.uniform(-180, 180, 150), rng.uniform(-90, 90, 150)
    t = 0.1 * np.arange(40)[:, None]
    u = sum(
        np.cos(t * k + np.radians(latitude) * k) * np.sin(np.radians(longitude) + k) for k in (1, 2)
    )
    points = {"lon": ("cell", longitude), "lat": ("cell", latitude)}
    source = xr.Dataset({"u": (("time", "cell"), u.astype("f4"))}, {"time": t[:, 0], **points})
    romzarr.compress(source, path, tolerance=1e-1)


@case
def stream_closed(path: Path) -> None:
    source = waves(120)
    with romzarr.StreamCompressor(path, tolerance=1e-2, commit_steps=40) as stream:
        for start in range(0, 120, 20):
            stream.update(source.isel(time=slice(start, start + 20)))


@case
def stream_open(path: Path) -> None:
    source = waves(60)
    stream = romzarr.StreamCompressor(path, tolerance=1e-2, commit_steps=20)
    for start in range(0, 60, 10):
        stream.update(source.isel(time=slice(start, start + 10)))
    stream.commit()
