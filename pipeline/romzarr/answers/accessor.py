"""Answers about archived data from its store, each with a bound on its error."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from html import escape

import numpy as np
import xarray as xr

from romzarr.answers.bounds import error_of, errors_of_sums, recorded_error
from romzarr.answers.errors import error_by_block
from romzarr.answers.selection import Selection, selection_of
from romzarr.answers.statistics import sums_over_space, sums_over_time, variance
from romzarr.contracts import Matrix
from romzarr.errors import AnswerError
from romzarr.operations.describe import Equations, equations, info
from romzarr.reports import StoreInfo
from romzarr.store.reading.decoding import modes as modes_of
from romzarr.store.reading.lazy import DecodedArray
from romzarr.store.reading.reader import CoefficientStore

_FIELD = "L2 norm over the points, in the weights of the store, of the error of the answer"
_SERIES = "L2 norm over the snapshots of the error of the answer"
_VARIANCE = "L1 norm over the points, in the weights of the store, of the error of the answer"


class Answers:
    """Statistics of the data that was archived, from a dataset that a store was opened as.

    It is the accessor ``dataset.romzarr``, of the whole dataset or of a selection along dims. Each
    answer is a dataset: beside a variable ``name`` stands ``name_bound``, which the error of
    the answer does not exceed, as a statistic of the archived data and in the norm that its
    attribute ``norm`` names. Answers are computed when they are asked for: from mean, modes and
    coefficients if a variable is coded by nothing else, otherwise from decoded values, about 64 MB
    at a time. The bound is infinite where the store does not record an error.

    Attributes
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset

    # --- what is in the store -------------------------------------------------------------

    @property
    def info(self) -> StoreInfo:
        """What `romzarr.info` says of the whole store."""
        return info(self._store.url)

    @property
    def equations(self) -> Equations:
        """The equations of the coefficients, as `romzarr.equations`."""
        return equations(self._store.url)

    @property
    def singular_values(self) -> xr.DataArray:
        """Singular values (mode,) of the newest part."""
        return xr.DataArray(self._store.last.singular_values, dims="mode", name="singular_values")

    @property
    def coefficients(self) -> xr.DataArray:
        """Coefficients a(t) of the selected snapshots (time, mode); stores of one part only."""
        selected = self._one_part()
        found, dim = selected.coefficients[:, 1:], selected.time_dim
        return xr.DataArray(
            found, dims=(dim, "mode"), coords=self._coords((dim,)), name="coefficients"
        )

    @property
    def modes(self) -> xr.Dataset:
        """POD modes ``(mode, *space)`` of the selected points, in units of the variables.

        Variables without modes have zeros; stores of one part only.
        """
        found = {}
        for name, selected in self._selected.items():
            self._one_part()
            values = modes_of(selected.store.last, selected.stored.name, selected.space)
            found[name] = (("mode", *selected.space_dims), values)
        dims = tuple({dim for each in self._selected.values() for dim in each.space_dims})
        return xr.Dataset(found, coords=self._coords(dims))

    def error(self) -> xr.Dataset:
        """What the store knows of where the error lies, for the selected snapshots and points.

        Returns
        -------
        xarray.Dataset
            For each coded variable a bound on the L2 norm of the error on each block of time and
            tile of space, in units of the variable and the weights of the store, along the dims
            of the variable, one value a block. A coordinate says where in the selection a block
            begins, and another one, ``<dim>_last``, where it ends. Dims of variables that are cut
            in another way have a number. ``<name>_by_index`` are the errors of single indices,
            such as levels, relative to their own fluctuation, where these are bounded. Nothing is
            decoded. A variable of which nothing is known has an infinite error.
        """
        return error_by_block(self._selected, self.dataset)

    # --- sums over time -------------------------------------------------------------------

    def mean(self, dim: str | None = None) -> xr.Dataset:
        """Mean over the selected snapshots at each point; missing values are left out.

        Parameters
        ----------
        dim : str, optional
            The dim of time; means over space are `average`.

        Raises
        ------
        AnswerError
            If `dim` is another dim, or the dataset is no selection of a store.
        """
        self._refuse_other(dim)
        return self._over_time(np.full((1, self._count), 1 / self._count), averages=True).isel(
            row=0
        )

    def std(self, dim: str | None = None) -> xr.Dataset:
        """Standard deviation over the selected snapshots at each point (``ddof=0``)."""
        self._refuse_other(dim)
        answer = {}
        for name, selected in self._selected.items():
            found = variance(selected)
            bound = error_of(selected, found.norm) / found.counts**0.5
            answer[name] = (selected, np.sqrt(found.values), bound)
        return self._fields(answer, _FIELD)

    def var(self, dim: str | None = None) -> xr.Dataset:
        """Variance over the selected snapshots at each point (``ddof=0``).

        With s the standard deviations and d the bound on their error, the sum of the absolute
        errors of all variances is at most ``2 ||s|| d + d**2``.
        """
        self._refuse_other(dim)
        answer = {}
        for name, selected in self._selected.items():
            found = variance(selected)
            off = error_of(selected, found.norm) / found.counts**0.5
            spread = float(np.nansum(selected.weights * found.values)) ** 0.5
            answer[name] = (selected, found.values, 2 * spread * off + off**2)
        return self._fields(answer, _VARIANCE)

    def climatology(self, group: str = "time.month") -> xr.Dataset:
        """Means over the snapshots of each group, as ``"time.month"`` or ``"time.season"``.

        Raises
        ------
        AnswerError
            If `group` does not name the dim of time and one of its parts.
        """
        dim, _, part = group.partition(".")
        if dim != self._time_dim or not part or dim not in self.dataset.coords:
            raise AnswerError(
                f"climatology of {group!r}: it must be the coordinate of time and a part of it, "
                f"as '{self._time_dim}.month'"
            )
        labels = getattr(self.dataset[dim].dt, part).values
        kinds = np.unique(labels)
        members = (labels == kinds[:, None]).astype(np.float64)
        found = self._over_time(members / members.sum(axis=1, keepdims=True), averages=True)
        return found.rename(row=part).assign_coords({part: kinds})

    def trend(self) -> xr.Dataset:
        """Least-squares slope over time at each point: per day of calendar times, otherwise per
        unit of the coordinate; NaN where a value is missing."""
        return self._slope(self._times())

    def regress(self, index: xr.DataArray) -> xr.Dataset:
        """Slope of the regression of every point on a series along time, as long as the selection.

        Raises
        ------
        AnswerError
            If the series has another length or values that are not finite, or is constant.
        """
        return self._slope(self._series(index))

    def covariance(self, index: xr.DataArray) -> xr.Dataset:
        """Covariance over time of every point with a series that is known exactly."""
        series = self._series(index)
        return self._over_time((series - series.mean())[None] / len(series), False).isel(row=0)

    # --- sums over space ------------------------------------------------------------------

    def integrate(self, weights: xr.DataArray | None = None) -> xr.Dataset:
        """Sum over all selected points at each snapshot, times `weights` over space dims.

        Masked and missing points count nothing.
        """
        return self._over_space(weights, average=False)

    def average(self, weights: xr.DataArray | None = None) -> xr.Dataset:
        """Weighted mean over all selected points at each snapshot, as of areas and volumes.

        Masked points are left out.

        Raises
        ------
        AnswerError
            If values are missing at some times only: what a point counts would change.
        """
        return self._over_space(weights, average=True)

    # --- how ------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{each.stored.coding}</td>"
            f"<td>{recorded_error(each):.3g}</td></tr>"
            for name, each in self._selected.items()
        )
        head = "<tr><th>variable</th><th>coding</th><th>L2 error at most</th></tr>"
        return f"<p>Answers from {escape(self._store.url)}</p><table>{head}{rows}</table>"

    @cached_property
    def _selected(self) -> dict[str, Selection]:
        """All variables that are coded in the store; others were copied, and are left out."""
        variables = self.dataset.data_vars.items()
        found = {str(name): selection_of(each) for name, each in variables if _is_coded(each)}
        if not found:
            names = [str(name) for name in self.dataset.data_vars]
            raise AnswerError(
                f"none of the variables {names} is lazily that of a store; open it by "
                "romzarr.open(store), or by xarray.open_dataset(store, engine='romzarr', "
                "cache=False) without chunks, and do not load or compute with it before"
            )
        return found

    @property
    def _first(self) -> Selection:
        return next(iter(self._selected.values()))

    @property
    def _store(self) -> CoefficientStore:
        return self._first.store

    @property
    def _time_dim(self) -> str:
        return self._first.time_dim

    @property
    def _count(self) -> int:
        return len(self._first.rows)

    def _one_part(self) -> Selection:
        if len(self._store.parts) > 1:
            raise AnswerError(
                f"{self._store.url}: modes differ between its {len(self._store.parts)} parts; "
                "compress the archive anew to have one part"
            )
        return self._first

    def _refuse_other(self, dim: str | None) -> None:
        if dim not in (None, self._time_dim):
            raise AnswerError(
                f"dim {dim!r} is not {self._time_dim!r}, the dim of time; sums and means over "
                "space are integrate(weights) and average(weights)"
            )

    def _times(self) -> Matrix:
        dim = self._time_dim
        if dim not in self.dataset.coords:
            return self._first.rows.astype(np.float64)
        times = self.dataset[dim].values
        since = times - times[0]
        if since.dtype.kind == "m":
            return np.asarray(since / np.timedelta64(1, "D"), np.float64)
        if since.dtype.kind == "O":
            return np.array([each.total_seconds() / 86400 for each in since])
        return np.asarray(since, np.float64)

    def _series(self, index: xr.DataArray) -> Matrix:
        series = np.asarray(index, np.float64)
        if series.shape != (self._count,) or not np.isfinite(series).all():
            raise AnswerError(
                f"an index of shape {series.shape}: it must hold finite numbers, one for each of "
                f"the {self._count} snapshots selected"
            )
        return series

    def _slope(self, series: Matrix) -> xr.Dataset:
        about = series - series.mean()
        if not about.any():
            raise AnswerError("the series is constant: there is no slope; select more snapshots")
        return self._over_time((about / (about @ about))[None], averages=False).isel(row=0)

    def _over_time(self, weights: Matrix, averages: bool) -> xr.Dataset:
        answer = {}
        for name, selected in self._selected.items():
            found = sums_over_time(selected, weights, averages)
            errors = errors_of_sums(selected, weights, found.norm)
            answer[name] = (selected, found.values, found.gains * errors)
        return self._fields(answer, _FIELD)

    def _over_space(self, weights: xr.DataArray | None, average: bool) -> xr.Dataset:
        answer = xr.Dataset(coords=self._coords((self._time_dim,)))
        for name, selected in self._selected.items():
            factors = _points(selected, weights, name)
            if average:
                factors = _normalised(selected, factors, name)
            sums, norm = sums_over_space(selected, factors)
            answer[name] = (selected.time_dim, sums)
            bound = _dual_norm(factors, selected.weights) * error_of(selected, norm)
            answer[f"{name}_bound"] = ((), bound, {"norm": _SERIES})
        return answer

    def _fields(
        self, answer: Mapping[str, tuple[Selection, Matrix, Matrix | float]], norm: str
    ) -> xr.Dataset:
        """A dataset of flat fields, ([row,] points), and their bounds, ([row])."""
        dims = {dim for selected, _, _ in answer.values() for dim in selected.space_dims}
        found = xr.Dataset(coords=self._coords(tuple(dims)))
        for name, (selected, values, bound) in answer.items():
            rows = ("row",) if values.ndim == 2 else ()
            shape = (*values.shape[:-1], *selected.space_shape)
            found[name] = ((*rows, *selected.space_dims), values.reshape(shape))
            found[f"{name}_bound"] = (rows, bound, {"norm": norm})
        return found

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


