"""Answers about archived data from its store, each with a bound on its error."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from romzarr.answers import distribution, spectrum, weighting
from romzarr.answers.bounds import dual_norm, largest_error, of_correlations, of_squares
from romzarr.answers.eofs import eofs
from romzarr.answers.errors import error_by_block
from romzarr.answers.plots import Plots
from romzarr.answers.quantity import Quantity
from romzarr.answers.statistics import sums_over_space, sums_over_time, variance
from romzarr.answers.variables import Variables
from romzarr.contracts import Matrix
from romzarr.errors import AnswerError
from romzarr.operations.describe import Equations, equations, info
from romzarr.reports import StoreInfo
from romzarr.store.reading.decoding import modes as modes_of

_FIELD = "L2 norm over the points, in the weights of the store, of the error of the answer"
_SERIES = "L2 norm over the snapshots of the error of the answer"
_VARIANCE = "L1 norm over the points, in the weights of the store, of the error of the answer"
_VALUES = "L2 norm over snapshots and points, in the weights of the store, of the error"
_SPECTRUM = "L1 norm over frequencies and points, in the weights of the store, of the error"
_SERIES_SPECTRUM = "L1 norm over the frequencies of the error of the answer"
_SINGULAR_VALUES = "L2 norm over all singular values of their errors"
_ANGLE = "sine of the angle to the true one, in the weights of the store"
_SINGLE = "error of each number of the answer"

# Values that distributions are made of, unless there are fewer: a share in a sample of so many is
# off by 0.0032 at most.
SAMPLES = 1 << 20


class Field(NamedTuple):
    """An answer at each point, ([row,] points), of a quantity, and the bound of each row."""

    quantity: Quantity
    values: Matrix
    bound: Matrix | float


class Answers(Variables):
    """Statistics of the data that was archived, from a dataset that a store was opened as.

    It is the accessor ``dataset.romzarr``, of the whole dataset or of a selection along dims. Each
    answer is a dataset: beside a variable ``name`` stands ``name_bound``, which the error of
    the answer does not exceed, as a statistic of the archived data and in the norm that its
    attribute ``norm`` names. Answers are computed when they are asked for: from mean, modes and
    coefficients if a variable is coded by nothing else, otherwise from decoded values; either about
    64 MB at a time. Mean and modes are decoded once, and kept if they take no more than that. The
    bound is infinite where the store does not record an error. Stores that were appended to are
    answered from the factors of their parts, unless these are more than the snapshots selected.

    Selections (`sel`, `isel`, ``answers["t"]``) and arithmetic that is linear (``answers["u"] -
    answers["v"]``, ``3.6 * answers``, ``answers - 273.15``, also of two stores on the same grid)
    give answers again, and decode nothing.

    Attributes
    ----------
    dataset : xarray.Dataset
    """

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
        self._refuse_parts()
        found, dim = self._first.first.coefficients[:, 1:], self._time_dim
        return xr.DataArray(
            found, dims=(dim, "mode"), coords=self._coords((dim,)), name="coefficients"
        )

    @property
    def modes(self) -> xr.Dataset:
        """POD modes ``(mode, *space)`` of the selected points, in units of the variables.

        Variables without modes have zeros; stores of one part only.
        """
        self._refuse_parts()
        found = {}
        for name, quantity in self._quantities.items():
            values = sum(
                factor * modes_of(each.store.last, each.stored.name, each.space)
                for factor, each in quantity.terms
            )
            found[name] = (("mode", *quantity.first.space_dims), values)
        dims = {dim for each in self._quantities.values() for dim in each.first.space_dims}
        return xr.Dataset(found, coords=self._coords(tuple(dims)))

    @property
    def plot(self) -> Plots:
        """Plots of modes, coefficients, averages and spectra; they need Matplotlib."""
        return Plots(self)

    # --- values ---------------------------------------------------------------------------

    def values(self) -> xr.Dataset:
        """All values of what is selected, in float64 and with time first."""
        found = {}
        for name, quantity in self._quantities.items():
            values, norm = quantity.values()
            found[name] = Field(quantity, values, quantity.error(norm))
        return self._fields(found, _VALUES, row=self._time_dim)

    def anomaly(self, group: str | None = None) -> xr.Dataset:
        """Values less their mean over time, or over each group, as ``"time.month"``.

        For statistics of anomalies take `without_mean`, which decodes nothing.
        """
        return self.without_mean(group).values()

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
        selections = {}
        for name, quantity in self._quantities.items():
            if name not in self.dataset or len(quantity.terms) > 1 or quantity.factor != 1:
                raise AnswerError(
                    f"{name!r} is computed from variables: errors by block are known of these alone"
                )
            selections[name] = quantity.first
        return error_by_block(selections, self.dataset)

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
        return self._over_time(np.full((1, self._count), 1 / self._count), averages=True)

    def std(self, dim: str | None = None) -> xr.Dataset:
        """Standard deviation over the selected snapshots at each point (``ddof=0``)."""
        self._refuse_other(dim)
        answer = {}
        for name, quantity in self._quantities.items():
            found = variance(quantity)
            bound = found.error / found.counts**0.5
            answer[name] = Field(quantity, np.sqrt(found.values), bound)
        return self._fields(answer, _FIELD)

    def var(self, dim: str | None = None) -> xr.Dataset:
        """Variance over the selected snapshots at each point (``ddof=0``).

        With s the standard deviations and d the bound on their error, the sum of the absolute
        errors of all variances is at most ``2 ||s|| d + d**2``.
        """
        self._refuse_other(dim)
        answer = {}
        for name, quantity in self._quantities.items():
            found = variance(quantity)
            spread = _spread(quantity, found.values)
            bound = of_squares(spread, found.error / found.counts**0.5)
            answer[name] = Field(quantity, found.values, bound)
        return self._fields(answer, _VARIANCE)

    def climatology(self, group: str = "time.month") -> xr.Dataset:
        """Means over the snapshots of each group, as ``"time.month"`` or ``"time.season"``.

        Raises
        ------
        AnswerError
            If `group` does not name the dim of time and one of its parts.
        """
        part, kinds, numbers = weighting.groups_of(self.dataset, self._time_dim, group)
        members = (numbers == np.arange(len(kinds))[:, None]).astype(np.float64)
        weights = members / members.sum(axis=1, keepdims=True)
        return self._over_time(weights, averages=True, row=part).assign_coords({part: kinds})

    def trend(self) -> xr.Dataset:
        """Least-squares slope over time at each point: per day of calendar times, otherwise per
        unit of the coordinate; NaN where a value is missing."""
        return self._slope(weighting.times_of(self.dataset, self._time_dim, self._count))

    def regress(self, index: xr.DataArray) -> xr.Dataset:
        """Slope of the regression of every point on a series along time, as long as the selection.

        Raises
        ------
        AnswerError
            If the series has another length or values that are not finite, or is constant.
        """
        return self._slope(self._series(index))

    def covariance(self, index: xr.DataArray | Mapping[str, Any]) -> xr.Dataset:
        """Covariance over time of every point with a series that is known exactly, or one point.

        Parameters
        ----------
        index : xarray.DataArray or mapping
            The series, as long as the selection; or labels of a point, as ``{"lat": 40, "lon":
            175}``: then each variable with itself at the nearest point, whose error counts, too.

        Raises
        ------
        AnswerError
            If the series has another length or values that are not finite, or is constant; or if
            the labels are not those of one point that has values.
        """
        answer = {}
        for name, quantity in self._quantities.items():
            about, off = self._about_mean_of(name, index)
            sums = sums_over_time(quantity, about[None] / len(about), averages=False)
            error = float(sums.errors[0])
            bound = float(sums.gains[0]) * error
            if off:
                spread = _spread(quantity, variance(quantity).values)
                bound += (spread * len(about) ** 0.5 + error) * off / len(about)
            answer[name] = Field(quantity, sums.values[0], bound)
        return self._fields(answer, _FIELD)

    def correlation(self, index: xr.DataArray | Mapping[str, Any]) -> xr.Dataset:
        """Correlation over time of every point with a series, or with one point, as `covariance`.

        NaN where a value is missing, or nothing changes; such points are left out of the norm.
        Points that fluctuate less than the error is there dominate the bound: select others.
        """
        answer = {}
        for name, quantity in self._quantities.items():
            about, off = self._about_mean_of(name, index)
            size = float(np.linalg.norm(about))
            slopes = sums_over_time(quantity, about[None] / size, averages=False)
            found = variance(quantity)
            lengths = np.sqrt(found.values * quantity.snapshots)
            with np.errstate(invalid="ignore", divide="ignore"):
                values = np.clip(np.where(lengths > 0, slopes.values[0] / lengths, np.nan), -1, 1)
            known = ~np.isnan(values)
            weights = quantity.weights[known]
            bound = of_correlations(values[known], lengths[known], found.error, weights)
            # The series of a point turns by the same angle for all others.
            bound += 2 * min(1.0, off / size) * float(np.sum(weights)) ** 0.5
            answer[name] = Field(quantity, values, bound)
        return self._fields(answer, _FIELD)

    # --- spectra --------------------------------------------------------------------------

    def eofs(self, count: int = 10) -> xr.Dataset:
        """The leading empirical orthogonal functions of each variable, and their shares.

        Returns
        -------
        xarray.Dataset
            Of each variable ``name (mode, *space)``, fields about the mean in time, orthonormal in
            the weights of the store; ``name_bound (mode)``, the sine of the angle to the true one
            (1: nothing is known); ``name_coefficients`` (time, mode); ``name_singular_values``
            (mode), their norms; ``name_singular_values_bound``.

        Raises
        ------
        AnswerError
            If values have to be decoded, of more snapshots than a Gram matrix is for.
        """
        answer, dims = {}, (self._time_dim, "mode")
        found = xr.Dataset(coords=self._coords((self._time_dim,)))
        for name, quantity in self._quantities.items():
            each = eofs(quantity, count)
            answer[name] = Field(quantity, each.fields, each.angles)
            found[f"{name}_coefficients"] = (dims, each.coefficients)
            found[f"{name}_singular_values"] = ("mode", each.singular_values)
            norm = {"norm": _SINGULAR_VALUES}
            found[f"{name}_singular_values_bound"] = ((), each.error, norm)
        return self._fields(answer, _ANGLE, row="mode").merge(found)

    def spectrum(self) -> xr.Dataset:
        """Power spectrum in time at each point, ``(frequency, *space)``.

        It is the one-sided periodogram about the mean, a density: its sum over frequencies, times
        their step, is the variance. Frequencies are in cycles per day of calendar times, otherwise
        per unit of the coordinate. NaN where a value is missing.

        Raises
        ------
        AnswerError
            If the steps between snapshots differ.
        """
        step, answer = self._step(), {}
        for name, quantity in self._quantities.items():
            answer[name] = Field(quantity, *spectrum.spectrum(quantity, step))
        found = self._fields(answer, _SPECTRUM, row="frequency")
        return found.assign_coords(frequency=spectrum.frequencies(self._count, step))

    def spectrum_of_average(self, weights: xr.DataArray | None = None) -> xr.Dataset:
        """Power spectrum in time of `average`, as `spectrum` is of each point."""
        step, series = self._step(), self.average(weights)
        found = xr.Dataset(coords={"frequency": spectrum.frequencies(self._count, step)})
        for name in self._quantities:
            power = spectrum.spectrum_of_series(series[name].values, step)
            bound = spectrum.bound_of_series(power, float(series[f"{name}_bound"]), step)
            found[name] = ("frequency", power)
            found[f"{name}_bound"] = ((), bound, {"norm": _SERIES_SPECTRUM})
        return found

    # --- distributions --------------------------------------------------------------------

    def histogram(
        self,
        edges: Sequence[float],
        *,
        samples: int = SAMPLES,
        rng: np.random.Generator | None = None,
    ) -> xr.Dataset:
        """Shares of values above each edge and not above the next, over snapshots and points.

        Points count what they do in the recorded error; missing and infinite values do not.

        Parameters
        ----------
        edges : sequence of float
            Increasing, at least two.
        samples : int
            If there are more values, so many are drawn. The bound then holds with a probability
            of ``1 - 1e-9``.
        rng : numpy.random.Generator, optional
            What draws them; by default one that draws the same ones each time.

        Raises
        ------
        AnswerError
            If edges do not increase, or nothing is selected that has a value.
        """
        bounds = np.asarray(edges, np.float64)
        if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
            raise AnswerError(f"edges of a histogram must increase, got {list(edges)}")
        centres = (bounds[:-1] + bounds[1:]) / 2
        limits = {"lower_edge": ("bin", bounds[:-1]), "upper_edge": ("bin", bounds[1:])}
        found = xr.Dataset(coords={"bin": centres, **limits})
        for name, each in self._distributions(samples, rng):
            shares = each.share_below(bounds)
            values = np.diff(shares.found)
            most = shares.largest[1:] - shares.least[:-1]
            least = np.maximum(shares.least[1:] - shares.largest[:-1], 0.0)
            found[name] = ("bin", values)
            bound = np.maximum(np.minimum(most, 1.0) - values, values - least)
            found[f"{name}_bound"] = ("bin", bound, {"norm": _SINGLE})
        return found

    def quantile(
        self,
        shares: Sequence[float],
        *,
        samples: int = SAMPLES,
        rng: np.random.Generator | None = None,
    ) -> xr.Dataset:
        """Least values that these shares of all values do not exceed, over snapshots and points.

        Points, `samples` and `rng` are as in `histogram`. The extremes (0 and 1) are bounded only
        where single values are, as by ``max_error``.

        Raises
        ------
        AnswerError
            If a share is not from 0 to 1, or nothing is selected that has a value.
        """
        asked = np.asarray(shares, np.float64)
        if asked.ndim != 1 or not ((asked >= 0) & (asked <= 1)).all():
            raise AnswerError(f"quantiles are of shares from 0 to 1, got {list(shares)}")
        found = xr.Dataset(coords={"quantile": asked})
        for name, each in self._distributions(samples, rng):
            values = each.quantile(asked)
            found[name] = ("quantile", values.found)
            found[f"{name}_bound"] = ("quantile", values.bound, {"norm": _SINGLE})
        return found

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
            f"<tr><td>{escape(name)}</td><td>{_words(quantity)}</td>"
            f"<td>{dict(zip(quantity.first.space_dims, quantity.first.space_shape, strict=True))}"
            f"</td><td>{quantity.error(0.0):.3g}</td></tr>"
            for name, quantity in self._quantities.items()
        )
        head = "<tr><th>variable</th><th>coding</th><th>points</th><th>L2 error at most</th></tr>"
        title = f"Answers from {escape(self._store.url)}, {self._count} snapshots"
        return f"<p>{title}</p><table>{head}{rows}</table>"

    def _refuse_parts(self) -> None:
        stores = [
            each.store for quantity in self._quantities.values() for _, each in quantity.terms
        ]
        parts = max(len(store.parts) for store in stores)
        if parts > 1 or any(store != stores[0] for store in stores):
            raise AnswerError(
                f"{self._store.url}: modes differ between its {parts} parts, or between stores; "
                "compress the archive anew to have one part, or ask for eofs"
            )

    def _refuse_other(self, dim: str | None) -> None:
        if dim not in (None, self._time_dim):
            raise AnswerError(
                f"dim {dim!r} is not {self._time_dim!r}, the dim of time; sums and means over "
                "space are integrate(weights) and average(weights)"
            )

    def _step(self) -> float:
        return weighting.step_of(weighting.times_of(self.dataset, self._time_dim, self._count))

    def _series(self, index: xr.DataArray | Matrix) -> Matrix:
        series = np.asarray(index, np.float64)
        if series.shape != (self._count,) or not np.isfinite(series).all():
            raise AnswerError(
                f"an index of shape {series.shape}: it must hold finite numbers, one for each of "
                f"the {self._count} snapshots selected"
            )
        return series

    def _about_mean_of(
        self, name: str, index: xr.DataArray | Mapping[str, Any]
    ) -> tuple[Matrix, float]:
        """A series about its mean, or that of a variable at a point, and its error (L2 norm)."""
        if not isinstance(index, Mapping):
            return self._about_mean(index), 0.0
        point = self[name].sel(index, method="nearest")._first
        values, norm = point.values()
        if point.points != 1 or not np.isfinite(values).all():
            raise AnswerError(
                f"variable {name!r} at {dict(index)}: {point.points} points, all values of which "
                "must be there; give labels of one point along each dim in space"
            )
        off = point.error(norm) * dual_norm(np.ones(1), point.weights)
        off = min(off, _of_single_values(point))
        return self._about_mean(values[:, 0]), off

    def _about_mean(self, index: xr.DataArray | Matrix) -> Matrix:
        series = self._series(index)
        about = series - series.mean()
        if not about.any():
            raise AnswerError("the series is constant: there is no slope; select more snapshots")
        return about

    def _slope(self, series: xr.DataArray | Matrix) -> xr.Dataset:
        about = self._about_mean(series)
        return self._over_time((about / (about @ about))[None], averages=False)

    def _over_time(self, weights: Matrix, averages: bool, row: str | None = None) -> xr.Dataset:
        """Sums with `weights` (q, m), the rows of which lie along a dim `row`, or a single one."""
        answer = {}
        for name, quantity in self._quantities.items():
            sums = sums_over_time(quantity, weights, averages)
            bounds = sums.gains * sums.errors
            answer[name] = (
                Field(quantity, sums.values[0], bounds[0])
                if row is None
                else Field(quantity, sums.values, bounds)
            )
        return self._fields(answer, _FIELD, row)

    def _over_space(self, weights: xr.DataArray | None, average: bool) -> xr.Dataset:
        answer = xr.Dataset(coords=self._coords((self._time_dim,)))
        for name, quantity in self._quantities.items():
            factors = weighting.over_points(quantity, weights, name)
            if average:
                factors = weighting.normalised(quantity, factors, name)
            sums, error = sums_over_space(quantity, factors)
            answer[name] = (self._time_dim, sums)
            bound = dual_norm(factors, quantity.weights) * error
            answer[f"{name}_bound"] = ((), bound, {"norm": _SERIES})
        return answer

    def _distributions(
        self, samples: int, rng: np.random.Generator | None
    ) -> Iterator[tuple[str, distribution.Distribution]]:
        source = np.random.default_rng(0) if rng is None else rng
        for name, quantity in self._quantities.items():
            yield name, distribution.distribution(quantity, samples, source)

    def _fields(self, answer: Mapping[str, Field], norm: str, row: str | None = None) -> xr.Dataset:
        """A dataset of fields, which may have rows along a dim `row`, and of their bounds."""
        dims = {dim for each in answer.values() for dim in each.quantity.first.space_dims}
        along = () if row is None else (row,)
        found: dict[str, Any] = {}
        for name, (quantity, values, bound) in answer.items():
            shape = (*values.shape[:-1], *quantity.first.space_shape)
            found[name] = ((*along, *quantity.first.space_dims), values.reshape(shape))
            found[f"{name}_bound"] = (along if np.ndim(bound) else (), bound, {"norm": norm})
        return xr.Dataset(found, coords=self._coords((*dims, *along)))


def _spread(quantity: Quantity, variances: Matrix) -> float:
    """L2 norm over the points of the standard deviations."""
    return float(np.nansum(quantity.weights * variances)) ** 0.5


def _of_single_values(point: Quantity) -> float:
    """L2 norm over time of the error at a point, where single values are bounded."""
    return largest_error(point.first) * point.snapshots**0.5 if point.is_decoded else np.inf


def _words(quantity: Quantity) -> str:
    """How it is coded, and what an answer takes."""
    codings = ", ".join(dict.fromkeys(str(each.stored.coding) for _, each in quantity.terms))
    return f"{codings}: {'from factors' if quantity.factored else 'decoded in blocks'}"


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
