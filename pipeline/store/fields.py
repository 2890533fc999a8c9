"""Tiles of fields, which weighted sums of fields are taken from: snapshots of a variable.

A tile is kept the way it was coded, as the coefficients that are not zero. For a few sums it is
the sums of the coefficients that are transformed back; for many it pays to decode all fields
once. Both give the same to the rounding of the fields' own dtype: 20 roundings of the
fluctuation are set aside for all arithmetic (`pipeline.numerics.budget`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.coding.coefficients import Coefficients
from pipeline.contracts import Floats, Region
from pipeline.errors import StoreError
from pipeline.store.indexing import Positions, combine, place, points

Inside = Sequence[slice | Positions]


class FieldTile(Protocol):
    """The fields of a variable, (r + 1, *space), in one tile."""

    def combine(self, weights: Floats, inside: Inside, time_axis: int, out: NDArray[Any]) -> None:
        """``out = sum_k weights[t, k] fields[k]`` at some points, time as dim `time_axis`."""

    def first(self, inside: Inside) -> Floats:
        """The first field at some points."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say where the coefficients are from that are found to stand for what cannot be."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from error


@dataclass(frozen=True)
class DecodedTile:
    """Fields as they are."""

    fields: Floats

    def __post_init__(self) -> None:
        self.fields.flags.writeable = False

    @property
    def nbytes(self) -> int:
        return self.fields.nbytes

    def combine(self, weights: Floats, inside: Inside, time_axis: int, out: NDArray[Any]) -> None:
        combine(weights, points(self.fields, inside), time_axis, out)

    def first(self, inside: Inside) -> Floats:
        return points(self.fields[:1], inside)[0]


@dataclass
class CodedTile:
    """Fields as their coefficients.

    Attributes
    ----------
    coefficients : Coefficients
        Of the whole tile, (r + 1, *tile).
    region : tuple of slice
        The part of the tile that lies within the variable.
    mask : ndarray of bool, optional
        Where nothing is, in that part: sums are NaN there, fields other than the first 0.
    where : str
        Begins the messages of errors.
    """

    coefficients: Coefficients
    region: Region
    mask: NDArray[np.bool_] | None
    where: str
    _summed: int = field(default=0, init=False)

    @property
    def nbytes(self) -> int:
        return self.coefficients.nbytes + (0 if self.mask is None else self.mask.nbytes)

    def is_worth_decoding(self, count: int) -> bool:
        """Whether to decode all fields for `count` sums more, with those that were asked for.

        A sum takes an inverse transform, decoding takes one per field. If it does not pay
        after all, no more than that much again is lost, however the sums are asked for.
        """
        self._summed += count
        if 2 * self._summed <= self.coefficients.shape[0]:
            return False
        self._summed = 0
        return True

    def decoded(self) -> DecodedTile:
        with located(self.where):
            fields = self.coefficients.array()[(slice(None), *self.region)]
        if self.mask is not None:
            fields[:1, self.mask] = np.nan
            fields[1:, self.mask] = 0
        return DecodedTile(fields)

    def combine(self, weights: Floats, inside: Inside, time_axis: int, out: NDArray[Any]) -> None:
        with located(self.where):
            sums = self.coefficients.combined(weights)[(slice(None), *self.region)]
        place(self._masked(sums), inside, time_axis, out)

    def first(self, inside: Inside) -> Floats:
        with located(self.where):
            fields = self.coefficients.first()[(None, *self.region)]
        return points(self._masked(fields), inside)[0]

    def _masked(self, sums: Floats) -> Floats:
        if self.mask is not None:
            sums[:, self.mask] = np.nan
        return sums
