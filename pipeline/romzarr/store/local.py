"""Safe access to the files of a local store.

An untrusted store may contain links and special files. A link to the outside could disclose other
files, and pipes and devices may never end.
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
    """A folder that reads only regular files inside the store."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        await asyncio.to_thread(refuse_irregular, f"{self.root}/{key}")
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key: str, **options: Any) -> Buffer | None:
        # Only zarr >= 3.2 has and calls this method.
        refuse_irregular(f"{self.root}/{key}")
        above: Any = super()
        found: Buffer | None = above.get_sync(key, **options)
        return found


def refuse_irregular(path: str) -> None:
    """Refuse a special file, a huge file, or a link to the outside; ignore a missing file.

    Raises
    ------
    StoreError
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
        raise StoreError(f"{path}: is not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise StoreError(f"{path}: has {found.st_size} bytes, at most {MAX_FILE_BYTES} are allowed")
    if not real.startswith(_store_of(path) + os.sep):
        raise StoreError(f"{path}: is a link to a file outside of the store")


def _store_of(path: str) -> str:
    """Return the real path of the store that contains a file."""
    folder = os.path.dirname(path)
    while folder != os.path.dirname(folder):
        if GENERATION.fullmatch(os.path.basename(folder)):
            return os.path.realpath(os.path.dirname(folder))
        folder = os.path.dirname(folder)
    return os.path.realpath(os.path.dirname(path))
