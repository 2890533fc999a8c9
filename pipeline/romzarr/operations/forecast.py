"""Fields beyond the record of a store, as its equations foretell them, and for how long."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from romzarr.config import AUTO
from romzarr.contracts import BlockSpan, Matrix, Vector
from romzarr.errors import ConfigError, PipelineError
from romzarr.loss import without_loss
from romzarr.numerics.dynamics.coordinates.affine import inverse
from romzarr.numerics.dynamics.foretelling import (
    Ensemble,
    first_beyond,
    integrated,
    last_state,
    lyapunov_exponent,
    members,
    starts_of,
)
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.trapping import Region
from romzarr.operations.amplitudes import Amplitudes, amplitudes_of
from romzarr.operations.field_model import FieldFit, FieldSettings, fit_field
from romzarr.store.reading import decoding
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.reader import CoefficientStore, open_store

# Share of the record that is held back to score a forecast of it.
HELD_BACK = 0.2
# Where the spread of an ensemble, or an error, is this share of what a coordinate varies by, the
# forecast is not to be trusted any more: it then grows to the whole within a Lyapunov time.
TRUSTED = 0.3
# Snapshots of a forecast at most, and those of a chunk.
MOST_STEPS, CHUNK = 100_000, 64
# Modes that are not modelled count as uncertainty, up to so many.
MOST_MODES = 64
SEED = 0
ONE = {
    "s": np.timedelta64(1, "s"),
    "h": np.timedelta64(1, "h"),
    "d": np.timedelta64(1, "D"),
}


@dataclass(frozen=True)
class Score:
    """How a forecast of the end of the record fared, from what came before.

    ``length`` of the end; times from its beginning at which the error and the spread of the
    ensemble pass `TRUSTED` (None: never), and the share of values within two standard deviations.
    """

    length: float
    error_passes: float | None
    spread_passes: float | None
    within_two: float


@dataclass(frozen=True)
class _Foretold:
    fit: FieldFit
    ensemble: Ensemble

    @property
    def exponent(self) -> float | None:
        """Largest Lyapunov exponent, if it is surely positive."""
        selection = self.fit.selection
        model = Dynamics(selection.library, selection.fit.coefficients)
        return lyapunov_exponent(model, self.fit.records, selection.fit)

    @property
    def spread(self) -> Vector:
        """(times,) of the coordinates' standard deviations, over those of the record."""
        variance = np.einsum("tii->ti", self.ensemble.covariance) / self.scale**2
        return np.asarray(np.sqrt(np.mean(variance, axis=1)))

    @property
    def scale(self) -> Vector:
        """What the coordinates vary by in the record (q,)."""
        return np.asarray(np.std(np.concatenate([r.states for r in self.fit.records]), axis=0))


def forecast(
    store: str | os.PathLike[str],
    until: float | str,
    *,
    degree: int | str = AUTO,
    states: int | str = AUTO,
    threshold: float | str = AUTO,
    bounded: bool = True,
) -> xr.Dataset:
    """Continue the fields of a store beyond its record by its equations.

    Variables that are coded as logarithms are left out.

    Parameters
    ----------
    store : str or path
    until : float or str
        Time at which the forecast ends, in the units of the time coordinate; a date where it has
        dates. Steps are as long as the last one of the record.
    degree, states, threshold : optional
        As for `field_model`.
    bounded : bool
        Whether trajectories are kept in the region of the data. Within it that changes nothing.

    Returns
    -------
    xarray.Dataset
        Of each variable coded with modes the mean of an ensemble of 64, and its standard deviation
        as ``<name>_std``: that of the state at the end of the record, of the coefficients, and of
        the modes that are not modelled. Lazy in chunks of 64 snapshots; the modes are in memory.
        Also the coordinates of the equations, ``state_mean`` and ``state_std``. Attributes:
        ``trusted_until``, the time at which their spread passes 0.3 of what they vary by in the
        record (the end, if it does not), ``lyapunov_exponent`` where there surely is a positive
        one, ``runs_away_at`` where a trajectory leaves the finite numbers, and of a forecast of the
        last fifth of the record from the rest ``score_length``, ``score_error_passes`` and
        ``score_spread_passes`` (times from its beginning; absent if never) and
        ``score_within_two``, the share of values within two standard deviations.

    Raises
    ------
    ConfigError
        If `until` is not beyond the record or more than 100 000 steps away, or a setting cannot
        be used.
    PipelineError
        If no equations can be fitted to the store.
    StoreError
        If there is no store, or it is damaged or not understood.
    """
    opened, settings = open_store(store), FieldSettings(degree, states, threshold)
    part, dim = amplitudes_of(opened), str(opened.facts["time"]["dim"])
    dataset = xr.open_dataset(store, engine="romzarr", chunks=None)
    clock = _Clock.of(part, dataset, dim)
    since = clock.steps_until(until)
    with threadpool_limits(1, user_api="blas"):
        found = _foretold(part, part.snapshots, settings, since, bounded)
        score = _score(part, settings, bounded)
    times = clock.coordinate(since)
    fields = _fields(opened, dataset, found, dim)
    states_of = {
        "state_mean": ((dim, "state"), found.ensemble.mean),
        "state_std": ((dim, "state"), np.sqrt(np.einsum("tii->ti", found.ensemble.covariance))),
    }
    coords = {name: c for name, c in dataset.coords.items() if dim not in c.dims}
    return xr.Dataset(
        dict(fields) | states_of,
        coords | {dim: (dim, times, clock.attrs), "state": list(found.fit.names)},
        _attributes(found, since, times, clock, score),
    )


