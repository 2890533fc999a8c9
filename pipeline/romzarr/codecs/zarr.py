"""The codec of Zarr v3: `romzarr.Codec`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import register_codec

from romzarr.coding.chunks.bounds import Bounds
from romzarr.coding.chunks.chunk import check_dtype, decode_chunk, encode_chunk
from romzarr.errors import CodecError

NAME = "romzarr"


@dataclass(frozen=True, kw_only=True)
class Codec(ArrayBytesCodec):
    """Codes each chunk of a Zarr v3 array for itself, within bounds on its error.

    Give it as the ``serializer`` of an array, as in
    ``ds.to_zarr(path, encoding={"u": {"serializer": romzarr.Codec(max_error=0.01)}})``. Arrays of
    zarr may have shards. Whoever reads needs romzarr installed, and nothing else.

    Bounds hold for every chunk, after rounding to the dtype, for all values but NaN, infinities,
    and fill values like 9.96921e36 that stand out of all others: these are kept to the bit. Several
    bounds are all kept. Without any, with 0, or where a bound is finer than the dtype, chunks are
    kept to the bit; so are integers, booleans, times and complex numbers whatever the bounds are.
    A chunk takes one byte more than its values at most. Encoding takes up to eight times the memory
    of a chunk in float64, decoding up to four times.

    Parameters
    ----------
    tolerance : float, optional
        Bound on the L2 error of each chunk, relative to its fluctuation: with x the values of the
        chunk, and y the decoded ones, ``||x - y|| <= tolerance * ||x - mean(x)||``. The mean is one
        number, over all dims of the chunk; ``romzarr.compress`` takes the mean in time instead, and
        the whole record.
    max_error : float, optional
        Bound on the error of every value, in its units.
    range_error : float, optional
        Bound on the error of every value, relative to the greatest value of the chunk less its
        least.

    Raises
    ------
    CodecError
        A `ValueError`, if a bound is negative or not finite.

    See Also
    --------
    romzarr.NumcodecsCodec : the same for Zarr v2 and other users of numcodecs.
    """

    is_fixed_size = False

    tolerance: float | None = None
    max_error: float | None = None
    range_error: float | None = None

    def __post_init__(self) -> None:
        for name, bound in self._bounds().given().items():
            object.__setattr__(self, name, bound)

    def _bounds(self) -> Bounds:
        return Bounds(self.tolerance, self.max_error, self.range_error)

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        given = data.get("configuration", {})
        known = {each.name for each in fields(cls)}
        if not isinstance(given, dict) or not set(given) <= known:
            raise CodecError(
                f"{NAME}: the configuration may have {sorted(known)}, found {str(given)[:80]}"
            )
        bounds: dict[str, Any] = dict(given)
        return cls(**bounds)

    def to_dict(self) -> dict[str, JSON]:
        given = {name: bound for name, bound in asdict(self).items() if bound is not None}
        return {"name": NAME, "configuration": given}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        check_dtype(dtype.to_native_dtype())

    # zarr >= 3.2 calls these two from its own threads.
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        values: Any = decode_chunk(chunk_data.to_bytes(), chunk_spec.shape, dtype)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(values)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        content = encode_chunk(chunk_data.as_numpy_array(), self._bounds())
        return chunk_spec.prototype.buffer.from_bytes(content)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError(f"{NAME}: the size depends on the values")


register_codec(NAME, Codec)
