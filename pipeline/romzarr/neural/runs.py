"""The five runs that others reported, their cures, and the default, on the reference problem.

Runs 1 to 5 are given the clean derivatives at the noisy states, as those reported were (their
residual of 1e-6 is the square of the noise). The default is given the noisy states only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix, TriangularFactor, Vector
from romzarr.errors import LibraryError
from romzarr.neural.collinearity import diagnose
from romzarr.neural.selection import Selection, select
from romzarr.neural.systems import OSCILLATOR, Record, System
from romzarr.neural.weak_fit import refit, weak_system
from romzarr.numerics.dynamics.networks import Operator, shipped_operators
from romzarr.numerics.dynamics.neural_library import NeuralLibrary, library_for
from romzarr.numerics.triangles import canonical_r

SEEDS = 20
RIDGE, THRESHOLD = 0.01, 0.2
NEGLIGIBLE = 0.01  # of an equation's size: a committed term that contributes less is none


@dataclass(frozen=True)
class RunResult:
    """What one method found for every seed.

    Attributes
    ----------
    title, expected, method : str
        What others reported, and what was done here.
    names : tuple of str
        The p terms.
    truth : (p, q) float64
    coefficients : (seeds, p, q) float64
        In the equations as they are used, soft mixtures included.
    chosen : (seeds, p, q) bool
        The terms each equation is committed to.
    activations : (seeds, q, slots, p) float64
        NaN where the method has none.
    effects : (seeds, p, q) float64
        Relative residual that a chosen term's absence adds.
    mse : (seeds, q) float64
        Against the clean derivatives at the clean states.
    cpu_seconds : float
    noise : str
        How much there was, in words.
    """

    title: str
    expected: str
    method: str
    names: tuple[str, ...]
    truth: Matrix
    coefficients: Matrix
    chosen: NDArray[np.bool_]
    activations: Matrix
    effects: Matrix
    mse: Matrix
    cpu_seconds: float
    noise: str
    notes: tuple[str, ...] = field(default=())

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Whether all equations of a seed have exactly the right terms, (seeds,)."""
        return np.asarray((self.chosen == (self.truth != 0)).all(axis=(1, 2)))

    @property
    def coefficient_errors(self) -> Matrix:
        """Relative errors (seeds, true terms), in the order of the truth's nonzero entries."""
        true = self.truth != 0
        return np.asarray(np.abs(self.coefficients[:, true] / self.truth[true] - 1))

    def least_activation(self) -> Matrix:
        """Over seeds, the least activation of a true term in whichever slot has it most."""
        most = self.activations.max(axis=2)  # (seeds, q, p)
        return np.asarray(most.transpose(0, 2, 1)[:, self.truth != 0].min(axis=1))


