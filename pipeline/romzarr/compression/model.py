"""From a(t) to a sparse model and the code it allows: the stage between POD and store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.coding.latent import Decoded, LatentPlan, code_latent, plan_latent
from romzarr.compression.weak_systems import CODE_BLOCK, Offer, WeakSystems, weak_systems
from romzarr.config import Config, LibraryConfig, WeakFormConfig
from romzarr.contracts import Mask, Matrix, SparseModel
from romzarr.errors import AccuracyError, ConfigError
from romzarr.numerics.dynamics.integrate import Dynamics
from romzarr.numerics.dynamics.library import (
    ConcatenatedLibrary,
    FourierLibrary,
    Library,
    PolynomialLibrary,
    SymbolicLibrary,
)
from romzarr.numerics.dynamics.networks import Operator, read_operators, shipped_operators
from romzarr.numerics.dynamics.neural_library import (
    NeuralLibrary,
    chosen_operators,
    suitable_scales,
)
from romzarr.numerics.dynamics.sampling import STRAIGHT_LINE, Tolerances
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.testfunctions import parse_test_function
from romzarr.numerics.dynamics.weakform import WindowPlan, plan_windows

# Coefficients that expressions may name while their number is not known.
MOST_MODES = 1000
# Degrees of the monomials tried if none is given.
DEGREES = (2, 1)
# Share of all bytes that a lower degree has to save, as equations with products say more
# about the flow; and so have other terms than those that statistics find, which are the true
# ones where there are any.
WORTHWHILE = 0.1
# Ratio of one threshold tried to the next, and how many to either side.
THRESHOLD_RATIO, MOST_THRESHOLDS = 2.0, 12
# Significant digits of a coefficient, and what it takes up with its number among the terms.
DIGITS, TERM_BYTES = 8, 14
# What a term has to save to be one of equations that are there to be read: a number and its place.
PLAIN_TERM_BYTES = 10
# What else decoding with a model takes up, measured: metadata of the arrays of samples, and
# of that of which model serves a block, where they are not all served by the first.
MODEL_BYTES, SERVING_BYTES = 800, 340
# Blocks on which candidates are compared, and how many of them follow one another. Fewer are
# hardly faster, as calls take most of the time.
SHORT_BLOCKS, STRETCH = 24, 6
# Share of the bytes by which estimates of two candidates may be off to one another.
NEAR = 0.05
# Largest relative difference of coefficients that are those of the same model: a few times their
# last digit, of `DIGITS`.
ALIKE = 1e-6
# Windows for each term of a library: with fewer, the equations of Lorenz-96 systems of 6 to 15
# states are not found, at 1 % noise or at none.
WINDOWS_PER_TERM = 2


class Tried(NamedTuple):
    """A choice of terms: how many of the library's, and the bytes of a(t) with them."""

    library: int
    terms: int
    nbytes: int


@dataclass(frozen=True)
class LatentModel:
    """Models of a(t), the weak systems they rest on, and the code of a(t).

    ``fitted`` are the models of ``offer``, ``models`` those of them that serve some block of
    ``latent``, or the first if none does; ``plain`` is the code without a model. ``coded_bytes``
    is expected of fields and coefficients together, ``tried`` what each model that was coded took.
    """

    systems: WeakSystems
    offer: Offer
    fitted: tuple[SparseModel, ...]
    models: tuple[SparseModel, ...]
    latent: Decoded
    plain: Decoded
    coded_bytes: float
    tried: tuple[Tried, ...] = ()

    @property
    def stored(self) -> Decoded:
        """The code that a store keeps."""
        return self.latent if self.pays else self.plain

    @property
    def nonzero_terms(self) -> int:
        """Terms of all models together."""
        return sum(each.nonzero_terms for each in self.models)

    @property
    def nbytes(self) -> int:
        """Bytes of samples, corrections and terms, but not what is fixed."""
        return self.latent.nbytes + TERM_BYTES * self.nonzero_terms

    @property
    def pays(self) -> bool:
        """Whether decoding with it takes fewer bytes than without, all counted."""
        return self.latent.coded.code.modelled and self._all_bytes < self.plain.nbytes

    @property
    def stored_bytes(self) -> float:
        """Bytes of what a store keeps to decode a(t): without the model where it does not pay."""
        return self._all_bytes if self.pays else self.plain.nbytes

    @property
    def _all_bytes(self) -> float:
        serving = SERVING_BYTES if self.latent.coded.code.block_model.any() else 0
        return self.nbytes + MODEL_BYTES + serving


