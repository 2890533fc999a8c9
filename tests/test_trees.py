"""Trees of groups: what goes in as a tree comes out as one, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.errors import ArchiveError, ConfigError, PipelineError, StoreError, StoreExistsError
from romzarr.loss import CONTAINER
from romzarr.operations import groups as operations_groups
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


def printed(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_each_group_is_described_in_turn_or_the_one_that_is_asked_for(tmp_path, capsys):
    store = str(tmp_path / "s")
    romzarr.compress(a_tree(), store, tolerance=TOLERANCE)
    stores = romzarr.groups(store)
    assert set(stores) == {"/", *CODED, "/grid"}
    for command in ("info", "equations"):
        found = json.loads(printed(capsys, command, store, "--json"))["groups"]
        assert set(found) == set(stores)
        text = printed(capsys, command, store)
        assert all(f"group {path}\n" in text for path in stores)
        alone = json.loads(printed(capsys, command, store, "--json", "--group", "/air"))
        assert (
            alone == found["/air"] == json.loads(printed(capsys, command, stores["/air"], "--json"))
        )
    out = str(tmp_path / "next.nc")
    printed(capsys, "forecast", store, "--until", "12", "--out", out, "--group", "/air")
    assert xr.open_dataset(out, engine="h5netcdf").t.sizes["x"] == len(X)
    for arguments in (["info", store, "--group", "/sea"], ["forecast", store, "--until", "3"]):
        capsys.readouterr()
        assert main(arguments) == 2
        assert "/ocean/deep" in capsys.readouterr().err
    with pytest.raises(StoreError, match=r"--group NAME.*romzarr\.groups"):
        romzarr.info(store)


def test_the_report_of_a_tree_links_to_a_page_of_each_group(tmp_path, capsys):
    deep = xr.Dataset({"u": (("time", "x"), wave(20))})
    tree = xr.DataTree.from_dict({"/ocean/deep": deep, "/grid": a_tree()["grid"].to_dataset()})
    store, source = tmp_path / "s", saved(tree, tmp_path, "zarr")
    romzarr.compress(source, store, tolerance=TOLERANCE)
    page = tmp_path / "page.html"
    arguments = ["report", str(store), "-o", str(page), "--source", str(source)]
    assert main(arguments) == 0
    linked = re.findall(r'<a href="([^"]+)">([^<]+)</a>', page.read_text())
    assert {group for _, group in linked} == set(romzarr.groups(store))
    own = {group: (tmp_path / name).read_text() for name, group in linked}
    assert "group /ocean/deep" in own["/ocean/deep"]
    # An error over time is drawn only where there is a source to measure it against.
    assert "relative error of each snapshot" in own["/ocean/deep"]
    assert main([*arguments[:3], str(tmp_path / "one.html"), "--group", "/grid"]) == 0
    assert not (tmp_path / "one.grid.html").exists()


@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_a_tree_that_grows_is_appended_to_group_by_group(tmp_path, kind, monkeypatch):
    store = tmp_path / "s"
    romzarr.compress(saved(a_tree(), tmp_path, kind), store, tolerance=TOLERANCE)
    grown = a_tree(50)
    for old in tmp_path.glob("a.*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    source = saved(grown, tmp_path, kind)
    with monkeypatch.context() as patch:
        patch.setattr(
            operations_groups, "write_tree", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        with pytest.raises(OSError, match="full"):
            romzarr.append(store, source)
    # Some groups had grown before the crash: the next append brings up the others.
    report = romzarr.append(store, source)
    assert report.snapshots == 50
    check(grown, xr.open_datatree(store, engine="romzarr"))
    assert romzarr.verify(store, source).ok
    assert len(os.listdir(store)) == 3
    assert romzarr.append(store, source).appended == 0
    compacted = romzarr.compact(store)
    assert compacted.parts < report.parts
    assert compacted.stored_bytes < compacted.bytes_before
    check(grown, xr.open_datatree(store, engine="romzarr"))


def test_a_group_that_was_put_together_by_a_dead_writer_still_opens(tmp_path, monkeypatch):
    store = tmp_path / "s"
    romzarr.compress(a_tree(), store, tolerance=TOLERANCE)
    romzarr.append(store, a_tree(50))
    monkeypatch.setattr(operations_groups, "write_tree", lambda *_: None)
    assert romzarr.compact(store).compacted
    check(a_tree(50), xr.open_datatree(store, engine="romzarr"))


def test_what_is_no_later_state_of_the_tree_is_not_appended(tmp_path):
    store, tree = tmp_path / "s", a_tree()
    romzarr.compress(tree, store, tolerance=TOLERANCE)
    for change, named in (({"/more": xr.Dataset({"a": 1})}, "/more"), ({"/air": None}, "/air")):
        groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree} | change
        other = xr.DataTree.from_dict({p: each for p, each in groups.items() if each is not None})
        with pytest.raises(ArchiveError, match=f"group '{named}' is not as in"):
            romzarr.append(store, other)
    with pytest.raises(StoreError, match="the source is none"):
        romzarr.append(store, tree["ocean"].to_dataset())
    other = a_tree(50)
    other["ocean/deep/u"].values[3, 3] += 5
    with pytest.raises(ArchiveError, match=r"group '/ocean/deep': .*history has changed"):
        romzarr.append(store, other)


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_a_tree_is_decoded_into_an_archive_of_groups(tmp_path, suffix, capsys):
    store, out = tmp_path / "s", tmp_path / f"b.{suffix}"
    romzarr.compress(a_tree(), store, tolerance=TOLERANCE)
    romzarr.reconstruct(store, out)
    options = (
        {"engine": "zarr", "consolidated": False} if suffix == "zarr" else {"engine": "h5netcdf"}
    )
    written = xr.open_datatree(out, **options)
    for node in xr.open_datatree(store, engine="romzarr").subtree:
        found = written[node.path].to_dataset().drop_vars(CONTAINER, errors="ignore")
        xr.testing.assert_equal(found, node.to_dataset())
    with pytest.raises(StoreExistsError):
        romzarr.reconstruct(store, out)
    romzarr.reconstruct(store, out, overwrite=True)
    with pytest.raises(ConfigError, match="one group"):
        romzarr.reconstruct(store, tmp_path / "c.zarr", start=3)
    part = str(tmp_path / f"part.{suffix}")
    arguments = ["reconstruct", str(store), part, "--group", "/air", "--start", "15"]
    assert main(arguments) == 0
    assert xr.open_dataset(part, **options).sizes["time"] == 5


def test_the_archive_of_a_tree_is_never_decoded_over(tmp_path):
    source = saved(a_tree(), tmp_path, "netcdf")
    romzarr.compress(source, tmp_path / "s", tolerance=TOLERANCE)
    with pytest.raises(StoreError, match="made from"):
        romzarr.reconstruct(tmp_path / "s", source, overwrite=True)
    assert romzarr.verify(tmp_path / "s", source).ok


def test_an_estimate_of_a_tree_adds_those_of_its_groups():
    tolerances, tree = [1e-2, 1e-3], a_tree()
    alone = {
        p: tree[p].to_dataset(inherit=False).rename({t: "time"}) for p, (_, t) in CODED.items()
    }
    whole = romzarr.estimate(xr.DataTree.from_dict(alone), tolerances=tolerances)
    own = {p: romzarr.estimate(each, tolerances=tolerances) for p, each in alone.items()}
    assert whole.raw_bytes == sum(each.raw_bytes for each in own.values())
    for number, found in enumerate(whole.estimates):
        estimates = {path: each.estimates[number] for path, each in own.items()}
        # A group records its time dim as a setting, a dataset finds it.
        together = sum(each.stored_bytes for each in estimates.values())
        assert found.stored_bytes == pytest.approx(together, abs=100)
        assert found.compression_ratio == pytest.approx(whole.raw_bytes / found.stored_bytes)
        for path, (name, _) in CODED.items():
            assert found.variables[f"{path}/{name}"] == estimates[path].variables[name]


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