def _points(selected: Selection, weights: xr.DataArray | None, name: str) -> Matrix:
    """Weights at the selected points, flat."""
    sizes = dict(zip(selected.space_dims, selected.space_shape, strict=True))
    if weights is None:
        return np.ones(len(selected.weights))
    if any(sizes.get(str(dim)) != size for dim, size in weights.sizes.items()):
        raise AnswerError(
            f"variable {name!r}: weights have the sizes {dict(weights.sizes)}; they must be "
            f"over some of {sizes}"
        )
    found = np.asarray(weights.variable.set_dims(sizes).transpose(*sizes).values, np.float64)
    if not np.isfinite(found).all():
        raise AnswerError(f"variable {name!r}: weights are not all finite; fill them with 0")
    return found.reshape(-1)


def _normalised(selected: Selection, weights: Matrix, name: str) -> Matrix:
    """Weights that add up to 1 over the points that are not masked."""
    if selected.stored.gaps is not None:
        raise AnswerError(
            f"variable {name!r}: values are missing at some times; its averages are not "
            "sums with fixed weights: use integrate, or decode the values"
        )
    _, values = next(selected.at_first().blocks())
    found = np.where(np.isnan(values[0]), 0.0, weights)
    if not found.sum():
        raise AnswerError(f"variable {name!r}: the weights of its points add up to 0")
    return np.asarray(found / found.sum())


def _dual_norm(weights: Matrix, counted: Matrix) -> float:
    """The largest of ``weights @ e`` for e of norm 1; inf if a point counts nothing in it."""
    used = weights != 0
    with np.errstate(divide="ignore"):
        return float(np.sqrt(np.sum(weights[used] ** 2 / counted[used])))


def open(store: str | os.PathLike[str]) -> Answers:
    """Open a store to ask about the data that was archived.

    Parameters
    ----------
    store : str or path
        Local path or URL.

    Returns
    -------
    Answers
        Its ``dataset`` is what xarray opens, with nothing decoded.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged or not understood.
    """
    # Otherwise xarray would put values in the place of the lazy ones as soon as they are read.
    return Answers(xr.open_dataset(store, engine="romzarr", cache=False))
