"""The Zarr codec of coded arrays: wavelets, one quantisation step, a range coder."""

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
from romzarr.coding.field import decode_coefficients, encode_field
from romzarr.errors import PipelineError

NAME = "romzarr.wavelet"
MAX_LEVELS = 40
# Sums of differences take twice the memory that decoding takes else; tables are small.
MAX_SUMMED = 1 << 24
# Axes that are longer than one: each doubles the parts that are coded one after the other, and
# with so many they take 4 s.
MAX_AXES = 7


@dataclass(frozen=True)
class WaveletCodec(ArrayBytesCodec):
    """Codes chunks of float32 or float64 with an error of about a quarter of ``step``.

    Parameters
    ----------
    step : float
        Quantisation step of the wavelet coefficients, positive.
    levels : sequence of int
        Levels of the transform per axis of a chunk; 0 where an axis is not transformed.
    differences : sequence of int
        Orders of the finite differences along the first of two axes that stand in place of the
        transform, for the leading columns; 0 where it is transformed.

    Raises
    ------
    ValueError
        If a parameter is of another kind or range.
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
        """Refuse chunks that are not of `levels`.

        More levels than an axis has would do nothing but cost time, without limit.

        Raises
        ------
        ValueError
            If a chunk of this shape has fewer levels, or fewer columns than `differences`, or
            `dtype` is not a float of 4 or 8 bytes.
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
        self, content: bytes, shape: Sequence[int], dtype: np.dtype[Any]
    ) -> Coefficients:
        """Of one chunk, for those who can do without its values."""
        return decode_coefficients(content, shape, self.step, self.levels, dtype, self.differences)

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        self.check(getattr(chunk_grid, "chunk_shape", shape), dtype.to_native_dtype())

    # Zarr from 3.2 on calls these two from threads of its own.
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype, shape = chunk_spec.dtype.to_native_dtype(), chunk_spec.shape
        try:
            values = self.coefficients(chunk_data.to_bytes(), shape, dtype).array()
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
    """A list as the tuple that it has to become; what is none is left for the check."""
    return tuple(listed) if isinstance(listed, list | tuple) else listed


register_codec(NAME, WaveletCodec)
