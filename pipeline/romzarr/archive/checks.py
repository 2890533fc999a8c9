"""Selects the variables to compress, from the metadata of an archive."""

from __future__ import annotations

import difflib
import fnmatch
import logging
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from romzarr.archive.time_axis import is_calendar
from romzarr.contracts import NO_TIME
from romzarr.encoding import MAX_VARIABLES, unfit_name
from romzarr.errors import ArchiveError

logger = logging.getLogger(__name__)

_COMPRESSIBLE = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Selection:
    """Names of the data variables to compress, to copy unchanged, and to leave out."""

    compressed: tuple[str, ...]
    carried: tuple[str, ...]
    left_out: tuple[str, ...]


def select(
    dataset: xr.Dataset,
    time_dim: str,
    variables: str | Sequence[str],
    exclude: str | Sequence[str],
    archive: str,
) -> Selection:
    """Decide which data variables of `dataset` are compressed, copied or left out.

    Floating-point variables with the time dim are compressed if they are among `variables`, else
    left out. All others are copied: bounds of coordinates, variables without time, integers,
    booleans, complex numbers, strings, times, and what has a dim of size zero. Those that `exclude`
    names are left out in any case. Both are names, or patterns with ``*``, ``?`` and ``[...]``.

    Raises
    ------
    ArchiveError
        If a name or pattern fits no variable, a number is too wide to be stored, or there is
        nothing to compress.
    """
    _refuse_paths(dataset, archive)
    known = tuple(map(str, dataset.data_vars))
    wanted = known if variables == "all" else _named(known, variables, "archive.variables", archive)
    unwanted = () if exclude == "none" else _named(known, exclude, "archive.exclude", archive)
    bounds = _bounds(dataset)
    compressed, carried, left_out = list[str](), list[str](), list[str]()
    for name in known:
        variable = dataset.variables[name]
        if name in unwanted:
            left_out.append(name)
        elif not _changes(variable, time_dim) or name in bounds or not _is_compressible(variable):
            _refuse_unstorable(name, variable, archive)
            carried.append(name)
        else:
            (compressed if name in wanted else left_out).append(name)
    # Where all are wanted, what changes in time may all be of other kinds, and without time there
    # may be nothing that changes.
    changing = [name for name in carried if _changes(dataset.variables[name], time_dim)]
    whole = time_dim == NO_TIME or bool(changing)
    if not compressed and (variables != "all" or not whole):
        raise ArchiveError(
            f"archive {archive!r}: no floating-point variable has dim {time_dim!r} "
            f"(among {', '.join(map(repr, wanted)) or 'no variables'}); name one in "
            "archive.variables, or correct archive.time"
        )
    if left_out:
        logger.info("not among archive.variables, and so left out: %s", ", ".join(left_out))
    return Selection(tuple(compressed), tuple(carried), tuple(left_out))


def _changes(variable: xr.Variable, time_dim: str) -> bool:
    """Whether a variable has the time dim, or any dims where there is no time."""
    return variable.ndim > 0 if time_dim == NO_TIME else time_dim in variable.dims


def _refuse_paths(dataset: xr.Dataset, archive: str) -> None:
    for name in dataset.variables:
        # Names become paths in the store.
        if not isinstance(name, str) or not name or "/" in name or name.startswith((".", "__")):
            raise ArchiveError(
                f"archive {archive!r}: variable name {name!r} cannot be a path in the store; "
                "rename it: text without '/' that does not start with '.' or '__'"
            )


def _named(
    known: Sequence[str], given: str | Sequence[str], setting: str, archive: str
) -> tuple[str, ...]:
    """Data variables that some names and patterns fit."""
    found: list[str] = []
    for name in (given,) if isinstance(given, str) else given:
        fits = [name] if name in known else []
        if not fits and _PATTERN.search(name):
            fits = fnmatch.filter(known, name)
        if not fits:
            folded = {candidate.casefold(): candidate for candidate in known}
            nearest = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.0)
            hint = f"; nearest is {folded[nearest[0]]!r}" if nearest else ""
            raise ArchiveError(
                f"archive {archive!r}: there is no data variable {name!r} ({setting})"
                f"{hint}; allowed are {', '.join(map(repr, known)) or 'none'}"
            )
        found += fits
    return tuple(dict.fromkeys(found))


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


def _is_compressible(variable: xr.Variable) -> bool:
    # Variable-length strings have no byte order.
    is_float = variable.dtype.kind == "f"
    return (
        is_float and variable.dtype.newbyteorder("=") in _COMPRESSIBLE and 0 not in variable.shape
    )


def _refuse_unstorable(name: str, variable: xr.Variable, archive: str) -> None:
    """Refuse what Zarr cannot store; of objects one is read."""
    widest = {"f": 8, "c": 16}.get(variable.dtype.kind, variable.dtype.itemsize)
    if variable.dtype.itemsize > widest:
        raise ArchiveError(
            f"archive {archive!r}: variable {name!r} has dtype {variable.dtype}, which Zarr cannot "
            "store; convert it to float64 or complex128, or leave it out (archive.exclude)"
        )
    if variable.dtype.kind != "O" or variable.size == 0 or is_calendar(variable):
        return
    first = variable[(0,) * variable.ndim].values.item()
    missing = first is None or first != first
    if not isinstance(first, str) and not missing:
        raise ArchiveError(
            f"archive {archive!r}: variable {name!r} holds objects ({type(first).__name__}), which "
            "cannot be stored; convert them to numbers or text, or leave it out (archive.exclude)"
        )
