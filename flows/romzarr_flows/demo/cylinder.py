"""Flow past a circular cylinder in two dimensions by a lattice Boltzmann method.

D2Q9 lattice, the incompressible equilibrium of He and Luo [1]_, the two-relaxation-time
collision of Ginzburg [2]_ and full-way bounce-back on the cylinder, in NumPy and float32. At
Re = 100 the wake sheds vortices at a Strouhal number of about 0.17. The solver favours simplicity
over accuracy: the cylinder is a staircase, and the sides are periodic at a distance of 12 D.

References
----------
.. [1] X. He, L.-S. Luo, "Lattice Boltzmann model for the incompressible Navier-Stokes
   equation", J. Stat. Phys. 88 (1997) 927-944, doi:10.1023/B:JOSS.0000015179.12689.e4.
.. [2] I. Ginzburg, F. Verhaeghe, D. d'Humieres, "Two-relaxation-time lattice Boltzmann scheme",
   Commun. Comput. Phys. 3 (2008) 427-478.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr_flows.files import replacing

Field = NDArray[np.float32]

# Velocities (x, y) and weights: rest, then four pairs of opposite directions.
DIRECTIONS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
WEIGHTS = (4 / 9, *(1 / 9,) * 4, *(1 / 36,) * 4)
OPPOSITE = (0, 2, 1, 4, 3, 6, 5, 8, 7)


@dataclass(frozen=True)
class CylinderFlow:
    """The problem and its discretisation. Lengths are in diameters, times in D/U.

    `cells` is the number of lattice cells per diameter, `speed` the inflow in cells per step.
    The archive covers `window` (x from, x to, y from, y to) of the domain.
    """

    reynolds: float = 100.0
    cells: int = 12
    speed: float = 0.1
    upstream: float = 6.0
    downstream: float = 20.0
    height: float = 12.0
    window: tuple[float, float, float, float] = (-2.0, 14.0, -5.0, 5.0)
    spin_up: float = 60.0
    interval: float = 0.3

    @property
    def steps_per_frame(self) -> int:
        return round(self.interval * self.cells / self.speed)

    @property
    def frame_interval(self) -> float:
        """Time between frames in D/U, an integer number of steps."""
        return self.steps_per_frame * self.speed / self.cells

    def coordinates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the cell centres x and y of the domain; the cylinder is at the origin."""
        nx = round((self.upstream + self.downstream) * self.cells)
        ny = round(self.height * self.cells)
        x = (np.arange(nx) + 0.5) / self.cells - self.upstream
        y = (np.arange(ny) + 0.5) / self.cells - self.height / 2
        return x, y

    def window_slices(self) -> tuple[slice, slice]:
        """Return the rows (y) and columns (x) of the domain that the archive keeps."""
        x, y = self.coordinates()
        x0, x1, y0, y1 = self.window
        columns = slice(*np.searchsorted(x, (x0, x1)).tolist())
        return slice(*np.searchsorted(y, (y0, y1)).tolist()), columns


