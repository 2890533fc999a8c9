"""Put the parts of a store together, or of every store of a tree."""

from __future__ import annotations

import os

from romzarr.operations import compact as single
from romzarr.operations.groups import compact_tree
from romzarr.reports import CompactReport
from romzarr.store import layout
from romzarr.store.trees import read_tree


def compact(store: str | os.PathLike[str]) -> CompactReport:
    """Put the parts of a store together, as if all snapshots had been compressed at once.

    As `romzarr.operations.compact.compact`; of a tree every store, one after the other.

    Parameters
    ----------
    store : path or URL

    Returns
    -------
    CompactReport
        Of a tree, of all its groups.

    Raises
    ------
    StoreError
        If the store cannot be read or written, or was changed by another writer meanwhile.
    """
    url = layout.normalised(store)
    tree = read_tree(url)
    return single.compact(store) if tree is None else compact_tree(url, tree, single.compact)
