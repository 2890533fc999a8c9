"""Equations of the field in a store, in coordinates in which they are sparse.

All of it comes from the coefficients a(t) that the store decodes, which need no other data and no
further bytes. Triangles of the weak system would do for thresholds alone, but windows see noise
that is not theirs: likelihood from a(t) has a tenth of their errors, and tells what coding has
lost, as noise, from what moves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from romzarr.config import AUTO
from romzarr.contracts import LEAST_SAMPLES, BlockSpan, Matrix
from romzarr.errors import ConfigError
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.coordinates.affine import inverse
from romzarr.numerics.dynamics.coordinates.dense import dense_fit
from romzarr.numerics.dynamics.coordinates.elimination import Model
from romzarr.numerics.dynamics.coordinates.evidence import Evidence
from romzarr.numerics.dynamics.coordinates.search import (
    contributing,
    moments_of,
    sparsest_in,
    sparsest_model,
    weighed,
)
from romzarr.numerics.dynamics.library import PolynomialLibrary, term_count
from romzarr.numerics.dynamics.likelihood import Fit, first_noise
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.term_selection import Selection, term_price
from romzarr.operations.amplitudes import Amplitudes, amplitudes_of
from romzarr.operations.identified import MOSTLY_NOISE, described
from romzarr.operations.stretches import stretches
from romzarr.store.reading.reader import open_store

# Coordinates at most, and coefficients of a dense model: more take minutes.
MOST_STATES, MOST_COEFFICIENTS = 8, 400
LARGEST_COEFFICIENTS = 1000
HIGHEST_DEGREE = 4
# Share of the fluctuation by which states differ that are the same but for rounding.
REPEATED = 1e-9
# Samples for each term of an equation, at least.
SAMPLES_PER_TERM = 4
# Coordinates are one more thing to understand: they have to leave out a third of the terms.
WORTH_READING = 2 / 3
# One of so many samples is looked at first; more if a step of the fit, of values times squared
# coefficients, stays below half a second.
THINNING, MOST_PRODUCTS = 4, 2e8


@dataclass(frozen=True)
class _Observed:
    """Records of coefficients scaled to mean zero and variance one by `scale`."""

    records: tuple[Record, ...]
    scale: Move


@dataclass(frozen=True)
class _Fitted:
    """The dense `fit` of all terms of a library to records."""

    observed: _Observed
    library: PolynomialLibrary
    fit: Fit

    @property
    def followed(self) -> bool:
        """Whether a trajectory follows the records without disturbances, nearer than noise."""
        guess = self.fit.guess
        # Records have variance one.
        return guess.broken == 0 and bool(np.max(guess.noise) < MOSTLY_NOISE)


@dataclass(frozen=True)
class FieldSettings:
    """What `field_model` is asked for."""

    degree: int | str = AUTO
    states: int | str = AUTO
    threshold: float | str = AUTO
    sparse: bool = True


@dataclass(frozen=True)
class FieldFit:
    """A model in coordinates ``z = turn a + shift``, the `frame`, and `records` of these.

    ``selection`` has what is known of its terms; of the modes' own model `terms_of_modes`, of the
    one in the best coordinates `terms`, if these were looked for; `sparse` if they are used.
    """

    selection: Selection
    frame: Move
    records: tuple[Record, ...]
    terms_of_modes: int
    terms: int | None
    sparse: bool

    @property
    def names(self) -> tuple[str, ...]:
        """z1, z2, ... or those of the coefficients, a1, a2, ..."""
        letter = "z" if self.sparse else "a"
        return tuple(f"{letter}{k + 1}" for k in range(len(self.frame.shift)))


def field_model(
    store: str | os.PathLike[str],
    *,
    degree: int | str = AUTO,
    states: int | str = AUTO,
    threshold: float | str = AUTO,
    sparse: bool = True,
) -> xr.Dataset | None:
    """Find the differential equations of the field in a store, from the store alone.

    Parameters
    ----------
    store : str or path
    degree : int or "auto"
        Highest degree of the terms. Default: up to 4, as long as all equations together
        have at most 400 terms.
    states : int or "auto"
        How many of the leading modes are modelled, 1 to 8. Default: those before the first that
        is mostly noise from sample to sample, at most eight.
    threshold : float or "auto"
        Share of a derivative's rms that a term has to contribute. Default: statistics decide.
    sparse : bool
        Whether to look for sparse coordinates; otherwise states are the coefficients of the modes.

    Returns
    -------
    xarray.Dataset or None
        What `romzarr.identify` returns, and over (state, mode) the ``turn`` and over state the
        ``shift`` of coordinates ``z = turn a + shift``, over (mode, state) the ``pattern``: how
        much of each mode a coordinate adds to the field. Coordinates have variance one in the
        record. Where none make the equations sparse by the Bayesian criterion, or if `sparse` is
        false, states are the coefficients a1, a2, ... themselves. Further attributes are the
        number of ``terms_of_modes``, the ``terms`` in the best coordinates, if they were looked
        for, and whether these are the ``sparse`` ones that are used (1 or 0); the number of
        ``modes``, the share of their ``energy`` that the leading ones have, and whether they are
        ``stored`` (1) or those of POD of what a store of values decodes to (0). None if there are
        no modes, too few samples, or no model can be fitted.

    Raises
    ------
    ConfigError
        If a setting is out of range for the store.
    StoreError
        If there is no store, or it is damaged or not understood.

    Notes
    -----
    Looks at 4000 samples at most, four stretches of 1000. Takes a second for three states, some
    for eight. Standard errors include that coordinates are known from the same record. Of a store
    with several parts the newest counts, whose modes the coefficients belong to.
    """
    amplitudes = amplitudes_of(open_store(store))
    settings = FieldSettings(degree, states, threshold, sparse)
    found = fit_field(amplitudes, amplitudes.snapshots, settings)
    return None if found is None else _described(amplitudes, found)


def fit_field(part: Amplitudes, stop: int, settings: FieldSettings) -> FieldFit | None:
    """Fit the first `stop` snapshots of a part of a store as `field_model` does; None if nothing
    can be fitted."""
    threshold = settings.threshold
    if threshold != AUTO and not 0 <= float(threshold) < 1:
        raise ConfigError(f"threshold: found {threshold!r}; give a share from 0 to below 1")
    if not part.rank:
        return None
    with threadpool_limits(1, user_api="blas"):
        observed = _observed(part, stop, settings.states)
        found = None if observed is None else _fitted(observed, settings.degree)
        if found is None:
            return None
        try:
            return _in_coordinates(found, settings)
        except np.linalg.LinAlgError:
            # The model leaves the finite numbers about the record.
            return None


def _observed(part: Amplitudes, stop: int, states: int | str) -> _Observed | None:
    most = min(part.rank, MOST_STATES)
    if states != AUTO and not 1 <= int(states) <= most:
        raise ConfigError(
            f"states: found {states!r}; the store has {part.rank} modes, give 1 to {most}"
        )
    raw = [
        _once(Record(part.span(span), part.times_of(span.start, span.stop)))
        for span in _spans(part, stop)
    ]
    if not raw:
        return None
    every = np.concatenate([record.states for record in raw])
    count = _count(raw, every, most) if states == AUTO else int(states)
    spread = np.std(every[:, :count], axis=0)
    spread[spread == 0] = 1.0
    scale = Move(np.diag(1 / spread), -np.mean(every[:, :count], axis=0) / spread)
    records = [
        Record(np.ascontiguousarray(scale(each.states[:, :count])), each.times) for each in raw
    ]
    return _Observed(tuple(records), scale)


def _once(record: Record) -> Record:
    """The record up to where it begins to repeat itself exactly, with all that coding has lost.

    What follows is no new observation, and a model of enough terms fits a few states exactly.
    """
    states, close = record.states, REPEATED * np.std(record.states, axis=0)
    again = np.flatnonzero(np.all(np.abs(states - states[0]) <= close, axis=1))
    for period in again[again >= LEAST_SAMPLES]:
        if np.all(np.abs(states[period:] - states[:-period]) <= close):
            return Record(states[: period + 1], record.times[: period + 1])
    return record


def _spans(part: Amplitudes, stop: int) -> list[BlockSpan]:
    """Stretches of the record that are looked at, without what is coded apart from modes."""
    found = []
    for each in stretches(stop):
        numbers = np.setdiff1d(np.arange(each.start or 0, each.stop), part.episodes)
        pieces = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
        found += [BlockSpan(int(p[0]), int(p[-1]) + 1) for p in pieces if len(p) >= LEAST_SAMPLES]
    return found


def _count(records: Sequence[Record], every: Matrix, most: int) -> int:
    """Number of leading modes before the first that is mostly noise; one at least."""
    rough = first_noise(records)[:most] > MOSTLY_NOISE * np.std(every[:, :most], axis=0)
    return max(1, int(np.argmax(rough)) if rough.any() else most)


def _fitted(observed: _Observed, degree: int | str) -> _Fitted | None:
    """The dense model of the record, thinned as far as noise would mislead it otherwise.

    What coding loses is smooth in time: samples next to each other have nearly the same error,
    which no trajectory of the model follows. Samples that are farther apart have errors of their
    own, and steps between them are as exact. So the record is first thinned by a few; where
    trajectories follow that, by less, as long as they do, and else by more. If none are far
    enough, all samples count.
    """
    first = _thinned(observed, degree, THINNING)
    if first is not None and first.followed:
        return _finer(observed, first)
    for thinning in (2 * THINNING, 4 * THINNING, THINNING // 2):
        found = _thinned(observed, degree, thinning)
        if found is not None and found.followed:
            return found
    return _thinned(observed, degree, 1)


def _finer(observed: _Observed, found: _Fitted) -> _Fitted:
    """With more samples, as long as a trajectory follows them; more tell higher degrees too."""
    thinning, degree = THINNING // 2, found.library.degree
    size = sum(each.states.size for each in found.observed.records)
    squared = (found.library.size * found.library.states) ** 2
    # Each time there are twice as many samples.
    while thinning and 2 * size * squared <= MOST_PRODUCTS:
        size *= 2
        better = _thinned(observed, degree, thinning, lowest=degree)
        if better is None or not better.followed:
            break
        found, thinning = better, thinning // 2
    return found


def _thinned(
    observed: _Observed, degree: int | str, thinning: int, lowest: int = 1
) -> _Fitted | None:
    """The dense model of every so many-th sample."""
    records = tuple(
        Record(np.ascontiguousarray(each.states[::thinning]), each.times[::thinning])
        for each in observed.records
        if len(each.times) >= LEAST_SAMPLES * thinning
    )
    if not records:
        return None
    libraries = [each for each in _libraries(records, degree) if each.degree >= lowest]
    found = dense_fit(records, libraries) if libraries else None
    return None if found is None else _Fitted(replace(observed, records=records), *found)


def _libraries(records: Sequence[Record], degree: int | str) -> list[PolynomialLibrary]:
    """From degree 1 to the highest that is asked for, or that so many samples tell apart."""
    states, samples = records[0].states.shape[1], sum(len(each.times) for each in records)
    if degree != AUTO:
        highest = int(degree)
        terms = states * term_count(states, highest) if highest > 0 else 0
        if not 0 < terms <= LARGEST_COEFFICIENTS:
            raise ConfigError(
                f"degree: found {degree!r}, which makes {terms} terms in {states} equations; give "
                f"one of at least 1 that makes at most {LARGEST_COEFFICIENTS}, or fewer states"
            )
        return [PolynomialLibrary(states, d) for d in range(1, highest + 1)]
    most = min(MOST_COEFFICIENTS // states, samples // SAMPLES_PER_TERM)
    degrees = (d for d in range(1, HIGHEST_DEGREE + 1) if term_count(states, d) <= most)
    return [PolynomialLibrary(states, d) for d in degrees]


def _chosen(found: _Fitted, threshold: float | str, sparse: bool) -> tuple[Model, Model, bool]:
    """The model in the best coordinates, that in the modes' own, and whether the first pays.

    It pays with a third of the terms less and a better criterion. Coordinates are q^2 free
    numbers, as the scales of q coordinates change nothing; each costs what a number does in the
    criterion.
    """
    records, library, guess = found.observed.records, found.library, found.fit.guess
    price = term_price(records, library)
    evidence = Evidence.of(records, library, guess)
    models = [sparsest_in(evidence, inverse(found.observed.scale), price)]
    most_terms = WORTH_READING * float(models[0].support.sum())
    if sparse:
        # In coordinates in which the model leaves the finite numbers it is none.
        with suppress(np.linalg.LinAlgError):
            models.append(sparsest_model(records, library, guess, price, most_terms))
    if threshold != AUTO:
        moments = moments_of(library, guess)
        models = [
            contributing(each, moments, float(threshold), free=k > 0)
            for k, each in enumerate(models)
        ]
    modes, best = models[0], models[-1]
    numbers = library.states**2 * np.log(sum(each.states.size for each in records))
    fewer = best.support.sum() <= WORTH_READING * modes.support.sum()
    return best, modes, bool(fewer and best.score(price) + numbers < modes.score(price))


def _in_coordinates(found: _Fitted, settings: FieldSettings) -> FieldFit:
    best, modes, pays = _chosen(found, settings.threshold, settings.sparse)
    chosen, records = (best if pays else modes), found.observed.records
    return FieldFit(
        _selection(chosen, found.fit, term_price(records, found.library), pays),
        chosen.frame.after(found.observed.scale),
        tuple(Record(chosen.frame(each.states), each.times) for each in records),
        int(modes.support.sum()),
        int(best.support.sum()) if settings.sparse else None,
        pays,
    )


def _described(part: Amplitudes, found: FieldFit) -> xr.Dataset:
    library, turn = found.selection.library, found.frame.turn
    searched = {} if found.terms is None else {"terms": found.terms}
    units = part.units
    return (
        described(found.selection, found.records, library, found.names, units)
        .assign(
            turn=(("state", "mode"), turn),
            shift=("state", found.frame.shift),
            pattern=(("mode", "state"), np.linalg.inv(turn)),
        )
        .assign_coords(mode=np.arange(1, len(turn) + 1))
        .assign_attrs(
            searched,
            sparse=int(found.sparse),
            terms_of_modes=found.terms_of_modes,
            modes=part.rank,
            stored=int(part.stored),
            energy=float(part.energy[: len(turn)].sum() / part.total),
        )
    )


def _selection(model: Model, fit: Fit, price: float, free: bool) -> Selection:
    """The model as a fit in its own coordinates."""
    result = weighed(model, price, free=free)
    noise = np.sqrt(model.frame.turn**2 @ fit.guess.noise**2)
    guess = replace(
        fit.guess,
        coefficients=model.coefficients,
        states=tuple(model.frame(each) for each in fit.guess.states),
        noise=noise,
    )
    own = Fit(
        guess,
        model.support,
        model.evidence.deviance(model.squares),
        model.evidence.variance(model.squares),
        result.covariance,
        fit.converged,
    )
    return Selection(model.evidence.library, own, model.score(price), result.probability)
