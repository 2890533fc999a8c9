"""What is no number to be coded in a chunk, kept to the bit apart from all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.entropy import decode, encode
from romzarr.coding.fill import fill_gaps
from romzarr.contracts import Floats, Mask
from romzarr.errors import CodecError
from romzarr.numerics.gaps import fill_value_in

# Codes are bytes, of which 0 is a number.
MOST_SPECIAL = 255


class Gaps(NamedTuple):
    """Code of each value: 0 for a number, k for the bits ``special[k - 1]``."""

    codes: NDArray[np.uint8]
    special: Floats

    @property
    def present(self) -> Mask:
        return np.asarray(self.codes == 0)

    def put_into(self, values: Floats) -> None:
        """Overwrite decoded values where there is no number."""
        places = np.flatnonzero(self.codes)
        values.reshape(-1)[places] = self.special[self.codes.reshape(-1)[places] - 1]


def gaps_in(values: Floats) -> Gaps | None:
    """NaN of any bits, infinities, and a known fill value that stands out; None without any.

    Raises
    ------
    CodecError
        If there are more different ones than codes.
    """
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    gone = ~np.isfinite(values)
    fill = fill_value_in(values)
    if fill is not None:
        gone |= values == fill
    if not gone.any():
        return None
    special, which = np.unique(values[gone].view(unsigned), return_inverse=True)
    if len(special) > MOST_SPECIAL:
        raise CodecError(f"a chunk has {len(special)} different NaN, codes are of {MOST_SPECIAL}")
    codes = np.zeros(values.shape, np.uint8)
    codes[gone] = which.reshape(-1) + 1
    return Gaps(codes, special.view(values.dtype))


def filled(values: Floats, present: Mask) -> Floats:
    """Values with something smooth where none are, within the range of the others."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = fill_gaps(np.where(present, values, 0).astype(np.float64), present)
    some = values[present]
    # Means of numbers near the largest there is may be beyond it.
    return np.where(present, values, np.clip(found, some.min(), some.max()).astype(values.dtype))


def encode_gaps(gaps: Gaps) -> bytes:
    """How many special values there are, these, and the codes.

    Gaps have edges, and lie where they lay before: of the codes and of their differences modulo
    256 along some axes, whatever takes fewest bytes.
    """
    special = gaps.special.astype(gaps.special.dtype.newbyteorder("<"))
    every = tuple(range(gaps.codes.ndim))
    ways = dict.fromkeys(((), every[:1], every[-1:], every))
    codes = min((_encoded_codes(gaps.codes, axes) for axes in ways), key=len)
    return bytes([len(special)]) + special.tobytes() + codes


def decode_gaps(content: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> Gaps:
    """What `encode_gaps` was given.

    Raises
    ------
    CodecError
        If `content` is nothing that it returns.
    """
    count = content[0] if content else 0
    end = 1 + count * dtype.itemsize
    if not count or len(content) <= end:
        raise CodecError("a chunk says that it has gaps, and not which; it is damaged")
    special = np.frombuffer(content[1:end], dtype.newbyteorder("<")).astype(dtype)
    plain = (0,) * len(shape)
    codes = decode(content[end + 1 :], shape, plain, np.dtype(np.int32)).astype(np.uint8)
    for axis in reversed(range(len(shape))):
        if content[end] >> axis & 1:
            codes = np.cumsum(codes, axis=axis, dtype=np.uint8)
    if codes.max() > count:
        raise CodecError(f"a chunk has gaps of a kind {codes.max()} of {count}; it is damaged")
    return Gaps(codes, special)


def _encoded_codes(codes: NDArray[np.uint8], axes: Sequence[int]) -> bytes:
    for axis in axes:
        codes = np.diff(codes, axis=axis, prepend=np.uint8(0))
    # Differences of either sign are small.
    integers = codes.view(np.int8).astype(np.int32)
    return bytes([sum(1 << axis for axis in axes)]) + encode(integers, (0,) * codes.ndim)
