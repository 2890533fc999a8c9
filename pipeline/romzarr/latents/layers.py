"""Keys and values of one layer that are kept as they came: the first tokens, and the last ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.latents.arrays import concatenated, framework_of

# Keys and values.
SIDES = 2
# Axis of the tokens of an array (batch, heads, tokens, dim).
TOKENS = 2


@dataclass
class Layer:
    """Tokens of a layer that are not coded.

    Attributes
    ----------
    sinks : list of array
        The first keys and the first values, or none at all.
    recent : list of list of array
        Pieces of the last keys and of the last values, as they were appended.
    tokens : int
        Tokens in `recent`.
    """

    sinks: list[Any] = field(default_factory=list)
    recent: list[list[Any]] = field(default_factory=lambda: [[] for _ in range(SIDES)])
    tokens: int = 0

    @property
    def first_tokens(self) -> int:
        """Tokens in `sinks`."""
        return int(self.sinks[0].shape[TOKENS]) if self.sinks else 0

    @property
    def nbytes(self) -> int:
        pieces = (*self.sinks, *self.recent[0], *self.recent[1])
        return sum(int(each.nbytes) for each in pieces)

    @property
    def batch(self) -> int | None:
        """Sequences of the batch, once there are any."""
        for array in (*self.sinks[:1], *self.recent[0][:1]):
            return int(array.shape[0])
        return None

    def add(self, keys: Any, values: Any, sinks: int) -> None:
        """Append tokens, of which the first fill up the sinks."""
        missing = sinks - self.first_tokens
        if missing > 0:
            heads = [each[:, :, :missing] for each in (keys, values)]
            self.sinks = [
                concatenated([*self.sinks[k : k + 1], each], TOKENS) for k, each in enumerate(heads)
            ]
            keys, values = keys[:, :, missing:], values[:, :, missing:]
        if keys.shape[TOKENS]:
            self.recent[0].append(keys)
            self.recent[1].append(values)
            self.tokens += int(keys.shape[TOKENS])

    def joined(self, side: int) -> Any:
        """All recent tokens in one array, or None."""
        parts = self.recent[side]
        if len(parts) > 1:
            parts[:] = [concatenated(parts, TOKENS)]
        return parts[0] if parts else None

    def drop(self, tokens: int) -> None:
        """Drop the first of the recent tokens; a copy of the others, which holds no more memory."""
        self.tokens -= tokens
        for side in range(SIDES):
            rest = self.joined(side)[:, :, tokens:]
            self.recent[side] = [_copied(rest)] if self.tokens else []

    def keep(self, tokens: int) -> None:
        """Keep the first of the recent tokens alone."""
        if tokens < self.tokens:
            parts = [self.joined(side)[:, :, :tokens] for side in range(SIDES)]
            self.recent = [[each] if tokens else [] for each in parts]
            self.tokens = tokens

    def copy(self) -> Layer:
        """A layer that goes on by itself; arrays are shared, as nothing changes them."""
        return Layer(list(self.sinks), [list(side) for side in self.recent], self.tokens)

    def select(self, rows: NDArray[np.int64]) -> Layer:
        """Some sequences of the batch."""
        recent = [[each[rows] for each in side] for side in self.recent]
        return Layer([each[rows] for each in self.sinks], recent, self.tokens)


def _copied(array: Any) -> Any:
    framework = framework_of(array)
    if framework == "torch":
        return array.clone()
    return array if framework == "jax" else array.copy()
