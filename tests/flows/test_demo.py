"""The demonstration from end to end on a coarse flow, and what its picture shows."""

import time

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

pytest.importorskip("matplotlib", reason="romzarr[plot] is not installed")

from PIL import Image

from romzarr.config import Config
from romzarr.operations.field_model import field_model
from romzarr.operations.identified import field_text
from romzarr_flows.demo import run as demo
from romzarr_flows.demo.cylinder import CylinderFlow
from romzarr_flows.demo.picture import LINE_WIDTH, LINES, fitted, singular_values

COARSE = CylinderFlow(reynolds=60.0, cells=6, spin_up=20.0)


def test_the_demo_solves_compresses_verifies_and_draws(tmp_path, capsys, monkeypatch):
    assert demo.run(tmp_path, Config(), flow=COARSE, snapshots=60) == 0
    out = capsys.readouterr().out
    for words in ("POD modes", "keeps its bound", "compression ratio", "cylinder.png"):
        assert words in out
    with Image.open(tmp_path / "cylinder.png") as picture:
        assert picture.size > (1000, 700)
        shades = np.unique(np.asarray(picture.convert("L")))
    assert len(shades) > 50  # neither blank nor black

    def solve_again(*arguments, **keywords):
        raise AssertionError("the flow was computed a second time")

    monkeypatch.setattr(demo, "write_archive", solve_again)
    assert demo.run(tmp_path, Config(), flow=COARSE, snapshots=60) == 0


def test_whoever_watches_is_told_that_work_goes_on(caplog, monkeypatch):
    monkeypatch.setattr(demo, "SILENCE_SECONDS", 0.05)
    caplog.set_level("INFO", logger="romzarr_flows.demo.run")
    with demo.announced("compressing"):
        time.sleep(0.5)
    first, *others = caplog.messages
    assert first == "compressing"
    assert len(others) >= 2
    assert set(others) <= {"compressing, 0 s so far", "compressing, 1 s so far"}


def test_a_flow_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(demo, "SILENCE_SECONDS", 0.0)
    caplog.set_level("INFO", logger="romzarr_flows.demo.run")
    demo.solve(tmp_path / "wake.zarr", CylinderFlow(cells=4, spin_up=2.0), 2)
    assert any(message.startswith("simulating the flow: 50 %") for message in caplog.messages)


def test_the_picture_shows_errors_and_equations_of_the_store(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(demo, "draw", lambda wake, path: drawn.append(wake))
    demo.run(tmp_path, Config(), flow=COARSE, snapshots=60)
    (wake,) = drawn
    given = xr.open_zarr(tmp_path / "cylinder.zarr", consolidated=False)
    found = xr.open_dataset(tmp_path / "cylinder.romzarr", engine="romzarr")
    w, off = (v.v.differentiate("x") - v.u.differentiate("y") for v in (given, found - given))
    expected = float(np.sqrt((off**2).sum() / ((w - w.mean("time")) ** 2).sum()))
    assert_allclose(wake.error, expected, rtol=1e-4)
    assert f"of the vorticity (shown) {expected:.2g}" in wake.title
    printed = field_text(field_model(tmp_path / "cylinder.romzarr")).splitlines()
    assert wake.equations == [line for line in printed if "/dt = " in line] != []
    assert (
        wake.states == ("rotated" if "z1" in wake.equations[0] else "the leading") + " coefficients"
    )


def test_singular_values_are_those_of_the_scaled_archive():
    rng = np.random.default_rng(5)
    u, v = rng.standard_normal((9, 4, 5)), 1e3 * rng.standard_normal((9, 4, 5))
    u[:, 1, 2] = np.nan
    archive = xr.Dataset({"u": (("time", "y", "x"), u), "v": (("time", "y", "x"), v)})
    scaled = []
    for values in (np.nan_to_num(u), v):
        fluctuation = (values - values.mean(axis=0)).reshape(9, -1)
        scaled.append(fluctuation / np.linalg.norm(fluctuation))
    expected = np.linalg.svd(np.hstack(scaled), compute_uv=False)
    assert_allclose(singular_values(archive), expected, atol=1e-7)


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("terms", [1, 12])
def test_equations_fit_their_panel(count, terms):
    equations = [f"a{k}' = " + " + ".join(["1.234 a1 a2"] * terms) for k in range(count)]
    lines = fitted(equations)
    assert len(lines) <= LINES + 1
    assert max(map(len, lines)) <= LINE_WIDTH
    left = sum(line.startswith("a") for line in lines)
    assert left == count or lines[-1] == f"... and {count - left} more: romzarr equations STORE"