@dataclass(frozen=True)
class Problem:
    """Records of one system for all seeds, its library, the noise in words, and if it is to be
    short, how many steps a router is trained on it."""

    system: System
    library: NeuralLibrary
    records: tuple[Record, ...]
    noise: str
    steps: int | None = None

    @classmethod
    def reference(cls, sigma: float = 1e-3, seeds: int = SEEDS) -> Problem:
        """The damped oscillator with noise of standard deviation `sigma`."""
        return cls.absolute(OSCILLATOR, sigma, range(seeds))

    @classmethod
    def absolute(
        cls,
        system: System,
        sigma: float,
        seeds: Iterable[int],
        operators: Sequence[Operator] | None = None,
    ) -> Problem:
        """Records with noise of standard deviation `sigma` on every state."""
        both = np.full(len(system.start), sigma), f"{sigma:g} on the states"
        return cls._of(system, *both, seeds, operators)

    @classmethod
    def relative(
        cls,
        system: System,
        share: float,
        seeds: Iterable[int],
        operators: Sequence[Operator] | None = None,
    ) -> Problem:
        """Records with noise of `share` times each state's rms (`System.sizes`)."""
        both = share * system.sizes(), f"{100 * share:g} % of each state's rms"
        return cls._of(system, *both, seeds, operators)

    @classmethod
    def _of(
        cls,
        system: System,
        sigma: Vector,
        noise: str,
        seeds: Iterable[int],
        operators: Sequence[Operator] | None,
    ) -> Problem:
        records = tuple(system.record(sigma, seed) for seed in seeds)
        library = library_for(records[0].clean, operators or shipped_operators(), system.nested)
        return cls(system, library, records, noise)

    @property
    def truth(self) -> Matrix:
        """True coefficients (p, q) of the library's terms.

        Raises
        ------
        LibraryError
            If the library lacks one of them.
        """
        plain = list(replace(self.library, scales=()).formulas())
        xi = np.zeros((self.library.size, self.library.states))
        for j, terms in enumerate(self.system.terms):
            for formula, value in terms.items():
                if formula not in plain:
                    raise LibraryError(
                        f"equation {j + 1} of the {self.system.name} has the term {formula}, "
                        f"which the library lacks; it has {', '.join(plain)}"
                    )
                k = plain.index(formula)
                xi[k, j] = value * self._scale_of(k)
        return xi

    def _scale_of(self, k: int) -> float:
        """How much larger a term is in the states than in the scaled ones, if it is a monomial."""
        factor = 1.0
        stack = [self.library.terms[k]]
        while stack:
            term = stack.pop()
            for each in term.arguments:
                if isinstance(each, int):
                    factor *= self.library.scale(term.operator, each)
                else:
                    stack.append(each)
        return factor

    def clean_features(self) -> Matrix:
        return self.library.evaluate(self.records[0].clean)

    def mse(self, coefficients: Matrix) -> Matrix:
        """(seeds, q) against clean derivatives at clean states."""
        theta, truth = self.clean_features(), self.records[0].derivatives
        return np.array([np.mean((theta @ xi - truth) ** 2, axis=0) for xi in coefficients])


def _result(
    problem: Problem,
    title: str,
    expected: str,
    method: str,
    coefficients: Matrix,
    chosen: Matrix,
    activations: Matrix,
    started: float,
    effects: Matrix | None = None,
    notes: tuple[str, ...] = (),
) -> RunResult:
    return RunResult(
        title,
        expected,
        method,
        problem.library.names(),
        problem.truth,
        coefficients,
        np.asarray(chosen, bool),
        activations,
        _effects(problem, chosen) if effects is None else effects,
        problem.mse(coefficients),
        time.process_time() - started,
        problem.noise,
        notes,
    )


def _effects(problem: Problem, chosen: Matrix) -> Matrix:
    """Relative residual that leaving out each chosen term adds, the others fitted again."""
    effects = np.zeros(chosen.shape)
    for e, record in enumerate(problem.records):
        theta = problem.library.evaluate(record.states)
        for j in range(chosen.shape[2]):
            own = np.flatnonzero(chosen[e, :, j])
            target = record.derivatives[:, j]
            whole = _misfit(theta[:, own], target)
            for k in own:
                effects[e, k, j] = _misfit(theta[:, own[own != k]], target) - whole
    return effects


def _misfit(columns: Matrix, target: Matrix) -> float:
    left = target
    if columns.shape[1]:
        left = target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]
    return float(np.linalg.norm(left) / np.linalg.norm(target))


def plain_stlsq(theta: Matrix, targets: Matrix) -> Matrix:
    """STLSQ as published (S. L. Brunton et al., PNAS 113 (2016) 3932, with a ridge).

    On raw coefficients and by normal equations: what is reported of it is a property of this
    form. `romzarr.numerics.dynamics.stlsq` names dependent columns instead of splitting them.
    """
    p = theta.shape[1]
    xi = np.zeros((p, targets.shape[1]))
    for j, target in enumerate(targets.T):
        kept = np.arange(p)
        while len(kept):
            part = theta[:, kept]
            gram = part.T @ part + RIDGE * np.eye(len(kept))
            values = np.linalg.solve(gram, part.T @ target)
            large = np.abs(values) >= THRESHOLD
            if large.all():
                xi[kept, j] = values
                break
            kept = kept[large]
    return xi


def run_stlsq(problem: Problem) -> RunResult:
    """Run 1."""
    started = time.process_time()
    xi = np.array(
        [
            plain_stlsq(problem.library.evaluate(record.states), record.derivatives)
            for record in problem.records
        ]
    )
    return _result(
        problem,
        "1: STLSQ",
        "Fits to an MSE of 1e-6, but splits coefficients across collinear terms, such as "
        "x' = -0.333 id(x) + 0.667 id(v) + 0.332 add(x, v).",
        f"Ridge {RIDGE}, threshold {THRESHOLD} on raw coefficients; derivatives given.",
        xi,
        xi != 0,
        np.full((len(xi), xi.shape[2], 1, xi.shape[1]), np.nan),
        started,
    )


