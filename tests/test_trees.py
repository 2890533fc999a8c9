"""Trees of groups: what goes in as a tree comes out as one, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import ArchiveError, ConfigError, PipelineError, StoreError, StoreExistsError
from romzarr.operations import trees
from romzarr.store.trees import MARKER
from romzarr_flows.cli import main

TOLERANCE, X = 1e-3, np.linspace(0, 6, 40)


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def wave(m: int, phase: float = 0.0) -> np.ndarray:
    return np.sin(X - 0.2 * np.arange(m)[:, None] + phase) + 0.2 * np.cos(2 * X + phase)


def a_tree(m: int = 30) -> xr.DataTree:
    """Groups with times of their own, inherited ones, no time, and nothing but attributes."""
    day = np.datetime64("2001-01-01", "ns") + np.arange(m) * np.timedelta64(1, "D")
    ocean = xr.Dataset({"u": (("day", "x"), wave(m)), "depth": ("x", X)}, {"x": X}, {"rank": 1})
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords={"day": day}, attrs={"title": "a run"}),
            "/ocean": ocean,
            "/ocean/deep": xr.Dataset({"u": (("day", "x"), wave(m, 1).astype("f4"))}),
            "/air": xr.Dataset({"t": (("time", "x"), wave(20, 2))}, {"time": np.arange(20) * 0.5}),
            "/notes": xr.Dataset(attrs={"author": "somebody"}),
            "/grid": xr.Dataset({"area": (("y", "z"), np.outer(X, X)), "cells": 1600}),
        }
    )


CODED = {"/ocean": ("u", "day"), "/ocean/deep": ("u", "day"), "/air": ("t", "time")}


def saved(tree: xr.DataTree, folder: Path, kind: str) -> xr.DataTree | Path:
    if kind == "zarr":
        tree.to_zarr(folder / "a.zarr", consolidated=False)
        return folder / "a.zarr"
    if kind == "netcdf":
        tree.to_netcdf(folder / "a.nc", engine="h5netcdf")
        return folder / "a.nc"
    return tree


def check(tree: xr.DataTree, decoded: xr.DataTree) -> None:
    """The same form; each coded variable within its bound, all else exactly the same."""
    assert {node.path for node in decoded.subtree} == {node.path for node in tree.subtree}
    for node in tree.subtree:
        found, name, time = decoded[node.path], *CODED.get(node.path, ("area", None))
        true = node.to_dataset().drop_vars(name, errors="ignore")
        xr.testing.assert_equal(found.to_dataset().drop_vars(name, errors="ignore").load(), true)
        assert found.attrs == node.attrs
        if name in node.data_vars:
            assert (found[name].dims, found[name].dtype) == (node[name].dims, node[name].dtype)
            about = node[name] - node[name].mean(time)
            off = np.linalg.norm(found[name].astype("f8") - node[name].astype("f8"))
            assert off <= TOLERANCE * np.linalg.norm(about)


@pytest.mark.parametrize("kind", ["memory", "zarr", "netcdf"])
def test_a_tree_comes_back_within_its_bounds(tmp_path, kind):
    tree, store = a_tree(), tmp_path / "s"
    source = saved(tree, tmp_path, kind)
    report = romzarr.compress(source, store, tolerance=TOLERANCE)
    check(tree, xr.open_datatree(store, engine="romzarr", chunks={}))
    names = {"/ocean/u", "/ocean/deep/u", "/air/t", "/grid/area"}
    assert set(report.relative_l2_error) == names
    on_disk = sum(len(f.read_bytes()) for f in store.rglob("*") if f.is_file())
    assert report.stored_bytes == pytest.approx(on_disk, rel=0.05, abs=3000)
    found = romzarr.verify(store, source)
    assert found.ok
    assert set(found.relative_l2_error) == names
    assert xr.open_groups(store)["/air"].t.shape == (20, len(X))


def test_verify_names_the_group_that_differs(tmp_path):
    tree, store = a_tree(), tmp_path / "s"
    romzarr.compress(tree, store, tolerance=TOLERANCE)
    other = tree.copy(deep=True)
    other["ocean/deep/u"].values[3, 3] += 5
    del other["notes"]
    found = romzarr.verify(store, other)
    assert not found.ok
    assert any("group '/ocean/deep': variable 'u'" in each for each in found.problems)
    assert "group '/notes' is not in the source" in found.problems
    with pytest.raises(StoreError, match="the source is none"):
        romzarr.verify(store, tree["ocean"].to_dataset())


def test_nothing_of_a_tree_appears_before_all_of_it(tmp_path, monkeypatch):
    store, tree = tmp_path / "s", a_tree()
    broken = a_tree()
    broken["air"].coords["time"] = np.zeros(20)
    with pytest.raises(ArchiveError, match="/air"):
        romzarr.compress(broken, store)
    assert not store.exists()
    romzarr.compress(tree, store, tolerance=TOLERANCE)
    before = sorted(os.walk(store))
    monkeypatch.setattr(trees, "write_tree", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        romzarr.compress(a_tree(40), store, tolerance=TOLERANCE, overwrite=True)
    assert sorted(os.walk(store)) == before
    check(tree, xr.open_datatree(store, engine="romzarr"))


def test_a_tree_that_is_replaced_stays_readable(tmp_path):
    store = tmp_path / "s"
    romzarr.compress(a_tree(), store, tolerance=TOLERANCE)
    opened = xr.open_datatree(store, engine="romzarr", chunks={})
    with pytest.raises(StoreExistsError):
        romzarr.compress(a_tree(40), store)
    for m in (40, 50):
        romzarr.compress(a_tree(m), store, tolerance=TOLERANCE, overwrite=True)
        check(a_tree(m), xr.open_datatree(store, engine="romzarr"))
        if m == 40:
            check(a_tree(), opened)
    # The tree now, and the one before.
    assert len(os.listdir(store)) == 3


def test_what_is_no_tree_is_never_replaced_by_one(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreExistsError, match=r"thesis\.tex"):
        romzarr.compress(a_tree(), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_other_operations_say_what_to_do(tmp_path, capsys):
    store = tmp_path / "s"
    romzarr.compress(a_tree(), store, tolerance=TOLERANCE)
    for command in (["info", str(store)], ["reconstruct", str(store), str(tmp_path / "b.zarr")]):
        assert main(command) != 0
        assert "open_datatree" in capsys.readouterr().err
    place = next(each for each in store.glob("*/1"))
    assert main(["info", str(place)]) == 0


def test_settings_that_name_variables(tmp_path):
    tree, store = a_tree(), tmp_path / "s"
    report = romzarr.compress(tree, store, tolerance=TOLERANCE, max_error={"u": 1e-3})
    decoded = xr.open_datatree(store, engine="romzarr")
    for path in ("ocean/u", "ocean/deep/u"):
        off = np.abs(decoded[path].values.astype("f8") - tree[path].values.astype("f8"))
        assert off.max() <= 1e-3
    assert set(report.max_error) == {"/ocean/u", "/ocean/deep/u"}
    for settings in ({"max_error": {"q": 1.0}}, {"variables": ["u"]}):
        with pytest.raises(ConfigError, match="group"):
            romzarr.compress(tree, store, overwrite=True, **settings)


def forged(marker: Path, change: str) -> None:
    document = json.loads(marker.read_text())
    ocean = next(each for each in document["groups"] if each["path"] == "/ocean")
    if change == "path":
        ocean["path"] = "/../../ocean"
    elif change == "store":
        ocean["store"] = "../" + ocean["store"]
    elif change == "text":
        marker.write_text("{")
        return
    marker.write_text(json.dumps(document))


@pytest.mark.parametrize("change", ["path", "store", "text"])
def test_a_list_of_groups_that_was_changed_is_refused(tmp_path, change):
    romzarr.compress(a_tree(), tmp_path / "s", tolerance=TOLERANCE)
    forged(tmp_path / "s" / MARKER, change)
    with pytest.raises(PipelineError, match=MARKER):
        xr.open_datatree(tmp_path / "s", engine="romzarr")


def test_stores_of_groups_cannot_change_places(tmp_path):
    romzarr.compress(a_tree(), tmp_path / "s", tolerance=TOLERANCE)
    one, other = (next((tmp_path / "s").glob(f"*/{n}")) for n in (1, 2))
    shutil.move(one, tmp_path / "aside")
    shutil.move(other, one)
    shutil.move(tmp_path / "aside", other)
    with pytest.raises(StoreError, match="is not the store of the group"):
        xr.open_datatree(tmp_path / "s", engine="romzarr")


def test_dims_with_bounds_of_their_own_may_be_in_some_groups_only(tmp_path):
    levels = np.stack([wave(30), 1e-3 * wave(30, 1)], axis=1)
    tree = xr.DataTree.from_dict(
        {
            "/deep": xr.Dataset({"u": (("time", "member", "x"), levels)}),
            "/flat": xr.Dataset({"v": (("time", "x"), wave(30))}),
        }
    )
    per = {"compression.per": ["member"]}
    report = romzarr.compress(tree, tmp_path / "s", tolerance=TOLERANCE, config=per)
    assert report.variables["/deep/u"].bounded_by == ("member",)
    assert report.variables["/flat/v"].bounded_by == ()
    with pytest.raises(ConfigError, match="no group has a dim 'level'"):
        romzarr.compress(tree, tmp_path / "t", config={"compression.per": ["level"]})
