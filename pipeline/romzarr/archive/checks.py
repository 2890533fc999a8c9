"""Selects the variables to compress, from the metadata of an archive."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from romzarr.archive.time_axis import is_calendar
from romzarr.encoding import MAX_VARIABLES, unfit_name
from romzarr.errors import ArchiveError

logger = logging.getLogger(__name__)

_COMPRESSIBLE = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_KINDS = {"O": "objects", "U": "strings", "S": "strings", "T": "strings", "c": "complex numbers"}


@dataclass(frozen=True)
class Selection:
    """Names of the data variables to compress, to copy unchanged, and to leave out."""

    compressed: tuple[str, ...]
    carried: tuple[str, ...]
    left_out: tuple[str, ...]


def select(
    dataset: xr.Dataset, time_dim: str, variables: str | Sequence[str], archive: str
) -> Selection:
    """Decide which data variables of `dataset` are compressed, copied or left out.

    Floating-point variables with the time dim are compressed if they are among `variables`.
    Bounds of coordinates, variables without time, integers, booleans and calendar times are copied.

    Raises
    ------
    ArchiveError
        If a name is unknown, a requested variable holds objects, strings or complex numbers or has
        a dim of size zero, or there is nothing to compress.
    """
    wanted = _wanted(dataset, variables, archive)
    bounds = _bounds(dataset)
    compressed, carried, left_out = [], [], []
    for name in map(str, dataset.data_vars):
        variable = dataset.variables[name]
        if time_dim not in variable.dims or name in bounds or _is_exact(variable):
            carried.append(name)
        elif name not in wanted:
            left_out.append(name)
        else:
            _refuse_unsuitable(name, variable, archive)
            compressed.append(name)
    if not compressed:
        raise ArchiveError(
            f"archive {archive!r}: no floating-point variable has dim {time_dim!r} "
            f"(among {', '.join(map(repr, wanted)) or 'no variables'}); name one in "
            "archive.variables, or correct archive.time"
        )
    if left_out:
        logger.info("not in archive.variables, and so left out: %s", ", ".join(left_out))
    return Selection(tuple(compressed), tuple(carried), tuple(left_out))


def _wanted(dataset: xr.Dataset, variables: str | Sequence[str], archive: str) -> tuple[str, ...]:
    for name in dataset.variables:
        # Names become paths in the store.
        if not isinstance(name, str) or not name or "/" in name or name.startswith((".", "__")):
            raise ArchiveError(
                f"archive {archive!r}: variable name {name!r} cannot be a path in the store; "
                "rename it: text without '/' that does not start with '.' or '__'"
            )
    known = tuple(map(str, dataset.data_vars))
    if variables == "all":
        return known
    wanted = (variables,) if isinstance(variables, str) else tuple(variables)
    for name in wanted:
        if name not in known:
            folded = {candidate.casefold(): candidate for candidate in known}
            nearest = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.0)
            hint = f"; nearest is {folded[nearest[0]]!r}" if nearest else ""
            raise ArchiveError(
                f"archive {archive!r}: there is no data variable {name!r} (archive.variables)"
                f"{hint}; allowed are {', '.join(map(repr, known)) or 'none'}"
            )
    return wanted


def refuse_names(names: Iterable[Hashable], archive: str) -> None:
    """Refuse variables whose names cannot be file names, and too many variables.

    Raises
    ------
    ArchiveError
    """
    different = set(map(str, names))
    for name in sorted(different):
        if why := unfit_name(name):
            raise ArchiveError(
                f"archive {archive!r}: variable {name!r:.200} {why}; rename it or leave it out"
            )
    if len(different) > MAX_VARIABLES:
        raise ArchiveError(
            f"archive {archive!r}: found {len(different)} variables, at most {MAX_VARIABLES} are "
            "allowed; select some (archive.variables), or combine them along a dim"
        )


def _bounds(dataset: xr.Dataset) -> frozenset[str]:
    """Find variables that belong to a coordinate (cell and climatology bounds)."""
    found = (
        coordinate.attrs.get(key, coordinate.encoding.get(key))
        for coordinate in dataset.coords.values()
        for key in ("bounds", "climatology")
    )
    return frozenset(name for name in found if isinstance(name, str))


def _is_exact(variable: xr.Variable) -> bool:
    return variable.dtype.kind in "iub" or is_calendar(variable)


def _refuse_unsuitable(name: str, variable: xr.Variable, archive: str) -> None:
    # Variable-length strings have no byte order.
    if variable.dtype.kind != "f" or variable.dtype.newbyteorder("=") not in _COMPRESSIBLE:
        found = _KINDS.get(variable.dtype.kind, "other numbers")
        raise ArchiveError(
            f"archive {archive!r}: variable {name!r} holds {found} (dtype {variable.dtype}) that "
            "change in time; only float16, float32 and float64 can be compressed. Convert it, "
            "or list the other variables in archive.variables"
        )
    empty = [str(dim) for dim, size in variable.sizes.items() if size == 0]
    if empty:
        raise ArchiveError(
            f"archive {archive!r}: variable {name!r} has shape {variable.shape}: dim "
            f"{empty[0]!r} has size zero; drop it, or list the other variables in archive.variables"
        )