class Lattice:
    """The state of the lattice and its time step.

    Populations are stored as deviations from the weights, which gains three digits in float32.
    Thanks to a ring of ghost cells, streaming is a view and moves no data.
    """

    def __init__(self, flow: CylinderFlow) -> None:
        x, y = flow.coordinates()
        self.shape = (len(y), len(x))
        self.solid = np.hypot(x[None, :], y[:, None]) < 0.5
        self.solid_at = np.nonzero(self.solid)
        viscosity = flow.speed * flow.cells / flow.reynolds
        even_rate = relaxation(viscosity, x, flow)
        # With this product of the two relaxation times (each less a half) a bounce-back wall lies
        # exactly half-way between cells.
        odd_rate = 1 / (0.5 + (3 / 16) / (1 / even_rate - 0.5))
        self.even_rate: Field = even_rate.astype(np.float32)
        self.odd_rate: Field = odd_rate.astype(np.float32)
        self.inflow = equilibrium_at(flow.speed, 0.0)
        self.now = self.start(flow, x, y)
        self.next = self.now.copy()
        self.buffers = np.empty((8, *self.shape), np.float32)

    def start(self, flow: CylinderFlow, x: NDArray[Any], y: NDArray[Any]) -> Field:
        """Make uniform flow with a swirl behind the cylinder, so that shedding starts at once."""
        bump = np.exp(-((x[None, :] - 1.5) ** 2) - y[:, None] ** 2)
        u = np.where(self.solid, 0.0, flow.speed * (1 - bump))
        v = np.where(self.solid, 0.0, 0.6 * flow.speed * bump)
        state = np.zeros((9, self.shape[0] + 2, self.shape[1] + 2), np.float32)
        state[:] = self.inflow[:, None, None]
        state[:, 1:-1, 1:-1] = equilibrium_at(u, v)
        return state

    def arriving(self) -> list[Field]:
        """Return the populations that stream into every cell, as views."""
        rows, columns = self.shape
        return [
            self.now[i, 1 - cy : 1 - cy + rows, 1 - cx : 1 - cx + columns]
            for i, (cx, cy) in enumerate(DIRECTIONS)
        ]

    def fill_ghosts(self) -> None:
        state = self.now
        state[:, :, 0] = self.inflow[:, None]
        state[:, :, -1] = state[:, :, -2]
        state[:, 0] = state[:, -2]
        state[:, -1] = state[:, 1]

    def moments(self, f: list[Field]) -> tuple[Field, Field, Field]:
        """Compute pressure (times 3) and velocity."""
        p, u, v = self.buffers[:3]
        np.subtract(f[5], f[6], out=u)
        np.subtract(f[7], f[8], out=p)
        np.subtract(u, p, out=v)
        u += p
        for i, sign_to in ((1, u), (3, v)):
            sign_to += f[i]
            sign_to -= f[i + 1]
        np.add(f[0], f[1], out=p)
        for population in f[2:]:
            p += population
        return p, u, v

    def step(self) -> None:
        """Stream, collide, bounce back."""
        self.fill_ghosts()
        f = self.arriving()
        p, u, v = self.moments(f)
        rest, along, scratch = self.buffers[3], self.buffers[4], self.buffers[5]
        # rest = p - 1.5 |u|^2, the part of the equilibrium that all directions share.
        np.multiply(u, u, out=rest)
        np.multiply(v, v, out=scratch)
        rest += scratch
        rest *= -1.5
        rest += p
        out = self.next[:, 1:-1, 1:-1]
        self.relax_resting(f[0], rest, out[0])
        for i in (1, 3, 5, 7):
            cx, cy = DIRECTIONS[i]
            if cx and cy:
                (np.add if cy > 0 else np.subtract)(u, v, out=along)
            else:
                np.copyto(along, u if cx else v)
            self.relax_pair(f[i : i + 2], np.float32(WEIGHTS[i]), rest, along, out[i : i + 2])
        for i, opposite in enumerate(OPPOSITE):
            out[i][self.solid_at] = f[opposite][self.solid_at]
        self.now, self.next = self.next, self.now

    def relax_resting(self, f: Field, rest: Field, out: Field) -> None:
        """Collide the population at rest, which has an even part only."""
        np.multiply(rest, np.float32(WEIGHTS[0]), out=out)
        out -= f
        out *= self.even_rate
        out += f

    def relax_pair(
        self, f: list[Field], weight: np.float32, rest: Field, along: Field, out: Field
    ) -> None:
        """Collide two opposite populations; `along` is the velocity in their direction."""
        half, three = np.float32(0.5), np.float32(3)
        scratch, even, odd = self.buffers[5:]
        np.multiply(along, along, out=even)
        even *= np.float32(4.5)
        even += rest
        even *= weight
        np.add(f[0], f[1], out=scratch)
        scratch *= half
        even -= scratch
        even *= self.even_rate
        np.multiply(along, three * weight, out=odd)
        np.subtract(f[0], f[1], out=scratch)
        scratch *= half
        odd -= scratch
        odd *= self.odd_rate
        np.add(even, odd, out=scratch)
        np.add(f[0], scratch, out=out[0])
        even -= odd
        np.add(f[1], even, out=out[1])

    def velocity(self) -> tuple[Field, Field]:
        self.fill_ghosts()
        _, u, v = self.moments(self.arriving())
        return u.copy(), v.copy()


