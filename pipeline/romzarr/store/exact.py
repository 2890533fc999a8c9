"""The Zarr codec of lossless arrays: integers instead of floats."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import register_codec

from romzarr.coding.exact import PACKABLE, Packing, from_integers, to_integers

NAME = "romzarr.exact"


@dataclass(frozen=True)
class ExactCodec(ArrayBytesCodec):
    """Converts numbers to little-endian integers that compress better, without loss.

    Parameters
    ----------
    axes : sequence of int
        Different axes of a chunk along which differences are taken.
    packing : Packing, optional
        The scaled integers that the floats were made from.

    Raises
    ------
    ValueError
        If a parameter has a wrong type or is out of range.
    """

    is_fixed_size = True

    axes: tuple[int, ...]
    packing: Packing | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.axes, tuple) or not all(type(axis) is int for axis in self.axes):
            raise ValueError(f"{NAME}: 'axes' must be integers, found {str(self.axes)[:80]}")
        if self.packing is not None:
            _check_packing(self.packing)

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        given = data.get("configuration")
        if not isinstance(given, dict) or not {"axes"} <= set(given) <= {"axes", "packing"}:
            raise ValueError(
                f"{NAME}: the configuration must be 'axes' and 'packing', found {str(given)[:80]}"
            )
        axes, packing = given["axes"], given.get("packing")
        if packing is not None:
            names = {"integer", "scale", "offset", "missing"}
            if not isinstance(packing, dict) or set(packing) != names:
                raise ValueError(
                    f"{NAME}: 'packing' must be {sorted(names)}, found {str(packing)[:80]}"
                )
            whole: Any = packing
            packing = Packing(**whole)
        return cls(tuple(axes) if isinstance(axes, list | tuple) else axes, packing)

    def to_dict(self) -> dict[str, JSON]:
        configuration: dict[str, JSON] = {"axes": list(self.axes)}
        if self.packing is not None:
            configuration["packing"] = asdict(self.packing)
        return {"name": NAME, "configuration": configuration}

    def check(self, chunk: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Refuse chunks that do not fit the parameters.

        Raises
        ------
        ValueError
            If an axis does not exist or is named twice, or `dtype` is none of floats, integers and
            booleans.
        """
        if len(set(self.axes)) != len(self.axes) or not set(self.axes) <= set(range(len(chunk))):
            raise ValueError(
                f"{NAME}: 'axes' of chunks {tuple(chunk)} must be different ones of these, "
                f"found {list(self.axes)}"
            )
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise ValueError(f"{NAME}: keeps floats, integers and booleans, not {dtype}")

    def itemsize(self, dtype: np.dtype[Any]) -> int:
        """Return the bytes of the integer for one value."""
        return dtype.itemsize if self.packing is None else np.dtype(self.packing.integer).itemsize

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        self.check(getattr(chunk_grid, "chunk_shape", shape), dtype.to_native_dtype())

    # zarr >= 3.2 calls these two from its own threads.
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        integers = np.frombuffer(chunk_data.to_bytes(), f"<u{self.itemsize(dtype)}")
        native = integers.astype(integers.dtype.newbyteorder("=")).reshape(chunk_spec.shape)
        values = from_integers(native, self.axes, dtype, self.packing)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(values)  # type: ignore[arg-type]

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        integers = to_integers(chunk_data.as_numpy_array(), self.axes, self.packing)
        content = integers.astype(integers.dtype.newbyteorder("<"), copy=False).tobytes()
        return chunk_spec.prototype.buffer.from_bytes(content)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        dtype = chunk_spec.dtype.to_native_dtype()
        return input_byte_length // dtype.itemsize * self.itemsize(dtype)


def _check_packing(packing: Packing) -> None:
    numbers = (packing.scale, packing.offset)
    if not all(type(n) in (int, float) and abs(n) <= 1e300 and math.isfinite(n) for n in numbers):
        raise ValueError(f"{NAME}: 'scale' and 'offset' must be finite numbers, found {numbers}")
    if packing.integer not in PACKABLE:
        raise ValueError(
            f"{NAME}: 'integer' must be one of {PACKABLE}, found {str(packing.integer)[:80]}"
        )
    limits = np.iinfo(packing.integer)
    inside = type(packing.missing) is int and limits.min <= packing.missing <= limits.max
    if packing.missing is not None and not inside:
        raise ValueError(
            f"{NAME}: 'missing' must be of {packing.integer}, found {str(packing.missing)[:80]}"
        )


register_codec(NAME, ExactCodec)
