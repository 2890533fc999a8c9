"""Where the stores of the groups of a tree are: readers need no more of a tree."""

from __future__ import annotations

import os

from romzarr.store import layout
from romzarr.store.trees import read_tree, store_of


def groups(store: str | os.PathLike[str]) -> dict[str, str]:
    """Find the stores of the groups of a tree, by the paths of the groups.

    Each is a store like any other to whatever reads one: `romzarr.info`, `romzarr.equations`,
    `romzarr.open`. Whatever writes takes the tree: `romzarr.append`, `romzarr.compact`.

    Parameters
    ----------
    store : path or URL

    Returns
    -------
    dict of str to str
        Paths or URLs; those of a single store are itself, as ``"/"``. Groups without variables
        have none.

    Raises
    ------
    StoreError
        If the tree is damaged.
    """
    url = layout.normalised(store)
    tree = read_tree(url)
    if tree is None:
        return {"/": url}
    return {each.path: store_of(url, each) for each in tree.stores}
