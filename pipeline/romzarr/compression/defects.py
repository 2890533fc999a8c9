"""What is wrong with data that cannot be compressed as it is, and where."""

from __future__ import annotations

import numpy as np

from romzarr.archive import Archive
from romzarr.archive.time_axis import shown_time
from romzarr.contracts import Region
from romzarr.errors import ArchiveError, GapsError
from romzarr.numerics.pod.factors import Defect


def defect_error(archive: Archive, number: int, region: Region, defect: Defect) -> ArchiveError:
    """Say where variable `number` cannot be compressed; the defect is in a `region` of space."""
    variable = archive.variables[number]
    shape = tuple(part.stop - part.start for part in region)
    within = np.unravel_index(defect.point, shape) if shape else ()
    orders = {order.dim: order.positions for order in archive.orders}
    numbers = [int(i) + part.start for i, part in zip(within, region, strict=True)]
    place = ", ".join(
        f"{dim}={orders[dim][i] if dim in orders else i}"
        for dim, i in zip(variable.space_dims, numbers, strict=True)
    )
    where = f"{archive.name}: variable {variable.name!r} at {_when(archive, defect.time)}"
    where += f", {place}" if place else ""
    if defect.kind == "scale":
        return ArchiveError(
            f"{where}: found fluctuations that cannot be squared in float64, allowed are about "
            f"1e-140 to 1e140; multiply the variable by a power of ten, or use tolerance 0"
        )
    return GapsError(f"{where}: {_FOUND[defect.kind]}")


_FOUND = {
    "inf": "found an infinite value",
    "fill": "found what looks like a fill value that no attribute declares",
    "appears": "found NaN where the snapshots before have a number",
    "vanishes": "found a number where the snapshots before have NaN",
}


def _when(archive: Archive, index: int) -> str:
    dim = archive.time.dim
    label = f"{dim} index {index}"
    if dim in archive.carried.coords:
        label += f" ({shown_time(archive.carried[dim].values, index)})"
    return label