def _foretold(
    part: Amplitudes, stop: int, settings: FieldSettings, times: Vector, bounded: bool
) -> _Foretold:
    """From the first `stop` snapshots, at `times`."""
    fit = fit_field(part, stop, settings)
    if fit is None:
        raise PipelineError(
            f"{part.url}: no equations can be fitted to its modes; there is no forecast"
        )
    selection = fit.selection
    model, guess = Dynamics(selection.library, selection.fit.coefficients), selection.fit.guess
    rng = np.random.default_rng(SEED)
    state, covariance = last_state(model, fit.records[-1], guess.noise, guess.substeps)
    function = members(selection.library, selection.fit, rng)
    if bounded:
        function = Region.of([each.states for each in fit.records]).trapped(function)
    steps = np.diff(np.concatenate([fit.records[-1].times[-1:], times]))
    substeps = _substeps(fit.records[-1], guess.substeps, float(steps.max()))
    ensemble = integrated(function, starts_of(state, covariance, rng), steps, substeps)
    return _Foretold(fit, ensemble)


def _substeps(record: Record, substeps: int, step: float) -> int:
    """As many for a step as it has parts as long as those that the fit needed."""
    longest = float(np.diff(record.times).max())
    return max(1, int(np.ceil(substeps * step / longest)))


def _score(part: Amplitudes, settings: FieldSettings, bounded: bool) -> Score | None:
    """None if the rest of the record is too short for equations."""
    stop = int((1 - HELD_BACK) * part.snapshots)
    times = part.times_of(stop, part.snapshots)
    try:
        found = _foretold(part, stop, settings, times, bounded)
    except PipelineError:
        return None
    count = found.fit.frame.turn.shape[1]
    truth = found.fit.frame(part.span(BlockSpan(stop, part.snapshots))[:, :count])
    away = found.ensemble.mean - truth
    error = np.sqrt(np.mean((away / found.scale) ** 2, axis=1))
    noise = found.fit.selection.fit.guess.noise
    deviation = np.sqrt(np.einsum("tii->ti", found.ensemble.covariance) + noise**2)
    begin = times - part.times_of(stop - 1, stop)[0]
    return Score(
        float(begin[-1]),
        first_beyond(error, TRUSTED, begin),
        first_beyond(found.spread, TRUSTED, begin),
        float(np.mean(np.abs(away) <= 2 * deviation)),
    )


@dataclass(frozen=True)
class _Clock:
    """Times since the first snapshot, and the coordinate they belong to."""

    last: float
    step: float
    value: Any
    unit: str
    attrs: dict[Hashable, Any]

    @classmethod
    def of(cls, part: Amplitudes, dataset: xr.Dataset, dim: str) -> _Clock:
        m = part.snapshots
        before, last = part.times_of(m - 2, m)
        unit, coordinate = part.units, dataset.coords.get(dim)
        attrs = {} if coordinate is None else dict(coordinate.attrs)
        value = last if coordinate is None else coordinate.values[-1]
        if not np.issubdtype(np.asarray(value).dtype, np.datetime64):
            value = float(value) if np.asarray(value).dtype.kind in "fiu" else last
        return cls(float(last), float(last - before), value, unit, attrs)

    @property
    def dated(self) -> bool:
        return isinstance(self.value, np.datetime64)

    def steps_until(self, until: float | str) -> Vector:
        """Times since the first snapshot, a step apart."""
        try:
            if self.dated:
                length = float((np.datetime64(str(until)) - self.value) / ONE[self.unit])
            else:
                length = float(until) - self.value
        except ValueError as error:
            kind = "a date such as 2001-02-03" if self.dated else "a number"
            raise ConfigError(f"until: found {until!r}; give {kind}") from error
        count = int(np.floor(length / self.step * (1 + 1e-9)))
        if not 1 <= count <= MOST_STEPS:
            raise ConfigError(
                f"until: found {until!r}, {count} steps after the record ends at {self.value}; "
                f"give a time 1 to {MOST_STEPS} steps of {self.step:g} after it"
            )
        return np.asarray(self.last + self.step * np.arange(1, count + 1), np.float64)

    def coordinate(self, since: Vector) -> NDArray[Any]:
        """Values of the time coordinate."""
        if not self.dated:
            return np.asarray(self.value + (since - self.last))
        nanoseconds = ONE[self.unit] / np.timedelta64(1, "ns")
        away = np.round((since - self.last) * nanoseconds).astype(np.int64)
        return np.asarray(self.value.astype("datetime64[ns]") + away.astype("timedelta64[ns]"))


