"""Equations of the variables of a store that holds a few time series."""

from __future__ import annotations

import os

import numpy as np
import xarray as xr

from romzarr.archive.series import as_series
from romzarr.contracts import LEAST_SAMPLES, Coding
from romzarr.errors import ArchiveError
from romzarr.operations.identify import identify
from romzarr.operations.stretches import stretches
from romzarr.store.reading.reader import CoefficientStore, open_store

# Series of which equations are looked for: more take minutes.
MOST_SERIES = 4


def series_model(store: str | os.PathLike[str]) -> xr.Dataset | None:
    """The differential equations of the series in a store, as `romzarr.identify` finds them.

    The series are decoded, so what coding lost counts as noise. Of records of more than 4000
    samples four stretches of 1000 are looked at. Takes some seconds.

    Returns
    -------
    xarray.Dataset or None
        None if there are more than four series, fewer than two, or nothing can be fitted to them.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged or not understood.
    """
    opened = open_store(store)
    if not 2 <= _count(opened) <= MOST_SERIES or opened.snapshots < LEAST_SAMPLES:
        return None
    names = [n for n, v in opened.variables.items() if v.coding is not Coding.CONSTANT]
    dataset, dim = xr.open_dataset(store, engine="romzarr")[names], str(opened.facts["time"]["dim"])
    try:
        series = [
            as_series(dataset.isel({dim: span}).load(), None, None, dim, str(store))
            for span in stretches(opened.snapshots)
        ]
        model = identify(
            [each.states for each in series],
            [each.times for each in series],
            names=series[0].names,
        )
    except ArchiveError:
        # Points without values, or nothing that a model follows.
        return None
    return model.assign_attrs(units=series[0].units)


def _count(opened: CoefficientStore) -> int:
    shapes = [v.space_shape for v in opened.variables.values() if v.coding is not Coding.CONSTANT]
    return sum(int(np.prod(shape)) for shape in shapes)
