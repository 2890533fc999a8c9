"""Runs in many files: in time order, checked, and like one file in everything that follows."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import romzarr
from romzarr.archive import open_archive
from romzarr.archive.several import files_of_pattern
from romzarr.errors import ArchiveError, StoreError
from romzarr_flows.cli import main
from tests.oracles import decoded_errors, without_loss
from tests.strategies import chunkings, seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def record(m: int = 60) -> xr.Dataset:
    t, x, y = np.arange(m), np.linspace(0, 3, 20), np.linspace(-1, 1, 8)
    u = np.sin(x - 0.2 * t[:, None, None]) * np.cos(y)[:, None]
    v = np.cos(2 * x + 0.1 * t[:, None, None]) + y[:, None]
    return xr.Dataset(
        {
            "u": (("time", "y", "x"), u.astype("f4"), {"units": "m/s"}),
            "v": (("y", "x", "time"), np.moveaxis(v, 0, -1)),
            "count": ("time", t.astype("i2")),
            "depth": (("y", "x"), np.ones((8, 20))),
        },
        {"time": np.datetime64("2001-01-01", "ns") + t * np.timedelta64(6, "h"), "y": y, "x": x},
        {"title": "a run"},
    )


def written(ds: xr.Dataset, folder: Path, cuts: list[int], suffix: str = ".nc") -> list[Path]:
    """Files whose names do not sort like their times."""
    folder.mkdir()
    edges, paths = [0, *cuts, ds.sizes["time"]], []
    for number, (a, b) in enumerate(pairwise(edges)):
        path = folder / f"run{len(edges) - number}{suffix}"
        part = ds.isel(time=slice(a, b))
        if suffix == ".nc":
            # Each file counts its times from its own beginning.
            start = str(part.time.values[0])[:19].replace("T", " ")
            part.to_netcdf(path, encoding={"time": {"units": f"hours since {start}"}})
        else:
            part.to_zarr(path, consolidated=False)
        paths.append(path)
    return paths


@pytest.mark.parametrize("how", ["glob", "folder", "list", "zarr"])
def test_many_files_are_one_archive(tmp_path, how):
    ds = record()
    paths = written(ds, tmp_path / "out", [7, 30, 31], ".zarr" if how == "zarr" else ".nc")
    source = {"glob": str(tmp_path / "out" / "*.nc"), "folder": tmp_path / "out"}.get(how, paths)
    report = romzarr.compress(source, tmp_path / "s", tolerance=1e-3)
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert max(decoded_errors(ds, decoded).values()) <= 1e-3
    xr.testing.assert_equal(decoded.drop_vars(["u", "v"]).load(), ds.drop_vars(["u", "v"]))
    assert decoded.attrs == ds.attrs
    assert without_loss(decoded.u.attrs) == ds.u.attrs
    one = romzarr.compress(ds, tmp_path / "one", tolerance=1e-3)
    assert report.rank == one.rank
    assert romzarr.verify(tmp_path / "s", source).ok
    with pytest.raises(StoreError):
        romzarr.compress(source, paths[0], overwrite=True)


@given(data=st.data(), seed=seeds)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_cut_gives_the_same_values(data, seed, tmp_path_factory):
    ds = record(24)
    lengths = data.draw(chunkings(24))
    cuts = np.cumsum(lengths)[:-1].tolist()
    paths = written(ds, tmp_path_factory.mktemp("cuts") / "out", cuts)
    order = np.random.default_rng(seed).permutation(len(paths))
    archive = open_archive([paths[k] for k in order])
    for variable in archive.variables:
        assert sum(variable.chunks[variable.time_axis]) == 24
        region = tuple(slice(0, n) for n in variable.shape)
        graph = {"all": variable.source.task(region), **variable.source.graph()}
        (block,) = dask.get(graph, ["all"])
        np.testing.assert_array_equal(block.values, ds[variable.name].values)
    xr.testing.assert_equal(archive.carried.load(), ds.drop_vars(["u", "v"]))


def test_files_that_arrive_are_appended(tmp_path):
    ds = record()
    first, *others = written(ds, tmp_path / "out", [40, 50])
    kept = tmp_path / "later"
    kept.mkdir()
    for path in others:
        path.rename(kept / path.name)
    romzarr.compress(tmp_path / "out", tmp_path / "s", tolerance=1e-2)
    for path in others:
        (kept / path.name).rename(path)
    assert romzarr.append(tmp_path / "s", tmp_path / "out").appended == 20
    assert romzarr.verify(tmp_path / "s", str(tmp_path / "out" / "*.nc")).ok
    assert first.exists()


def test_the_command_line_takes_globs(tmp_path, capsys):
    written(record(), tmp_path / "out", [20])
    pattern = str(tmp_path / "out" / "*.nc")
    assert main(["compress", pattern, str(tmp_path / "s"), "--json"]) == 0
    assert main(["verify", str(tmp_path / "s"), pattern]) == 0
    assert main(["compress", str(tmp_path / "none*.nc"), str(tmp_path / "t")]) == 1
    assert "no file fits this pattern" in capsys.readouterr().err


# --- what is refused, and what is told ------------------------------------------------------


def test_overlaps_are_refused_and_gaps_told(tmp_path, caplog):
    ds = record()
    parts = [ds.isel(time=slice(0, 20)), ds.isel(time=slice(19, 40)), ds.isel(time=slice(45, 60))]
    for number, part in enumerate(parts):
        part.to_netcdf(tmp_path / f"{number}.nc")
    with pytest.raises(ArchiveError, match=r"1\.nc' begins at time .*not after the end of .*0\.nc"):
        open_archive(str(tmp_path / "*.nc"))
    with caplog.at_level(logging.WARNING):
        open_archive([tmp_path / "0.nc", tmp_path / "2.nc"])
    assert "there is a gap" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ds: ds.drop_vars("v"), "'v' is missing"),
        (lambda ds: ds.isel(x=slice(10)), r"'(u|v|x|depth)' is .*x 10"),
        (lambda ds: ds.assign(u=ds.u.astype("f8")), "'u' is <f8"),
        (lambda ds: ds.isel(time=0, drop=True), "has no time dim"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, change, words):
    ds = record()
    ds.isel(time=slice(0, 30)).to_netcdf(tmp_path / "a.nc")
    change(ds.isel(time=slice(30, 60))).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ArchiveError, match=words):
        open_archive([tmp_path / "a.nc", tmp_path / "b.nc"])


def test_numbers_in_names_are_sorted_by_their_values(tmp_path):
    """Where files have no times, their names say the order."""
    ds = record(30).drop_vars(["time", "count"])
    for place, number in enumerate((1, 2, 9, 10, 11)):
        ds.isel(time=slice(6 * place, 6 * place + 6)).to_netcdf(tmp_path / f"run{number}.nc")
    found = files_of_pattern(str(tmp_path), [".nc"])
    assert [Path(each).name for each in found] == [f"run{k}.nc" for k in (1, 2, 9, 10, 11)]
    archive = open_archive(tmp_path)
    graph = {"all": archive.variables[0].source.task((slice(0, 30), slice(0, 8), slice(0, 20)))}
    np.testing.assert_array_equal(dask.get(graph, ["all"])[0].values, ds.u.values)