def _pointwise(problem: Problem) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Triangles of [Theta, derivatives], states, features and targets of all seeds."""
    states = np.array([record.states for record in problem.records])
    features = np.array([problem.library.evaluate(a) for a in states])
    targets = np.array([record.derivatives for record in problem.records])
    factors = [canonical_r(np.hstack(both)) for both in zip(features, targets, strict=True)]
    return np.array(factors), states, features, targets


def _weak(problem: Problem) -> list[TriangularFactor]:
    """Weak systems of all seeds."""
    return [weak_system(r.states, r.times, problem.library) for r in problem.records]


@dataclass(frozen=True)
class RoutedRun:
    """A run by a router, on pointwise data or in weak form.

    With ``drop`` no term can be chosen that is a combination of simpler ones. With ``final`` the
    prior counts every step of complexity, and the terms that were chosen get the coefficients of
    a least-squares fit in weak form.
    """

    title: str
    expected: str
    method: str
    settings: Mapping[str, object]
    weak: bool = False
    drop: bool = False
    final: bool = False

    def __call__(self, problem: Problem) -> RunResult:
        """Train a router for every seed, and see what it commits to."""
        # JAX comes only now: everything else here does without it.
        from romzarr.neural.router import RouterSettings, route

        started = time.process_time()
        settings = RouterSettings(**self._settings(problem))  # type: ignore[arg-type]
        binary = [float(len(term.arguments) == 2) for term in problem.library.terms]
        complexity = np.array(problem.library.complexity if self.final else binary)
        systems = _weak(problem) if self.weak or self.final else []
        if self.weak:
            triangles = np.array([factor.r for factor in systems])
            routed = route(triangles, systems[0].windows, complexity, settings)
        else:
            factors, states, features, targets = _pointwise(problem)
            routed = route(
                factors,
                states.shape[1],
                complexity,
                settings,
                states=states,
                features=features,
                targets=targets,
            )
        committed = routed.committed()
        sizes = np.sqrt(np.mean(problem.clean_features() ** 2, axis=0))[:, None]
        target = np.sqrt(np.mean(problem.records[0].derivatives ** 2, axis=0))
        chosen = np.abs(committed) * sizes / target > NEGLIGIBLE
        coefficients = routed.equations
        if self.final:
            both = zip(systems, chosen, strict=True)
            coefficients = np.array([refit(factor, own) for factor, own in both])
        words = self.title, self.expected, self.method
        return _result(problem, *words, coefficients, chosen, routed.activations, started)

    def _settings(self, problem: Problem) -> dict[str, object]:
        settings = dict(self.settings)
        if problem.steps:
            settings["steps"] = problem.steps
        if self.drop:
            settings["dropped"] = diagnose(problem.library, problem.records[0].states).dropped
        return settings


FOUR: dict[str, object] = {
    "slots": 2,
    "prior": 0.05,
    "shared": False,
    "straight": True,
    "end_temperature": (1.0, 1.0),
}
FIVE: dict[str, object] = {**FOUR, "entropy": 0.005, "conditional": True}
SOFT: dict[str, object] = {
    "slots": 2,
    "prior": 0.05,
    "shared": False,
    "entropy": 0.02,
    "conditional": True,
}
CURED: dict[str, object] = {
    **SOFT,
    "prior": 0.2,
    "logarithm": True,
    "freeze": 0.5,
    "start_temperature": (5.0, 1.0),
    "rate": (0.02, 0.05),
}


def run_best(problem: Problem) -> RunResult:
    """The default: exact selection of supports, from noisy states alone."""
    started = time.process_time()
    found: list[Selection] = [
        select(record.states, record.times, problem.library) for record in problem.records
    ]
    xi = np.array([selection.coefficients for selection in found])
    activations = np.array([selection.activations.T[:, None] for selection in found])
    words = diagnose(problem.library, problem.records[0].states).words()
    return _result(
        problem,
        "best: exact selection",
        "Exactly v in x', and x and v in v'.",
        "Identities dropped; every support of the others compared by the probability of the "
        "whole record; noisy states only, no derivatives.",
        xi,
        xi != 0,
        activations,
        started,
        np.array([selection.effects for selection in found]),
        tuple(words.splitlines()),
    )


def beyond(system: System, noise: float = 0.01, seeds: int = 5) -> tuple[Problem, RunResult]:
    """The default on another system, with noise of `noise` times each state's rms."""
    problem = Problem.relative(system, noise, range(seeds))
    return problem, named(run_best(problem), system)


