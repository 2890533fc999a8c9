"""The groups of a tree of stores: where they are, and what is done with each in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import xarray as xr

from romzarr.archive import Source
from romzarr.archive.groups import Groups
from romzarr.config import AUTO, Config, with_values
from romzarr.contracts import NO_TIME
from romzarr.errors import ArchiveError, StoreError
from romzarr.operations.of_all_groups import estimates_of_all, of_all_groups
from romzarr.operations.trees import check_tree, in_group, remove_folder, settings_of, sweep_tree
from romzarr.recorded_config import config_of
from romzarr.reports import AppendReport, CompactReport, CompressionReport, EstimateReport
from romzarr.store import layout
from romzarr.store.reading.reader import open_store
from romzarr.store.staging import new_token
from romzarr.store.trees import Branch, Tree, store_of, write_tree

AppendOne: TypeAlias = Callable[[str, Source], AppendReport]
CompactOne: TypeAlias = Callable[[str], CompactReport]
CompressOne: TypeAlias = Callable[[Source, str, Config], CompressionReport]
EstimateOne: TypeAlias = Callable[[Source, Config], EstimateReport]


def made_time(config: Config, tree: Tree) -> Config:
    """The settings with the time of which a tree was made."""
    made = tree.made.get("config", {}).get("archive", {})
    return with_values(config, {"archive.time": str(made.get("time", AUTO))})


def matching(tree: Tree, url: str, source: Groups | None) -> Groups:
    """The source of a tree, which has the same groups.

    Raises
    ------
    ArchiveError
        If it has others.
    StoreError
        If it is no tree.
    """
    if source is None:
        raise StoreError(f"{url}: was made from a tree of groups, but the source is none")
    stored = {(each.path, bool(each.store)) for each in tree.branches}
    there = {(path, bool(dataset.variables)) for path, dataset in source.datasets.items()}
    if others := sorted(path for path, _ in stored ^ there):
        raise ArchiveError(
            f"archive {source.name!r}: group {others[0]!r} is not as in {url}; give the archive "
            f"with the groups {', '.join(sorted(path for path, _ in stored))}, or compress it anew"
        )
    return source


def append_tree(
    source: Groups | None, url: str, tree: Tree, one: AppendOne, compress: CompressOne
) -> AppendReport:
    """Bring the store of every group up to date, one after the other.

    Groups without time that have grown, such as times which other groups inherit, are compressed
    anew. Until the last group is done, groups that share a dim may have different lengths there;
    after a crash, calling this again goes on.

    Raises
    ------
    ArchiveError
        If groups are missing or new, or one does not begin as its store does.
    StoreError
        If the source is no tree, or a store cannot be written.
    """
    began, source = time.perf_counter(), matching(tree, url, source)
    token, branches, reports = new_token(), list[Branch](), dict[str, AppendReport]()
    try:
        for number, branch in enumerate(tree.branches):
            dataset, own = source.datasets[branch.path], source.sources[branch.path]
            if not branch.store:
                branches.append(branch._replace(attrs=dataset.attrs))
                continue
            with in_group(branch.path):
                if _has_grown_without_time(store_of(url, branch), dataset):
                    settings = config_of(open_store(store_of(url, branch)))
                    branch = branch._replace(store=f"{token}/{number}")
                    compress(own, layout.joined(url, branch.store), settings)
                reports[branch.path] = one(layout.joined(url, branch.store), own)
            branches.append(branch)
        made = {**tree.made, "stamp": source.stamp}
        write_tree(url, _current(url, Tree(tuple(branches), tuple(tree.folders), made)))
    except BaseException:
        remove_folder(url, token)
        raise
    sweep_tree(url, tree, token)
    return replace(of_all_groups(reports), seconds=time.perf_counter() - began)


def _has_grown_without_time(at: str, dataset: xr.Dataset) -> bool:
    """Whether a group without time begins with all that is stored, and has more."""
    if open_store(at).facts["time"]["dim"] != NO_TIME:
        return False
    stored = xr.open_dataset(at, engine="romzarr")
    sizes = dict(stored.sizes)
    if dict(dataset.sizes) == sizes or dataset.sizes.keys() != sizes.keys():
        return False
    beginning = dataset.isel({dim: slice(size) for dim, size in sizes.items()})
    return bool(beginning.equals(stored))


def compact_tree(url: str, tree: Tree, one: CompactOne) -> CompactReport:
    """Put the parts of the store of every group together, one group after the other.

    Raises
    ------
    StoreError
        If a store cannot be read or written.
    """
    reports = {}
    for each in tree.stores:
        with in_group(each.path):
            reports[each.path] = one(store_of(url, each))
    write_tree(url, _current(url, tree))
    return of_all_groups(reports)


def _current(url: str, tree: Tree) -> Tree:
    """The tree with the newest generation of every group."""

    def newest(branch: Branch) -> Branch:
        root = layout.current_root(layout.joined(url, branch.store))
        return branch._replace(generation=root.parts[-1].generation)

    return tree._replace(
        branches=tuple(newest(each) if each.store else each for each in tree.branches)
    )


def estimate_tree(source: Groups, config: Config, one: EstimateOne) -> EstimateReport:
    """Estimate every group that has variables.

    Raises
    ------
    ArchiveError, ConfigError, AccuracyError
    """
    check_tree(source, config)
    reports = {}
    for path, dataset in source.datasets.items():
        if dataset.variables:
            with in_group(path):
                reports[path] = one(source.sources[path], settings_of(source, path, config))
    if not reports:
        raise ArchiveError(f"archive {source.name!r}: no group has variables")
    return estimates_of_all(reports)
