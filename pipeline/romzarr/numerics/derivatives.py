"""First derivatives in space of fields with gaps, and sums of them such as a vorticity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from romzarr.contracts import Derivative, Matrix, Region


def with_neighbours(region: Region, axes: frozenset[int], shape: tuple[int, ...]) -> Region:
    """A region with one more point on either side along some axes, where there is one.

    >>> with_neighbours((slice(0, 2), slice(3, 5)), frozenset({0, 1}), (9, 5))
    (slice(0, 3, None), slice(2, 5, None))
    """
    return tuple(
        slice(max(part.start - 1, 0), min(part.stop + 1, size)) if axis in axes else part
        for axis, (part, size) in enumerate(zip(region, shape, strict=True))
    )


def derivative_of(derivative: Derivative, fields: Mapping[str, Matrix], region: Region) -> Matrix:
    """A derivative of fields that fill a `region` of their variables, NaN where there are gaps.

    Slopes are central differences of second order by the coordinate, one-sided at the ends of the
    region, as in `numpy.gradient` and `xarray.Dataset.differentiate`. Fields are NaN in gaps; a
    point with a gap, or beside one along an axis, has no derivative.
    """
    cosines = _part(derivative.cosines, region)
    total: Matrix = np.zeros(())
    for slope in derivative.slopes:
        field = fields[slope.variable]
        values = field * cosines if slope.weighted else field
        coordinate = slope.coordinate[region[slope.axis]]
        found = np.gradient(values, coordinate, axis=slope.axis)
        # Central differences at even distances do not ask for the value of the point itself.
        total = total + slope.sign * np.where(np.isnan(field), np.nan, found)
    return np.asarray(total / np.where(cosines > 0, cosines, np.nan))


def _part(cosines: Matrix | None, region: Region) -> Matrix:
    """Cosines in a region; 1 without any."""
    if cosines is None:
        return np.ones(())
    axes = zip(cosines.shape, region, strict=True)
    return cosines[tuple(slice(None) if size == 1 else each for size, each in axes)]
