"""Checksums that bind the files of a store to their paths.

A checksum is the CRC32C of a file's path in the store, ``<generation>/<path>``, followed by its
content. Names of generations are unique, so a file that was swapped, rolled back, or copied from
another store has a wrong checksum.

The checksums of metadata files are in the file above them, as eight hexadecimal digits. A chunk
ends with its own checksum. The codec `ChecksumCodec` only reserves the bytes, because codecs do not
know the path of a chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import google_crc32c
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.common import JSON
from zarr.registry import register_codec
from zarr.storage import WrapperStore

from romzarr.errors import StoreError

NAME = "romzarr.crc32c"
SIZE = 4
PATTERN = re.compile(r"[0-9a-f]{8}")
_CHUNK = re.compile(r"(.+)/c(?:/\d+)*")


def checksum(place: str, content: bytes) -> str:
    """Compute the CRC32C of a path in a store, ``<generation>/<path>``, and the content there.

    It always has eight hexadecimal digits, so that stores of equal content have equal size.
    """
    value: int = google_crc32c.extend(google_crc32c.value(place.encode()), content)
    return f"{value:0{2 * SIZE}x}"


def checked(content: bytes, expected: str, place: str, where: str) -> bytes:
    """Return `content` if its checksum at this path is right.

    Raises
    ------
    StoreError
        If it is wrong; the message begins with `where`.
    """
    if checksum(place, content) != expected:
        raise StoreError(f"{where}: is damaged, or belongs elsewhere (wrong checksum)")
    return content


def with_checksum(payload: bytes, place: str) -> bytes:
    """Append the checksum to the payload of a chunk."""
    return payload + bytes.fromhex(checksum(place, payload))[::-1]


def payload_of(chunk: bytes, place: str, where: str) -> bytes:
    """Check the checksum of a stored chunk and return its payload.

    Raises
    ------
    StoreError
    """
    return checked(chunk[:-SIZE], chunk[-SIZE:][::-1].hex(), place, where)


def array_of(key: str) -> str | None:
    """Return the path of the array of a chunk; None for other keys."""
    found = _CHUNK.fullmatch(key)
    return found[1] if found else None


@dataclass(frozen=True)
class ChecksumCodec(BytesBytesCodec):
    """Reserves bytes for a checksum at the end of a chunk, and removes them again.

    Stores write the checksum (`SealingStore`) and check it
    (`romzarr.store.reading.checked.CheckedStore`). Plain Zarr reads the values unchecked.
    """

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        if data.get("configuration"):
            raise ValueError(f"{NAME}: takes no configuration, found {str(data)[:80]}")
        return cls()

    def to_dict(self) -> dict[str, JSON]:
        return {"name": NAME}

    # zarr >= 3.2 calls these two from its own threads.
    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return chunk_bytes[:-SIZE]

    def _encode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return chunk_bytes + chunk_spec.prototype.buffer.from_bytes(bytes(SIZE))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return self._decode_sync(chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return self._encode_sync(chunk_bytes, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return input_byte_length + SIZE


class SealingStore(WrapperStore[Store]):
    """Zarr store of a generation that writes the checksum into every chunk.

    Parameters
    ----------
    store : Store
    generation : str
        Name of the generation at `store`.
    """

    def __init__(self, store: Store, generation: str) -> None:
        super().__init__(store)
        self.generation = generation

    def _with_store(self, store: Store) -> SealingStore:
        return SealingStore(store, self.generation)

    def _sealed(self, key: str, value: Buffer) -> Buffer:
        if array_of(key) is None:
            return value
        content = with_checksum(value.to_bytes()[:-SIZE], f"{self.generation}/{key}")
        return type(value).from_bytes(content)

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, self._sealed(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._store.set_if_not_exists(key, self._sealed(key, value))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        # Only zarr >= 3.2 has and calls this method.
        store: Any = self._store
        store.set_sync(key, self._sealed(key, value))


register_codec(NAME, ChecksumCodec)
