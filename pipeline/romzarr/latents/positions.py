"""Rotary positions of keys, undone before coding: turned keys of a channel are waves.

References
----------
.. [1] J. Su, Y. Lu, S. Pan, B. Wen, Y. Liu, "RoFormer: enhanced transformer with rotary position
   embedding", arXiv:2104.09864.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import as_whole, is_number, shown
from romzarr.coding.products import turn
from romzarr.errors import ConfigError

Values = NDArray[np.float32]

# Positions whose turns are kept: those of others are products with that of one.
_SPAN = 256


@dataclass(frozen=True, eq=False)
class Rotary:
    """Pairs of features of a head, turned by an angle that is proportional to the position.

    Parameters
    ----------
    frequencies : ndarray (pairs,)
        Radians a position. A head may have more features than pairs, which are not turned.
    interleaved : bool
        Whether a pair is features 2k and 2k + 1 (GPT-J, GGUF) rather than k and pairs + k
        (GPT-NeoX, Llama in transformers).

    Raises
    ------
    ConfigError
        If frequencies are not a row of finite numbers.
    """

    frequencies: NDArray[np.float64]
    interleaved: bool = False

    def __post_init__(self) -> None:
        frequencies = np.array(self.frequencies, np.float64)
        if frequencies.ndim != 1 or not frequencies.size or not np.isfinite(frequencies).all():
            raise ConfigError(
                f"frequencies: found {shown(self.frequencies)}, allowed is a row of finite "
                "numbers, one for each pair of features"
            )
        object.__setattr__(self, "frequencies", frequencies)

    @classmethod
    def of_base(cls, dim: int, base: float = 1e4, *, interleaved: bool = False) -> Rotary:
        """The frequencies base**(-2k/dim) of the original paper, for heads of `dim` features.

        Raises
        ------
        ConfigError
            If `dim` is odd, or `base` is not positive.
        """
        if as_whole(dim, "dim", 2) % 2:
            raise ConfigError(f"dim: found {shown(dim)}, allowed are even numbers")
        if not is_number(base) or not 0 < base < inf:
            raise ConfigError(f"base: found {shown(base)}, allowed is a positive number")
        return cls(base ** (-np.arange(0, dim, 2) / dim), interleaved)

    def check(self, dim: int) -> None:
        """Raise a `ConfigError` unless heads of `dim` features have all pairs."""
        pairs = len(self.frequencies)
        if 2 * pairs > dim:
            raise ConfigError(
                f"rotary: found {pairs} pairs of features, allowed are up to {dim // 2}, as a head "
                f"has {dim} features; take the frequencies of this model"
            )

    def turn(self, keys: Values, first: int) -> Values:
        """Keys (..., heads, tokens, dim) turned by the positions `first`, `first` + 1, ..."""
        return self._turned(keys, first, 1.0)

    def undo(self, keys: Values, first: int) -> Values:
        """What `turn` was given."""
        return self._turned(keys, first, -1.0)

    def turn_rows(self, rows: Values, first: int, sign: float = 1.0) -> None:
        """Turn keys (..., tokens, heads, dim), in C order, in place; back with a sign of -1."""
        self.check(rows.shape[-1])
        sequences = rows.reshape(prod(rows.shape[:-3]), *rows.shape[-3:])
        for start in range(0, rows.shape[-3], _SPAN):
            of_start = np.exp(1j * (first + start) * self.frequencies)
            for keys in sequences[:, start : start + _SPAN]:
                turn(keys, self._turns, of_start, interleaved=self.interleaved, sign=sign)

    def _turned(self, keys: Values, first: int, sign: float) -> Values:
        rows = keys.swapaxes(-3, -2).copy()
        self.turn_rows(rows, first, sign)
        return rows.swapaxes(-3, -2)

    @cached_property
    def _turns(self) -> NDArray[np.complex128]:
        """Of the first positions (_SPAN, pairs), as points of the unit circle."""
        return np.exp(1j * np.multiply.outer(np.arange(_SPAN), self.frequencies))
