"""The groups of a tree of stores on the command line: each in turn, or that of ``--group``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import romzarr
from romzarr.config import Config
from romzarr.errors import ConfigError

if TYPE_CHECKING:
    from romzarr.archive import Source

# A single store, or that of --group, needs no name.
ALONE = ""


def stores_asked(options: Namespace) -> dict[str, str]:
    """Find the stores that a command is about, by group: `ALONE` for a single one.

    Raises
    ------
    ConfigError
        If ``--group`` names none.
    """
    found = romzarr.groups(options.store)
    if options.group is None:
        return {ALONE: found["/"]} if list(found) == ["/"] else found
    if options.group not in found:
        raise ConfigError(
            f"--group {options.group}: {options.store} has no such group, allowed are "
            f"{', '.join(found)}"
        )
    return {ALONE: found[options.group]}


def source_of_group(source: str, store: str, group: str, config: Config) -> Source:
    """Find the group of a source that belongs to a group of a tree of stores.

    Raises
    ------
    ConfigError
        If the source has no such group.
    """
    # Help does not wait for what these import.
    from romzarr.operations.compress import tree_of
    from romzarr.operations.groups import made_time
    from romzarr.store.layout import normalised
    from romzarr.store.trees import read_tree

    tree = read_tree(normalised(store))
    found = tree_of(source, made_time(config, tree) if tree else config, remote=True)
    if found is None or group not in found.sources:
        raise ConfigError(f"--source {source}: has no group {group!r}, as the store has")
    return found.sources[group]


def titled(store: str, group: str) -> str:
    """Name a store, and its group.

    >>> titled("run.romzarr", "/ocean"), titled("run.romzarr", "")
    ('run.romzarr, group /ocean', 'run.romzarr')
    """
    return f"{store}, group {group}" if group else store


def in_json(found: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Make one JSON object of those of all groups; that of a single store is its own."""
    return found.get(ALONE, {"groups": found})
