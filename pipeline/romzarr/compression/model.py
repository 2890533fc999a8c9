"""From a(t) to a sparse model and the code it allows: the stage between POD and store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.chunked.latent import CodedRecord, LatentPlan, LatentRecord, kept, plan_latent
from romzarr.chunked.tables import LeftOut
from romzarr.compression.candidates import (
    TERM_BYTES,
    THRESHOLD_RATIO,
    Candidate,
    Comparison,
    Estimate,
    candidates_of,
    is_compared_whole,
    lazy_comparison,
)
from romzarr.compression.weak_systems import CODE_BLOCK, Offer, WeakSystems, lazy_systems
from romzarr.config import Config, LibraryConfig, WeakFormConfig
from romzarr.contracts import BlockSpan, Matrix, SparseModel, Times, Vector
from romzarr.errors import AccuracyError, ConfigError
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
from romzarr.numerics.dynamics.testfunctions import SEGMENT, parse_test_function
from romzarr.numerics.dynamics.weakform import WindowPlan, plan_windows

# Coefficients that expressions may name while their number is not known.
MOST_MODES = 1000
# Degrees of the monomials tried if none is given.
DEGREES = (2, 1)
# Share of all bytes that a lower degree has to save, as equations with products say more
# about the flow; and so have other terms than those that statistics find, which are the true
# ones where there are any.
WORTHWHILE = 0.1
# What a term has to save to be one of equations that are there to be read: a number and its place.
PLAIN_TERM_BYTES = 10
# What else decoding with a model takes up, measured: metadata of the arrays of samples, and
# of that of which model serves a block, where they are not all served by the first.
MODEL_BYTES, SERVING_BYTES = 800, 340
# Share of the bytes by which estimates of two candidates may be off to one another.
NEAR = 0.05
# Snapshots that tell the time scales of a record: the longest segments of which spectra are made,
# eight times.
SPECTRUM = 8 * SEGMENT
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
    latent: CodedRecord
    plain: CodedRecord
    coded_bytes: float
    tried: tuple[Tried, ...] = ()

    @property
    def stored(self) -> CodedRecord:
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
        return self.latent.format.modelled and self._all_bytes < self.plain.nbytes

    @property
    def stored_bytes(self) -> float:
        """Bytes of what a store keeps to decode a(t): without the model where it does not pay."""
        return self._all_bytes if self.pays else self.plain.nbytes

    @property
    def _all_bytes(self) -> float:
        serving = SERVING_BYTES if self.latent.format.block_model.any() else 0
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


def make_library(settings: LibraryConfig, states: int, sizes: Vector | None = None) -> Library:
    """Feature library of `states` modes as the settings ask.

    With the largest `sizes` (r,) of the coefficients networks see these scaled into their reach.
    """
    frequencies = tuple(float(k) for k in range(1, settings.frequencies + 1))
    degree = DEGREES[0] if settings.degree == "auto" else settings.degree
    makers: dict[str, Callable[[], Library]] = {
        "polynomial": lambda: PolynomialLibrary(states, degree, settings.interactions),
        "fourier": lambda: FourierLibrary(states, frequencies),
        "symbolic": lambda: SymbolicLibrary(states, settings.expressions),
        "neural": lambda: _neural(settings, states, sizes),
    }
    parts = [makers[kind]() for kind in settings.kinds]
    return parts[0] if len(parts) == 1 else ConcatenatedLibrary(tuple(parts))


def _neural(settings: LibraryConfig, states: int, sizes: Vector | None) -> Library:
    operators = _operators(settings)
    scales = () if sizes is None else suitable_scales(sizes[None, :states], operators)
    return NeuralLibrary(states, operators, scales, settings.nested)


def choose_library(
    settings: LibraryConfig, rank: int, windows: int, sizes: Vector | None = None
) -> Library:
    """Library of the leading modes: all of them, or as many as have no more terms than allowed.

    That is ``library.max_terms``, or what so many `windows` can tell apart. A neural library is
    scaled to the largest `sizes` (r,) of the coefficients.

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
        library = make_library(settings, settings.modes, sizes)
        if library.size > settings.max_terms:
            raise ConfigError(
                f"library.max_terms: {settings.modes} modes make {library.size} terms, allowed "
                f"are {settings.max_terms}; lower library.modes or raise library.max_terms"
            )
        return library
    if settings.expressions:
        return make_library(settings, rank, sizes)
    states, most = 1, min(settings.max_terms, windows // WINDOWS_PER_TERM)
    while states < rank and make_library(settings, states + 1).size <= most:
        states += 1
    return make_library(settings, states, sizes)


def plan_library(
    settings: LibraryConfig,
    weak_form: WeakFormConfig,
    a: Matrix,
    times: Times,
    support: float | str,
    *,
    first: int = 0,
    sizes: Vector | None = None,
) -> tuple[Library, WindowPlan]:
    """The largest library that its windows over a(t) can tell apart, and these windows.

    Fewer modes may have slower frequencies, so longer windows, of which there are fewer. Of a long
    record `a` (k, r) is an unbroken part from snapshot `first` on, and `sizes` (r,) are the largest
    of all coefficients; `times` (m,) are always those of all.
    """
    windows = len(times)
    sizes = np.max(np.abs(a), axis=0, initial=0.0) if sizes is None else sizes
    while True:
        library = choose_library(settings, a.shape[1], windows, sizes)
        plan = plan_windows(
            times,
            a[:, : library.states],
            test_function=weak_form.test_function,
            support=support,
            spacing=weak_form.spacing,
            first=first,
        )
        found = plan.count(len(times))
        if found >= windows or library.states == 1 or settings.modes != "auto":
            return library, plan
        windows = found


def identify(
    record: LatentRecord,
    times: Times,
    tolerances: Tolerances,
    config: Config,
    *,
    step: float,
    coded_bytes: float,
    left_out: LeftOut | None = None,
) -> LatentModel:
    """Find a sparse model of a(t) and the samples to keep. Runs Dask.

    Unless a support is given, test functions of two radii are tried: that of the spectrum as a
    whole, and that of the mode with the highest frequencies, which the first may not see. Unless a
    threshold is given, thresholds beside the one that statistics suggest are tried too: terms stay
    if they save more bytes of corrections than they cost. The model that stores smallest stays,
    unless the difference is not worth mentioning. It decodes if it takes less than it saves; else
    its equations are there to be read.

    Of a long record candidates are compared on a few stretches. Only those that come out near the
    smallest are coded. All of this is done by tasks: of the coefficients only `SPECTRUM` snapshots
    are ever here, which tell the time scales.

    Parameters
    ----------
    record : LatentRecord
        Of one coefficient or more.
    times : (m,) float64 or UniformTimes
    tolerances : Tolerances
        How far the coefficients may be off.
    config : Config
    step : float
        Quantisation step of the coefficients to begin with.
    coded_bytes : float
        Bytes expected of fields and coefficients.
    left_out : LeftOut, optional
        Snapshots at which a(t) means nothing: no window of the weak form reaches across them.

    Raises
    ------
    AccuracyError
        If no quantisation meets the tolerances.
    """
    plain = _without_model(record, tolerances, step)
    data = _Data(record, times, tolerances, step, left_out or LeftOut())
    comparison = kept(lazy_comparison(record, tolerances, step, plain.nbytes))
    search = _Search(data, comparison, config, coded_bytes, plain)
    first, *lower = search.settings()
    others = search.carried_out(search.candidates(first))
    # Of those that do not decode that which foretells best.
    best = min(others, key=_bytes_with)
    for settings in lower:
        if search.may_save(best):
            estimates = search.estimates(search.candidates(settings))
            others += (found := search.smaller(estimates, best))
            best = min([best, *found], key=lambda each: each.stored_bytes)
    if config.sparse_regression.threshold == "auto" and search.may_save(best):
        others += (found := search.smaller(search.other_thresholds(best), best))
        best = min([best, *found], key=lambda each: each.stored_bytes)
    return replace(best, tried=tuple(dict.fromkeys(_tried(model) for model in others)))


def _without_model(record: LatentRecord, tolerances: Tolerances, step: float) -> CodedRecord:
    """The code without a model. Runs Dask."""
    plain = plan_latent(record, (), (), tolerances, step, block_steps=CODE_BLOCK).coded()
    if plain is None:
        raise AccuracyError(
            "no quantisation of the POD coefficients meets the tolerance; raise "
            "compression.tolerance"
        )
    return plain


def _tried(model: LatentModel) -> Tried:
    return Tried(model.systems.library.size, model.nonzero_terms, model.nbytes)


@dataclass(frozen=True)
class _Data:
    """Coefficients to be coded, with their times, the tolerances, and the step to begin with."""

    record: LatentRecord
    times: Times
    tolerances: Tolerances
    step: float
    left_out: LeftOut

    @cached_property
    def quiet_times(self) -> Times:
        """Times of the snapshots that are not left out."""
        if not self.left_out.spans:
            return self.times
        return self.times[:][self.left_out.kept(BlockSpan(0, len(self.times)))]

    @cached_property
    def spectral(self) -> tuple[Matrix, int]:
        """Coefficients (k, r) in the middle of the record, or all of a shorter one, without those
        left out, and the number of the first among all that are not. Runs Dask."""
        count = self.record.snapshots
        start = max(count - SPECTRUM, 0) // 2
        span = BlockSpan(start, min(start + SPECTRUM, count))
        (block,) = dask.compute(self.record.stretches([span]))
        first = int(self.left_out.before(np.array([start]))[0])
        kept = self.left_out.kept(span)
        return (block.own if kept.all() else block.own[kept]), first

    def plan(self, candidate: Candidate) -> LatentPlan:
        """How to code the record with a candidate. Runs Dask."""
        return plan_latent(
            self.record, candidate.dynamics, candidate.choices, self.tolerances, self.step,
            block_steps=CODE_BLOCK,
        )  # fmt: skip

    def planned(self, estimate: Estimate) -> LatentPlan:
        """How to code the record with the candidate of an estimate, which may be of all of it."""
        if not is_compared_whole(self.record):
            return self.plan(estimate.candidate)
        return LatentPlan(self.record, estimate.coder, (estimate.code,), self.step)


@dataclass(frozen=True)
class _Search:
    """Candidate models, each with the code it allows; ``plain`` is the code without any.

    Models are compared by tasks that are given the ``comparison``. Those that come near each other
    there are carried out on the whole record.
    """

    data: _Data
    comparison: Delayed
    config: Config
    coded_bytes: float
    plain: CodedRecord
    # By the identity of the models fitted, which estimates keep alive.
    _known: dict[int, Estimate] = field(default_factory=dict)

    def settings(self) -> list[LibraryConfig]:
        """Those of the library; with monomials of lower degrees, if none is given."""
        given = self.config.library
        if given.degree != "auto" or "polynomial" not in given.kinds:
            return [given]
        return [replace(given, degree=degree) for degree in DEGREES]

    def candidates(self, settings: LibraryConfig) -> list[Candidate]:
        """Models from all choices of test functions, those alike once. Runs Dask."""
        weak, data = self.config.weak_form, self.data
        plans, (a, first) = dict[int, tuple[Library, WindowPlan]](), data.spectral
        sizes = data.record.spread.largest
        for support in ("auto", "finest") if weak.support == "auto" else (weak.support,):
            library, plan = plan_library(
                settings, weak, a, data.quiet_times, support, first=first, sizes=sizes
            )
            plans.setdefault(plan.width, (library, plan))
        regression = self.config.sparse_regression
        threshold = None if regression.threshold == "auto" else regression.threshold
        task = delayed(candidates_of, pure=False)
        lists = dask.compute(
            *(
                task(self._systems(library, plan), regression, threshold)
                for library, plan in plans.values()
            )
        )
        found = list[Candidate]()
        for candidate in (each for some in lists for each in some):
            if not any(candidate.same(other) for other in found):
                found.append(candidate)
        return found

    def _systems(self, library: Library, plan: WindowPlan) -> Delayed:
        data, steps = self.data, self.config.weak_form.block_steps
        return lazy_systems(
            data.record, data.quiet_times, data.left_out, library, plan, block_steps=steps
        )

    def estimates(self, candidates: Sequence[Candidate]) -> list[Estimate]:
        """What candidates should take. Runs Dask."""
        new = [each for each in candidates if id(each.fitted) not in self._known]
        task = delayed(Comparison.estimate, pure=False)
        constant = (delayed(each, pure=False, traverse=False) for each in new)
        found = dask.compute(*(task(self.comparison, each) for each in constant))
        for candidate, estimate in zip(new, found, strict=True):
            self._known[id(candidate.fitted)] = estimate._replace(candidate=candidate)
        return [self._known[id(each.fitted)] for each in candidates]

    def carried_out(self, candidates: Sequence[Candidate]) -> list[LatentModel]:
        """The code of the candidate that should be smallest, and of those that may be."""
        if len(candidates) == 1:
            return [self._coded(candidates[0], self.data.plan(candidates[0]))]
        best, *others = sorted(self.estimates(candidates), key=self._order)
        limit = self._stored_bytes(best) * (1 + NEAR)
        near = [each for each in others if _all_bytes(each) < limit]
        return [self._coded(each.candidate, self.data.planned(each)) for each in (best, *near)]

    def _stored_bytes(self, estimate: Estimate) -> float:
        """Bytes of what a store would keep to decode a(t)."""
        plain = self.plain.nbytes
        return min(_all_bytes(estimate), plain) if estimate.modelled else plain

    def _order(self, estimate: Estimate) -> tuple[float, bool, bool, float]:
        """As `_bytes_with`."""
        terms = sum(estimate.candidate.terms)
        foretold = estimate.nbytes + PLAIN_TERM_BYTES * terms
        return self._stored_bytes(estimate), not estimate.modelled, not terms, foretold

    def may_save(self, best: LatentModel) -> bool:
        """Whether any model could take so much less than the best one that it is worth it."""
        return best.stored_bytes - self._worthwhile > MODEL_BYTES

    @property
    def _worthwhile(self) -> float:
        return WORTHWHILE * self.coded_bytes

    def smaller(self, estimates: Sequence[Estimate], best: LatentModel) -> list[LatentModel]:
        """The code of the candidate that is so much smaller than the best one that it is worth it;
        none if there is no such."""
        if not estimates:
            return []
        # Estimates are off all alike.
        scale = best.latent.nbytes / max(self._of(best).nbytes, 1.0)
        scaled = [each._replace(nbytes=scale * each.nbytes) for each in estimates]
        least = min(scaled, key=self._stored_bytes)
        enough = best.stored_bytes - self._worthwhile
        if self._stored_bytes(least) > enough * (1 + NEAR):
            return []
        found = self._coded(least.candidate, self.data.planned(least))
        return [found] if found.stored_bytes < enough else []

    def _of(self, best: LatentModel) -> Estimate:
        """The estimate of a model that is coded."""
        (estimate,) = self.estimates([Candidate(best.systems, best.offer, best.fitted)])
        return estimate

    def other_thresholds(self, best: LatentModel) -> list[Estimate]:
        """Candidates with fewer and with more terms, as long as bytes become fewer. Runs Dask.

        None where no block uses the best one: other terms will not change that.
        """
        if not best.latent.format.modelled:
            return []
        begin = delayed(self._of(best), pure=False, traverse=False)
        task, regression = delayed(Comparison.other_thresholds, pure=False), self.config
        found = dask.compute(
            *(
                task(self.comparison, begin, ratio, regression.sparse_regression)
                for ratio in (THRESHOLD_RATIO, 1 / THRESHOLD_RATIO)
            )
        )
        return [each for some in found for each in some]

    def _coded(self, candidate: Candidate, plan: LatentPlan) -> LatentModel:
        """The code that the models of an offer allow, if it is smaller than without any."""
        systems, offer, fitted = candidate
        latent = plan.coded() if plan.modelled else None
        if latent is None or latent.nbytes >= self.plain.nbytes:
            latent = self.plain
        return _used(
            LatentModel(systems, offer, fitted, fitted, latent, self.plain, self.coded_bytes)
        )


def _all_bytes(estimate: Estimate) -> float:
    """With all that decoding with a model takes."""
    return estimate.bytes_with_terms + MODEL_BYTES


def _bytes_with(model: LatentModel) -> tuple[float, bool, bool, int]:
    """Bytes of a(t) in the store; where these are equal, whether the model foretells any block,
    whether it has terms at all, and how well few terms do."""
    foretold = model.latent.nbytes + PLAIN_TERM_BYTES * model.nonzero_terms
    unused = not model.latent.format.modelled
    return model.stored_bytes, unused, not model.nonzero_terms, foretold


def _used(model: LatentModel) -> LatentModel:
    """With those models alone that serve some block, in the order in which they do."""
    form = model.latent.format
    numbers, first = np.unique(form.block_model, return_index=True)
    used = [int(n) for n in numbers[np.argsort(first)] if n != STRAIGHT_LINE] or [0]
    renumbered = np.full(len(model.models) + 1, STRAIGHT_LINE, np.int16)
    renumbered[used] = np.arange(len(used))
    form = replace(form, block_model=renumbered[form.block_model])
    return replace(
        model,
        models=tuple(model.models[number] for number in used),
        latent=replace(model.latent, format=form),
    )
