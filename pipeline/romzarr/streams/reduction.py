"""Reduction of a stream: a basis that moves, coefficients, and a model of them, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from romzarr.compression.model import choose_library, plan_library
from romzarr.config import Config
from romzarr.contracts import Floats, Matrix, SparseModel, Vector
from romzarr.inner_product import InnerProducts
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.moving import is_closed, moved_plan
from romzarr.numerics.dynamics.stlsq import stlsq
from romzarr.numerics.dynamics.streaming import StreamingWeakForm
from romzarr.numerics.dynamics.weakform import WindowPlan
from romzarr.numerics.pod.incremental import IncrementalPOD, PODState

# Shares of the squared error allowed: what updates may leave, and what all that is lost may come
# to while the stream runs. What is lost of the past cannot be had back, so most is kept for the
# end: with next to nothing spent, the last cut finds the rank of all snapshots at once.
RESIDUAL_SHARE, RUNNING_SHARE = 0.005, 0.02
# Snapshots from which test functions are chosen, however many arrive at once.
BEGINNING = 1024
# Blocks of coefficients held one by one: a list of small arrays takes more than they do.
MOST_PARTS = 256
# Modes are looked over when there are so many times as many as after the last time, and at
# least so many: a move costs as much as the updates in between.
GROWN, LEAST = 1.5, 8
# As many modes as this share of the snapshots, or of the points, reduce nothing.
NO_REDUCTION = 0.5


@dataclass(frozen=True)
class ReducedStream:
    """A stream ``x(t) ~ origin + a(t) modes`` and the model of its coefficients.

    ``errors`` (V,) are those of all snapshots, by the fluctuation of each variable; ``library``
    is of the leading coefficients; None where there are none, or too few snapshots.
    """

    origin: Vector
    modes: Matrix
    a: Matrix
    times: Vector
    errors: Vector
    library: Library | None
    model: SparseModel | None


class StreamReduction:
    """Basis, coefficients and model of snapshots that arrive in blocks of any length.

    Parameters
    ----------
    tolerance : float
        Bound on the error of each variable by its fluctuation, after every update, of all
        snapshots so far.
    inner : InnerProducts, optional
        Of the variables.
    config : Config, optional
        Settings of library, weak form and regression.
    forgetting : float in (0, 1], default 1
        What a window of the weak form counts beside the next one.
    fluctuation : (V,) float, optional
        Squared fluctuation of each variable before this stream, which counts with it.
    spent : (V,) float, optional
        What of it the tolerance is not of any more, as errors before have used it up.

    Attributes
    ----------
    pod : IncrementalPOD
    cuts : int
        How often the basis was moved, and all coefficients with it.
    """

    def __init__(
        self,
        tolerance: float,
        *,
        inner: InnerProducts | None = None,
        config: Config | None = None,
        forgetting: float = 1.0,
        fluctuation: Floats | None = None,
        spent: Floats | float = 0.0,
    ) -> None:
        self.pod = IncrementalPOD(
            RESIDUAL_SHARE**0.5 * tolerance,
            inner=inner,
            fluctuation=fluctuation,
            spent=spent,
        )
        self._inner, self._spent = inner, spent
        self.cuts = 0
        self._tolerance, self._config = tolerance, config or Config()
        self._forgetting = forgetting
        self._weak: StreamingWeakForm | None = None
        self._chosen: tuple[int, Library] | None = None
        self._parts: list[tuple[Matrix, Vector]] = []
        self._after_cut = LEAST

    def resume(self, state: PODState, a: Matrix, times: Vector) -> None:
        """Begin where another process stopped, with its coefficients (m, r) and times (m,)."""
        tolerance = self.pod.tolerance
        self.pod = IncrementalPOD.resumed(state, tolerance, inner=self._inner, spent=self._spent)
        self._parts, self._after_cut = [(a, times)], max(self.pod.rank, LEAST)
        if self.pod.snapshots >= BEGINNING:
            self._begin()

    @property
    def a(self) -> Matrix:
        """Coefficients (m, r) of all snapshots."""
        return np.concatenate([np.zeros((0, self.pod.rank)), *(a for a, _ in self._coefficients())])

    @property
    def times(self) -> Vector:
        """Times (m,) of all snapshots."""
        return np.concatenate([np.zeros(0), *(times for _, times in self._parts)])

    @property
    def reduces(self) -> bool:
        """Whether modes are far fewer than snapshots and points; those of noise are not."""
        return self.pod.rank < NO_REDUCTION * min(self.pod.snapshots, len(self.pod.origin))

    @property
    def library(self) -> Library | None:
        """The library of `model`."""
        return self._weak.library if self._weak else None

    def update(self, block: Floats, times: Floats) -> None:
        """Take the next snapshots (b, n) and their times (b,).

        Raises
        ------
        ArchiveError
            If values are infinite, or NaN comes or goes.
        """
        a, seen = self.pod.update(block), np.asarray(times, dtype=np.float64)
        self._parts.append((a, seen))
        if len(self._parts) > MOST_PARTS:
            self._parts = [(self.a, self.times)]
        if self._weak is None:
            if self.pod.snapshots >= BEGINNING:
                self._begin()
        else:
            self._grow(self._weak)
            self._weak.add(a[:, : self._weak.library.states], seen)
        if self.pod.rank >= GROWN * self._after_cut:
            self._cut(RUNNING_SHARE**0.5 * self._tolerance)
            self._after_cut = max(self.pod.rank, LEAST)

    @property
    def model(self) -> SparseModel | None:
        """Sparse model of the windows so far; its cost does not depend on how many they are."""
        return sparse_model(self._weak, self._config) if self._weak else None

    def close(self) -> ReducedStream:
        """The fewest principal axes that keep the tolerance, and what belongs to them."""
        if self._weak is None and self.pod.rank and self.pod.snapshots >= 3:
            self._begin()
        self._cut(self._tolerance)
        return ReducedStream(
            self.pod.origin,
            self.pod.modes,
            self.a,
            self.times,
            self.pod.errors,
            self.library,
            self.model,
        )

    # --- coefficients -----------------------------------------------------------------------

    def _coefficients(self) -> Iterator[tuple[Matrix, Vector]]:
        """All coefficients, part by part, with zeros for modes that came later."""
        for a, times in self._parts:
            yield _widened(a, self.pod.rank), times

    def _cut(self, tolerance: float) -> None:
        rank = self.pod.rank
        move = self.pod.cut(tolerance)
        if move is None:
            return
        self.cuts += 1
        self._parts = [(move(_widened(a, rank)), times) for a, times in self._parts]
        if self._weak is not None:
            self._moved(self._weak, move)

    # --- weak form --------------------------------------------------------------------------

    def _library(self, plan: WindowPlan) -> Library:
        # Asked for with every update: choosing takes as long as a snapshot does.
        if self._chosen is None or self._chosen[0] != self.pod.rank:
            windows = plan.count(self.pod.snapshots)
            library = choose_library(self._config.library, self.pod.rank, windows)
            self._chosen = self.pod.rank, library
        return self._chosen[1]

    def _begin(self) -> None:
        """Choose test functions from the first snapshots, and take up all windows so far."""
        if not self.pod.rank:
            return
        begun = weak_form_of(self.a, self.times, self._config)
        self._rebuild(begun.library, begun.plan)

    def _rebuild(self, library: Library, plan: WindowPlan) -> None:
        """The weak form of all coefficients, for libraries that do not move."""
        self._weak = StreamingWeakForm(library, plan, forgetting=self._forgetting)
        for a, times in self._coefficients():
            self._weak.add(a[:, : library.states], times)

    def _grow(self, weak: StreamingWeakForm) -> None:
        """Let new modes into the library, as far as it takes more."""
        states = weak.library.states
        if self.pod.rank == states or (library := self._library(weak.plan)).states <= states:
            return
        growth = Move.growth(states, library.states - states)
        if is_closed(library):
            weak.move(growth)
        else:
            self._parts, last = self._parts[:-1], self._parts[-1:]
            self._rebuild(library, moved_plan(weak.plan, growth))
            self._parts += last

    def _moved(self, weak: StreamingWeakForm, move: Move) -> None:
        """Move the weak form, if it knows all that the move combines, or build it anew."""
        if not self.pod.rank:
            self._weak = None
            return
        library, old = self._library(weak.plan), weak.library.states
        if is_closed(library) and old == move.turn.shape[1] and library.states == self.pod.rank:
            weak.move(move)
            return
        leading = Move(move.turn[: library.states, :old], move.shift[: library.states])
        self._rebuild(library, moved_plan(weak.plan, leading))


def _widened(a: Matrix, rank: int) -> Matrix:
    """Coefficients with zeros for modes that came later."""
    missing = rank - a.shape[1]
    return np.pad(a, ((0, 0), (0, missing))) if missing else a


def weak_form_of(a: Matrix, times: Vector, config: Config) -> StreamingWeakForm:
    """A weak form of coefficients (m, r), still empty, with windows that suit the first."""
    first, settings = slice(BEGINNING), config.weak_form
    library, plan = plan_library(config.library, settings, a[first], times[first], settings.support)
    return StreamingWeakForm(library, plan)


def sparse_model(weak: StreamingWeakForm, config: Config) -> SparseModel:
    """The sparse model of the windows so far."""
    settings = config.sparse_regression
    return stlsq(
        weak.factor(),
        threshold=None if settings.threshold == "auto" else settings.threshold,
        ridge=settings.ridge,
        max_iterations=settings.max_iterations,
        names=weak.library.names(),
    )
