"""Tells along which dims there are different things, each of which has a bound of its own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import xarray as xr

from romzarr.archive.archive import Archive
from romzarr.archive.vertical import vertical_among


def separate_dims(archive: Archive, most: int) -> tuple[str, ...]:
    """The vertical and the labelled dims of the variables to be compressed, sorted.

    Labelled ones only where no variable has more than `most` indices of all these: then they are
    points of a field.
    """
    coordinates = {name: archive.carried.variables[name] for name in archive.carried.coords}
    lengths = [dict(zip(v.space_dims, v.space_shape, strict=True)) for v in archive.variables]
    dims = sorted({dim for each in lengths for dim in each})
    vertical = vertical_among(dims, coordinates)
    found = tuple(sorted({*vertical, *labelled_among(dims, coordinates)}))
    counts = [math.prod(each.get(dim, 1) for dim in found) for each in lengths]
    return found if max(counts, default=0) <= most else vertical


def labelled_among(
    dims: Sequence[str], coordinates: Mapping[Hashable, xr.Variable]
) -> tuple[str, ...]:
    """Return those of `dims` whose own coordinate is texts, in their order.

    These name different things, such as series of a table, stations or species, which may have
    other units or scales.

    Parameters
    ----------
    dims : sequence of str
        Of a variable; leave out time.
    coordinates : mapping of names to xarray.Variable
        Those of the dataset, e.g. ``Dataset.coords``' variables.

    Examples
    --------
    >>> labelled_among(("row", "x"), {"row": xr.Variable("row", ["east", "north"])})
    ('row',)
    """
    return tuple(dim for dim in dims if dim in coordinates and _is_text(coordinates[dim]))


def _is_text(coordinate: xr.Variable) -> bool:
    if coordinate.dtype.kind == "O":
        return all(isinstance(each, str) for each in coordinate.values)
    return coordinate.dtype.kind in "UST"
