"""Listings in spans have every key once, whatever the keys, and few requests in a row."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync
from zarr.storage import ObjectStore

from romzarr.objects import listing
from romzarr.objects.listing import cuts, listed
from romzarr.objects.remote import RemoteStore

obstore = pytest.importorskip("obstore", reason="object storage is optional")


class InMemory(RemoteStore):
    """Object storage in this process, which counts the listings that were begun."""

    def __init__(self, keys) -> None:
        memory = obstore.store.MemoryStore()
        for key in keys:
            obstore.put(memory, key, key.encode())
        ObjectStore.__init__(self, memory)
        self.url, self.spans = "memory://", 0

    async def listed(self, prefix=None, after=None):
        self.spans += 1
        async for entry in super().listed(prefix, after):
            yield entry


NUMBERED = st.tuples(st.integers(0, 130), st.integers(0, 12)).map("u/c/{0[0]}/{0[1]}".format)
FLAT = st.tuples(st.integers(0, 130), st.integers(0, 12)).map("u/{0[0]}.{0[1]}".format)
ODD = st.text("a9/.0-z", min_size=1, max_size=6).map(
    lambda text: "u/" + "/".join(filter(None, text.replace(".", "").split("/"))) + "x"
)


@given(keys=st.sets(NUMBERED | FLAT | ODD, max_size=120), together=st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_every_key_is_listed_however_it_is_cut(keys, together):
    store = InMemory(keys | {"v/other"})
    before, listing.TOGETHER = listing.TOGETHER, together
    try:
        found = sync(listed(store, "u"))
    finally:
        listing.TOGETHER = before
    assert {key: entry["size"] for key, entry in found.items()} == {k: len(k) for k in keys}


def test_few_keys_take_one_listing_and_many_are_spread(monkeypatch):
    store = InMemory([f"u/c/{i}/0" for i in range(500)])
    assert len(sync(listed(store, "u"))) == 500
    assert store.spans == 1
    monkeypatch.setattr(listing, "TOGETHER", 50)
    assert len(sync(listed(store, "u"))) == 500
    assert 10 < store.spans < 100


@given(
    seen=st.text("a9/.04", min_size=1, max_size=8), last=st.none() | st.text("a9/.05", max_size=8)
)
def test_cuts_lie_in_order_between_the_ends(seen, last):
    found = cuts(seen, last)
    assert found == sorted(set(found))
    assert all(cut > seen and (last is None or cut < last) for cut in found)
