"""Files of a store on a local disk, as far as a stranger's store may name them.

A store that came from somewhere else may hold links and special files: one that leads out of
the store could show what is not its own, and a pipe or a device never ends.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from romzarr.errors import StoreError
from romzarr.store.limits import MAX_FILE_BYTES

GENERATION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")


class RegularFiles(LocalStore):
    """A folder whose files are read only if they are files, and its own."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        await asyncio.to_thread(refuse_irregular, f"{self.root}/{key}")
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key: str, **options: Any) -> Buffer | None:
        # Exists from zarr 3.2 on, and only there anything calls it.
        refuse_irregular(f"{self.root}/{key}")
        above: Any = super()
        found: Buffer | None = above.get_sync(key, **options)
        return found


def refuse_irregular(path: str) -> None:
    """Refuse what is there at `path` in a store if it is no file, huge, or outside of the store.

    Raises
    ------
    StoreError
        If nothing is there, that is for others to say.
    """
    try:
        found, real = os.stat(path), os.path.realpath(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: is no regular file; a store holds nothing else")
    if found.st_size > MAX_FILE_BYTES:
        raise StoreError(f"{path}: has {found.st_size} bytes, more than any file of a store")
    if not real.startswith(_store_of(path) + os.sep):
        raise StoreError(f"{path}: is a link that leads out of the store, which is not followed")


def _store_of(path: str) -> str:
    """The real path of the store that a file is of."""
    folder = os.path.dirname(path)
    while folder != os.path.dirname(folder):
        if GENERATION.fullmatch(os.path.basename(folder)):
            return os.path.realpath(os.path.dirname(folder))
        folder = os.path.dirname(folder)
    return os.path.realpath(os.path.dirname(path))