def relaxation(viscosity: float, x: NDArray[Any], flow: CylinderFlow) -> NDArray[np.float64]:
    """Compute the even relaxation rate; the viscosity rises thirtyfold in two sponge layers.

    The layer at the outlet (3 D) absorbs vortices and sound before they are reflected. The one at
    the inlet (2 D) damps the short waves that an equilibrium inflow produces.
    """
    outlet = np.clip((x - (flow.downstream - 3)) / 3, 0, 1)
    inlet = np.clip((2 - flow.upstream - x) / 2, 0, 1)
    return np.asarray(1 / (0.5 + 3 * viscosity * (1 + 30 * (outlet**2 + inlet**2))))


def equilibrium_at(u: Any, v: Any) -> Field:
    """Compute the populations (deviations from the weights) at reference pressure and u, v."""
    square = 1.5 * (np.square(u) + np.square(v))
    populations = []
    for (cx, cy), weight in zip(DIRECTIONS, WEIGHTS, strict=True):
        along = cx * np.asarray(u) + cy * np.asarray(v)
        populations.append(weight * (3 * along + 4.5 * along**2 - square))
    return np.asarray(populations, np.float32)


def frames(
    flow: CylinderFlow, snapshots: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Field, Field]]:
    """Yield the velocity u, v in the window for each frame, in units of U, NaN in the cylinder.

    `progress` is called after every lattice step with the steps done and their total number.
    """
    lattice = Lattice(flow)
    spin_up = round(flow.spin_up * flow.cells / flow.speed)
    total = spin_up + snapshots * flow.steps_per_frame
    steps = count(1)

    def advance(number: int) -> None:
        for done in islice(steps, number):
            lattice.step()
            if progress:
                progress(done, total)

    advance(spin_up)
    window = flow.window_slices()
    solid = lattice.solid[window]
    for _ in range(snapshots):
        advance(flow.steps_per_frame)
        u, v = (np.where(solid, np.nan, each[window] / flow.speed) for each in lattice.velocity())
        yield u.astype(np.float32), v.astype(np.float32)


def template(flow: CylinderFlow, snapshots: int, block: int) -> xr.Dataset:
    """Make the archive's dims, coordinates and attributes, without values."""
    x, y = flow.coordinates()
    rows, columns = flow.window_slices()
    x, y = x[columns], y[rows]
    time = flow.frame_interval * np.arange(snapshots)
    values = da.zeros((snapshots, len(y), len(x)), chunks=(block, -1, -1), dtype=np.float32)
    dims = ("time", "y", "x")
    return xr.Dataset(
        {
            "u": (dims, values, {"long_name": "streamwise velocity", "units": "U"}),
            "v": (dims, values, {"long_name": "transverse velocity", "units": "U"}),
        },
        {
            "time": ("time", time, {"long_name": "time", "units": "D/U"}),
            "y": ("y", y, {"long_name": "height above the axis", "units": "D"}),
            "x": ("x", x, {"long_name": "distance behind the cylinder's centre", "units": "D"}),
        },
        {
            "title": f"Flow past a circular cylinder at Re = {flow.reynolds:g}",
            "source": "romzarr demo: lattice Boltzmann, D2Q9, "
            f"{flow.cells} cells per diameter, {flow.steps_per_frame} steps per frame",
        },
    )


def write_archive(
    path: Path,
    flow: CylinderFlow | None = None,
    *,
    snapshots: int = 240,
    block: int = 30,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Simulate the flow and write it as a Zarr archive with `block` snapshots per chunk.

    Memory holds one block, regardless of the length of the record. `path` appears when the
    archive is complete.

    Parameters
    ----------
    path : Path
        The archive to write; replaced if it exists.
    flow : CylinderFlow, optional
        The problem; by default Re = 100, with some 12 shedding periods in 240 snapshots.
    progress : callable, optional
        Called after each lattice step with the steps done and their total number.
    """
    flow = flow or CylinderFlow()
    pattern = template(flow, snapshots, block)
    source = frames(flow, snapshots, progress)
    with replacing(path) as unfinished:
        pattern.to_zarr(unfinished, compute=False, consolidated=False)
        for start in range(0, snapshots, block):
            pairs = list(islice(source, min(block, snapshots - start)))
            u, v = (np.stack(each) for each in zip(*pairs, strict=True))
            part = xr.Dataset({"u": (("time", "y", "x"), u), "v": (("time", "y", "x"), v)})
            region = {"time": slice(start, start + len(u))}
            part.to_zarr(unfinished, region=region, consolidated=False)
