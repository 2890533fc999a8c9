"""A run in many files, one after the other in time, as one archive."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.archive.location import is_url
from romzarr.archive.provider import Piece, Provider, digest_of
from romzarr.archive.time_axis import shown_time, time_axis
from romzarr.contracts import NO_TIME, BlockSource, ReadBlock, ReadCost, Region
from romzarr.errors import ArchiveError

logger = logging.getLogger(__name__)

# A step between files that is so many times the usual one is told.
GAP = 1.5
# Fields without time are compared from file to file up to this size, since every file is read for
# it whenever the run is opened; grids of models are larger, and alike.
COMPARED_BYTES = 1 << 18
_PATTERN = re.compile(r"[*?\[]")
# What marks a folder as a single dataset.
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")


def files_of_pattern(source: str, suffixes: Sequence[str]) -> list[str] | None:
    """Files that a glob fits, or those of a folder that is no dataset itself; None for any other.

    Files of a folder have one of the suffixes; all are sorted, numbers in names by their value.

    Raises
    ------
    ArchiveError
        If a glob fits nothing.
    """
    if is_url(source):
        return None
    place = os.path.expanduser(source)
    if os.path.isdir(place) and not any(
        os.path.exists(os.path.join(place, name)) for name in _ZARR_FILES
    ):
        inside = (os.path.join(place, name) for name in os.listdir(place))
        found = [each for each in inside if os.path.splitext(each)[1].casefold() in suffixes]
        return sorted(found, key=_by_numbers) or None
    if os.path.exists(place) or not _PATTERN.search(source):
        return None
    found = glob.glob(place)
    if not found:
        raise ArchiveError(f"archive {source!r}: no file fits this pattern; check the path")
    return sorted(found, key=_by_numbers)


def _by_numbers(path: str) -> list[tuple[int, str]]:
    """A key by which run2 comes before run10."""
    parts = re.split(r"(\d+)", path)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


class _Part(NamedTuple):
    """One of the archives, with its time dim and, if there is a coordinate, its times."""

    provider: Provider
    dim: str
    times: NDArray[Any] | None


def several_archive(
    name: str, locations: Sequence[str], time: str, open_one: Callable[[str], Provider]
) -> SeveralArchive:
    """Open archives that follow one another in time.

    Raises
    ------
    ArchiveError
        If one has no time, times overlap, or variables or their dims change from file to file.
    """
    parts = []
    for location in locations:
        provider = open_one(location)
        axis = time_axis(provider.dataset, time, provider.name)
        if axis.dim == NO_TIME:
            raise ArchiveError(
                f"archive {provider.name!r}: has no time dim, which files that follow one another "
                "in time need; set archive.time, or compress it alone"
            )
        known = axis.dim in provider.dataset.coords
        times = np.asarray(provider.dataset[axis.dim].values) if known else None
        parts.append(_Part(provider, axis.dim, times))
    if all(part.times is not None for part in parts):
        parts.sort(key=lambda part: part.times[0])  # type: ignore[index]
        _check_times(parts)
    _check_alike(parts)
    _check_constants(parts)
    return SeveralArchive(name, tuple(part.provider for part in parts), parts[0].dim)


def _check_times(parts: Sequence[_Part]) -> None:
    """Refuse overlaps, and tell of gaps."""
    steps = [np.diff(part.times) for part in parts if part.times is not None]
    within = np.concatenate(steps) if steps else np.zeros(0)
    usual = np.median(within) if len(within) and within.dtype.kind in "fiu" else None
    if len(within) and within.dtype.kind == "m":
        usual = np.median(within.astype(np.int64)).astype(np.int64).astype(within.dtype)
    for one, other in pairwise(parts):
        assert one.times is not None
        assert other.times is not None
        last, first = one.times[-1], other.times[0]
        if not first > last:
            both = np.array([last, first])
            raise ArchiveError(
                f"archive {other.provider.name!r} begins at {one.dim} {shown_time(both, 1)}, which "
                f"is not after the end of {one.provider.name!r} ({shown_time(both, 0)}); remove "
                "one of them, or cut what they have in common"
            )
        if usual is not None and first - last > GAP * usual:
            logger.warning(
                "between %s and %s there is a gap: %s goes from %s to %s",
                one.provider.name,
                other.provider.name,
                one.dim,
                last,
                first,
            )


def _check_alike(parts: Sequence[_Part]) -> None:
    """Refuse variables that come and go, or change but for their length in time."""
    first = parts[0]
    known = _outlines(first)
    for part in parts[1:]:
        found = _outlines(part)
        different = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
        if different:
            name = different[0]
            raise ArchiveError(
                f"archive {part.provider.name!r}: variable {name!r} is {_shown(found.get(name))}, "
                f"and {_shown(known.get(name))} in {first.provider.name!r}; files of one run must "
                "have the same variables: leave it out (archive.exclude), or compress them apart"
            )


def _check_constants(parts: Sequence[_Part]) -> None:
    """Refuse what has no time dim, and yet other values in other files.

    Raises
    ------
    ArchiveError
        Only the first values would be kept.
    """
    first = parts[0].provider
    for name, variable in first.dataset.variables.items():
        if parts[0].dim in variable.dims or not _is_compared(variable):
            continue
        known = variable.load()
        for part in parts[1:]:
            if not known.equals(part.provider.dataset.variables[name]):
                raise ArchiveError(
                    f"archive {part.provider.name!r}: variable {str(name)!r} has no dim "
                    f"{parts[0].dim!r}, but other values than in {first.name!r}; leave it out "
                    "(archive.exclude), name its time (archive.time), or compress the files apart"
                )


def _is_compared(variable: xr.Variable) -> bool:
    return variable.ndim <= 1 or variable.nbytes <= COMPARED_BYTES


Outline = tuple[tuple[str, ...], tuple[int, ...], str]


def _outlines(part: _Part) -> dict[str, Outline]:
    """Dims, lengths (0 along time) and dtypes of the variables of an archive."""
    return {
        str(name): (
            tuple(map(str, v.dims)),
            tuple(0 if d == part.dim else n for d, n in zip(v.dims, v.shape, strict=True)),
            # Texts differ in their lengths.
            v.dtype.kind if v.dtype.kind in "OSU" else v.dtype.str,
        )
        for name, v in part.provider.dataset.variables.items()
    }


def _shown(outline: Outline | None) -> str:
    if outline is None:
        return "missing"
    dims, shape, dtype = outline
    lengths = ", ".join(f"{d} {n or '...'}" for d, n in zip(dims, shape, strict=True))
    return f"{dtype} ({lengths})"


# --- as one -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeveralArchive:
    """Archives one after the other along ``dim`` (a `romzarr.archive.provider.Provider`)."""

    name: str
    parts: tuple[Provider, ...]
    dim: str

    @cached_property
    def dataset(self) -> xr.Dataset:
        """All parts as one; floats that change in time are Dask arrays, all else is loaded."""
        datasets = [part.dataset for part in self.parts]
        first = datasets[0]
        variables: dict[Any, xr.Variable] = {}
        for name, variable in first.variables.items():
            if self.dim not in variable.dims:
                variables[name] = variable
                continue
            if name in first.data_vars and variable.dtype.kind == "f":
                axis = variable.dims.index(self.dim)
                joined: Any = _lazy(self.piece(str(name), axis), variable.dtype)
            else:
                axis = variable.dims.index(self.dim)
                joined = np.concatenate([d.variables[name].values for d in datasets], axis=axis)
            whole = xr.Variable(variable.dims, joined, variable.attrs)
            whole.encoding = {k: v for k, v in variable.encoding.items() if k != "source"}
            variables[name] = whole
        combined = xr.Dataset(variables, attrs=first.attrs).set_coords(list(first.coords))
        combined.encoding = {k: v for k, v in first.encoding.items() if k != "source"}
        return combined

    def piece(self, name: str, time_axis: int) -> Piece:
        pieces = [part.piece(name, time_axis) for part in self.parts]
        grids = {p.chunks[:time_axis] + p.chunks[time_axis + 1 :] for p in pieces}
        space = grids.pop() if len(grids) == 1 else None
        if space is None:
            # Grids of space that differ from file to file have nothing in common but the whole.
            space = tuple((sum(lengths),) for lengths in _without(pieces[0].chunks, time_axis))
        along = tuple(n for p in pieces for n in p.chunks[time_axis])
        ends = tuple(np.cumsum([sum(p.chunks[time_axis]) for p in pieces]).tolist())
        source = SeveralSources(tuple(p.source for p in pieces), ends, time_axis)
        chunks = (*space[:time_axis], along, *space[time_axis:])
        return Piece(source, chunks, digest_of([p.digest for p in pieces]))


def _without(items: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (*items[:axis], *items[axis + 1 :])


@dataclass(frozen=True)
class SeveralSources:
    """Blocks of sources one after the other along an axis, each up to its ``ends``."""

    sources: tuple[BlockSource, ...]
    ends: tuple[int, ...]
    axis: int

    def graph(self) -> Mapping[Any, Any]:
        return {key: task for source in self.sources for key, task in source.graph().items()}

    def task(self, region: Region) -> tuple[Any, ...]:
        start, stop, tasks = region[self.axis].start, region[self.axis].stop, []
        for source, begin, end in zip(self.sources, (0, *self.ends[:-1]), self.ends, strict=True):
            if start < end and stop > begin:
                own = slice(max(start, begin) - begin, min(stop, end) - begin)
                part = (*region[: self.axis], own, *region[self.axis + 1 :])
                tasks.append(source.task(part))
        return (_joined, self.axis, tasks)


def _joined(axis: int, blocks: Sequence[ReadBlock]) -> ReadBlock:
    if len(blocks) == 1:
        return blocks[0]
    cost = sum((block.cost for block in blocks), ReadCost())
    values = np.concatenate([block.values for block in blocks], axis=axis)
    return ReadBlock(values, cost.bytes_read, cost.chunks_read)


def _lazy(piece: Piece, dtype: np.dtype[Any]) -> da.Array:
    """The blocks of a variable as a Dask array."""
    name = f"several-{uuid4().hex}"
    edges = [np.cumsum([0, *lengths]).tolist() for lengths in piece.chunks]
    graph = dict(piece.source.graph())
    for index in np.ndindex(*(len(lengths) for lengths in piece.chunks)):
        region = tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, index, strict=True))
        graph[(name, *index)] = (_values, piece.source.task(region))
    return da.Array(graph, name, piece.chunks, dtype=dtype)


def _values(block: ReadBlock) -> Any:
    return block.values
