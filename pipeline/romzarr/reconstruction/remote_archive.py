"""A Zarr archive at a URL that counts when it is complete: its root metadata are written last.

Objects cannot be renamed, so nothing is replaced there. What somebody who was killed has left has
no root metadata, and no reader takes it for an archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from romzarr import objects
from romzarr.errors import StoreExistsError

# Any of them makes a prefix an archive.
_ROOTS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
# Says that what is below a prefix was left by a writer of this sort.
MARK = ".romzarr-partial"


class RootLast(WrapperStore[Store]):
    """Keeps the root metadata until they are to be written."""

    def __init__(self, store: Store, kept: dict[str, Buffer] | None = None) -> None:
        super().__init__(store)
        self.kept: dict[str, Buffer] = {} if kept is None else kept

    def _with_store(self, store: Store) -> RootLast:
        return RootLast(store, self.kept)

    def __reduce__(self) -> tuple[Any, ...]:
        # Tasks write chunks; the root is this process's.
        return RootLast, (self._store,)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in self.kept:
            return self.kept[key]
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        return key in self.kept or await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        if key in _ROOTS:
            self.kept[key] = value
        else:
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if key in _ROOTS:
            self.kept.setdefault(key, value)
        else:
            await super().set_if_not_exists(key, value)

    async def delete_dir(self, prefix: str) -> None:
        # Before it creates the root group Zarr removes all there is, which is our mark alone.
        if prefix:
            await super().delete_dir(prefix)

    async def delete(self, key: str) -> None:
        self.kept.pop(key, None)
        await super().delete(key)


@contextmanager
def built_at_url(url: str, overwrite: bool) -> Iterator[Store]:
    """Give a store to write an archive into; it counts at the end of the context.

    Parameters
    ----------
    url : str
    overwrite : bool
        Remove what an unfinished writer has left there.

    Raises
    ------
    StoreExistsError
        If anything else is there.
    """
    folder = objects.folder(url)
    found = set(folder.files())
    if found and not (overwrite and MARK in found and not found & set(_ROOTS)):
        advice = "nothing can be replaced there in one step: remove it first, or choose another URL"
        if MARK in found:
            advice = (
                "it is unfinished; pass overwrite=True to remove it, unless its writer is at work"
            )
        raise StoreExistsError(f"{url}: holds {len(found)} objects; {advice}")
    folder.remove("")
    folder.write(MARK, b"")
    store = RootLast(objects.zarr_store(url, read_only=False))
    try:
        yield store
        # First what says that it is a group, last: readers of version 2 ask for .zgroup.
        for name in sorted(store.kept, key=lambda key: key in ("zarr.json", ".zgroup")):
            sync(store._store.set(name, store.kept[name]))
        folder.remove(MARK)
    except BaseException:
        folder.remove("")
        raise