def check_expressions(config: Config) -> None:
    """Refuse test functions and terms that are not allowed, before any work starts.

    Raises
    ------
    LibraryError
        Naming the piece and what is allowed instead. Which modes exist shows only later.
    """
    parse_test_function(config.weak_form.test_function, CODE_BLOCK)
    if config.library.expressions:
        SymbolicLibrary(MOST_MODES, config.library.expressions)
    if "neural" in config.library.kinds:
        _operators(config.library)


def _operators(settings: LibraryConfig) -> tuple[Operator, ...]:
    """The networks that the settings name, from the package or from a file."""
    if settings.weights == "shipped":
        return chosen_operators(settings.operators, shipped_operators())
    try:
        data = Path(settings.weights).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"library.weights: {settings.weights}: cannot be read: {error.strerror}"
        ) from error
    return chosen_operators(settings.operators, read_operators(data))


def make_library(settings: LibraryConfig, states: int, a: Matrix | None = None) -> Library:
    """Feature library of `states` modes as the settings ask.

    With the record `a` (m, r) networks see the coefficients scaled into their reach.
    """
    frequencies = tuple(float(k) for k in range(1, settings.frequencies + 1))
    degree = DEGREES[0] if settings.degree == "auto" else settings.degree
    makers: dict[str, Callable[[], Library]] = {
        "polynomial": lambda: PolynomialLibrary(states, degree, settings.interactions),
        "fourier": lambda: FourierLibrary(states, frequencies),
        "symbolic": lambda: SymbolicLibrary(states, settings.expressions),
        "neural": lambda: _neural(settings, states, a),
    }
    parts = [makers[kind]() for kind in settings.kinds]
    return parts[0] if len(parts) == 1 else ConcatenatedLibrary(tuple(parts))


def _neural(settings: LibraryConfig, states: int, a: Matrix | None) -> Library:
    operators = _operators(settings)
    scales = () if a is None else suitable_scales(a[:, :states], operators)
    return NeuralLibrary(states, operators, scales, settings.nested)


