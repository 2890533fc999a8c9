"""What ``romzarr forecast`` prints and writes."""

from __future__ import annotations

import os
from typing import Any

import xarray as xr

from romzarr.errors import ConfigError
from romzarr.operations.forecast import TRUSTED

SUFFIXES = (".zarr", ".nc")


def check_out(out: str) -> None:
    """Refuse a path that cannot be written.

    Raises
    ------
    ConfigError
        If there is something already, or the suffix is another.
    """
    if not out.endswith(SUFFIXES):
        raise ConfigError(f"--out: found {out!r}; give a path ending in {' or '.join(SUFFIXES)}")
    if os.path.exists(out):
        raise ConfigError(f"--out: {out!r} exists; give a new path")


def write_forecast(found: xr.Dataset, out: str) -> None:
    """Write a forecast to a new Zarr archive or NetCDF file."""
    if out.endswith(".nc"):
        found.to_netcdf(out, engine="h5netcdf")
    else:
        found.to_zarr(out, mode="w-", consolidated=False)


def forecast_facts(found: xr.Dataset) -> dict[str, Any]:
    """The attributes of a forecast, as JSON."""
    return {str(name): value for name, value in found.attrs.items()}


def forecast_text(found: xr.Dataset, until: str) -> str:
    """How long a forecast can be trusted, and how that was measured, in lines."""
    attrs, unit = found.attrs, found.attrs["units"]
    units = "" if unit == "1" else f" {unit}"
    exponent = attrs.get("lyapunov_exponent")

    def length(time: float) -> str:
        lyapunov = "" if exponent is None else f" ({time * exponent:.2g} Lyapunov times)"
        return f"{time:.4g}{units}{lyapunov}"

    last = attrs["trusted_until"]
    shown = last if isinstance(last, str) else f"{last:.6g}"
    trusted = f"{length(attrs['trusted_for'])}, until {shown}"
    lines = [f"forecast to {until}: can be trusted for {trusted}"]
    if exponent is None:
        lines.append("no Lyapunov time: small differences do not surely grow")
    else:
        lines.append(f"Lyapunov time: {1 / exponent:.4g}{units}")
    if "runs_away_at" in attrs:
        lines.append(f"a trajectory runs away at {attrs['runs_away_at']}; leave out --unbounded")
    if "score_length" not in attrs:
        return "\n".join([*lines, "not scored: the record is too short to hold back its end"])

    def passing(name: str) -> str:
        time = attrs.get(name)
        return "did not pass it" if time is None else f"passed it after {length(time)}"

    lines += [
        f"scored on the last {length(attrs['score_length'])} of the record, held back:",
        f"  limit: {TRUSTED:g} of what coordinates vary by; the error "
        f"{passing('score_error_passes')}, the spread {passing('score_spread_passes')}",
        f"  {100 * attrs['score_within_two']:.0f} % of values within two standard deviations",
    ]
    return "\n".join(lines)
