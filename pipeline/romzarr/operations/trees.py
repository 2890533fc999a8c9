"""Trees of groups: a store for each group, committed together."""

from __future__ import annotations

import os
import posixpath
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from romzarr import objects
from romzarr.archive import Source
from romzarr.archive.groups import Groups, refuse_selection, time_of
from romzarr.archive.stamp import unchanging
from romzarr.compression.write_store import changed_settings
from romzarr.config import AUTO, NONE, Config, with_values
from romzarr.errors import ArchiveError, ConfigError, PipelineError, StoreError, StoreExistsError
from romzarr.operations.of_all_groups import by_path, of_all_groups
from romzarr.reports import CompressionReport, VerifyReport
from romzarr.store import layout
from romzarr.store.staging import new_token
from romzarr.store.trees import MARKER, Branch, Tree, ordered, read_tree, store_of, write_tree

# Longer than any writer takes.
ABANDONED = timedelta(days=7)

CompressOne = Callable[[Source, str, Config], CompressionReport]
VerifyOne = Callable[[str, Source], VerifyReport]


@contextmanager
def in_group(path: str) -> Iterator[None]:
    """Name the group in errors of romzarr that are raised inside."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"group {path!r}: {error}") from error


def compress_tree(
    groups: Groups,
    store: str | os.PathLike[str],
    config: Config,
    overwrite: bool,
    one: CompressOne,
) -> CompressionReport:
    """Compress every group that has variables into a store of its own; all appear together.

    Parameters
    ----------
    groups : Groups
    store : path or URL
    config : Config
        For all groups. Bounds on single values count in each group that has the variable.
    overwrite : bool
        Replace a tree at `store`.
    one : callable
        Compresses one group.

    Returns
    -------
    CompressionReport
        Of all groups: variables are named by their paths.
    """
    url = layout.normalised(store)
    check_tree(groups, config)
    before, began = _replaced(url, overwrite), time.perf_counter()
    token, reports, branches = new_token(), dict[str, CompressionReport](), list[Branch]()
    try:
        with unchanging(groups.locations, groups.stamp):
            for number, path in enumerate(ordered(list(groups.datasets))):
                dataset = groups.datasets[path]
                if not dataset.variables:
                    branches.append(Branch(path, "", "", dataset.attrs))
                    continue
                inside = f"{token}/{number}"
                place = layout.joined(url, inside)
                with in_group(path):
                    asked = settings_of(groups, path, config)
                    reports[path] = one(groups.sources[path], place, asked)
                generation = layout.current_root(place).parts[-1].generation
                branches.append(Branch(path, inside, generation, {}))
        if not reports:
            raise ArchiveError(f"archive {groups.name!r}: no group has variables")
        folders = tuple(before.folders) if before else ()
        write_tree(url, Tree(tuple(branches), folders, _made(groups, config)))
    except BaseException:
        remove_folder(url, token)
        raise
    sweep_tree(url, before, token)
    return replace(of_all_groups(reports), seconds=time.perf_counter() - began)


def _made(groups: Groups, config: Config) -> dict[str, object]:
    """What a tree records of its source, and of the settings for all its groups."""
    name = posixpath.basename(groups.name)
    return {"name": name, "stamp": groups.stamp, "config": changed_settings(config)}


def verify_tree(
    groups: Groups | None, store: str | os.PathLike[str], tree: Tree, one: VerifyOne
) -> VerifyReport:
    """Verify the store of every group against its source.

    Raises
    ------
    StoreError
        If the source is no tree.
    """
    url, began = layout.normalised(store), time.perf_counter()
    if groups is None:
        raise StoreError(f"{url}: was made from a tree of groups, but the source is none")
    problems = [
        f"group {path!r} is not in the {where}"
        for path in sorted({each.path for each in tree.branches} ^ groups.datasets.keys())
        for where in ["store" if path in groups.datasets else "source"]
    ]
    found = {
        each.path: one(store_of(url, each), groups.sources[each.path])
        for each in tree.branches
        if each.store and each.path in groups.datasets
    }
    reports = list(found.values())
    problems += [f"group {p!r}: {each}" for p, r in found.items() for each in r.problems]
    worst = max(found, key=lambda path: max(found[path].relative_l2_error.values(), default=0.0))
    return replace(
        found[worst],
        **by_path(found),
        ok=not problems,
        worst=f"{worst} {found[worst].worst}" if found[worst].worst else "",
        problems=tuple(problems),
        seconds=time.perf_counter() - began,
        compared=sum(each.compared for each in reports) / len(reports),
    )


def settings_of(groups: Groups, path: str, config: Config) -> Config:
    """The settings for a group: its own time dim, and the bounds of its variables and dims."""
    dataset, compression = groups.datasets[path], config.compression
    bounds, per, derivatives = compression.max_error, compression.per, compression.derivatives
    if not isinstance(bounds, str):
        bounds = {n: bound for n, bound in bounds.items() if n in dataset.data_vars} or NONE
    if not isinstance(per, str):
        per = tuple(dim for dim in per if dim in dataset.dims) or NONE
    if isinstance(derivatives, Mapping):
        inside = (
            e for e in compression.derivative_bounds if dataset.data_vars.keys() >= {*e.variables}
        )
        derivatives = {each.name: each.tolerance for each in inside} or NONE
    lengths = {dim: most for dim, most in config.layout.lengths.items() if dim in dataset.dims}
    changed: dict[str, object] = {
        "archive.time": time_of(groups, path, config.archive.time),
        "compression.max_error": bounds,
        "compression.per": per,
        "compression.derivatives": derivatives,
        "layout.tile": lengths or AUTO,
    }
    return with_values(config, changed)


def check_tree(groups: Groups, config: Config) -> None:
    """Refuse settings that name variables wrongly.

    Raises
    ------
    ConfigError
    """
    refuse_selection(config.archive.variables, config.archive.exclude)
    known = {str(name) for dataset in groups.datasets.values() for name in dataset.data_vars}
    if unknown := config.compression.bounds.keys() - known:
        raise ConfigError(
            f"compression.max_error: no group has a variable {min(unknown)!r}; allowed are "
            f"{', '.join(map(repr, sorted(known)))}"
        )
    for each in config.compression.derivative_bounds:
        if not any(
            {*each.variables} <= dataset.data_vars.keys() for dataset in groups.datasets.values()
        ):
            raise ConfigError(
                f"compression.derivatives: no group has all variables of {each.name}; there are "
                f"{', '.join(map(repr, sorted(known)))}"
            )
    per, dims = config.compression.per, {str(d) for ds in groups.datasets.values() for d in ds.dims}
    if not isinstance(per, str) and (unknown := set(per) - dims):
        raise ConfigError(
            f"compression.per: no group has a dim {min(unknown)!r}; allowed are "
            f"{', '.join(map(repr, sorted(dims)))}"
        )
    if unknown := config.layout.lengths.keys() - dims:
        raise ConfigError(
            f"layout.tile: no group has a dim {min(unknown)!r}; allowed are "
            f"{', '.join(map(repr, sorted(dims)))}"
        )


def _replaced(url: str, overwrite: bool) -> Tree | None:
    """The tree at `url` that is to be replaced, if there is one."""
    before = read_tree(url)
    if before is not None and not overwrite:
        raise StoreExistsError(f"{url}: already exists; pass overwrite=True to replace the tree")
    if before is None:
        names = objects.folder(url).names()
        if others := {n for n in names if not layout.GENERATION.fullmatch(n) and MARKER not in n}:
            raise StoreExistsError(
                f"{url}: exists and is not a tree of romzarr (it holds {min(others)!r}); remove "
                "it yourself, or choose another destination"
            )
    return before


def sweep_tree(url: str, before: Tree | None, token: str) -> None:
    """Remove what the tree that was replaced had replaced, and leftovers of killed writers."""
    oldest = f"{datetime.now(UTC) - ABANDONED:%Y%m%dT%H%M%S}"
    kept = {token, *(before.folders if before else ())}
    for name in objects.folder(url).names() - kept:
        if layout.GENERATION.fullmatch(name) and (
            name < oldest or (before is not None and name in before.before)
        ):
            remove_folder(url, name)


def remove_folder(url: str, name: str) -> None:
    if not layout.is_local(url):
        objects.folder(url).remove(name)
        return
    shutil.rmtree(Path(url) / name, ignore_errors=True)
    if Path(url).is_dir() and not any(Path(url).iterdir()):
        Path(url).rmdir()