def _attributes(
    found: _Foretold, since: Vector, times: NDArray[Any], clock: _Clock, score: Score | None
) -> dict[str, Any]:
    passes = first_beyond(found.spread, TRUSTED, np.arange(len(since), dtype=float))
    number = len(times) - 1 if passes is None else max(int(passes) - 1, 0)
    trusted = times[number]
    attrs: dict[str, Any] = {
        "trusted_until": str(trusted) if clock.dated else float(trusted),
        "trusted_for": float(since[number] - clock.last),
        "units": clock.unit,
    }
    if (exponent := found.exponent) is not None:
        attrs["lyapunov_exponent"] = exponent
    finite = np.isfinite(found.ensemble.states).all(axis=(1, 2))
    if not finite.all():
        gone = times[int(np.argmin(finite))]
        attrs["runs_away_at"] = str(gone) if clock.dated else float(gone)
    if score is not None:
        attrs |= {
            "score_length": score.length,
            "score_within_two": score.within_two,
        }
        for name in ("error_passes", "spread_passes"):
            if (at := getattr(score, name)) is not None:
                attrs[f"score_{name}"] = at
    return attrs


# --- fields -------------------------------------------------------------------------------


def _fields(
    opened: CoefficientStore, dataset: xr.Dataset, found: _Foretold, dim: str
) -> Iterator[tuple[str, xr.Variable]]:
    """Of each variable with modes its mean and standard deviation."""
    shift, back = found.fit.frame.shift, inverse(found.fit.frame).turn
    coefficients = inverse(found.fit.frame)(found.ensemble.mean)
    roots = back @ _roots(found.ensemble.covariance)
    for name, stored in opened.variables.items():
        # Of what is coded as logarithms the mean of numbers is no mean of logarithms.
        if not stored.coding.has_modes or stored.unit is not None:
            continue
        modes = decoding.modes(opened.last, name, None, MOST_MODES).astype(np.float64)
        rest = _rest(opened.last, modes, len(shift))
        leading, dims = modes[: len(shift)], [dim, *stored.space_dims]
        kind = np.result_type(stored.dtype, np.float32)
        chunks = (CHUNK, *leading.shape[1:])
        mean = da.map_blocks(
            _means,
            da.from_array(coefficients, (CHUNK, len(shift))),
            leading,
            opened.mean(name),
            kind,
            **_blocks(coefficients, chunks, kind, drop=[1]),
        )
        spread = da.map_blocks(
            _spreads,
            da.from_array(roots, (CHUNK, *roots.shape[1:])),
            leading,
            rest,
            kind,
            **_blocks(roots, chunks, kind, drop=[1, 2]),
        )
        attrs = without_loss(dataset[name].attrs)
        yield name, xr.Variable(dims, mean, attrs).transpose(*stored.dims)
        yield f"{name}_std", xr.Variable(dims, spread, attrs).transpose(*stored.dims)


def _blocks(
    given: Matrix, chunks: tuple[int, ...], kind: np.dtype[Any], drop: list[int]
) -> dict[str, Any]:
    """How blocks in time of coefficients become blocks of fields."""
    lengths = tuple(min(CHUNK, len(given) - k) for k in range(0, len(given), CHUNK))
    space = tuple((size,) for size in chunks[1:])
    return {
        "chunks": (lengths, *space),
        "drop_axis": drop,
        "new_axis": list(range(1, len(chunks))),
        "dtype": kind,
        "meta": np.empty((0,) * len(chunks), kind),
    }


def _means(a: Matrix, modes: Matrix, mean: Matrix, kind: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(np.tensordot(a, modes, 1) + mean).astype(kind)


def _spreads(roots: Matrix, modes: Matrix, rest: Matrix, kind: np.dtype[Any]) -> NDArray[Any]:
    parts = np.tensordot(roots.swapaxes(1, 2), modes, 1)
    return np.sqrt(np.sum(parts**2, axis=1) + rest).astype(kind)


def _rest(part: Generation, modes: Matrix, count: int) -> Matrix:
    """Variance (*space) of what modes that are not modelled add."""
    energy = part.singular_values[count : len(modes)] ** 2 / part.snapshots
    return np.asarray(np.tensordot(energy, modes[count:] ** 2, 1))


def _roots(covariance: Matrix) -> Matrix:
    """Matrices (t, q, q) of which the square is a covariance; NaN where that is not finite."""
    finite = np.all(np.isfinite(covariance), axis=(1, 2), keepdims=True)
    values, vectors = np.linalg.eigh(np.where(finite, covariance, 0.0))
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    return np.asarray(np.where(finite, roots, np.nan))
