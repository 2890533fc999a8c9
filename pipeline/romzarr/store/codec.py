"""The Zarr codec of coded arrays: wavelet transform, uniform quantisation, range coder."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import register_codec

from romzarr.coding.bands import depth
from romzarr.coding.coefficients import Coefficients
from romzarr.coding.differences import MOST_ORDER
from romzarr.coding.field import decode_coefficients, decode_field, encode_field
from romzarr.contracts import Floats
from romzarr.errors import PipelineError

NAME = "romzarr.wavelet"
# More than any axis of a chunk has.
MAX_LEVELS = 40
# Values of a chunk with differences, whose sums double the memory for decoding; tables are small.
MAX_SUMMED = 1 << 24
# Axes longer than one: each doubles the number of subbands, and seven take 4 s to decode.
MAX_AXES = 7


@dataclass(frozen=True)
class WaveletCodec(ArrayBytesCodec):
    """Codes chunks of float32 or float64 with an RMS error of about a quarter of ``step``.

    Parameters
    ----------
    step : float
        Quantisation step of the wavelet coefficients, positive.
    levels : sequence of int
        Levels of the transform for each axis of a chunk; 0 if an axis is not transformed.
    differences : sequence of int
        Orders of finite differences along the first of two axes, for the leading columns; they
        replace the transform. 0 for columns that are transformed.

    Raises
    ------
    ValueError
        If a parameter has a wrong type or is out of range.
    """

    is_fixed_size = False

    step: float
    levels: tuple[int, ...]
    differences: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if type(self.step) is not float or not 0 < self.step < math.inf:
            raise ValueError(f"{NAME}: 'step' must be positive and finite, found {self.step!r}")
        if not isinstance(self.levels, tuple) or not all(
            type(count) is int and 0 <= count <= MAX_LEVELS for count in self.levels
        ):
            raise ValueError(
                f"{NAME}: 'levels' must be integers from 0 to {MAX_LEVELS}, "
                f"found {str(self.levels)[:80]}"
            )
        if not isinstance(self.differences, tuple) or not all(
            type(order) is int and 0 <= order <= MOST_ORDER for order in self.differences
        ):
            raise ValueError(
                f"{NAME}: 'differences' must be integers from 0 to {MOST_ORDER}, "
                f"found {str(self.differences)[:80]}"
            )

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        configuration = data.get("configuration")
        if not isinstance(configuration, dict) or set(configuration) - {"differences"} != {
            "step",
            "levels",
        }:
            raise ValueError(
                f"{NAME}: the configuration must be 'step' and 'levels', perhaps 'differences', "
                f"found {str(configuration)[:80]}"
            )
        step = configuration["step"]
        whole = type(step) is int and abs(step) < 1 << 62
        return cls(
            step=float(step) if whole else step,
            levels=_as_tuple(configuration["levels"]),
            differences=_as_tuple(configuration.get("differences", ())),
        )

    def to_dict(self) -> dict[str, JSON]:
        configuration: dict[str, JSON] = {"step": self.step, "levels": list(self.levels)}
        if self.differences:
            configuration["differences"] = list(self.differences)
        return {"name": NAME, "configuration": configuration}

    def check(self, chunk: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Refuse chunks that do not fit the parameters.

        Superfluous levels would have no effect but take unlimited time.

        Raises
        ------
        ValueError
            If a chunk of this shape has fewer levels, or fewer columns than `differences`, or
            `dtype` is not float32 or float64.
        """
        most = [depth(length) for length in chunk]
        if len(self.levels) != len(most) or any(map(int.__gt__, self.levels, most)):
            raise ValueError(
                f"{NAME}: 'levels' of chunks {tuple(chunk)} must be at most {most}, "
                f"found {list(self.levels)}"
            )
        if sum(length > 1 for length in chunk) > MAX_AXES:
            raise ValueError(
                f"{NAME}: codes chunks of at most {MAX_AXES} dims longer than 1, found "
                f"{tuple(chunk)}"
            )
        if dtype not in (np.dtype("f4"), np.dtype("f8")):
            raise ValueError(f"{NAME}: codes float32 and float64, not {dtype}")
        if self.differences:
            self._check_differences(chunk, dtype)

    def _check_differences(self, chunk: Sequence[int], dtype: np.dtype[Any]) -> None:
        if len(chunk) != 2 or len(self.differences) > chunk[1]:
            raise ValueError(
                f"{NAME}: 'differences' are for at most the columns of a table; found "
                f"{len(self.differences)} for chunks {tuple(chunk)}"
            )
        if math.prod(chunk) > MAX_SUMMED or dtype != np.dtype("f8"):
            raise ValueError(
                f"{NAME}: 'differences' are of float64, in chunks of at most {MAX_SUMMED} values; "
                f"found {dtype} in chunks {tuple(chunk)}"
            )

    def coefficients(
        self,
        content: bytes,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        halvings: Sequence[int] = (),
    ) -> Coefficients:
        """Decode the coefficients of a chunk, perhaps on a coarser grid, without its values."""
        return decode_coefficients(
            content, shape, self.step, self.levels, dtype, self.differences, halvings
        )

    def values(self, content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> Floats:
        """Decode a chunk."""
        return decode_field(content, shape, self.step, self.levels, dtype, self.differences)

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        self.check(getattr(chunk_grid, "chunk_shape", shape), dtype.to_native_dtype())

    # zarr >= 3.2 calls these two from its own threads.
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype, shape = chunk_spec.dtype.to_native_dtype(), chunk_spec.shape
        try:
            values = self.values(chunk_data.to_bytes(), shape, dtype)
        except PipelineError as error:
            raise ValueError(str(error)) from error
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(values)  # type: ignore[arg-type]

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        content = encode_field(
            chunk_data.as_numpy_array(), self.step, self.levels, self.differences
        )
        return chunk_spec.prototype.buffer.from_bytes(content)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError(f"{NAME}: the size depends on the values")


def _as_tuple(listed: Any) -> Any:
    """Convert a list to a tuple; leave anything else for the check to refuse."""
    return tuple(listed) if isinstance(listed, list | tuple) else listed


register_codec(NAME, WaveletCodec)