def named(result: RunResult, system: System) -> RunResult:
    """`result` under the name of a system of which nobody has reported anything."""
    return replace(result, title=system.name, expected="Exactly the terms of the system.")


RUNS: dict[str, Callable[[Problem], RunResult]] = {
    "1": run_stlsq,
    "2": RoutedRun(
        "2: state-dependent Gumbel-softmax router",
        "Mixes terms softly and loses the damping term.",
        "One slot an equation, logits by a network of the state (32 hidden units), temperature "
        "annealed from 5 to 1; derivatives given.",
        {"hidden": 32, "end_temperature": (1.0, 1.0), "rate": (5e-3, 5e-3), "steps": 2000},
    ),
    "3": RoutedRun(
        "3: state-independent router with a scheduled entropy penalty",
        "Commits, but to sin instead of identity, with an inflated coefficient.",
        "One slot an equation, temperature annealed from 5 to 0.1, entropy penalty growing from "
        "0; derivatives given.",
        {"entropy": 0.1},
    ),
    "4": RoutedRun(
        "4: two slots without replacement, complexity prior",
        "Finds both dominant terms; the second slot takes the damping term with an activation "
        "of 0.27 only and a coefficient of about -0.028 for -0.1.",
        "Two slots that take one term at a time (straight-through), temperature annealed from 5 "
        "to 1, a prior on binary terms, no entropy penalty; derivatives given.",
        FOUR,
    ),
    "5": RoutedRun(
        "5: conditional slot entropy",
        "The activation of the damping term moves from 0.27 to 0.34.",
        "As 4 with a growing penalty on the entropy of slot 1 and of slot 2 given slot 1; "
        "derivatives given.",
        FIVE,
    ),
    "router": RoutedRun(
        "router: the cured router in weak form",
        "Exactly v in x', and x and v in v'.",
        "Dependent terms dropped; logarithm of the weak-form error; prior on every step of "
        "complexity; slot 1 frozen halfway, slot 2 trained on what it leaves, with temperature "
        "and rate of its own; coefficients of the committed terms by least squares; states only.",
        CURED,
        weak=True,
        drop=True,
        final=True,
    ),
    "best": run_best,
}


def cures(problem: Problem) -> list[RunResult]:
    """What was proposed against the failures of runs 4 and 5, one after the other."""
    residual: dict[str, object] = {**SOFT, "residual": True}
    own = {key: CURED[key] for key in ("start_temperature", "rate")}
    # name, settings, weak form, prior on every step of complexity
    variants: list[tuple[str, dict[str, object], bool, bool]] = [
        ("the same, dependent terms dropped", FIVE, False, False),
        ("soft slots, dependent terms dropped", SOFT, False, False),
        ("+ temperature and rate per slot", {**SOFT, **own}, False, False),
        ("+ weak-form loss", SOFT, True, False),
        ("+ slot 1 frozen, then slot 2 alone", {**SOFT, "freeze": 0.5}, False, False),
        ("+ slot 2 on the residual of slot 1", residual, False, False),
        ("residual, logarithm of the error", {**residual, "logarithm": True}, False, False),
        ("residual, logarithm, prior on steps", {**residual, "logarithm": True}, False, True),
        ("frozen, logarithm, prior on steps, per slot", CURED, False, True),
        ("the same in weak form (run router)", CURED, True, True),
    ]
    runs = [RoutedRun("run 5 as it is", "", "derivatives given", FIVE)]
    for name, settings, weak, final in variants:
        method = "states only" if weak else "derivatives given"
        runs.append(RoutedRun(name, "", method, settings, weak, drop=True, final=final))
    return [*(run(problem) for run in runs), run_best(problem)]
