"""Variables of stores that answers are about, what is selected of them, and their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import xarray as xr

from romzarr.answers import weighting
from romzarr.answers.expression import Expression
from romzarr.answers.quantity import Quantity
from romzarr.errors import AnswerError
from romzarr.store.reading.lazy import DecodedArray
from romzarr.store.reading.reader import CoefficientStore


class Variables:
    """Variables of a store that xarray opened, or linear combinations of such, by name.

    Attributes
    ----------
    dataset : xarray.Dataset
        The variables, where they are those of a store; coordinates in any case.
    """

    # NumPy numbers leave arithmetic to it.
    __array_ufunc__ = None

    def __init__(
        self, dataset: xr.Dataset, expressions: Mapping[str, Expression] | None = None
    ) -> None:
        self.dataset = dataset
        self._given = expressions

    # --- selections and arithmetic --------------------------------------------------------

    def sel(
        self, indexers: Mapping[Any, Any] | None = None, *, method: str | None = None, **more: Any
    ) -> Self:
        """Answers about a selection by labels along dims, as `xarray.Dataset.sel`."""
        chosen = self._chosen(indexers, more)
        return self._mapped(
            lambda each: each.selected(
                lambda variable: variable.sel(_of(chosen, variable), method=method)
            ),
            self.dataset.sel(_of(chosen, self.dataset), method=method),
        )

    def isel(self, indexers: Mapping[Any, Any] | None = None, **more: Any) -> Self:
        """Answers about a selection by positions along dims, as `xarray.Dataset.isel`."""
        chosen = self._chosen(indexers, more)
        return self._mapped(
            lambda each: each.selected(lambda variable: variable.isel(_of(chosen, variable))),
            self.dataset.isel(_of(chosen, self.dataset)),
        )

    def without_mean(self, group: str | None = None) -> Self:
        """Answers about anomalies: less the mean over the selected snapshots, or over each group.

        Parameters
        ----------
        group : str, optional
            As of `climatology`: the mean of each group is subtracted.

        Notes
        -----
        Subtracting means is an orthogonal projection: bounds are no larger. Select in time before.
        """
        groups = np.zeros(self._count, np.int64)
        if group is not None:
            _, _, groups = weighting.groups_of(self.dataset, self._time_dim, group)
        return self._mapped(lambda each: each.without_means(groups), self._without_variables())

    def rename(self, name: str) -> Self:
        """Call the only variable so.

        Raises
        ------
        AnswerError
            If there are several.
        """
        if len(self._expressions) > 1:
            raise AnswerError(f"rename takes one variable, there are {list(self._expressions)}")
        (expression,) = self._expressions.values()
        return type(self)(self._without_variables(), {name: expression})

    def __getitem__(self, names: str | Sequence[str]) -> Self:
        every = [names] if isinstance(names, str) else list(names)
        if unknown := [name for name in every if name not in self._expressions]:
            raise AnswerError(f"no variable {unknown[0]!r} here; there are {self._names}")
        there = self.dataset[[name for name in every if name in self.dataset]]
        return type(self)(there, {name: self._expressions[name] for name in every})

    def __add__(self, other: Self | float) -> Self:
        if not isinstance(other, Variables):
            return self._mapped(lambda each: each.shifted(float(other)), self._without_variables())
        if len(self._expressions) == len(other._expressions) == 1:
            pairs = list(zip(self._expressions, other._expressions.values(), strict=True))
        elif self._expressions.keys() == other._expressions.keys():
            pairs = list(other._expressions.items())
        else:
            raise AnswerError(
                f"variables {self._names} and {other._names}: take one of each, as "
                "answers['u'] - answers['v'], or the same of both"
            )
        found = {name: self._expressions[name].plus(each) for name, each in pairs}
        return type(self)(self._without_variables(), found)

    def __mul__(self, factor: float) -> Self:
        return self._mapped(lambda each: each.scaled(float(factor)), self._without_variables())

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Self:
        return self * -1.0

    def __sub__(self, other: Self | float) -> Self:
        return self + -other

    def __rsub__(self, other: float) -> Self:
        return -self + other

    def __truediv__(self, divisor: float) -> Self:
        return self * (1 / divisor)

    # --- what they are of ------------------------------------------------------------------

    @cached_property
    def _expressions(self) -> Mapping[str, Expression]:
        """All variables that are coded in the store; others were copied, and are left out."""
        if self._given is not None:
            return self._given
        variables = self.dataset.data_vars.items()
        found = {
            str(name): Expression(((1.0, each),)) for name, each in variables if _is_coded(each)
        }
        if not found:
            names = [str(name) for name in self.dataset.data_vars]
            raise AnswerError(
                f"none of the variables {names} is lazily that of a store; open it by "
                "romzarr.open(store), or by xarray.open_dataset(store, engine='romzarr', "
                "cache=False) without chunks, and do not load or compute with it before"
            )
        return found

    @cached_property
    def _quantities(self) -> dict[str, Quantity]:
        return {name: each.quantity for name, each in self._expressions.items()}

    @property
    def _names(self) -> list[str]:
        return list(self._expressions)

    @property
    def _first(self) -> Quantity:
        return next(iter(self._quantities.values()))

    @property
    def _store(self) -> CoefficientStore:
        return self._first.first.store

    @property
    def _time_dim(self) -> str:
        return self._first.first.time_dim

    @property
    def _count(self) -> int:
        return self._first.snapshots

    def _chosen(
        self, indexers: Mapping[Any, Any] | None, more: Mapping[str, Any]
    ) -> dict[Any, Any]:
        """All indexers, of which some variable knows the dim."""
        chosen = dict(indexers or {}) | dict(more)
        known = {
            name
            for each in self._expressions.values()
            for _, variable in each.terms
            for name in (*variable.dims, *variable.coords)
        }
        if unknown := [name for name in chosen if name not in known]:
            raise AnswerError(
                f"no dim {unknown[0]!r} here; there are {sorted(map(str, known))}: a selection "
                "chooses among these"
            )
        return chosen

    def _mapped(self, change: Callable[[Expression], Expression], dataset: xr.Dataset) -> Self:
        return type(self)(dataset, {name: change(each) for name, each in self._expressions.items()})

    def _without_variables(self) -> xr.Dataset:
        """The coordinates alone: variables of the dataset are no longer what answers are about."""
        return self.dataset.drop_vars(list(self.dataset.data_vars))

    def _coords(self, dims: tuple[str, ...]) -> dict[str, xr.DataArray]:
        """Coordinates along these dims alone."""
        coords = self.dataset.coords.items()
        return {str(name): each for name, each in coords if set(each.dims) <= set(dims)}


def _is_coded(variable: xr.DataArray) -> bool:
    return any(isinstance(each, DecodedArray) for each in _chain(variable.variable._data))


def _chain(data: object) -> Iterator[object]:
    """What xarray wraps around the array of a backend, and that."""
    while data is not None:
        yield data
        data = getattr(data, "array", None)


def _of(chosen: Mapping[Any, Any], where: xr.DataArray | xr.Dataset) -> dict[Any, Any]:
    """The indexers that a variable or dataset has a dim or coordinate for."""
    return {name: each for name, each in chosen.items() if name in (*where.dims, *where.coords)}
