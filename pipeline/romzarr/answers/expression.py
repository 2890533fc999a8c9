"""Linear combinations of lazy variables: selections and arithmetic that decode nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from romzarr.answers.quantity import Quantity
from romzarr.answers.selection import selection_of
from romzarr.errors import AnswerError


@dataclass(frozen=True, eq=False)
class Expression:
    """The sum of ``factor * variable`` over `terms` plus an `offset`, less means of `groups`.

    Attributes
    ----------
    terms : tuple of (float, xarray.DataArray)
        Variables as xarray opened them, or selections of them.
    offset : float
    groups : ndarray of int, shape (m,), optional
        The group of each snapshot, whose mean is subtracted.
    """

    terms: tuple[tuple[float, xr.DataArray], ...]
    offset: float = 0.0
    groups: NDArray[np.int64] | None = None

    @cached_property
    def quantity(self) -> Quantity:
        """What it is of stores.

        Raises
        ------
        AnswerError
            If a variable is no lazy selection of a store, or selections do not fit together.
        """
        selected = [(factor, selection_of(variable)) for factor, variable in self.terms]
        first = selected[0][1]
        for _, other in selected[1:]:
            same = (first.space_dims, first.time_dim) == (other.space_dims, other.time_dim)
            if not same or not np.array_equal(first.weights, other.weights):
                raise AnswerError(
                    f"variables {first.stored.name!r} and {other.stored.name!r} differ in their "
                    "dims, or in the weights of their points: the error of their sum is not known"
                )
        return Quantity(tuple(selected), self.offset, self.groups)

    def scaled(self, factor: float) -> Expression:
        terms = tuple((factor * each, variable) for each, variable in self.terms)
        return replace(self, terms=terms, offset=factor * self.offset)

    def shifted(self, offset: float) -> Expression:
        # Means of groups take it away again.
        return self if self.groups is not None else replace(self, offset=self.offset + offset)

    def without_means(self, groups: NDArray[np.int64]) -> Expression:
        """The same less the means of `groups` (m,), numbers from 0 on.

        Raises
        ------
        AnswerError
            If means are subtracted already.
        """
        if self.groups is not None:
            raise AnswerError("means are subtracted already; take the finest groups alone")
        # Offsets have no anomalies.
        return replace(self, groups=groups, offset=0.0)

    def plus(self, other: Expression) -> Expression:
        """The sum of both.

        Raises
        ------
        AnswerError
            If their coordinates differ, or means are subtracted from one and not from the other.
        """
        if not _alike(self.groups, other.groups):
            raise AnswerError(
                "the means of other groups are subtracted from one of two variables than from the "
                "other; add them first, then take anomalies"
            )
        _refuse_other_places(self.terms[0][1], other.terms[0][1])
        terms = (*self.terms, *other.terms)
        return replace(self, terms=terms, offset=self.offset + other.offset)

    def selected(self, select: Callable[[xr.DataArray], xr.DataArray]) -> Expression:
        """The same of a selection of every variable.

        Raises
        ------
        AnswerError
            If it changes the snapshots whose means are subtracted.
        """
        terms = tuple((factor, select(variable)) for factor, variable in self.terms)
        found = replace(self, terms=terms)
        if self.groups is not None and not np.array_equal(
            found.quantity.first.rows, self.quantity.first.rows
        ):
            raise AnswerError(
                "the means of all selected snapshots are subtracted already; select in time first, "
                "then take anomalies"
            )
        return found


def _alike(first: NDArray[np.int64] | None, second: NDArray[np.int64] | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _refuse_other_places(first: xr.DataArray, second: xr.DataArray) -> None:
    if first.dims != second.dims or first.shape != second.shape:
        raise AnswerError(
            f"variables {first.name!r} of {dict(first.sizes)} and {second.name!r} of "
            f"{dict(second.sizes)}: select the same part of both"
        )
    for name in first.coords.keys() & second.coords.keys():
        if set(first[name].dims) <= set(first.dims) and not first[name].equals(second[name]):
            raise AnswerError(
                f"variables {first.name!r} and {second.name!r} have other coordinates {name!r}; "
                "select the same part of both, or interpolate the decoded values"
            )
