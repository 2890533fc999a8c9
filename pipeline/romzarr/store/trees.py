"""Trees of groups: a folder with a store for each group, and one file that lists them.

The stores of a tree lie below a folder with the name of a generation. They are complete before the
file that lists them is written, which is the commit; the tree that it replaces stays readable until
the next one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from romzarr import objects
from romzarr.encoding import attributes_to_json, encoding_from_json
from romzarr.errors import StoreError
from romzarr.store import checksums, layout
from romzarr.store.staging import flush, write_flushed

# Lists the groups of a tree, and marks its folder as one.
MARKER = "romzarr-tree.json"
_VERSION = 1
_NAME = re.compile(r"[^/\0]+")
_STORE = re.compile(rf"{layout.GENERATION.pattern}/[0-9]+")


class Branch(NamedTuple):
    """A group: its path, its store relative to the tree and the generation there.

    ``store`` is empty where a group has no variables, but only attributes.
    """

    path: str
    store: str
    generation: str
    attrs: Mapping[str, Any]


class Tree(NamedTuple):
    """The groups of a tree, parents first, and the folders of the tree that it replaced.

    ``made`` has the ``name`` and the ``stamp`` of the source, and under ``config`` the settings
    that are not defaults; it is empty in trees of older versions.
    """

    branches: tuple[Branch, ...]
    before: tuple[str, ...] = ()
    made: Mapping[str, Any] = MappingProxyType({})

    @property
    def stores(self) -> tuple[Branch, ...]:
        """The groups that have variables, and so a store."""
        return tuple(each for each in self.branches if each.store)

    @property
    def folders(self) -> frozenset[str]:
        return frozenset(each.store.partition("/")[0] for each in self.stores)


def read_tree(url: str) -> Tree | None:
    """Read the tree at `url`; None if there is none.

    Raises
    ------
    StoreError
        If its list of groups is damaged, or not allowed.
    """
    try:
        raw = layout.read_bytes(layout.joined(url, MARKER))
    except (FileNotFoundError, NotADirectoryError):
        return None
    where = layout.joined(url, MARKER)
    try:
        document = json.loads(raw)
        plain = {key: value for key, value in document.items() if key != "checksum"}
        if document["checksum"] != _checksum(plain) or document["romzarr_tree"] != _VERSION:
            raise ValueError("wrong checksum or version")
        branches = tuple(_branch(each) for each in document["groups"])
        before = tuple(_matched(layout.GENERATION, each) for each in document["before"])
        made = dict(document.get("made", {}))
    # Whatever is wrong with a document of strangers.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{where}: is damaged, or of another version of romzarr ({error}); restore it, or "
            "compress the tree anew"
        ) from error
    return Tree(branches, before, made)


def write_tree(url: str, tree: Tree) -> None:
    """Commit: replace the list of groups at `url`, atomically."""
    content = {
        "romzarr_tree": _VERSION,
        "open_with": 'xarray.open_datatree(PATH, engine="romzarr")',
        "groups": [
            {
                "path": each.path,
                "store": each.store,
                "generation": each.generation,
                "attrs": attributes_to_json(each.attrs),
            }
            for each in tree.branches
        ],
        "before": list(tree.before),
        "made": dict(tree.made),
    }
    document = layout.compact_json(content | {"checksum": _checksum(content)})
    if not layout.is_local(url):
        objects.folder(url).write(MARKER, document)
        return
    prepared = Path(url) / f".{MARKER}.{os.getpid()}"
    write_flushed(prepared, document)
    os.replace(prepared, Path(url) / MARKER)
    flush(Path(url))


def store_of(url: str, branch: Branch) -> str:
    """The URL of the store of a group.

    Raises
    ------
    StoreError
        If it is another than when the tree was written.
    """
    place = layout.joined(url, branch.store)
    # Once its parts are put together, it is superseded for a while.
    if branch.generation not in layout.current_root(place).named:
        raise StoreError(
            f"{place}: is not the store of the group {branch.path!r}: it was replaced, or moved; "
            "restore the tree, or compress it anew"
        )
    return place


def refuse_tree(url: str) -> None:
    """Say what to do with a tree where a single store is expected.

    Raises
    ------
    StoreError
    """
    tree = read_tree(url)
    if tree is not None:
        listed = ", ".join(each.path for each in tree.stores[:8])
        raise StoreError(
            f"{url}: is a tree of {len(tree.stores)} groups, but one store is needed; give one of "
            f"{listed} (--group NAME, in Python romzarr.groups(STORE)[NAME]), or open all with "
            'xarray.open_datatree(STORE, engine="romzarr")'
        )


def _checksum(plain: Mapping[str, Any]) -> str:
    return checksums.checksum(MARKER, layout.compact_json(plain))


def _branch(document: Mapping[str, Any]) -> Branch:
    path, store = document["path"], document["store"]
    names = _text(path).split("/")[1:] if path != "/" else []
    if not path.startswith("/") or any(
        name in (".", "..") or not _NAME.fullmatch(name) for name in names
    ):
        raise ValueError(f"path {path!r}")
    generation = document["generation"]
    if store:
        _matched(_STORE, store)
        _matched(layout.GENERATION, generation)
    return Branch(path, store, generation, encoding_from_json(document["attrs"]))


def _matched(pattern: re.Pattern[str], found: Any) -> str:
    if not pattern.fullmatch(_text(found)):
        raise ValueError(f"name {found!r:.80}")
    return str(found)


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r:.80} is no text")
    return found


def ordered(paths: Sequence[str]) -> list[str]:
    """Paths of groups, parents first, otherwise in their order."""
    return sorted(paths, key=lambda path: path.count("/") if path != "/" else 0)
