"""Lists very many objects in parallel; a service returns a thousand keys per request.

The listing is divided into ranges of keys, which are listed concurrently. The keys are unknown in
advance, so a long range is split at keys that start like the last one seen and continue with a
larger digit, as numbered chunks do. Any split is correct; an empty range costs one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from romzarr.objects.remote import RemoteStore

Listed = dict[str, Mapping[str, Any]]

# Keys of a range that are listed before it is split, and concurrent ranges: five requests are many
# compared with the one that an empty range costs, and services limit the connections of a client.
TOGETHER, SIDE_BY_SIDE = 5000, 24
# Stores of obstore that list keys in order and can start after a given key.
IN_ORDER = frozenset({"S3Store", "GCSStore", "MemoryStore"})


async def listed(store: RemoteStore, prefix: str) -> Listed:
    """Describe every object below `prefix`, by key."""
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
        """List the keys after `after` and up to `last`."""
        seen = await self._begun(after, last)
        if seen is not None:
            ends = cuts(seen, last)
            spans = zip([seen, *ends], [*ends, last], strict=True)
            await asyncio.gather(*(self.span(*each) for each in spans))

    async def _begun(self, after: str | None, last: str | None) -> str | None:
        """List the first keys of a range; return the last one if there may be more."""
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
    """Choose keys between `seen` and `last` at which to split a range.

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
