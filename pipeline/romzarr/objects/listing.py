"""Listing very many objects: a service gives a thousand a request, one request after the other.

So what is listed is cut into spans of keys, which are listed side by side. Nobody knows the keys
beforehand; where a span turns out to be long, what is left of it is cut at keys that begin like
the last one seen and go on with a larger digit, as numbered chunks do. Any cut is right, and
those that leave nothing between them cost a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from romzarr.objects.remote import RemoteStore

Listed = dict[str, Mapping[str, Any]]

# Keys of a span that are listed before the rest is cut, and spans listed side by side.
TOGETHER, SIDE_BY_SIDE = 5000, 24
# Stores of obstore that list keys in their order, and from one of them on.
IN_ORDER = frozenset({"S3Store", "GCSStore", "MemoryStore"})


async def listed(store: RemoteStore, prefix: str) -> Listed:
    """What storage knows of every object below `prefix`, by key."""
    if type(store.store).__name__ not in IN_ORDER:
        return {entry["path"]: entry async for entry in store.listed(prefix)}
    found = _Listing(store, prefix)
    await found.span(None, None)
    return found.entries


@dataclass
class _Listing:
    store: RemoteStore
    prefix: str
    entries: Listed = field(default_factory=dict)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SIDE_BY_SIDE))

    async def span(self, after: str | None, last: str | None) -> None:
        """List the keys after one and up to another."""
        seen = await self._begun(after, last)
        if seen is not None:
            ends = cuts(seen, last)
            spans = zip([seen, *ends], [*ends, last], strict=True)
            await asyncio.gather(*(self.span(*each) for each in spans))

    async def _begun(self, after: str | None, last: str | None) -> str | None:
        """List the first keys of a span; the last of them if there may be more."""
        count = 0
        async with self.gate:
            async for entry in self.store.listed(self.prefix, after):
                key: str = entry["path"]
                if last is not None and key > last:
                    return None
                self.entries[key] = entry
                count += 1
                if count == TOGETHER:
                    return key
        return None


def cuts(seen: str, last: str | None) -> list[str]:
    """Keys after `seen`, up to `last`, that numbered ones may lie between, in their order.

    >>> cuts("u/c/8", None), cuts("u/78", "u/8")
    (['u/c/9'], ['u/79'])
    """
    found = {
        seen[:place] + str(digit)
        for place, sign in enumerate(seen)
        if sign in "0123456789"
        for digit in range(int(sign) + 1, 10)
    }
    return sorted(cut for cut in found if last is None or cut < last)
