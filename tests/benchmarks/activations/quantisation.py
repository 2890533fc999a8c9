"""Group-wise quantisation of a tensor of tokens: what caches of keys and values are kept in.

References
----------
.. [1] Z. Liu et al., "KIVI: a tuning-free asymmetric 2bit quantization for KV cache",
   arXiv:2402.02750: keys are scaled per channel, in groups of tokens; values per token, in groups
   of channels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Along = Literal["tokens", "features"]

GROUP = 64
# A float16 scale and a float16 least value for each group.
SCALE_BITS = 32


def quantised(values: Array, bits: int, along: Along, group: int = GROUP) -> tuple[Array, int]:
    """Values (tokens, features) as they decode from integers of `bits`, and their bytes.

    Groups of `group` values lie along an axis; the last of a row may be shorter.
    """
    rows = values if along == "features" else values.T
    missing = -rows.shape[1] % group
    parts = np.pad(rows, ((0, 0), (0, missing)), mode="edge").reshape(-1, group)
    low, high = parts.min(axis=1, keepdims=True), parts.max(axis=1, keepdims=True)
    low = _halved(low)
    scale = _halved((high - low) / (2**bits - 1))
    scale[scale == 0] = 1.0
    integers = np.clip(np.rint((parts - low) / scale), 0, 2**bits - 1)
    decoded = (integers * scale + low).reshape(len(rows), -1)[:, : rows.shape[1]]
    nbytes = values.size * bits // 8 + len(parts) * SCALE_BITS // 8
    return decoded if along == "features" else decoded.T, nbytes


def _halved(values: Array) -> Array:
    """As float16 has them."""
    return values.astype(np.float16).astype(np.float32)
