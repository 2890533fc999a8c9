"""Which samples of a(t) to keep so that a model rebuilds the others within a bound.

Between two kept samples the model is integrated from the first; what it misses at the
second is taken off along the way, in proportion to the time passed. So errors cannot grow
past a sample, no model at all means straight lines, and a useless model costs samples but
never the bound: what counts is the error of exactly what the decoder will compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, LatentCode, Matrix
from romzarr.numerics.dynamics.integrate import Dynamics, runge_kutta_step, trajectories
from romzarr.numerics.products import ROWS

Index = NDArray[np.int64]

STRAIGHT_LINE = -1
# First attempt at the length of a segment, in snapshots.
FIRST_HORIZON = 4
# Where no more blocks than these are searched side by side, segments up to this length are
# looked for from all snapshots at once.
FEW_BLOCKS, NEAR = 8, 16
# Snapshots that `choose_substeps` looks at.
LOOKS = 500
# Numbers one batch of candidate segments may hold.
BATCH_SIZE = 2**24
# Segments in a block of those models whose library multiplies matrices of its own.
SEGMENTS = 4 * ROWS
# Numbers that are worked on together, such as errors at all snapshots and ends of some segments:
# there are several arrays of as many, which fit a processor's cache.
PIECE_SIZE = 2**18


@dataclass(frozen=True)
class Deviation:
    """What the error of rebuilt coefficients depends on; that of parts of a record adds.

    Attributes
    ----------
    products : (r, r) inner products of the differences d(t) in time
    meeting : (r, k) of them and the coefficients of the modes that were cut off
    """

    products: Matrix
    meeting: Matrix

    @classmethod
    def of(cls, difference: Matrix, rest: Matrix) -> Deviation:
        """Of coefficients that are off by `difference` (m, r), beside `rest` (m, k) cut off."""
        return cls(difference.T @ difference, difference.T @ rest)

    def __add__(self, other: Deviation) -> Deviation:
        return Deviation(self.products + other.products, self.meeting + other.meeting)


@dataclass(frozen=True)
class Tolerances:
    """How far rebuilt coefficients may be off, beside what POD has cut already.

    The error of variable v is that of the tree of cuts T, of the truncation R, and of the
    coding L, whose difference d(t) it sees as ``roots[v] @ d``. T and R are orthogonal in
    time. The modes of all variables together are orthogonal, but not their parts in each:
    R and L meet in the product ``P = -2 <left d(t), right rest(t)>``, known exactly, where left
    and right are ``mixed[v]``. T and L may meet in anything. So the square of the whole is at most

        T^2 + R^2 + L^2 + P + 2 T L.

    Attributes
    ----------
    roots : sequence of (p, r), one for each of V variables
    allowed : (V,) error that all of it may make
    tree, truncation : (V,) the norms T and R
    mixed : sequence of factors (q, r) and (q, k), one for each of V variables
        Of the inner products ``left^T right`` of modes kept and modes cut off.
    """

    roots: Sequence[Matrix]
    allowed: Matrix
    tree: Matrix
    truncation: Matrix
    mixed: Sequence[tuple[Matrix, Matrix]]

    def coding(self, products: Matrix) -> Matrix:
        """Squared error L^2 (V,) of differences with these inner products in time (r, r)."""
        squares = [np.sum((root @ products) * root) for root in self.roots]
        return np.maximum(squares, 0.0)

    def errors(self, deviation: Deviation) -> Matrix:
        """Bound on the error (V,) with the coefficients so far off."""
        coding = self.coding(deviation.products)
        meeting = [np.sum((left @ deviation.meeting) * right) for left, right in self.mixed]
        squared = self.tree**2 + self.truncation**2 + coding - 2 * np.array(meeting)
        bound: Matrix = np.sqrt(np.maximum(squared + 2 * self.tree * np.sqrt(coding), 0.0))
        return bound

    def met_by(self, deviation: Deviation) -> bool:
        return bool(np.all(self.errors(deviation) <= self.allowed))

    def used_by(self, deviation: Deviation) -> float:
        """Share of the error left to coding that a deviation makes, of the variable that has
        least of it: at most 1 where the tolerances are met, and more where they are not."""
        before, errors = self.tree**2 + self.truncation**2, self.errors(deviation)
        allowed = np.maximum(self.allowed**2 - before, np.finfo(float).tiny)
        share = float(np.sqrt(np.max(np.maximum(errors**2 - before, 0.0) / allowed, initial=0.0)))
        # Rounding of the squares must not decide.
        met = bool(np.all(errors <= self.allowed))
        return min(share, 1.0) if met else max(share, float(np.nextafter(1.0, 2.0)))

    def for_coding(self) -> Matrix:
        """Squared error L^2 (V,) that fills the bound where P is nothing."""
        room = np.maximum(self.allowed**2 - self.truncation**2, 0.0)
        squares: Matrix = np.maximum(np.sqrt(room) - self.tree, 0.0) ** 2
        return squares

    def joint_root(self) -> Matrix:
        """Root (k, r) of the mean over variables of L^2, in parts of `for_coding`.

        Without those that have nothing of the modes, or are left nothing.
        """
        limits = self.for_coding()
        roots = [
            root / limit**0.5
            for root, limit in zip(self.roots, limits, strict=True)
            if limit > 0 and root.any()
        ]
        if not roots:
            return np.zeros((0, self.roots[0].shape[1]))
        return np.asarray(np.linalg.qr(np.vstack(roots), mode="r")) / len(roots) ** 0.5

    def part(self, share: float) -> Tolerances:
        """Tolerances of some snapshots alone, that are so much of the record."""
        return replace(
            self,
            allowed=self.allowed * share**0.5,
            tree=self.tree * share**0.5,
            truncation=self.truncation * share**0.5,
        )


# --- decoding -----------------------------------------------------------------------------


def rebuild(code: LatentCode, models: Sequence[Dynamics], times: Matrix, span: BlockSpan) -> Matrix:
    """Coefficients of the snapshots of `span` from the samples kept around them.

    Parameters
    ----------
    code : LatentCode
    models : sequence of Dynamics
        For their leading modes; the others are interpolated linearly.
    times : (m,) float64
        Times of all snapshots of the record.
    span : BlockSpan
        Not empty.

    Returns
    -------
    (len(span), r) float64
    """
    first = int(np.searchsorted(code.index, span.start, side="right")) - 1
    last = int(np.searchsorted(code.index, span.stop - 1, side="left"))
    index = code.index[first : last + 1]
    samples = code.samples[first : last + 1].astype(np.float64)
    segments = _Segments(index[:-1], np.diff(index), code.first + first)
    # Open ends: without a model they stand still.
    rebuilt = np.append(np.repeat(samples[:-1], segments.length, axis=0), samples[-1:], axis=0)
    ends = samples[:-1].copy()
    gaps = np.flatnonzero(segments.length > 1)
    which = code.block_model[segments.start // code.block_steps]
    for model in np.unique(which[gaps]):
        if model != STRAIGHT_LINE:
            mine, f = gaps[which[gaps] == model], models[model]
            for some in segments.batches(mine, f):
                some.integrate(f, samples, times, code.substeps, rebuilt)
            ends[mine, : f.modes] = rebuilt[index[mine + 1] - index[0], : f.modes]
    _close(rebuilt, samples[1:] - ends, times[index[0] : index[-1] + 1], index - index[0])
    rebuilt[index - index[0]] = samples
    return rebuilt[span.start - index[0] : span.stop - index[0]]


def _close(rebuilt: Matrix, miss: Matrix, times: Matrix, index: Index) -> None:
    """Take off what each open end misses (S, r) of the next sample, in proportion to the time.

    `rebuilt` (m, r) and `times` (m,) are of all snapshots, `index` (S + 1,) of the samples.
    """
    inside = np.ones(len(rebuilt), bool)
    inside[index] = False
    places = np.flatnonzero(inside)
    number = np.repeat(np.arange(len(miss)), np.diff(index) - 1)
    start = times[index[:-1]]
    whole = times[index[1:]] - start
    size = max(1, PIECE_SIZE // max(1, rebuilt.shape[1]))
    for k in range(0, len(places), size):
        those, here = places[k : k + size], number[k : k + size]
        share = (times[those] - start[here]) / whole[here]
        rebuilt[those] += share[:, None] * miss[here]


@dataclass(frozen=True)
class _Segments:
    """Snapshots at which segments start, and how many they span; ``first`` of the record."""

    start: Index
    length: Index
    first: int

    def batches(self, gaps: Index, f: Dynamics) -> Iterator[_Batch]:
        """Segments that a model integrates side by side.

        Their states are the same to the bit whatever else is asked for: a segment has one place
        in one block among all of the record, and nothing depends on other blocks, in a batch or
        not.
        """
        size = ROWS if f.separate else SEGMENTS
        blocks, which = np.unique((self.first + gaps) // size, return_inverse=True)
        reach = np.zeros(len(blocks), np.int64)
        np.maximum.at(reach, which, self.length[gaps])
        # The longest first, so that those under way are always the leading ones.
        order = np.argsort(-reach, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        together = len(blocks) if f.separate else 1
        for begin in range(0, len(blocks), together):
            mine = (rank[which] >= begin) & (rank[which] < begin + together)
            rows = (rank[which[mine]] - begin) * size + (self.first + gaps[mine]) % size
            yield _Batch(self, gaps[mine], rows, reach[order[begin : begin + together]], size)


class _Batch(NamedTuple):
    """The ``gaps`` of some blocks of ``size`` states, each in its row, and how far blocks reach."""

    segments: _Segments
    gaps: Index
    rows: Index
    reach: Index
    size: int

    def integrate(
        self, f: Dynamics, samples: Matrix, times: Matrix, substeps: int, rebuilt: Matrix
    ) -> None:
        """Write the states after the samples into `rebuilt`, up to the next sample's snapshot."""
        states = np.zeros((len(self.reach) * self.size, f.modes))
        start, length = np.zeros((2, len(states)), np.int64)
        states[self.rows] = samples[self.gaps, : f.modes]
        start[self.rows] = self.segments.start[self.gaps]
        length[self.rows] = self.segments.length[self.gaps]
        last = len(times) - 1
        for step in range(1, int(self.reach[0]) + 1):
            active = self.size * int(np.count_nonzero(self.reach >= step))
            states, start, length = states[:active], start[:active], length[:active]
            now = np.minimum(start + step - 1, last)
            dt = times[np.minimum(now + 1, last)] - times[now]
            states = runge_kutta_step(f, states, dt, substeps)
            mine = np.flatnonzero(length >= step)
            rebuilt[start[mine] + step - self.segments.start[0], : f.modes] = states[mine]


