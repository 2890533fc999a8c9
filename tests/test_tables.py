"""Tables of named series: one variable, whose rows are labelled and have bounds of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import romzarr
from romzarr.archive.separate import labelled_among, separate_dims
from romzarr.errors import ArchiveError
from romzarr_flows.cli import main
from tests.systems_of_odes import LOTKA_VOLTERRA

TOLERANCE = 1e-2
NAMES = ["temperature", "pressure", "humidity", "still", "flux"]


def measured(steps: int) -> pd.DataFrame:
    """Series of very different sizes: some fluctuate ten million times as much as others."""
    t, noise = 0.05 * np.arange(steps), np.random.default_rng(0).standard_normal(steps)
    series = [
        290 + 5 * np.sin(t) + 0.01 * noise,
        1e5 + 800 * np.cos(0.7 * t) + noise,
        1e-3 + 1e-4 * np.sin(2 * t) * np.cos(0.3 * t),
        0 * t + 3,
        50 * np.sin(0.4 * t) * np.sin(t),
    ]
    return pd.DataFrame(dict(zip(NAMES, series, strict=True)), index=pd.Index(t, name="time"))


def errors(found: xr.DataArray, source: pd.DataFrame) -> np.ndarray:
    """Of each series, relative to its own fluctuation; an oracle of pandas and NumPy."""
    lost = found.transpose("time", "row").values - source.values
    about = source.values - source.values.mean(axis=0)
    return np.sqrt((lost**2).sum(axis=0) / np.maximum((about**2).sum(axis=0), 1e-300))


@pytest.mark.parametrize("turned", [False, True])
def test_a_table_is_one_variable_and_every_series_has_the_bound(turned, tmp_path):
    source, path, store = measured(400), tmp_path / "a.csv", tmp_path / "s"
    first = source.iloc[:300]
    (first.T if turned else first).to_csv(path)
    romzarr.compress(path, store, tolerance=TOLERANCE)
    (source.T if turned else source).to_csv(path)
    romzarr.append(store, path)
    found = xr.open_dataset(store, engine="romzarr")
    assert list(found.data_vars) == ["x"]
    assert found.row.values.tolist() == NAMES
    assert (errors(found.x, source) <= TOLERANCE).all()
    assert found.x.sel(row="still").values.tolist() == [3] * 400
    report = romzarr.verify(store, path)
    assert report.ok
    labels = report.by_index["x"]["row"].labels
    assert all(name in label for name, label in zip(NAMES, labels, strict=True))
    romzarr.reconstruct(store, tmp_path / "again.nc")
    again = xr.open_dataset(tmp_path / "again.nc")
    xr.testing.assert_equal(again.x.sel(row="flux"), found.x.sel(row="flux"))


def test_one_bound_for_all_series_would_ruin_small_ones(tmp_path):
    """What the bounds of rows are for: they are there by default, and can be left out."""
    measured(300).to_csv(tmp_path / "a.csv")
    config = romzarr.load_config(overrides={"compression.per": "none"})
    romzarr.compress(tmp_path / "a.csv", tmp_path / "s", tolerance=TOLERANCE, config=config)
    found = xr.open_dataset(tmp_path / "s", engine="romzarr")
    assert errors(found.x, measured(300)).max() > 10 * TOLERANCE


def test_series_can_be_variables_with_bounds_of_their_own(tmp_path):
    source, path, store = measured(300), tmp_path / "a.csv", tmp_path / "s"
    source.iloc[:200].to_csv(path)
    command = ["compress", str(path), str(store), "--series", "each", "--variables", "hum*,temp*"]
    assert main([*command, "--max-error", "humidity=1e-6,temperature=0.1"]) == 0
    source.to_csv(path)
    assert main(["append", str(store), str(path)]) == 0
    found = xr.open_dataset(store, engine="romzarr")
    assert set(found.data_vars) == {"humidity", "temperature"}
    for name, bound in {"humidity": 1e-6, "temperature": 0.1}.items():
        assert np.abs(found[name].values - source[name].values).max() <= bound


@pytest.mark.parametrize("names", [NAMES[::-1], ["renamed", *NAMES[1:]]])
def test_series_with_other_labels_or_in_another_order_are_not_appended(names, tmp_path):
    source, store = measured(300), tmp_path / "s"
    source.iloc[:200].to_csv(tmp_path / "a.csv")
    romzarr.compress(tmp_path / "a.csv", store)
    source.set_axis(names, axis=1).to_csv(tmp_path / "b.csv")
    with pytest.raises(ArchiveError, match=rf"row\[0\] is {names[0]!r}, and 'temperature' in"):
        romzarr.append(store, tmp_path / "b.csv")


def test_equations_are_in_the_names_of_the_series(tmp_path, capsys):
    times, states = LOTKA_VOLTERRA.record(400, step=0.05)
    path, store = tmp_path / "a.csv", tmp_path / "s"
    frame = pd.DataFrame(states, index=pd.Index(times, name="year"), columns=["hares", "lynxes"])
    frame.to_csv(path)
    romzarr.compress(path, store, tolerance=1e-3)
    for command in (["identify", str(path)], ["equations", str(store)]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "dhares/dt = " in out
        assert "hares*lynxes" in out


def test_labels_cost_a_table_less_than_half_of_its_ratio(tmp_path):
    """Many like series of few modes, where bounds on each of them are most of the store."""
    rng, t = np.random.default_rng(1), np.arange(1000)
    modes = np.stack([np.sin(0.05 * t), np.cos(0.05 * t), np.sin(0.11 * t)])
    values = rng.standard_normal((200, 3)) @ modes + 1e-3 * rng.standard_normal((200, 1000))
    ratios = []
    for labels in (None, [f"sensor_{k}" for k in range(200)]):
        path = tmp_path / "a.csv"
        pd.DataFrame(values, index=labels).to_csv(path, header=False, index=labels is not None)
        report = romzarr.compress(path, tmp_path / "s", overwrite=True)
        ratios.append(report.compression_ratio)
    assert ratios[1] >= ratios[0] / 2


def test_labelled_dims_of_any_archive_have_bounds_of_their_own(tmp_path):
    t, x = np.arange(60), np.arange(20)
    wave = np.sin(0.2 * t[:, None] - 0.3 * x)
    species = xr.DataArray(["O3", "NO2"], dims="species")
    u = np.stack([wave, 1e-4 * wave[::-1] ** 3], axis=1)
    source = xr.Dataset({"u": (("time", "species", "x"), u)}, {"species": species})
    romzarr.compress(source, tmp_path / "s", tolerance=TOLERANCE)
    found = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    lost = np.sqrt(((found - source.u) ** 2).sum(["time", "x"]))
    about = np.sqrt(((source.u - source.u.mean("time")) ** 2).sum(["time", "x"]))
    assert (lost <= TOLERANCE * about).all()


def test_only_texts_are_labels_and_too_many_are_points():
    coords = {
        "a": xr.Variable("a", np.array(["p", "q"], object)),
        "b": xr.Variable("b", [1.0, 2.0]),
        "c": xr.Variable("c", np.array([b"p", b"q"])),
    }
    assert labelled_among(("a", "b", "c", "d"), coords) == ("a", "c")
    many = xr.Dataset(
        {"u": (("time", "station", "lev"), np.zeros((5, 30, 4)))},
        {"station": [f"s{k}" for k in range(30)]},
    )
    archive = romzarr.archive.open_archive(many)
    assert separate_dims(archive, 120) == ("lev", "station")
    assert separate_dims(archive, 119) == ("lev",)