def choose_library(
    settings: LibraryConfig, rank: int, windows: int, a: Matrix | None = None
) -> Library:
    """Library of the leading modes: all of them, or as many as have no more terms than allowed.

    That is ``library.max_terms``, or what so many `windows` can tell apart. `a` (m, r) is the
    record, to which a neural library is scaled.

    Raises
    ------
    ConfigError
        If ``library.modes`` is given and exceeds the rank or ``library.max_terms``.
    """
    if settings.modes != "auto":
        if settings.modes > rank:
            raise ConfigError(
                f"library.modes: found {settings.modes}, but the POD has {rank} modes; lower it"
            )
        library = make_library(settings, settings.modes, a)
        if library.size > settings.max_terms:
            raise ConfigError(
                f"library.max_terms: {settings.modes} modes make {library.size} terms, allowed "
                f"are {settings.max_terms}; lower library.modes or raise library.max_terms"
            )
        return library
    if settings.expressions:
        return make_library(settings, rank, a)
    states, most = 1, min(settings.max_terms, windows // WINDOWS_PER_TERM)
    while states < rank and make_library(settings, states + 1).size <= most:
        states += 1
    return make_library(settings, states, a)


def plan_library(
    settings: LibraryConfig,
    weak_form: WeakFormConfig,
    a: Matrix,
    times: Matrix,
    support: float | str,
) -> tuple[Library, WindowPlan]:
    """The largest library that its windows over a(t) can tell apart, and these windows.

    Fewer modes may have slower frequencies, so longer windows, of which there are fewer.
    """
    windows = len(times)
    while True:
        library = choose_library(settings, a.shape[1], windows, a)
        plan = plan_windows(
            times,
            a[:, : library.states],
            test_function=weak_form.test_function,
            support=support,
            spacing=weak_form.spacing,
        )
        found = plan.count(len(times))
        if found >= windows or library.states == 1 or settings.modes != "auto":
            return library, plan
        windows = found


def identify(
    a: Matrix,
    times: Matrix,
    tolerances: Tolerances,
    config: Config,
    *,
    step: float,
    coded_bytes: float,
    rough: Mask | None = None,
) -> LatentModel:
    """Find a sparse model of a(t) and the samples to keep. Runs Dask.

    Unless a support is given, test functions of two radii are tried: that of the spectrum
    as a whole, and that of the mode with the highest frequencies, which the first may not
    see. Unless a threshold is given, thresholds beside the one that statistics suggest are
    tried too: terms stay if they save more bytes of corrections than they cost. The model
    that stores smallest stays, unless the difference is not worth mentioning. It decodes if
    all it takes is less than what it saves; else its equations are there to be read.

    Of a long record candidates are compared on a few stretches, each with the samples it would
    keep and the bits of what it misses. Only those that come out near the smallest are coded.

    Parameters
    ----------
    a : (m, r) float64, r >= 1
    times : (m,) float64
    tolerances : Tolerances
        How far the coefficients may be off.
    config : Config
    step : float
        Quantisation step of the coefficients to begin with.
    coded_bytes : float
        Bytes expected of fields and coefficients.
    rough : (m,) bool, optional
        Snapshots at which a(t) means nothing: no window of the weak form reaches across them.

    Raises
    ------
    AccuracyError
        If no quantisation meets the tolerances.
    """
    plain = code_latent(a, times, (), (), tolerances, step, block_steps=CODE_BLOCK)
    if plain is None:
        raise AccuracyError(
            "no quantisation of the POD coefficients meets the tolerance; raise "
            "compression.tolerance"
        )
    quiet = np.ones(len(a), bool) if rough is None else ~rough
    record = _Record(a, times, tolerances, step, np.arange(-(-len(a) // CODE_BLOCK)))
    search = _Search(record, _shortened(record), config, coded_bytes, plain, quiet)
    first, *lower = search.settings()
    others = search.carried_out(search.candidates(first))
    # Of those that do not decode that which foretells best.
    best = min(others, key=_bytes_with)
    for settings in lower:
        if search.may_save(best):
            others += (found := search.smaller(search.candidates(settings), best))
            best = min([best, *found], key=lambda each: each.stored_bytes)
    if config.sparse_regression.threshold == "auto" and search.may_save(best):
        others += (found := search.smaller(search.other_thresholds(best), best))
        best = min([best, *found], key=lambda each: each.stored_bytes)
    return replace(best, tried=tuple(dict.fromkeys(_tried(model) for model in others)))


def _tried(model: LatentModel) -> Tried:
    return Tried(model.systems.library.size, model.nonzero_terms, model.nbytes)


class _Record(NamedTuple):
    """Coefficients to be coded, how far they may be off, the step to begin with, and the numbers
    of the blocks that they are of the whole record."""

    a: Matrix
    times: Matrix
    tolerances: Tolerances
    step: float
    blocks: NDArray[np.intp]

    def plan(self, models: Sequence[Dynamics], choices: Sequence[NDArray[np.int16]]) -> LatentPlan:
        """How to code it with these models."""
        return plan_latent(
            self.a, self.times, models, choices, self.tolerances, self.step, block_steps=CODE_BLOCK
        )


def _shortened(record: _Record) -> _Record:
    """Stretches of `STRETCH` blocks at even distances, `SHORT_BLOCKS` in all, one after the other;
    or all of a record that is no longer."""
    whole = len(record.a) // CODE_BLOCK
    if whole <= SHORT_BLOCKS:
        return record
    starts = np.linspace(0, whole - STRETCH, SHORT_BLOCKS // STRETCH).astype(np.intp)
    blocks = (starts[:, None] + np.arange(STRETCH)).ravel()
    snapshots = (blocks[:, None] * CODE_BLOCK + np.arange(CODE_BLOCK)).ravel()
    # Time goes on from stretch to stretch: how long nothing was seen is of no matter.
    steps = np.diff(record.times, append=2 * record.times[-1] - record.times[-2])[snapshots]
    times = np.cumsum(steps) - steps[0]
    part = record.tolerances.of(snapshots)
    return _Record(record.a[snapshots], times, part, record.step, blocks)


class _Candidate(NamedTuple):
    """Models fitted to what an offer has."""

    systems: WeakSystems
    offer: Offer
    fitted: tuple[SparseModel, ...]

    @property
    def terms(self) -> list[int]:
        """Number of terms of each model."""
        return [model.nonzero_terms for model in self.fitted]

    @property
    def dynamics(self) -> list[Dynamics]:
        return [Dynamics(self.systems.library, model.coefficients) for model in self.fitted]

    def same(self, other: _Candidate) -> bool:
        """Whether another of the same settings foretells the same but for rounding."""
        return (
            self.systems.library.states == other.systems.library.states
            and len(self.fitted) == len(other.fitted)
            and np.array_equal(self.offer.serving, other.offer.serving)
            and all(
                np.allclose(mine.coefficients, theirs.coefficients, rtol=ALIKE, atol=0)
                for mine, theirs in zip(self.fitted, other.fitted, strict=True)
            )
        )


class _Estimate(NamedTuple):
    """What coding with a candidate should take, from stretches of the record."""

    nbytes: float
    plan: LatentPlan
    candidate: _Candidate
    plain: float

    @property
    def all_bytes(self) -> float:
        """With all that decoding with a model takes."""
        return self.nbytes + TERM_BYTES * sum(self.candidate.terms) + MODEL_BYTES

    @property
    def stored_bytes(self) -> float:
        return min(self.all_bytes, self.plain) if self.plan.modelled else self.plain

    @property
    def order(self) -> tuple[float, bool, bool, float]:
        """As `_bytes_with`."""
        terms = sum(self.candidate.terms)
        foretold = self.nbytes + PLAIN_TERM_BYTES * terms
        return self.stored_bytes, not self.plan.modelled, not terms, foretold


@dataclass(frozen=True)
class _Search:
    """Candidate models, each with the code it allows; ``plain`` is the code without any.

    Models are fitted to the snapshots that ``quiet`` (m,) marks, and compared on the ``short``
    record. Those that come near each other there are carried out on the whole.
    """

    record: _Record
    short: _Record
    config: Config
    coded_bytes: float
    plain: Decoded
    quiet: Mask
    # By the identity of the models fitted, which estimates keep alive.
    _known: dict[int, _Estimate] = field(default_factory=dict)

    def settings(self) -> list[LibraryConfig]:
        """Those of the library; with monomials of lower degrees, if none is given."""
        given = self.config.library
        if given.degree != "auto" or "polynomial" not in given.kinds:
            return [given]
        return [replace(given, degree=degree) for degree in DEGREES]

    def candidates(self, settings: LibraryConfig) -> list[_Candidate]:
        """Models from all choices of test functions, those alike once."""
        weak, plans = self.config.weak_form, dict[int, tuple[Library, WindowPlan]]()
        a, times = self.record.a[self.quiet], self.record.times[self.quiet]
        for support in ("auto", "finest") if weak.support == "auto" else (weak.support,):
            library, plan = plan_library(settings, weak, a, times, support)
            plans.setdefault(plan.width, (library, plan))
        given = self.config.sparse_regression.threshold
        threshold = None if given == "auto" else given
        found = list[_Candidate]()
        for library, plan in plans.values():
            systems = self._systems(library, plan)
            for offer in systems.offers:
                candidate = _Candidate(systems, offer, self._fitted(library, offer, threshold))
                if not any(candidate.same(other) for other in found):
                    found.append(candidate)
        return found

    def _systems(self, library: Library, plan: WindowPlan) -> WeakSystems:
        return weak_systems(
            self.record.a,
            self.record.times,
            self.quiet,
            library,
            plan,
            block_steps=self.config.weak_form.block_steps,
        )

    def carried_out(self, candidates: Sequence[_Candidate]) -> list[LatentModel]:
        """The code of the candidate that should be smallest, and of those that may be."""
        if len(candidates) == 1:
            return [self._coded(candidates[0], self._plan(self.record, candidates[0]))]
        best, *others = sorted(map(self._estimate, candidates), key=lambda each: each.order)
        near = [each for each in others if each.all_bytes < best.stored_bytes * (1 + NEAR)]
        return [self._expected(each) for each in (best, *near)]

    def may_save(self, best: LatentModel) -> bool:
        """Whether any model could take so much less than the best one that it is worth it."""
        return best.stored_bytes - self._worthwhile > MODEL_BYTES

    @property
    def _worthwhile(self) -> float:
        return WORTHWHILE * self.coded_bytes

    def smaller(self, candidates: Sequence[_Candidate], best: LatentModel) -> list[LatentModel]:
        """The code of the candidate that is so much smaller than the best one that it is worth it;
        none if there is no such."""
        if not candidates:
            return []
        known = self._estimate(_Candidate(best.systems, best.offer, best.fitted))
        # Estimates are off all alike.
        scale = best.latent.nbytes / max(known.nbytes, 1.0)
        estimates = [self._estimate(each) for each in candidates]
        scaled = [each._replace(nbytes=scale * each.nbytes) for each in estimates]
        least = min(scaled, key=lambda each: each.stored_bytes)
        enough = best.stored_bytes - self._worthwhile
        if least.stored_bytes > enough * (1 + NEAR):
            return []
        found = self._expected(least)
        return [found] if found.stored_bytes < enough else []

    def other_thresholds(self, best: LatentModel) -> list[_Candidate]:
        """Candidates with fewer and with more terms, as long as bytes become fewer.

        None where no block uses the best one: other terms will not change that.
        """
        found = list[_Candidate]()
        if not best.latent.coded.code.modelled:
            return found
        begin = _Candidate(best.systems, best.offer, best.fitted)
        for ratio in (THRESHOLD_RATIO, 1 / THRESHOLD_RATIO):
            threshold, last = best.models[0].threshold, self._estimate(begin)
            for _ in range(MOST_THRESHOLDS):
                threshold *= ratio
                fitted = self._fitted(best.systems.library, best.offer, threshold)
                candidate = _Candidate(best.systems, best.offer, fitted)
                if candidate.terms == last.candidate.terms:
                    continue
                # No terms at all are no equations: they replace none that statistics find.
                if not any(candidate.terms):
                    break
                another = self._estimate(candidate)
                if another.all_bytes >= last.all_bytes:
                    break
                found.append(candidate)
                last = another
        return found

    def _estimate(self, candidate: _Candidate) -> _Estimate:
        """What it should take, in proportion to what the whole record takes without a model."""
        key = id(candidate.fitted)
        if key not in self._known:
            plan = self._plan(self.short, candidate)
            scale = self.plain.nbytes / max(self._short_plain.expected_bytes, 1.0)
            nbytes = scale * plan.expected_bytes
            self._known[key] = _Estimate(nbytes, plan, candidate, self.plain.nbytes)
        return self._known[key]

    @staticmethod
    def _plan(record: _Record, candidate: _Candidate) -> LatentPlan:
        # Without terms a model foretells what no model does.
        useful = any(candidate.terms)
        choices = [candidate.offer.serving[record.blocks]] if useful else []
        return record.plan(candidate.dynamics, choices)

    @cached_property
    def _short_plain(self) -> LatentPlan:
        return self.short.plan((), ())

    def _fitted(
        self, library: Library, offer: Offer, threshold: float | None
    ) -> tuple[SparseModel, ...]:
        """A sparse model for each triangle that is offered."""
        regression = self.config.sparse_regression
        found = [
            stlsq(
                factor,
                threshold=threshold,
                ridge=regression.ridge,
                max_iterations=regression.max_iterations,
                names=library.names(),
            )
            for factor in offer.factors
        ]
        return tuple(replace(each, coefficients=_rounded(each.coefficients)) for each in found)

    def _expected(self, estimate: _Estimate) -> LatentModel:
        """The code of which so much is expected."""
        candidate = estimate.candidate
        whole = self.short is self.record
        return self._coded(
            candidate, estimate.plan if whole else self._plan(self.record, candidate)
        )

    def _coded(self, candidate: _Candidate, plan: LatentPlan) -> LatentModel:
        """The code that the models of an offer allow, if it is smaller than without any."""
        systems, offer, fitted = candidate
        latent = plan.coded() if plan.modelled else None
        if latent is None or latent.nbytes >= self.plain.nbytes:
            latent = self.plain
        return _used(
            LatentModel(systems, offer, fitted, fitted, latent, self.plain, self.coded_bytes)
        )


def _bytes_with(model: LatentModel) -> tuple[float, bool, bool, int]:
    """Bytes of a(t) in the store; where these are equal, whether the model foretells any block,
    whether it has terms at all, and how well few terms do."""
    foretold = model.latent.nbytes + PLAIN_TERM_BYTES * model.nonzero_terms
    unused = not model.latent.coded.code.modelled
    return model.stored_bytes, unused, not model.nonzero_terms, foretold


def _rounded(coefficients: Matrix) -> Matrix:
    """Coefficients as a store has them."""
    return np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[float])(coefficients)


def _used(model: LatentModel) -> LatentModel:
    """With those models alone that serve some block, in the order in which they do."""
    coded = model.latent.coded
    numbers, first = np.unique(coded.code.block_model, return_index=True)
    used = [int(n) for n in numbers[np.argsort(first)] if n != STRAIGHT_LINE] or [0]
    renumbered = np.full(len(model.models) + 1, STRAIGHT_LINE, np.int16)
    renumbered[used] = np.arange(len(used))
    code = replace(coded.code, block_model=renumbered[coded.code.block_model])
    return replace(
        model,
        models=tuple(model.models[number] for number in used),
        latent=replace(model.latent, coded=replace(coded, code=code)),
    )
