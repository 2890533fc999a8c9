"""Proper orthogonal decomposition of a stream: ``x(t) = origin + a(t) modes + e(t)``.

Between moves, modes are only ever appended [1]_: coefficients of past snapshots stay as they are,
with zeros for modes that came later. What a block leaves is lost for good, and its norm is known;
where it is more than the tolerance allows, its leading directions become modes [2]_, [3]_.

A *cut* moves the basis: to the mean as origin, which is within reach of the modes so that nothing
is lost; to the principal axes; and without those that do not pay. It changes the error of the
past by ``y_j(t) d_j`` for every axis d_j that is dropped, so squares grow by
``sum y_j^2 |d_j|^2 + 2 <d_j, sum y_j e>``. The second term is nothing where d_j was there when e
was lost; for directions that came later it is not, which is why ``met``, the sums of
``[1 a]^T e``, are kept. With these every norm is exact, over the whole history. Bounds by
tree [4]_ would do without them, but would add norms where squares add.

The temporal mean does not move on its own: it would leave the past behind by what of it lies
outside of the modes.

References
----------
.. [1] M. Brand, "Fast low-rank modifications of the thin singular value decomposition",
   Linear Algebra Appl. 415 (2006) 20-30, doi:10.1016/j.laa.2005.07.021. There the basis turns
   with every update; here it turns at cuts alone, as coefficients are stored.
.. [2] C. G. Baker, K. A. Gallivan, P. Van Dooren, "Low-rank incremental methods for computing
   dominant singular subspaces", Linear Algebra Appl. 436 (2012) 2866-2888.
.. [3] M. A. Iwen, B. W. Ong, "A distributed and incremental SVD algorithm for agglomerative data
   analysis on large networks", SIAM J. Matrix Anal. Appl. 37 (2016) 1699-1718.
.. [4] C. Himpe, T. Leibner, S. Rave, "Hierarchical approximate proper orthogonal
   decomposition", SIAM J. Sci. Comput. 40 (2018) A3267-A3292.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from romzarr.contracts import Floats, Mask, Matrix, Vector
from romzarr.errors import GapsError
from romzarr.inner_product import InnerProduct, InnerProducts
from romzarr.numerics.change_of_basis import Move
from romzarr.numerics.pod.basis import SQUARED, Basis
from romzarr.numerics.pod.truncation import tails
from romzarr.numerics.triangles import Triangle

# Snapshots taken at once: modes found in the first of a long block serve the rest of it.
AT_ONCE = 256
# Of the norm of a snapshot: what the projection leaves of it by rounding is no direction.
ROUNDING = 1e-14
# Combinations of coefficients that vary less than this beside others tell nothing of a mode.
RELATED = 1e-9
# Variables whose factors make some count so many times as much as others, in squares, are balanced
# anew. Cancellation costs half as many digits: two of the sixteen there are.
UNBALANCED = 1e4


@dataclass(frozen=True)
class PODState:
    """All that goes on with a stream in another process, but for the inner product.

    ``origin`` (n,), NaN where nothing is, and ``modes`` (r, n), from which the past is
    rebuilt: if they were coded, as they decode, of any lengths and angles; ``triangle``
    (r + 1, r + 1) of ``[1 a]``; ``fluctuation`` (V,) or less, ``lost`` (V,) or more,
    and ``left`` (V,).
    """

    origin: Vector
    modes: Matrix
    triangle: Matrix
    fluctuation: Vector
    lost: Vector
    left: Vector


class IncrementalPOD:
    """POD of snapshots that arrive in blocks, within a tolerance over the whole history.

    Besides the block, memory for ``2 (r + 2)`` snapshots in float64 is used, and time for an
    update of b snapshots is ``O(b n r)``.

    Parameters
    ----------
    tolerance : float
        What updates leave of each variable, of all snapshots so far, is at most this share of
        its fluctuation. What cuts drop comes besides; with the error that a cut was allowed the
        squares add.
    inner : InnerProducts, optional
        Of the variables; without it all points are one variable's, and count alike.
    fluctuation : (V,) float, optional
        Squared fluctuation of each variable before this stream, which counts with it.
    spent : (V,) float, optional
        What of it `tolerance` is not of any more.

    Attributes
    ----------
    snapshots : int
    origin : (n,) float64
    modes : (r, n) float64
        As of `romzarr.numerics.pod.basis.Basis`.
    fluctuation, lost, left : (V,) float64
        Squared norms over all snapshots so far: of the differences from their mean, of the
        errors, and of that part of them that updates left.
    """

    def __init__(
        self,
        tolerance: float,
        *,
        inner: InnerProducts | None = None,
        fluctuation: Floats | None = None,
        spent: Floats | float = 0.0,
    ) -> None:
        self.tolerance = tolerance
        self._spent = np.asarray(spent, np.float64)
        self._earlier = None if fluctuation is None else np.asarray(fluctuation, np.float64)
        self._given = inner
        self.snapshots = 0

    def _begin(self, block: Floats) -> None:
        """Take the mean of the first block for the origin; no modes yet."""
        n = block.shape[1]
        inner = self._given or InnerProducts.of([InnerProduct()], [n])
        if inner.points != n:
            raise ValueError(f"snapshots of {n} points, but an inner product of {inner.points}")
        missing = np.isnan(block[0])
        self._valid = ~missing if missing.any() else None
        self.inner = inner.within(self._valid)
        self._basis = Basis(self.inner, n)
        # The mean about a snapshot is that snapshot, to the bit, where nothing changes.
        self.origin = np.where(missing, 0.0, np.asarray(block[0], dtype=np.float64))
        self.origin = self.origin + self._anomalies(block).mean(axis=0)
        # Sums of [1 a]^T e, mean less origin, triangle of [1 a].
        self._met, self._mean, self._seen = np.zeros((1, n)), np.zeros(n), Triangle(1, AT_ONCE)
        nothing = np.zeros(len(inner.parts))
        self.fluctuation: Vector = nothing if self._earlier is None else 1.0 * self._earlier
        self.lost = self.left = nothing
        # Of a former process: squares lost whose `met` is not known, and by how much, in norm,
        # the sum of snapshots may be off.
        self._unmet = self._sum_missed = nothing
        self._met_from = 0

    @property
    def state(self) -> PODState:
        origin = self.origin if self._valid is None else np.where(self._valid, self.origin, np.nan)
        return PODState(origin, self.modes, self.triangle, self.fluctuation, self.lost, self.left)

    @classmethod
    def resumed(
        cls,
        state: PODState,
        tolerance: float,
        *,
        inner: InnerProducts | None = None,
        spent: Floats | float = 0.0,
    ) -> IncrementalPOD:
        """Go on from a state.

        Nothing of the size of a snapshot is asked for but the basis. Two sums are not known
        any more, and the worst is assumed of them: how errors of the past meet what will be
        cut (by the inequality of Cauchy and Schwarz), and the mean beside the modes. So
        ``lost`` becomes a bound from above and ``fluctuation`` one from below.
        """
        pod = cls(tolerance, inner=inner, spent=spent)
        pod._begin(state.origin[None])
        pod.fluctuation, pod.left = state.fluctuation, state.left
        pod.lost = pod._unmet = state.lost
        pod.snapshots = round(float(state.triangle[0, 0]) ** 2)
        pod._sum_missed = np.sqrt(state.lost * pod.snapshots)
        pod._mean = state.triangle[0, 1:] / state.triangle[0, 0] @ state.modes
        pod._seen = Triangle(len(state.triangle), AT_ONCE)
        pod._seen.add(state.triangle)
        pod._basis.weigh(pod.balance)
        pod._basis.replace(state.modes)
        pod._met = np.zeros((len(state.modes) + 1, len(pod.origin)))
        pod._met_from = len(state.modes)
        return pod

    @property
    def modes(self) -> Matrix:
        return self._basis.modes

    @property
    def rank(self) -> int:
        return len(self.modes) if self.snapshots else 0

    @property
    def valid(self) -> Mask | None:
        """Points (n,) that have values; None where all have."""
        return self._valid

    @property
    def is_exact(self) -> bool:
        """Whether all that is counted is known, and not bounded: nothing of a former process."""
        return not self._unmet.any()

    @property
    def grams(self) -> Matrix:
        """Inner products (V, r, r) of the modes in each variable."""
        # A copy: of a matrix by itself BLAS rounds otherwise, and axes of stores would change sign.
        return self.inner.grams(self.modes, self.modes.copy())

    @property
    def mean(self) -> Vector:
        """Temporal mean (n,) of all snapshots."""
        return self.origin + self._mean

    @property
    def counting(self) -> Vector:
        """Squared fluctuation (V,) that the tolerance is of: all but what was spent before."""
        return np.maximum(self.fluctuation - self._spent, 0.0)

    @property
    def errors(self) -> Vector:
        """Error (V,) of each variable by its fluctuation."""
        moving = np.where(self.fluctuation > 0, self.fluctuation, 1.0)
        return np.sqrt(self.lost / moving)

    @property
    def triangle(self) -> Matrix:
        """R (r + 1, r + 1) of ``[1 a(t)]`` over all snapshots."""
        return self._seen.result()

    def rebuilt(self, a: Matrix) -> Matrix:
        """Snapshots (m, n) with the coefficients (m, r); 0 where there are no values."""
        values: Matrix = self.origin + a @ self.modes
        return values

    def update(self, block: Floats) -> Matrix:
        """Coefficients of the next snapshots, with new modes if they need any.

        Parameters
        ----------
        block : (b, n) float
            NaN marks masked points, the same in all snapshots.

        Returns
        -------
        (b, r) float64
            Modes added are the last; coefficients of the past have zeros there.

        Raises
        ------
        GapsError
            If values are infinite, or NaN comes or goes.
        """
        if len(block) > AT_ONCE:
            parts = [self.update(block[k : k + AT_ONCE]) for k in range(0, len(block), AT_ONCE)]
            return np.concatenate([np.pad(a, ((0, 0), (0, self.rank - a.shape[1]))) for a in parts])
        if not len(block):
            return np.zeros((0, self.rank))
        if self.snapshots == 0:
            self._begin(block)
        values = self._anomalies(block)
        self._count(values)
        self._rebalance()
        a, left = self._basis.project(values)
        room = np.maximum(self.tolerance**2 * self.counting - self.left, 0.0)
        # Coefficients may be large beside one variable, and cancel in it.
        rounded = (
            self.inner.squares(values).sum(axis=0) + np.sum(a**2, axis=0) @ self._basis.lengths
        )
        room += ROUNDING**2 * rounded
        # Once is enough, unless what is best for all variables together is too little for one.
        while (self.inner.squares(left).sum(axis=0) > room).any():
            before = self.rank
            self._append(self._leading(left, room))
            if self.rank == before:
                break
            more, left = self._basis.project(left, before)
            a = np.concatenate([a, more], axis=1)
        self._account(a, left)
        return a

    def cut(self, tolerance: float) -> Move | None:
        """Drop what is not needed for a tolerance, from past and future snapshots.

        Parameters
        ----------
        tolerance : float
            What the error of every variable may become, by its fluctuation. Where it is that
            already, nothing is dropped.

        Returns
        -------
        Move, or None
            What becomes of the coefficients: modes are now the principal axes about the mean,
            by falling energy, with all variables alike. None where there are no modes.
        """
        if not self.rank:
            return None
        move, modes, spread = self._principal_axes()
        met = move.turn @ self._met[1:] + np.outer(move.shift, self._met[0])
        dropped = tails((spread[:, None] ** 2 * self.inner.squares(modes)).T).T
        meeting = tails(self.inner.products(met, modes).T).T + np.sqrt(self._unmet * dropped)
        lost = np.maximum(self.lost + dropped + 2 * meeting, 0.0)
        within = np.all(lost <= tolerance**2 * self.counting, axis=1)
        kept = int(np.argmax(within)) if within.any() else self.rank
        towards_mean = self._average @ self.modes
        self.origin, self._mean = self.origin + towards_mean, self._mean - towards_mean
        self._basis.replace(modes[:kept], orthonormal=True)
        self.lost = lost[kept]
        self._met = np.concatenate([self._met[:1], met[:kept]])
        self._met_from = kept
        move = Move(move.turn[:kept], move.shift[:kept])
        self._seen.move(move.augmented)
        return move

    def adopt(self, first: int, modes: Matrix, origin: Vector | None = None) -> None:
        """Take others for the modes from `first` on, and for the origin if it is given.

        Coefficients stay as they are; what that makes of the error of all snapshots is
        counted. Modes that are coded are adopted as they decode: so that what is written now
        and what comes later rests on the same.
        """
        shift = np.zeros_like(self._met)
        shift[1 + first :] = modes - self.modes[first:]
        if origin is not None:
            shift[0] = origin - self.origin
        self._shift(shift)
        if origin is not None or first < self._met_from:
            moved = self._squares(shift)
            self.lost = self.lost + 2 * np.sqrt(self._unmet * moved)

    def settle(self) -> None:
        """Make origin and modes the best for the coefficients: what is lost is orthogonal to
        these and to constants, in time. Of a former process that cannot be known.
        """
        r = self.triangle
        inverse = np.linalg.pinv(r, rtol=RELATED)
        self._shift(inverse @ (inverse.T @ self._met))

    def _shift(self, shift: Matrix) -> None:
        """Add (r + 1, n) to origin and modes."""
        self.lost = self.lost - 2 * self.inner.products(self._met, shift).sum(axis=0)
        self.lost = np.maximum(self.lost + self._squares(shift), 0.0)
        r = self.triangle
        self._met = self._met - r.T @ (r @ shift)
        self.origin, self._mean = self.origin + shift[0], self._mean - shift[0]
        self._basis.replace(self.modes + shift[1:])

    def _squares(self, shift: Matrix) -> Vector:
        """Squared norms (V,) of all snapshots made of (r + 1, n) with the coefficients."""
        return self.inner.squares(self.triangle @ shift).sum(axis=0)

    # --- one update -----------------------------------------------------------------------

    def _anomalies(self, block: Floats) -> Matrix:
        """Differences (b, n) from the origin, 0 at masked points."""
        values: Matrix = np.asarray(block, dtype=np.float64) - self.origin
        if self._valid is not None and (np.isnan(values) == ~self._valid).all():
            values[:, ~self._valid] = 0.0
        # A sum is not finite where a value is not, and may overflow where all are.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(values.sum())
        if suspicious and not np.isfinite(values).all():
            raise self._defect(np.asarray(block))
        return values

    def _defect(self, values: Floats) -> GapsError:
        valid = np.ones(values.shape[1], bool) if self._valid is None else self._valid
        row, point = np.argwhere(np.isinf(values) | (np.isnan(values) == valid))[0]
        value = values[row, point]
        found = "an infinite value" if np.isinf(value) else "NaN" if valid[point] else "a number"
        return GapsError(
            f"snapshot {self.snapshots + row}, point {point}: found {found}; values of a stream "
            f"must be finite, or NaN in all snapshots: fill the gaps, or compress all as an archive"
        )

    def _count(self, values: Matrix) -> None:
        """Mean and fluctuation with a block more (Chan, Golub, LeVeque 1983)."""
        count, before = len(values), self.snapshots
        mean = values.sum(axis=0) / count
        apart = mean - self._mean
        both = before + count
        self.fluctuation = self.fluctuation + self.inner.squares(values - mean).sum(axis=0)
        distance = np.sqrt(self.inner.squares(apart[None])[0]) - self._sum_missed / max(before, 1)
        self.fluctuation += before * count / both * np.maximum(distance, 0.0) ** 2
        self._mean = self._mean + count / both * apart
        self.snapshots = both

    def _leading(self, left: Matrix, room: Vector) -> Matrix:
        """Fewest directions (k, n) without which what is `left` (b, n) is within the room (V,).

        Each variable counts by its fluctuation.
        """
        balance = self.balance
        grams = self.inner.grams(left, left)
        values, turn = np.linalg.eigh(np.einsum("v,vij->ij", balance, grams))
        if (balance * room).min() > SQUARED * values[-1]:
            turn = turn[:, ::-1]
            shares = np.maximum(np.einsum("ik,vij,jk->kv", turn, grams, turn, optimize=True), 0.0)
        else:
            rooted = self.inner.joint(balance).rooted(left)
            turn = scipy.linalg.svd(rooted, full_matrices=False)[0]
            shares = self.inner.squares(turn.T @ left)
        left_out = tails(shares.T).T
        within = np.all(left_out <= room, axis=1)
        return turn[:, : int(np.argmax(within))].T @ left

    @property
    def balance(self) -> Vector:
        """Factors (V,) with which all variables fluctuate alike."""
        moving = self.fluctuation > 0
        inverse = 1 / np.where(moving, self.fluctuation, 1.0)
        # What has not moved yet may do so: it gets some factor.
        still = inverse[moving].mean() if moving.any() else 1.0
        return np.where(moving, inverse, still)

    def _rebalance(self) -> None:
        """Choose the factors of the variables anew where they fit no longer.

        One that was as good as still may begin to fluctuate by any power of ten. With the factor
        that it had, it would be all that counts: coefficients would be as large as it is, and
        cancel in the other variables. Modes stay, so coefficients of the past are what they were.
        """
        moving = self.fluctuation > 0
        shares = self._basis.factors[moving] * self.fluctuation[moving]
        if self.rank and shares.max(initial=0.0) > UNBALANCED * shares.min(initial=np.inf):
            self._basis.weigh(self.balance)
            self._basis.replace(self.modes)

    def _append(self, directions: Matrix) -> None:
        """Make directions (k, n) modes, but for those that are rounding of the modes."""
        if not self.rank:
            self._basis.weigh(self.balance)
        added = self._basis.append(directions)
        self._seen.grow(len(added))
        self._met = np.concatenate([self._met, np.zeros_like(added)])

    def _account(self, a: Matrix, left: Matrix) -> None:
        """Count what snapshots keep (b, r) and what they lose (b, n)."""
        energy = self.inner.squares(left).sum(axis=0)
        self.left, self.lost = self.left + energy, self.lost + energy
        both = np.concatenate([np.ones((len(a), 1)), a], axis=1)
        self._met += both.T @ left
        self._seen.add(both)

    # --- cuts -----------------------------------------------------------------------------

    @property
    def _average(self) -> Vector:
        """Mean (r,) of the coefficients."""
        r = self.triangle
        return r[0, 1:] / r[0, 0]

    def _principal_axes(self) -> tuple[Move, Matrix, Vector]:
        """The move to principal axes, the axes (r, n), and how far (r,) the past is spread
        along them: the root of the sum of squares.

        Factors of the variables are chosen anew, so that all fluctuate alike; the axes are
        orthonormal with these.
        """
        self._basis.weigh(self.balance)
        values, vectors = np.linalg.eigh(self._basis.joint.gram(self.modes))
        # Any root will do where weights leave next to nothing of a mode: it cancels.
        root = np.sqrt(np.maximum(values, np.finfo(float).eps * values[-1]))
        _, spread, axes = scipy.linalg.svd(self.triangle[1:, 1:] @ (vectors * root))
        turn = (axes * root) @ vectors.T
        modes = ((axes / root) @ vectors.T) @ self.modes
        # An axis has no sign of its own: the largest of its values is made positive.
        largest = np.argmax(np.abs(modes), axis=1)[:, None]
        signs = np.copysign(1.0, np.take_along_axis(modes, largest, axis=1))
        turn, modes = signs * turn, signs * modes
        return Move(turn, -turn @ self._average), modes, spread
