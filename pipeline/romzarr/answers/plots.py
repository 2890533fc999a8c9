"""Plots of what a store answers, by xarray: Matplotlib is imported when one is asked for."""

from __future__ import annotations

from typing import Any, Protocol

import xarray as xr


class Source(Protocol):
    """What has modes, coefficients and averages, as `romzarr.answers.accessor.Answers`."""

    @property
    def modes(self) -> xr.Dataset: ...

    @property
    def coefficients(self) -> xr.DataArray: ...

    @property
    def singular_values(self) -> xr.DataArray: ...

    def average(self) -> xr.Dataset: ...

    def spectrum_of_average(self) -> xr.Dataset: ...


class Plots:
    """Plots of a selection; each method returns what xarray's does, and takes its keywords.

    All of them raise ImportError without Matplotlib, the extra ``plot``.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def modes(self, variable: str, count: int = 4, **options: Any) -> Any:
        """The leading modes of a variable: maps, or lines over one dim."""
        modes = self._source.modes[variable].isel(mode=slice(count))
        if modes.ndim == 2:
            return modes.plot.line(**{"hue": "mode", **options})
        return modes.plot(**{"col": "mode", "col_wrap": min(count, 2), **options})

    def coefficients(self, count: int = 4, **options: Any) -> Any:
        """The leading coefficients over time."""
        found = self._source.coefficients.isel(mode=slice(count))
        return found.plot.line(**{"hue": "mode", **options})

    def singular_values(self, **options: Any) -> Any:
        """All singular values, on a logarithmic scale."""
        return self._source.singular_values.plot(**{"marker": "o", "yscale": "log", **options})

    def average(self, variable: str, **options: Any) -> Any:
        """The average over space of a variable over time, and the band that the truth is in."""
        found = self._source.average()
        series, bound = found[variable], float(found[f"{variable}_bound"])
        lines = series.plot(**options)
        times = series[series.dims[0]]
        lines[0].axes.fill_between(times, series - bound, series + bound, alpha=0.3)
        return lines

    def spectrum_of_average(self, variable: str, **options: Any) -> Any:
        """The power spectrum of the average over space, without the frequency 0."""
        found = self._source.spectrum_of_average()[variable].isel(frequency=slice(1, None))
        return found.plot(**{"xscale": "log", "yscale": "log", **options})
