"""From a(t) to a sparse model and the code it allows: the stage between POD and store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from romzarr.coding.latent import Decoded, code_latent
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
    is expected of fields and coefficients together, ``tried`` what other models took.
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
    search = _Search(a, times, tolerances, config, step, coded_bytes, plain, quiet)
    found = [search.models(settings) for settings in search.settings()]
    # Of those that do not decode that which foretells best.
    best, *lower = [min(models, key=_bytes_with) for models in found]
    for model in lower:
        if model.stored_bytes < best.stored_bytes - WORTHWHILE * coded_bytes:
            best = model
    others = [model for models in found for model in models]
    if config.sparse_regression.threshold == "auto":
        others += (beside := search.other_thresholds(best))
        smallest = min([best, *beside], key=lambda each: each.stored_bytes)
        if smallest.stored_bytes < best.stored_bytes - WORTHWHILE * coded_bytes:
            best = smallest
    return replace(best, tried=tuple(dict.fromkeys(_tried(model) for model in others)))


def _tried(model: LatentModel) -> Tried:
    return Tried(model.systems.library.size, model.nonzero_terms, model.nbytes)


@dataclass(frozen=True)
class _Search:
    """Candidate models, each with the code it allows; ``plain`` is the code without any.

    Models are fitted to the snapshots that ``quiet`` (m,) marks.
    """

    a: Matrix
    times: Matrix
    tolerances: Tolerances
    config: Config
    step: float
    coded_bytes: float
    plain: Decoded
    quiet: Mask

    def settings(self) -> list[LibraryConfig]:
        """Those of the library; with monomials of lower degrees, if none is given."""
        given = self.config.library
        if given.degree != "auto" or "polynomial" not in given.kinds:
            return [given]
        return [replace(given, degree=degree) for degree in DEGREES]

    def models(self, settings: LibraryConfig) -> list[LatentModel]:
        """Models from all choices of test functions."""
        weak, found = self.config.weak_form, dict[int, tuple[Library, WindowPlan]]()
        for support in ("auto", "finest") if weak.support == "auto" else (weak.support,):
            library, plan = plan_library(
                settings, weak, self.a[self.quiet], self.times[self.quiet], support
            )
            found.setdefault(plan.width, (library, plan))
        given = self.config.sparse_regression.threshold
        threshold = None if given == "auto" else given
        return [self._smallest(self._systems(*each), threshold) for each in found.values()]

    def _smallest(self, systems: WeakSystems, threshold: float | None) -> LatentModel:
        """The code of the offer that stores smallest."""
        found = [
            self._coded(systems, offer, self._fitted(systems.library, offer, threshold))
            for offer in systems.offers
        ]
        return min(found, key=_bytes_with)

    def _systems(self, library: Library, plan: WindowPlan) -> WeakSystems:
        return weak_systems(
            self.a,
            self.times,
            self.quiet,
            library,
            plan,
            block_steps=self.config.weak_form.block_steps,
        )

    def other_thresholds(self, best: LatentModel) -> list[LatentModel]:
        """Models with fewer and with more terms, as long as bytes become fewer.

        None where no block uses the best one: other terms will not change that.
        """
        found = list[LatentModel]()
        if not best.latent.coded.code.modelled:
            return found
        for ratio in (THRESHOLD_RATIO, 1 / THRESHOLD_RATIO):
            threshold, last = best.models[0].threshold, best
            for _ in range(MOST_THRESHOLDS):
                threshold *= ratio
                fitted = self._fitted(best.systems.library, best.offer, threshold)
                if _terms_of(fitted) == _terms_of(last.fitted):
                    continue
                # No terms at all are no equations: they replace none that statistics find.
                if not any(_terms_of(fitted)):
                    break
                another = self._coded(best.systems, best.offer, fitted)
                found.append(another)
                if another.nbytes >= last.nbytes:
                    break
                last = another
        return found

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

    def _coded(
        self, systems: WeakSystems, offer: Offer, fitted: tuple[SparseModel, ...]
    ) -> LatentModel:
        """The code that the models of an offer allow, if it is smaller than without any."""
        dynamics = [Dynamics(systems.library, model.coefficients) for model in fitted]
        latent = code_latent(
            self.a,
            self.times,
            dynamics,
            [offer.serving],
            self.tolerances,
            self.step,
            block_steps=CODE_BLOCK,
        )
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


def _terms_of(models: Sequence[SparseModel]) -> list[int]:
    return [model.nonzero_terms for model in models]


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
