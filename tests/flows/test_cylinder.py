"""The demonstration's solver against what is known of viscous flow and of the wake."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from romzarr_flows.demo.cylinder import CylinderFlow, Lattice, equilibrium_at, frames, write_archive

COARSE = CylinderFlow(cells=8)
TINY = CylinderFlow(cells=4, spin_up=1.0)


def test_a_shear_wave_decays_at_the_rate_of_its_viscosity():
    flow = CylinderFlow(cells=4, height=4.0, reynolds=8.0, downstream=20.0)
    lattice = Lattice(flow)
    rows, columns = lattice.shape
    wave = 0.01 * np.sin(2 * np.pi * np.arange(rows) / rows)
    lattice.solid_at = (np.empty(0, int), np.empty(0, int))
    lattice.inflow = equilibrium_at(0.0, 0.0)
    lattice.now[:, 1:-1, 1:-1] = equilibrium_at(
        np.repeat(wave[:, None], columns, 1), np.zeros(lattice.shape)
    )
    steps, middle = 40, columns // 2  # the ends, one cell a step away, have not been heard of
    for _ in range(steps):
        lattice.step()
    u, v = lattice.velocity()
    viscosity = flow.speed * flow.cells / flow.reynolds
    # One more half a step: velocity() streams the populations once before it sums them.
    expected = wave * np.exp(-viscosity * (2 * np.pi / rows) ** 2 * (steps + 0.5))
    assert_allclose(u[:, middle], expected, atol=0.02 * abs(expected).max())
    assert_allclose(v[:, middle], 0, atol=1e-6)


def test_the_wake_sheds_at_the_known_frequency():
    snapshots = 100
    series = [float(v[40, 40]) for _, v in frames(COARSE, snapshots)]
    spectrum = np.abs(np.fft.rfft(np.asarray(series) * np.hanning(snapshots), 16 * snapshots))
    frequency = np.fft.rfftfreq(16 * snapshots, COARSE.frame_interval)
    # Williamson (1988): 0.164 in open flow at Re = 100; sides 12 D apart raise it a little.
    assert 0.155 < frequency[spectrum.argmax()] < 0.185
    assert np.std(series[-50:]) > 0.2


def test_the_archive_has_a_fixed_mask_units_and_the_asked_chunks(tmp_path):
    path = tmp_path / "cylinder.zarr"
    calls = []
    write_archive(path, TINY, snapshots=7, block=3, progress=lambda *done: calls.append(done))
    archive = xr.open_zarr(path, consolidated=False)
    assert archive.u.encoding["chunks"] == (3, *archive.u.shape[1:])
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert {total for _, total in calls} == {len(calls)}
    inside = np.hypot(archive.x, archive.y).values.T < 0.5
    for name in ("u", "v"):
        assert archive[name].dtype == np.float32
        assert archive[name].attrs["units"] == "U"
        assert (np.isnan(archive[name].values) == inside).all()
    assert_allclose(np.diff(archive.time), TINY.frame_interval)
    assert [archive[each].attrs["units"] for each in ("time", "x", "y")] == ["D/U", "D", "D"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "cylinder.zarr", TINY, snapshots=2, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
