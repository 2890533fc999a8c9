"""What a store, or a tree of stores, says of itself to a nightly run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import romzarr
from romzarr.errors import StoreError
from romzarr.store import commit
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.trees import read_tree


@dataclass(frozen=True)
class Standing:
    """Facts of a store; of a tree those of all its groups together.

    ``settings`` are those that it was made with, as far as they differ from the defaults. ``stamp``
    and ``fingerprint`` are of its source; ``generation`` is the newest one, and ``replaced`` says
    whether there are superseded ones.
    """

    raw_bytes: int
    stored_bytes: int
    relative_l2_error: float
    tolerance: float
    settings: Mapping[str, Mapping[str, Any]]
    stamp: str
    fingerprint: str
    generation: str
    replaced: bool


def standing_of(store: str) -> Standing:
    """Open a store, or every store of a tree.

    Raises
    ------
    StoreError
        If there is none, or a part is damaged.
    """
    tree = read_tree(store)
    if tree is None:
        opened = open_store(store)
        source = opened.facts["source"]
        return _of([opened], opened.facts["config"], source.get("stamp", ""), source["fingerprint"])
    if "config" not in tree.made:
        raise StoreError(f"{store}: was made by an older version, which recorded no settings")
    groups = [open_store(each) for each in romzarr.groups(store).values()]
    return _of(groups, tree.made["config"], str(tree.made.get("stamp", "")), "")


def _of(
    stores: Sequence[CoefficientStore],
    settings: Mapping[str, Mapping[str, Any]],
    stamp: str,
    fingerprint: str,
) -> Standing:
    facts = [each.facts for each in stores]
    return Standing(
        raw_bytes=sum(each["raw_bytes"] for each in facts),
        stored_bytes=sum(each.stored_bytes() for each in stores),
        relative_l2_error=max(
            max(each["relative_l2_error"].values(), default=0.0) for each in facts
        ),
        tolerance=max(each["tolerance"] for each in facts),
        settings=settings,
        stamp=stamp,
        fingerprint=fingerprint,
        generation=max(each.last.name for each in stores),
        replaced=any(each.root.superseded for each in stores),
    )


def sweep(store: str) -> None:
    """Remove what is left of superseded generations, of a tree in every group."""
    for each in romzarr.groups(store).values():
        commit.sweep(each)
