"""What is built in a staged store is, once put, what Zarr builds without it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync
from zarr.storage import MemoryStore, WrapperStore

from romzarr.objects import is_document
from romzarr.store.checksums import ChecksumCodec, SealingStore
from romzarr.store.writing.staged import StagedStore


class Counting(WrapperStore[MemoryStore]):
    """A store that notes what it is asked for."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.asked: list[tuple[str, str]] = []

    async def get(self, key, *args, **kwargs):
        self.asked.append(("get", key))
        return await self._store.get(key, *args, **kwargs)

    async def set(self, key, value):
        self.asked.append(("set", key))
        await self._store.set(key, value)

    async def delete_dir(self, prefix):
        self.asked.append(("delete", prefix))
        await self._store.delete_dir(prefix)


def content(store) -> dict[str, bytes]:
    prototype = default_buffer_prototype()
    keys = collect_aiterator(store.list())
    return {key: sync(store.get(key, prototype)).to_bytes() for key in keys}


PATHS = st.sampled_from(["a", "b", "g/a", "g/h/b", "gh/a"])
STEPS = st.one_of(
    st.tuples(st.just("array"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("group"), st.sampled_from(["g", "g/h", "k"])),
    st.tuples(st.just("attribute"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("remove"), st.sampled_from(["g", "g/h", "a", "gh/a"])),
)


def build(store, steps) -> None:
    zarr.open_group(store, mode="a")
    for kind, *arguments in steps:
        if kind == "array":
            path, number = arguments
            array = zarr.create_array(
                store, name=path, shape=(5,), chunks=(2,), dtype="int64", overwrite=True,
                compressors=(ChecksumCodec(),),
            )  # fmt: skip
            array[...] = np.arange(5) + number
        elif kind == "group":
            zarr.open_group(store, path=arguments[0], mode="a")
        elif kind == "attribute" and arguments[0] in zarr.open_group(store, mode="r"):
            zarr.open_array(store, path=arguments[0], mode="r+").attrs["number"] = arguments[1]
        elif kind == "remove":
            sync(store.delete_dir(arguments[0]))


@given(st.lists(STEPS, max_size=8))
@settings(deadline=None, max_examples=40)
def test_the_result_is_that_of_zarr_without_it(steps):
    plain, behind = MemoryStore(), MemoryStore()
    staged = StagedStore(behind, "g")
    build(SealingStore(plain, "g"), steps)
    build(staged, steps)
    assert sorted(zarr.open_group(staged, mode="r")) == sorted(zarr.open_group(plain, mode="r"))
    chunks = {key: each for key, each in content(plain).items() if not is_document(key)}
    assert content(behind) == chunks
    assert content(staged) == content(plain)


def test_nothing_is_asked_for_and_nothing_is_written_twice():
    counting = Counting(MemoryStore())
    staged = StagedStore(counting, "g")
    build(staged, [("array", "g/a", 1), ("array", "g/h/b", 2), ("attribute", "g/a", 3)])
    assert {(kind, "/c/" in key) for kind, key in counting.asked} == {("set", True)}
    assert len({key for _, key in counting.asked}) == len(counting.asked) == 6
    staged.put_metadata(b"{}")
    assert counting.asked[6:] == [("set", "zarr.json")]


def test_what_was_removed_is_gone_and_is_there_when_it_is_made_again():
    behind = MemoryStore()
    staged = StagedStore(behind, "g")
    build(staged, [("array", "g/a", 1)])
    before = content(staged)
    sync(staged.delete_dir("g/a"))
    assert not any(key.startswith("g/a/") for key in [*content(behind), *staged.documents])
    build(staged, [("array", "g/a", 1)])
    assert content(staged) == before


def test_views_of_the_same_place_share_documents():
    staged = StagedStore(MemoryStore(), "g")
    build(staged, [("array", "a", 1)])
    assert zarr.open_array(staged.with_read_only(True), path="a", mode="r").shape == (5,)
    with pytest.raises(ValueError, match="read-only"):
        zarr.create_array(staged.with_read_only(True), name="b", shape=(1,), dtype="int64")
    assert pickle.loads(pickle.dumps(staged)).documents == staged.documents
