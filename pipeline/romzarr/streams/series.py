"""What changes in time beside the variables that are compressed: times first of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

# Pieces are joined when there are so many: a list of small arrays takes more than they do.
MOST_PIECES = 256


class Series:
    """Variables along `dim` that arrive in pieces, held as arrays."""

    def __init__(self, dim: str) -> None:
        self.dim = dim
        self._like: dict[str, xr.Variable] = {}
        self._pieces: dict[str, list[NDArray[Any]]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, variables: Mapping[str, xr.Variable], length: int) -> None:
        """`length` more snapshots of the same variables as before."""
        self._length += length
        for name, variable in variables.items():
            like = self._like.setdefault(name, variable)
            pieces = self._pieces.setdefault(name, [])
            pieces.append(np.asarray(variable.transpose(*like.dims).values))
            if len(pieces) > MOST_PIECES:
                pieces[:] = [self._joined(name)]

    def variables(self, start: int = 0, stop: int | None = None) -> dict[str, xr.Variable]:
        """Snapshots from `start` to `stop`, with attributes and encodings of the first piece."""
        return {
            name: xr.Variable(like.dims, self._joined(name), like.attrs, like.encoding).isel(
                {self.dim: slice(start, stop)}
            )
            for name, like in self._like.items()
        }

    def ends(self, name: str) -> tuple[Any, Any] | None:
        """The first and the last value of a variable along `dim` alone; None before any."""
        pieces = self._pieces.get(name)
        return None if pieces is None else (pieces[0][0], pieces[-1][-1])

    def _joined(self, name: str) -> NDArray[Any]:
        axis = self._like[name].dims.index(self.dim)
        return np.concatenate(self._pieces[name], axis=axis)
