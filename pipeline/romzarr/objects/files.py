"""Open files in object storage, for archives of a single file."""

from __future__ import annotations

from typing import Any

from obstore.fsspec import FsspecStore

from romzarr.objects.threads import in_thread


class Files(FsspecStore):
    """obstore's file system with requests in our threads (see `romzarr.objects.threads.in_thread`).

    It overrides all requests for reading a file that the open file does not make itself.
    """

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        bucket, key = self._split_path(path)
        store = self._construct_store(bucket)
        found = await in_thread(lambda: store.head(key))
        return {"name": f"{bucket}/{key}", "type": "file", **found}

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        bucket, key = self._split_path(path)
        store = self._construct_store(bucket)
        if end is None:
            return bytes(await in_thread(lambda: store.get(key).bytes()))[start:]
        return bytes(await in_thread(lambda: store.get_range(key, start=start or 0, end=end)))
