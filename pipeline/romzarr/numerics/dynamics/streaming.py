"""The weak form of a record that arrives in blocks, while its basis moves.

A test function that straddles blocks waits for the rest of its support: the coefficients under
windows that are still open are carried along, which is less than the partial integrals of all
features would be, and moves with the basis. So the windows, their rows and the triangle are
those of the whole record, however it was cut; and work and memory depend on its length in no
way. Weak SINDy of a stream was proposed in [1]_; there features are kept, here the triangle is.

References
----------
.. [1] B. P. Russo, M. P. Laiu, R. Archibald, "Streaming compression of scientific data via
   weak-SINDy", arXiv:2308.14962.
.. [2] D. A. Messenger, E. Dall'Anese, D. M. Bortz, "Online weak-form sparse identification of
   partial differential equations", Proc. Mach. Learn. Res. 190 (2022) 241-256.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from romzarr.contracts import BlockSpan, Matrix, TriangularFactor, Vector
from romzarr.errors import LibraryError
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.moving import moved_library, moved_plan, weak_maps
from romzarr.numerics.dynamics.weakform import WindowPlan, merge_factors, weak_rows
from romzarr.numerics.triangles import Triangle

# Samples that the rule for uneven times looks at beyond a window, on either side.
NEIGHBOURS = 2
# Steps that differ by less than this share of the step are even, and by rounding of the times.
EVEN = 1e-6
# Snapshots whose windows are taken at once, where these are shorter.
AT_ONCE = 256


class StreamingWeakForm:
    """Triangle of the weak system of all windows that the record so far has room for.

    Parameters
    ----------
    library : Library
    plan : WindowPlan
        Chosen from the beginning of the record (`plan_windows`), and from the same snapshots
        however they arrive; ``snapshots`` does not matter. Where its time is even and a step
        is not, windows start anew after it.
    forgetting : float in (0, 1], default 1
        What the squares of a window count beside those of the next one: old windows fade
        by their age, whatever the blocks are.
    """

    def __init__(self, library: Library, plan: WindowPlan, *, forgetting: float = 1.0) -> None:
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting must be above 0 and at most 1, got {forgetting!r}")
        self.library, self.plan, self.forgetting = library, plan, forgetting
        columns = library.size + library.states
        self._values, self._noise = Triangle(columns, 2 * columns), Triangle(columns, 2 * columns)
        self._windows = 0.0
        self._begin()

    def _begin(self) -> None:
        """Forget the open windows; the next snapshot is the first of a run."""
        self._a, self._times = np.zeros((0, self.library.states)), np.zeros(0)
        # Numbers within the run: of the first snapshot carried, and of the next window.
        self._first, self._next = 0, 0

    @property
    def windows(self) -> float:
        """Windows that count, those that fade by what is left of them."""
        return self._windows

    def add(self, a: Matrix, times: Vector) -> None:
        """Take the coefficients (b, q) of the next snapshots and their times (b,).

        Raises
        ------
        LibraryError
            If the number of coefficients is not that of the library, or a feature is not
            finite; it is named.
        """
        a, times = np.asarray(a, dtype=np.float64), np.asarray(times, dtype=np.float64)
        if a.ndim != 2 or a.shape[1] != self.library.states:
            raise LibraryError(f"library of {self.library.states} states, coefficients {a.shape}")
        edges = [0, *self._uneven(times), len(times)]
        for run, (start, stop) in enumerate(pairwise(edges)):
            if run:
                self._take(self._ready())
                self._begin()
            self._a = np.concatenate([self._a, a[start:stop]])
            self._times = np.concatenate([self._times, times[start:stop]])
        # Many that overlap: features of the same snapshots are not taken each time.
        ready = self._ready()
        if len(ready) * self.plan.stride > max(self.plan.width, AT_ONCE):
            self._take(ready)

    def factor(self) -> TriangularFactor:
        """Triangle of all windows that are within the record so far."""
        self._take(self._ready())
        found = TriangularFactor(
            self._values.result(),
            self.library.size,
            round(self._windows),
            None if self.plan.noise is None else self._noise.result(),
        )
        at_the_end = self._at_the_end()
        return merge_factors([found, at_the_end]) if at_the_end is not None else found

    def move(self, move: Move) -> None:
        """Go on with moved coefficients; those of the past are moved without being seen.

        Raises
        ------
        LibraryError
            If the library is not closed: begin a new weak form with `moved_plan`, and add all
            coefficients to it once more.
        """
        library = moved_library(self.library, move)
        self._take(self._ready())
        both, of_noise = weak_maps(self.library, move, self.plan)
        self._values.move(both)
        self._noise.move(of_noise)
        self._a = move(self._a)
        self.library, self.plan = library, moved_plan(self.plan, move)

    # --- windows --------------------------------------------------------------------------

    @property
    def _seen(self) -> int:
        """Snapshots of the run."""
        return self._first + len(self._a)

    def _uneven(self, times: Vector) -> list[int]:
        """Snapshots of `times` that do not follow the one before by the step of the plan."""
        if self.plan.step is None:
            return []
        both = np.concatenate([self._times[-1:], times])
        rounding = 8 * np.finfo(float).eps * np.max(np.abs(both), initial=0.0)
        off = np.abs(np.diff(both) - self.plan.step) > EVEN * self.plan.step + rounding
        return (np.flatnonzero(off) + 1 - (len(both) - len(times))).tolist()

    def _ready(self) -> range:
        """Windows all of whose samples are there."""
        stride = self.plan.stride
        if self.plan.step is not None:
            fitting = (self._seen - 1 - self.plan.width) // stride + 1
            return range(self._next, max(self._next, fitting))
        starts = self._times[self._next * stride - self._first :: stride]
        # Samples strictly before the end, the one at or beyond it, and its neighbours.
        needed = np.searchsorted(self._times, starts + self.plan.support) + 1 + NEIGHBOURS
        ready = int(np.count_nonzero(needed <= len(self._times)))
        return range(self._next, self._next + ready)

    def _rows(self, windows: range) -> list[tuple[Matrix, Matrix | None]]:
        stride = self.plan.stride
        span = BlockSpan(windows.start * stride, (windows.stop - 1) * stride + 1)
        plan = replace(self.plan, snapshots=self._seen)
        return list(weak_rows(self._a, self._times, self.library, plan, span, self._first))

    def _take(self, windows: range) -> None:
        """Bring the rows of `windows` into the triangle and let go of their samples."""
        if not windows:
            return
        for rows, noise in self._rows(windows):
            self._fade_in(rows, noise)
        self._next = windows.stop
        kept = max(self._next * self.plan.stride - NEIGHBOURS, self._first)
        kept = min(kept, self._seen)
        self._a, self._times = self._a[kept - self._first :], self._times[kept - self._first :]
        self._first = kept

    def _fade_in(self, rows: Matrix, noise: Matrix | None) -> None:
        self._windows += len(rows)
        if self.forgetting < 1:
            shares = self.forgetting ** np.arange(len(rows) - 1, -1, -1)
            past = self.forgetting ** len(rows)
            self._windows = (self._windows - len(rows)) * past + float(shares.sum())
            rows = rows * np.sqrt(shares)[:, None]
            noise = None if noise is None else noise * np.sqrt(shares)[:, None]
            self._values.fade(past)
            self._noise.fade(past)
        self._values.add(rows)
        if noise is not None:
            self._noise.add(noise)

    def _at_the_end(self) -> TriangularFactor | None:
        """Windows that have no neighbours beyond them, should the record end here."""
        stop = -(-self._seen // self.plan.stride)
        if self.plan.step is not None or stop <= self._next:
            return None
        rows = [rows for rows, _ in self._rows(range(self._next, stop))]
        if not rows:
            return None
        values = np.concatenate(rows)
        end = Triangle(values.shape[1], len(values))
        end.add(values)
        return TriangularFactor(end.result(), self.library.size, len(values))
