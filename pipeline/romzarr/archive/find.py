"""Finds datasets below a folder or URL, with their stamps, from listings alone."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from fsspec.utils import glob_translate

from romzarr.archive.location import is_url, normalised, redacted
from romzarr.archive.stamp import StoredFile, files_of, remote_file, stamp_of_files
from romzarr.errors import ArchiveError
from romzarr.objects import folder

log = logging.getLogger(__name__)

Wanted = Callable[[str], bool]
# Files that mark a Zarr group or array.
_ZARR_FILES = frozenset({"zarr.json", ".zgroup", ".zarray"})


@dataclass(frozen=True)
class Dataset:
    """A dataset of an archive.

    ``name`` is its path below the root, with "/"; ``location`` the full path or URL; ``nbytes`` the
    size of its files; ``written`` the time of the last write, in seconds since 1970. ``stamp`` is
    that of `romzarr.archive.stamp`, empty if the files cannot be listed.
    """

    name: str
    location: str
    nbytes: int
    written: float
    stamp: str


def find_datasets(
    root: str, pattern: str, *, only: str = "**", leave_out: Sequence[str] = ()
) -> list[Dataset]:
    """Find datasets whose path below `root` matches both `pattern` and `only`.

    Parameters
    ----------
    root : path or URL
    pattern, only : str
        Globs: ``*`` and ``?`` match within one component of a path, ``**`` across components. The
        outermost matching folder is a dataset; nothing inside is another one.
    leave_out : sequence of path or URL
        Locations below `root` that are no datasets, such as the stores.

    Returns
    -------
    list of Dataset
        Sorted by name. Hidden files and symbolic links to folders are ignored. A folder that cannot
        be read is skipped with a warning.

    Raises
    ------
    ArchiveError
        If `root` cannot be listed.

    Examples
    --------
    >>> (tmp / "2031").mkdir()
    >>> _ = (tmp / "2031" / "run.nc").write_text("x")
    >>> [d.name for d in find_datasets(str(tmp), "**/*.nc")]
    ['2031/run.nc']
    """
    place = normalised(root)
    matches, chosen = matcher(pattern), matcher(only)
    depth = None if "**" in pattern else pattern.count("/") + 1
    excluded = tuple(_absolute(each) for each in leave_out)
    try:
        if is_url(place):
            found = list(_remote_datasets(place, matches, chosen, excluded))
        elif os.path.isdir(place):
            names = _local_names(place, "", matches, depth, excluded)
            found = [_local_dataset(place, name) for name in names if chosen(name)]
        else:
            raise NotADirectoryError(20, "not a folder", place)
    except (OSError, ImportError, NotImplementedError) as error:
        raise ArchiveError(
            f"{redacted(place)!r} cannot be listed ({type(error).__name__}: {error}); give an "
            "existing, readable folder or URL"
        ) from error
    return sorted(found, key=lambda dataset: dataset.name)


def dataset_at(location: str, name: str) -> Dataset:
    """Describe the dataset `name` at a path or URL.

    Raises
    ------
    OSError
        If it cannot be listed or has no files.
    """
    files = list(files_of(location))
    if not files:
        raise FileNotFoundError(errno.ENOENT, "there are no files", redacted(location))
    return _dataset(name, location, files)


def matcher(pattern: str) -> Wanted:
    """Make a function that tells whether a path matches a glob.

    >>> wanted = matcher("**/run-?.zarr")
    >>> wanted("run-1.zarr"), wanted("a/b/run-1.zarr"), wanted("a/run-10.zarr")
    (True, True, False)
    """
    compiled = re.compile(glob_translate(pattern))
    return lambda name: compiled.match(name) is not None


def _absolute(place: str) -> str:
    return place.rstrip("/") if is_url(place) else os.path.realpath(os.path.expanduser(place))


def _dataset(name: str, location: str, files: Sequence[StoredFile]) -> Dataset:
    return Dataset(
        name=name,
        location=location,
        nbytes=sum(file.nbytes for file in files),
        written=max((file.written for file in files), default=0.0),
        stamp=stamp_of_files(files),
    )


def _local_dataset(root: str, name: str) -> Dataset:
    location = os.path.join(root, *name.split("/"))
    try:
        return dataset_at(location, name)
    except OSError as error:
        log.warning("%s cannot be listed: %s", name, error)
        return Dataset(name, location, 0, 0.0, "")


def _local_names(
    root: str, inside: str, matches: Wanted, depth: int | None, excluded: Sequence[str]
) -> Iterator[str]:
    """Yield matching paths below folder `inside` of `root`, at most `depth` levels deep."""
    try:
        entries = list(os.scandir(os.path.join(root, inside)))
    except PermissionError as error:
        if not inside:
            raise
        log.warning("%s is skipped: %s", inside, error)
        return
    if inside and any(entry.name in _ZARR_FILES for entry in entries):
        return
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if entry.name.startswith(".") or os.path.realpath(entry.path) in excluded:
            continue
        if matches(name):
            yield name
        elif entry.is_dir(follow_symlinks=False) and depth != 1:
            yield from _local_names(root, name, matches, depth and depth - 1, excluded)


def _remote_datasets(
    root: str, matches: Wanted, chosen: Wanted, excluded: Sequence[str]
) -> Iterator[Dataset]:
    """Find the datasets below a URL, from one listing of all objects."""
    files: dict[str, list[StoredFile]] = {}
    for path, facts in folder(root).files().items():
        name = _outermost(path, matches)
        if name is None or not chosen(name) or _is_below(f"{root}/{name}", excluded):
            continue
        inside = path.removeprefix(name).lstrip("/")
        files.setdefault(name, []).append(remote_file(inside, facts))
    for name, listed in files.items():
        yield _dataset(name, f"{root}/{name}", listed)


def _outermost(path: str, matches: Wanted) -> str | None:
    """Return the shortest matching parent of a path, unless it is hidden."""
    for name in accumulate(path.split("/"), "{}/{}".format):
        if name.rpartition("/")[2].startswith("."):
            return None
        if matches(name):
            return name
    return None


def _is_below(location: str, places: Sequence[str]) -> bool:
    return any(f"{location}/".startswith(f"{place}/") for place in places)