def _elapsed(times: Matrix, start: Index, step: Index) -> Matrix:
    """Time (S, H) from snapshots `start` to those `step` later, within the record."""
    later: Matrix = times[np.minimum(start[:, None] + step, len(times) - 1)]
    return later - times[start][:, None]


def _predict(
    samples: Matrix,
    f: Dynamics | None,
    times: Matrix,
    start: Index,
    steps: int,
    substeps: int,
) -> Matrix:
    """Model states (S, steps, r) after samples (S, r); modes without a model stand still."""
    predicted = np.repeat(samples[:, None, :], steps, axis=1)
    if f is not None:
        path = trajectories(f, samples[:, : f.modes], times, start, substeps)
        for step, states in zip(range(steps), path, strict=False):
            predicted[:, step, : f.modes] = states
    return predicted


# --- encoding -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Sums over snapshots of coefficients that tell how large they are; those of parts add.

    ``count`` snapshots with the inner products in time ``products`` (r, r), the ``mean`` (r,),
    sums ``squares`` (r,) of the squared differences from it, and the ``largest`` sizes (r,).
    """

    count: int
    products: Matrix
    mean: Matrix
    squares: Matrix
    largest: Matrix

    @classmethod
    def of(cls, a: Matrix) -> Spread:
        """Of coefficients (m, r)."""
        mean = a.mean(axis=0)
        squares, largest = np.sum((a - mean) ** 2, axis=0), np.max(np.abs(a), axis=0)
        return cls(len(a), a.T @ a, mean, squares, largest)

    def __add__(self, other: Spread) -> Spread:
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + other.count / count * shift
        squares = self.squares + other.squares + self.count * other.count / count * shift**2
        largest = np.maximum(self.largest, other.largest)
        return Spread(count, self.products + other.products, mean, squares, largest)

    @property
    def deviation(self) -> float:
        """Norm of the standard deviations of all coefficients."""
        return float(np.linalg.norm(np.sqrt(self.squares / self.count)))


def step_accuracy(products: Matrix, tolerances: Tolerances) -> float:
    """Share of a(t), with these inner products in time, that one step may be off: little of what
    coding may lose."""
    allowed, whole = tolerances.for_coding(), tolerances.coding(products)
    # A variable may have nothing of the modes.
    share = np.divide(allowed, whole, out=np.full_like(whole, np.inf), where=whole > allowed)
    return float(np.clip(1e-2 * np.sqrt(share.min()), 1e-12, 1e-3))


def looked_at(snapshots: int) -> Index:
    """Numbers of the snapshots that tell how many Runge-Kutta steps a model needs."""
    return np.unique(np.linspace(0, snapshots - 2, min(snapshots - 1, LOOKS)).astype(int))


def choose_substeps(a: Matrix, dt: Matrix, models: Sequence[Dynamics], accurate: float) -> int:
    """Fewest Runge-Kutta steps a snapshot after which halving them changes little.

    Parameters
    ----------
    a : (k, r) float64
        Coefficients of some snapshots, and `dt` (k,) the time to the next.
    models : sequence of Dynamics
    accurate : float
        What is little.
    """
    chosen = 1
    for f in models:
        states = a[:, : f.modes]
        for substeps in (1, 2, 4, 8):
            coarse = runge_kutta_step(f, states, dt, substeps)
            with np.errstate(all="ignore"):
                change = np.abs(coarse - runge_kutta_step(f, states, dt, 2 * substeps))
            # A state that has left the finite numbers has not converged.
            change = np.median(np.where(np.isnan(change), np.inf, change))
            if not change > accurate:
                break
        chosen = max(chosen, substeps if change <= accurate else 1)
    return chosen


@dataclass(frozen=True)
class SampleSearch:
    """Greedy search for the samples to keep, all blocks of the code at once.

    Block by block, the next sample is the farthest for which all snapshots in between stay
    under an allowance per snapshot. It is of the mean over variables, as corrections see to the
    bound of each: a search for each of many variables would take that many times longer.

    Attributes
    ----------
    a : (m, r) float64
        Where the record goes on after the ``blocks``, with the snapshot that it goes on with.
    kept : (m, r) float64
        What the decoder will see where a sample is kept.
    times : (m,) float64
    models : sequence of Dynamics
        Candidates; `STRAIGHT_LINE` is always one more.
    tolerances : Tolerances
        Of the record, which has so many ``snapshots``.
    block_steps : int
        Snapshots a block of the code; each starts with a kept sample.
    substeps : int
        Runge-Kutta steps a snapshot (`choose_substeps`).
    """

    a: Matrix
    kept: Matrix
    times: Matrix
    models: Sequence[Dynamics]
    tolerances: Tolerances
    block_steps: int
    substeps: int
    blocks: int
    snapshots: int

    @cached_property
    def _root(self) -> Matrix:
        return self.tolerances.joint_root()

    @property
    def _starts(self) -> Index:
        return self.block_steps * np.arange(self.blocks)

    def encode(
        self, allowances: Sequence[float], block_models: NDArray[np.int16] | None
    ) -> list[LatentCode]:
        """For each allowance, samples that leave at most it times the mean error per snapshot.

        The mean is over snapshots and variables, of squared errors in parts of what is allowed.
        With the models of `block_models` (blocks,), or in each block the candidate that keeps
        fewest.
        """
        limits, starts = np.array(allowances) / self.snapshots, self._starts
        if block_models is None:
            wanted = dict.fromkeys(range(STRAIGHT_LINE, len(self.models)), starts)
        else:
            wanted = {int(c): starts[block_models == c] for c in np.unique(block_models)}
        found = {c: self._all_blocks(c, those, limits) for c, those in wanted.items()}
        return [
            self._of_blocks({c: each[number] for c, each in found.items()}, block_models)
            for number in range(len(allowances))
        ]

    def _of_blocks(
        self, found: Mapping[int, Mapping[int, Index]], block_models: NDArray[np.int16] | None
    ) -> LatentCode:
        """Samples of all blocks from those found with each candidate, by starts of blocks."""
        starts = self._starts.tolist()
        if block_models is None:
            candidates = sorted(found)
            counts = np.array([[len(found[c][start]) for start in starts] for c in candidates])
            block_models = (np.argmin(counts, axis=0) + STRAIGHT_LINE).astype(np.int16)
        chosen = [found[int(c)][start] for c, start in zip(block_models, starts, strict=True)]
        index = np.unique(np.concatenate([starts, *chosen, [len(self.a) - 1]]))
        return LatentCode(index, self.kept[index], self.block_steps, block_models, self.substeps)

    def _all_blocks(self, candidate: int, starts: Index, limits: Matrix) -> list[dict[int, Index]]:
        """For each of the limits, the samples kept by one candidate in the blocks at `starts`.

        In batches that fit memory; all limits side by side, which costs little more than one.
        """
        ends = np.minimum(starts + self.block_steps, len(self.a) - 1)
        batch = max(1, BATCH_SIZE // (self.block_steps**2 * limits.size))
        f = None if candidate == STRAIGHT_LINE else self.models[candidate]
        blocks: list[dict[int, Index]] = [{} for _ in limits]
        for i in range(0, len(starts), batch):
            some, count = starts[i : i + batch], len(limits)
            found = self._some_blocks(
                f,
                np.tile(some, count),
                np.tile(ends[i : i + batch], count),
                np.repeat(limits, len(some)),
            )
            for number, those in enumerate(blocks):
                part = found[number * len(some) : (number + 1) * len(some)]
                those.update(zip(some.tolist(), part, strict=True))
        return blocks

    def _some_blocks(
        self, f: Dynamics | None, starts: Index, ends: Index, limits: Matrix
    ) -> list[Index]:
        """Greedy search in several blocks at once, each within its limit (S,)."""
        kept: list[list[int]] = [[int(start)] for start in starts]
        position = starts.copy()
        horizon = np.full(len(starts), FIRST_HORIZON)
        near = self._near(f, starts, ends, limits) if len(starts) <= FEW_BLOCKS else None
        while True:
            if near is not None:
                self._walk(near, position, ends, starts, kept)
                horizon = np.maximum(horizon, 2 * NEAR)
            if not (active := np.flatnonzero(position < ends)).size:
                break
            reach = np.minimum(horizon[active], (ends - position)[active])
            length = self._longest(f, position[active], reach, limits[active])
            grow = (length == reach) & (position[active] + reach < ends[active])
            horizon[active[grow]] *= 2
            done = active[~grow]
            position[done] += length[~grow]
            horizon[done] = np.maximum(FIRST_HORIZON, 2 * length[~grow])
            for block in done:
                kept[block].append(int(position[block]))
        return [np.array(block[:-1] if len(block) > 1 else block) for block in kept]

    def _near(self, f: Dynamics | None, starts: Index, ends: Index, limits: Matrix) -> list[Index]:
        """For each block the longest segments of up to `NEAR` snapshots, wherever they start.

        All at once: where there are few blocks, to integrate from one sample after the other
        takes far longer, though it is less arithmetic.
        """
        spans = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        lengths = [len(span) for span in spans]
        reach = np.minimum(NEAR, np.repeat(ends, lengths) - np.concatenate(spans))
        found = self._longest(f, np.concatenate(spans), reach, np.repeat(limits, lengths))
        return np.split(found, np.cumsum(lengths)[:-1])

    @staticmethod
    def _walk(
        near: Sequence[Index], position: Index, ends: Index, starts: Index, kept: list[list[int]]
    ) -> None:
        """Go on in each block by segments shorter than `NEAR`, and those that reach its end."""
        for block, (lengths, end, start) in enumerate(zip(near, ends, starts, strict=True)):
            at = int(position[block])
            while at < end and (lengths[at - start] < NEAR or at + lengths[at - start] == end):
                at += int(lengths[at - start])
                kept[block].append(at)
            position[block] = at

    def _longest(self, f: Dynamics | None, start: Index, reach: Index, limits: Matrix) -> Index:
        """Longest segment (S,) from each start, up to `reach`, with all inside in its limit."""
        steps = int(reach.max())
        step = np.arange(1, steps + 1)
        at = np.minimum(start[:, None] + step, len(self.a) - 1)
        open_end = _predict(self.kept[start], f, self.times, start, steps, self.substeps)
        error, miss = open_end - self.a[at], self.kept[at] - open_end
        longest = np.ones(len(start), np.int64)
        # Mostly the whole reach is within the limits, or else what was before it was doubled.
        for low, high in ((steps - 1, steps), (steps // 2, steps - 1), (0, steps // 2)):
            ends = np.arange(low, high)
            if not ends.size:
                continue
            left = np.flatnonzero((longest == 1) & (reach > low))
            some = max(1, PIECE_SIZE // (high * len(ends)))
            for part in (left[k : k + some] for k in range(0, len(left), some)):
                with np.errstate(all="ignore"):
                    ok = self._segments_within(
                        error[part, :high], miss[part], start[part], ends, limits[part]
                    )
                ok &= ends < reach[part, None]
                found = ends[-1] + 1 - np.argmax(ok[:, ::-1], axis=1)
                longest[part] = np.where(ok.any(axis=1), found, 1)
        return longest

    def _segments_within(
        self, error: Matrix, miss: Matrix, start: Index, ends: Index, limits: Matrix
    ) -> NDArray[np.bool_]:
        """Whether the segments that end at some steps keep all before them in their limits (S,).

        `error` (S, H, r) of the open-ended prediction after 1 to H steps, `miss` (S, H, r) of its
        end: closed at step e, snapshot t has the error ``error[t] + share(t, e) miss[e]``. `ends`
        are numbers of steps, counted from 0.
        """
        step = np.arange(error.shape[1])
        elapsed = _elapsed(self.times, start, step + 1)
        whole = elapsed[:, ends]
        share = elapsed[:, :, None] / np.where(whole > 0, whole, np.inf)[:, None, :]
        inside = step[:, None] < ends
        e, c = error @ self._root.T, miss[:, ends] @ self._root.T
        squared = np.sum(e * e, axis=2)[:, :, None]
        squared = squared + 2 * share * (e @ np.swapaxes(c, 1, 2))
        squared += share**2 * np.sum(c * c, axis=2)[:, None, :]
        ok: NDArray[np.bool_] = np.all((squared <= limits[:, None, None]) | ~inside, axis=1)
        return ok
