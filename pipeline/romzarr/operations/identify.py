"""Equations of given states: no store and no compression."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from threadpoolctl import threadpool_limits

from romzarr.archive.series import Series, States, as_series
from romzarr.compression.model import check_expressions, make_library
from romzarr.config import AUTO, Config, LibraryConfig, Settings, given_config
from romzarr.contracts import TriangularFactor
from romzarr.errors import ArchiveError, ConfigError
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import (
    Library,
    PolynomialLibrary,
    library_from_spec,
    term_count,
)
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.term_selection import (
    Selection,
    select_terms,
    weak_triangle,
    weigh_terms,
)
from romzarr.numerics.dynamics.trapping import Region
from romzarr.operations.identified import described

# Degrees that are tried if none is given, as long as there are no more coefficients to choose
# from than this: their columns are computed at every sample.
MOST_DEGREE, MOST_COEFFICIENTS = 4, 1000
# Samples for each term of a library, at least: with fewer, quadrature windows cannot tell them
# apart.
SAMPLES_PER_TERM = 2
# Relative error of integrated trajectories.
ACCURACY = 1e-9


def identify(
    states: States | Sequence[States],
    times: ArrayLike | Sequence[ArrayLike] | None = None,
    *,
    names: Sequence[str] | None = None,
    config: Settings | None = None,
) -> xr.Dataset:
    """Find the differential equations of given states, and how sure they are.

    Parameters
    ----------
    states : (m, q) array_like, xarray.DataArray, xarray.Dataset, or a list of these
        A record of q series, or several records of the same system. All but the time dim of an
        xarray object is flattened; variables of a Dataset that do not change in time are left out.
    times : (m,) array_like, or a list of these, optional
        Increasing; one array serves all records. Default: the time coordinate of xarray objects,
        else the numbers of the samples.
    names : sequence of str, optional
        Names of the series. Default: those of xarray objects, else x, y, z or x1, x2, ...
    config : Config, optional
        Of ``library`` all but ``modes`` counts, and a ``degree`` is the highest; ``auto`` tries 1,
        2, 3 and 4 as long as there are no more than 1000 coefficients. ``weak_form`` and
        ``sparse_regression`` count too; a ``threshold`` chooses the terms in place of statistics.

    Returns
    -------
    xarray.Dataset
        Over (term, state) the ``coefficients`` of ``d state / dt``, their ``standard_error`` and
        the ``probability`` of each term; over state the ``noise`` (its standard deviation) and a
        sentence on whether to ``trust`` the equation; over (record, state) the ``residual``, the
        share of the fluctuation's rms that the trajectory leaves; over record its ``samples``;
        the ``centre`` of all states and over (state, other) the ``metric`` in which their distance
        from it is at most 1 (`integrate` can be bounded by that).
        Terms are all that were tried, named like ``"x*y"``, ``"x^2"`` and ``"1"``. Attributes:
        ``library`` (JSON), ``units`` of time, ``disturbance``, the variance by which each step
        breaks the equations over that of the noise, and ``converged``. `right_hand_side` and
        `integrate` take it.

    Raises
    ------
    ArchiveError
        If shapes do not fit, values are missing, times do not increase, or there are too few.
    ConfigError
        If a setting cannot be used, such as a degree with more terms than ``library.max_terms``.

    Notes
    -----
    A first set of terms comes from the weak form; then coefficients of the largest likelihood,
    with the record as a noisy trajectory of the model, and the best set of terms in the linear
    system about it, in turn (`romzarr.numerics.dynamics.term_selection`).

    Examples
    --------
    >>> times = np.arange(100) * 0.1
    >>> model = identify(np.column_stack([np.cos(times), np.sin(times)]), times)
    >>> float(model.coefficients.sel(term="y", state="x").round(6))
    -1.0
    """
    config = given_config(config)
    series = list(_series(states, times, names, config.archive.time))
    names = series[0].names
    records = [Record(each.states, each.times) for each in series]
    with threadpool_limits(1, user_api="blas"):
        libraries = _libraries(config, records)
        triangle = _triangle(records, libraries[-1], config)
        found = _found(records, libraries, triangle, config)
    if found is None:
        raise ArchiveError("states: no model can be fitted: all that were tried run away")
    return described(found, records, libraries[-1], names, series[0].units)


def right_hand_side(model: xr.Dataset) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """The function of states (..., q) that gives their time derivatives, for what `identify` found.

    Examples
    --------
    >>> times = np.arange(100) * 0.1
    >>> model = identify(np.column_stack([np.cos(times), np.sin(times)]), times)
    >>> right_hand_side(model)([0.0, 1.0]).round(6) + 0.0
    array([-1.,  0.])
    """
    library = library_from_spec(json.loads(model.attrs["library"]))
    dynamics = Dynamics(library, np.asarray(model["coefficients"].values, np.float64))

    def derivative(states: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(states, np.float64)
        return dynamics(values.reshape(-1, library.states)).reshape(values.shape)

    return derivative


def integrate(
    model: xr.Dataset, start: ArrayLike, times: ArrayLike, *, bounded: bool = False
) -> xr.DataArray:
    """The trajectory of an identified model.

    Parameters
    ----------
    model : xarray.Dataset
        From `identify`.
    start : (q,) array_like
        State at the first time.
    times : (m,) array_like
        Increasing.
    bounded : bool
        Whether the trajectory is kept in the region of the data: beyond 1.1 times the distance of
        the farthest sample from the centre the outward part of the velocity is taken out, and
        none is left at 1.4 times (`romzarr.numerics.dynamics.trapping`).

    Returns
    -------
    xarray.DataArray, (m, q) over (time, state)
        By an implicit or explicit method, whichever the stiffness asks for (LSODA), to 1e-9. NaN
        from where the solution leaves the finite numbers.
    """
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]] = right_hand_side(model)
    if bounded:
        region = Region(model["centre"].values, model["metric"].values)
        function = region.trapped(function)
    times = np.asarray(times, np.float64)
    begin = np.asarray(start, np.float64)
    values = np.full((len(times), len(begin)), np.nan)
    # A trajectory may run away, which old versions of SciPy warn of.
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        solution = solve_ivp(
            lambda _, state: function(state[None])[0],
            (times[0], times[-1]),
            begin,
            method="LSODA",
            t_eval=times,
            rtol=ACCURACY,
            atol=ACCURACY * max(float(np.abs(begin).max()), np.finfo(float).tiny),
        )
    values[: solution.y.shape[1]] = solution.y.T
    coords = {"time": times, "state": model["state"].values}
    return xr.DataArray(values, coords, ("time", "state"))


def _series(states: Any, times: Any, names: Sequence[str] | None, time: str) -> Iterator[Series]:
    """The records, which have to be of the same series."""
    if not _are_records(states):
        yield as_series(states, times, names, time, "states")
        return
    each_has_its_own = isinstance(times, list | tuple) and np.ndim(times[0]) > 0
    if each_has_its_own and len(times) != len(states):
        raise ArchiveError(
            f"times: found {len(times)} arrays for {len(states)} records; give one for each"
        )
    first: tuple[str, ...] | None = None
    for k, record in enumerate(states):
        own = times[k] if each_has_its_own else times
        found = as_series(record, own, names, time, f"states[{k}]")
        first = first or found.names
        if found.names != first:
            raise ArchiveError(
                f"states[{k}]: found the series {', '.join(found.names)}, the first record has "
                f"{', '.join(first)}; give the same ones in the same order"
            )
        yield found


def _are_records(states: Any) -> bool:
    if not isinstance(states, list | tuple) or not states:
        return False
    return isinstance(states[0], xr.DataArray | xr.Dataset) or np.ndim(states[0]) == 2


def _libraries(config: Config, records: Sequence[Record]) -> list[Library]:
    """From small to large; each begins with the terms of the one before."""
    settings, states = config.library, records[0].states.shape[1]
    check_expressions(config)
    if settings.kinds != ("polynomial",):
        every = np.concatenate([record.states for record in records])
        libraries = [make_library(settings, states, np.max(np.abs(every), axis=0))]
    elif settings.degree == AUTO:
        samples = sum(len(record.times) for record in records)
        libraries = _of_degrees(settings, states, samples)
    else:
        degrees = range(min(1, settings.degree), settings.degree + 1)
        libraries = [PolynomialLibrary(states, d, settings.interactions) for d in degrees]
    if libraries[-1].size > settings.max_terms:
        raise ConfigError(
            f"library.max_terms: {states} series make {libraries[-1].size} terms, allowed are "
            f"{settings.max_terms}; lower library.degree, raise library.max_terms, or let "
            "`romzarr.compress` find modes of many series"
        )
    return libraries


def _of_degrees(settings: LibraryConfig, states: int, samples: int) -> list[Library]:
    most = min(settings.max_terms, MOST_COEFFICIENTS // states, samples // SAMPLES_PER_TERM)
    degrees = [d for d in range(1, MOST_DEGREE + 1) if d == 1 or term_count(states, d) <= most]
    return [PolynomialLibrary(states, d, settings.interactions) for d in degrees]


def _triangle(records: Sequence[Record], library: Library, config: Config) -> TriangularFactor:
    weak = config.weak_form
    return weak_triangle(
        records,
        library,
        test_function=weak.test_function,
        support=weak.support,
        spacing=weak.spacing,
    )


def _found(
    records: Sequence[Record],
    libraries: Sequence[Library],
    triangle: TriangularFactor,
    config: Config,
) -> Selection | None:
    regression = config.sparse_regression
    if regression.threshold == AUTO:
        return select_terms(records, libraries, triangle)
    model = stlsq(
        triangle,
        threshold=regression.threshold,
        ridge=regression.ridge,
        max_iterations=regression.max_iterations,
    )
    return weigh_terms(records, libraries[-1], model.coefficients)
