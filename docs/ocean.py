"""A small ocean for the documentation: computed in seconds, the same on every machine.

Eddies of an equivalent-barotropic, quasi-geostrophic flow on a beta plane, stirred at random and
damped, carry heat across a meridional gradient of temperature, over which the seasons pass. It is
no model of any ocean; it has what archives of oceans and atmospheres have: turbulence, a seasonal
cycle, an annual mean that dwarfs both, land, latitudes, dates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

DEGREE = 111e3  # metres
GRAVITY, CORIOLIS, BETA = 9.81, 1e-4, 1.7e-11
RADIUS = 60e3  # of deformation, metres
DAY = 86400.0
STEPS_A_DAY = 6


def archive() -> Path:
    """Path of the NetCDF file; computed when it is first asked for."""
    path = Path(os.environ.get("ROMZARR_DOCS_ARCHIVES", ".")) / "ocean.nc"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset().to_netcdf(path, engine="h5netcdf")
    return path


def dataset(days: int = 500, rows: int = 48, columns: int = 64) -> xr.Dataset:
    """Daily sea level and sea-surface temperature, half a degree apart; NaN on land."""
    latitude = 30.25 + 0.5 * np.arange(rows)
    longitude = 150.25 + 0.5 * np.arange(columns)
    time = np.arange(
        "2001-01-01", np.timedelta64(days, "D") + np.datetime64("2001-01-01"), dtype="M8[D]"
    )
    level, warmth = (np.stack(each) for each in zip(*eddies(days, rows, columns), strict=True))
    season = np.cos(2 * np.pi * (np.arange(days) - 227) / 365.25)[:, None, None]
    north = (latitude - latitude[0])[None, :, None]
    temperature = 24 - 0.55 * north + (3 + 0.08 * north) * season + warmth
    land = np.hypot((longitude - 159) / 3, (latitude[:, None] - 44) / 4) < 1
    dims = ("time", "latitude", "longitude")
    found = xr.Dataset(
        {
            "zos": (dims, level, {"long_name": "sea level", "units": "m"}),
            "sst": (dims, temperature, {"long_name": "sea-surface temperature", "units": "degC"}),
        },
        {"time": time.astype("M8[ns]"), "latitude": latitude, "longitude": longitude},
        {"title": "A small quasi-geostrophic ocean"},
    )
    found.latitude.attrs["units"], found.longitude.attrs["units"] = "degrees_north", "degrees_east"
    return found.where(~xr.DataArray(land, dims=dims[1:])).astype(np.float32)


def eddies(days: int, rows: int, columns: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sea level (m) and the temperature (K) that eddies carry, a pair a day."""
    rng = np.random.default_rng(11)
    size = 0.5 * DEGREE
    k = 2 * np.pi * np.fft.rfftfreq(columns, size)[None, :]
    l = 2 * np.pi * np.fft.fftfreq(rows, size)[:, None]  # noqa: E741  the field's own name
    square = k**2 + l**2
    inverse = -1 / (square + RADIUS**-2)
    resolved = (abs(k) < 2 / 3 * abs(k).max()) & (abs(l) < 2 / 3 * abs(l).max())
    # Stirring on scales of about 400 km; a filter in place of small-scale mixing.
    scale = np.sqrt(square) * 400e3 / (2 * np.pi)
    stirred = np.exp(-(((scale - 1) / 0.35) ** 2)) * resolved
    smooth = np.exp(-36 * (square / square[resolved].max()) ** 4) * resolved
    step, drag, damping = DAY / STEPS_A_DAY, 1 / (60 * DAY), 1 / (90 * DAY)

    def values(spectrum: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(spectrum, (rows, columns))

    def tendency(q: np.ndarray, t: np.ndarray, force: np.ndarray) -> np.ndarray:
        psi = inverse * q
        u, v = values(-1j * l * psi), values(1j * k * psi)

        def carried(field: np.ndarray) -> np.ndarray:
            flux = 1j * k * np.fft.rfft2(u * values(field)) + 1j * l * np.fft.rfft2(
                v * values(field)
            )
            return -flux * resolved

        northward = np.fft.rfft2(v)
        return np.stack(
            [
                carried(q) - BETA * northward + drag * square * psi + force,
                carried(t) + 0.55 / DEGREE * northward - damping * t,
            ]
        )

    state = np.zeros((2, rows, columns // 2 + 1), complex)
    force, before = np.zeros_like(state[0]), None
    for number in range(STEPS_A_DAY * (days + 200)):
        noise = stirred * np.fft.rfft2(rng.standard_normal((rows, columns)))
        force = 0.97 * force + np.sqrt(1 - 0.97**2) * 2.2e-11 * noise
        now = tendency(*state, force)
        state = smooth * (state + step * (now if before is None else 1.5 * now - 0.5 * before))
        before = now
        if number % STEPS_A_DAY == 0 and number >= STEPS_A_DAY * 200:
            yield CORIOLIS / GRAVITY * values(inverse * state[0]), values(state[1])
