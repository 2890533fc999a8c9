"""POD of an archive: the tree, the rank, and the arithmetic that keep the bound."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.delayed import delayed

from romzarr.archive import Archive
from romzarr.archive.provider import digest_of
from romzarr.chunked.plan import PODPlan
from romzarr.chunked.pod import HeldBlocks, HeldPOD, run_pod
from romzarr.chunked.tables import LeftOut, Table, block_spans, bridged, tall_qr
from romzarr.compression.defects import defect_error
from romzarr.config import Config
from romzarr.contracts import Matrix, ReadCost
from romzarr.errors import AccuracyError, ArchiveError
from romzarr.inner_product import InnerProduct
from romzarr.numerics.budget import ErrorBudget, VariableNorms, split_budget
from romzarr.numerics.pod.factors import Defect, RowBlock, TimeFactor
from romzarr.numerics.pod.gram import Gram, joint_gram
from romzarr.numerics.pod.truncation import rank_within, tails

log = logging.getLogger(__name__)

# Share of the squared error that modes may hold which nobody looks at again.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Earlier:
    """Earlier snapshots of the same store: squared ``fluctuation`` (V,), and ``lost`` (V,), of
    the error."""

    fluctuation: Matrix
    lost: Matrix

    @classmethod
    def none(cls, variables: int) -> Earlier:
        return cls(np.zeros(variables), np.zeros(variables))

    def spare(self, tolerance: float) -> Matrix:
        """Squared fluctuation (V,) that counts for later snapshots beside their own.

        Half of what these lack of a bound `tolerance`: the other half is for those after them.
        So a bound that is spent leaves to later snapshots what they fluctuate by themselves.
        """
        return np.asarray(np.maximum(self.fluctuation - self.lost / tolerance**2, 0.0) / 2)

    def bound(self, tolerance: float) -> float:
        """The relative error that all snapshots may have, if later ones are within `tolerance` of
        their own fluctuation: that of these snapshots may be larger."""
        known = np.where(self.fluctuation > 0, self.fluctuation, np.inf)
        return max(tolerance, float(np.sqrt(np.max(self.lost / known, initial=0.0))))


@dataclass(frozen=True)
class ArchivePOD:
    """The POD of an archive, with all modes that a store of it may need.

    ``turn`` (K', K) makes the K modes, times their singular values, from the rows of the
    blocks ``held``. ``right`` (m, K + 1) are their orthonormal coefficients, and last the
    constant, in blocks of time on the workers. By variable, in its own units: ``gram`` (V,) the
    inner products of the modes times singular values, ``dropped`` (V,) the norm of what was cut
    orthogonally in time, ``apart`` (V,) of what was dropped in single space blocks. ``scales``
    (V,) are the factors on squared errors with which all variables make one inner product,
    ``averages`` (V,) their values on average, ``counted`` (V,) the weight of all their values.
    ``earlier`` is what parts of a store before these snapshots count.
    ``masks`` (V,) are the numbers of the first variables that lack values at the same points,
    None where a variable lacks none or is constant. ``rough`` snapshots are
    coded in another way: there ``right`` is 0. Values of a ``readable`` archive are coded from its
    chunks, of others from the POD.
    """

    held: HeldBlocks
    turn: Matrix
    right: Table
    gram: tuple[Gram, ...]
    dropped: Matrix
    apart: Matrix
    scales: Matrix
    averages: Matrix
    counted: Matrix
    norms: tuple[VariableNorms, ...]
    masks: tuple[int | None, ...]
    budget: ErrorBudget
    cost: ReadCost
    earlier: Earlier
    rough: LeftOut | None = None
    readable: bool = False

    @property
    def modes(self) -> int:
        return self.turn.shape[1]

    @property
    def fluctuations(self) -> Matrix:
        """Fluctuation (V,) of each variable over the whole store, or 0."""
        counted = np.array([norm.fluctuation for norm in self.norms]) ** 2
        now = np.where(counted > 0, counted - self.earlier.spare(self.budget.tolerance), 0.0)
        return np.asarray(np.sqrt(now + self.earlier.fluctuation))

    @property
    def room(self) -> Matrix:
        """Norms (V,) of the error that coding of values may make of what the POD holds.

        What it has cut is in a readable archive, where coding loses most of it too.
        """
        allowed, cut = self.budget.tolerated, self.apart + self.dropped
        return np.sqrt(np.maximum(allowed**2 - cut**2, 0.0)) if self.readable else allowed - cut

    @cached_property
    def energies(self) -> Matrix:
        """Energy (V, K) of each mode in each variable."""
        return _energies(self.gram)

    @property
    def sigma(self) -> Matrix:
        """Singular values (K,)."""
        return np.sqrt(self.scales @ self.energies)

    @property
    def snapshots(self) -> int:
        return len(self.right)

    @cached_property
    def series(self) -> Table:
        """What the rows of blocks are multiplied by to give the snapshots, (m, K')."""
        found = self.in_axes(self.turn.T)
        # Of a long record few times are looked at, or each once.
        return found.kept() if len(found.spans) == 1 else found

    @property
    def joint(self) -> Matrix:
        """Inner products (K, K) of the modes times singular values, of all variables together."""
        return joint_gram(self.gram, self.scales)

    def in_axes(self, axes: Matrix) -> Table:
        """The orthonormal coefficients times `axes` (K, r)."""
        return self.right.map(_back, axes.shape[1], axes)

    def coefficients(self, rank: int) -> Table:
        """a(t) of the leading modes (m, rank); straight lines across rough snapshots."""
        a = self.right.map(_times, rank, self.sigma[:rank])
        return a if self.rough is None else bridged(a, self.rough)

    def during(self, rough: LeftOut, share: float) -> ArchivePOD:
        """The same modes at some snapshots alone, with that share of the squared error.

        Values there are coded from the POD: chunks may have others too.
        """
        return replace(
            self,
            right=self.right.where(rough, inside=True),
            counted=self.counted * (len(rough) / self.snapshots),
            budget=self.budget.part(share),
            readable=False,
        )

    def apart_from(self, rough: LeftOut, share: float) -> ArchivePOD:
        """Mean and modes of the other snapshots, with that share of the squared error. Runs Dask.

        From the small factors: at those snapshots ``right - its mean = Q T``, so their modes
        are those of T times the modes of all.
        """
        quiet = self.right.where(rough, inside=False)
        mean = quiet.mean()[: self.modes]
        basis, triangle = tall_qr(quiet.map(_about, self.modes, mean))
        turn = np.linalg.eigh(triangle @ self.joint @ triangle.T)[1][:, ::-1]
        mixed, budget = triangle.T @ turn, self.budget.part(share)
        gram = [each.turned(mixed) for each in self.gram]
        shares = _energies(gram)
        useful = _useful(shares, budget.allowed)
        turned = basis.map(_turned, useful + 1, turn[:, :useful], self.snapshots**-0.5)
        moved = delayed(_moved, pure=False)
        blocks = tuple(moved(block, self.turn @ mean) for block in self.held.blocks)
        return replace(
            self,
            held=replace(self.held, blocks=blocks),
            turn=self.turn @ mixed[:, :useful],
            right=turned.filled(rough, self.right.spans).kept(),
            gram=tuple(each.part(slice(useful)).smaller for each in gram),
            dropped=np.sqrt(self.dropped**2 + shares[:, useful:].sum(axis=1)),
            budget=budget,
            rough=rough,
        )

    def split(self, rank: int) -> tuple[ArchivePOD, ArchivePOD]:
        """The mean and the leading modes, and all other modes without the mean."""
        low, high = slice(rank), slice(rank, self.modes)
        centred = delayed(_centred, pure=False)
        blocks = tuple(centred(block) for block in self.held.blocks)
        below, above = (
            replace(
                self,
                turn=self.turn[:, part],
                right=self.right.map(_some, part.stop - (part.start or 0) + 1, part),
                gram=tuple(each.part(part) for each in self.gram),
            )
            for part in (low, high)
        )
        held, averages = replace(self.held, blocks=blocks), np.zeros_like(self.averages)
        return below, replace(above, held=held, averages=averages)

    def without(self, left_out: frozenset[int]) -> ArchivePOD:
        """The modes of all other variables alone, as far as they may be of use.

        Of those left out nothing counts any more.
        """
        kept = np.array([v not in left_out for v in range(len(self.norms))])
        scales = np.where(kept, self.scales, 0.0)
        turn = np.linalg.eigh(replace(self, scales=scales).joint)[1][:, ::-1]
        gram = [each.turned(turn) for each in self.gram]
        shares = _energies(gram)
        useful = _useful(shares[kept], self.budget.allowed[kept])
        dropped = np.sqrt(self.dropped**2 + shares[:, useful:].sum(axis=1))
        right = self.right.map(_mixed, useful + 1, turn[:, :useful]).kept()
        return replace(
            self,
            turn=self.turn @ turn[:, :useful],
            right=right,
            gram=tuple(each.part(slice(useful)).smaller for each in gram),
            dropped=np.where(kept, dropped, 0.0),
            apart=np.where(kept, self.apart, 0.0),
            scales=scales,
        )


def _back(right: Matrix, turn: Matrix) -> Matrix:
    """Orthonormal coefficients (m, K) and more, times `turn` (K, K')."""
    return right[:, : len(turn)] @ turn


def _times(right: Matrix, sigma: Matrix) -> Matrix:
    """The leading columns, times singular values (r,)."""
    return right[:, : len(sigma)] * sigma


def _about(right: Matrix, mean: Matrix) -> Matrix:
    """The leading columns about their mean (K,)."""
    return right[:, : len(mean)] - mean


def _turned(right: Matrix, turn: Matrix, constant: float) -> Matrix:
    """Columns (m, K) times `turn` (K, r), and last the constant."""
    return np.concatenate([right @ turn, np.full((len(right), 1), constant)], axis=1)


def _mixed(right: Matrix, turn: Matrix) -> Matrix:
    """All columns but the last times `turn` (K, r), and the last."""
    return np.concatenate([right[:, : len(turn)] @ turn, right[:, len(turn) :]], axis=1)


def _some(right: Matrix, part: slice) -> Matrix:
    """Some of the columns, and the last."""
    return np.concatenate([right[:, part], right[:, -1:]], axis=1)


def _energies(gram: Sequence[Gram]) -> Matrix:
    """Energies (V, K) that the inner products of each variable say."""
    return np.array([each.energies for each in gram])


def _moved(block: RowBlock, shift: Matrix) -> RowBlock:
    """The block with its rows, so many times each, put into the mean."""
    return replace(block, mean=block.mean + shift.astype(block.rows.dtype) @ block.rows)


def _centred(block: RowBlock) -> RowBlock:
    """The block without its mean."""
    return replace(block, mean=np.zeros_like(block.mean))


@dataclass(frozen=True)
class Sharpened:
    """What bounds on single values ask of a POD, beyond the tolerance of the settings.

    ``bounds`` (V,) of single values (infinite: none); ``errors`` (V,) the roots of the mean
    squared errors with which residuals are few, which may be missed; ``tolerance`` the
    relative error that suits the sharpest.
    """

    bounds: Matrix
    errors: Matrix
    tolerance: float


def factor_archive(
    archive: Archive, config: Config, sharpened: Sharpened | None = None
) -> ArchivePOD:
    """POD of the archive, with more modes than the tolerance needs. Runs Dask.

    Scales of the variables are estimated on the way. Should the estimate prove too far off
    for the bound, the archive is read again with the exact ones.
    """
    tolerance = sharpened.tolerance if sharpened else config.compression.tolerance
    held = _run_tree(archive, tolerance, None)
    try:
        return replace(cut_factor(archive, config, sharpened, held), readable=True)
    except AccuracyError:
        if len(archive.variables) == 1 or config.compression.max_rank != "auto":
            raise
    totals = _totals(archive, held.factor)
    scales = {v: held.factor.snapshots / e if e > 0 else 1.0 for v, e in enumerate(totals)}
    log.warning("scales of the variables were estimated badly: reading the archive once more")
    again = _run_tree(archive, tolerance, scales)
    factor = replace(again.factor, cost=again.factor.cost + held.factor.cost)
    pod = cut_factor(archive, config, sharpened, replace(again, factor=factor))
    return replace(pod, readable=True)


def factor_for(archive: Archive, settings: Sequence[Config]) -> list[ArchivePOD | AccuracyError]:
    """PODs of the archive for several tolerances, or why there is none. Runs Dask, reads once."""
    held = _run_tree(archive, min(each.compression.tolerance for each in settings), None)
    found: list[ArchivePOD | AccuracyError] = []
    for config in settings:
        try:
            found.append(replace(cut_factor(archive, config, None, held), readable=True))
        except AccuracyError as error:
            found.append(error)
    return found


def _run_tree(archive: Archive, tolerance: float, scales: Mapping[int, float] | None) -> HeldPOD:
    return run_pod(
        archive.variables,
        tolerance=tolerance * min(variable.share for variable in archive.variables),
        scales=scales,
        refused=lambda plan, defect: _defect_error(archive, plan, defect),
    )


def _totals(archive: Archive, factor: TimeFactor) -> Matrix:
    """Squared fluctuation (V,) of every variable; of one with gaps that of its numbers."""
    return np.array(
        [
            factor.gram[v].energies.sum() + factor.discarded[v] + factor.apart.get(v, 0.0)
            if variable.fluctuation is None
            else variable.fluctuation
            for v, variable in enumerate(archive.variables)
        ]
    )


def cut_factor(
    archive: Archive,
    config: Config,
    sharpened: Sharpened | None,
    held: HeldPOD,
    earlier: Earlier | None = None,
    totals: Matrix | None = None,
) -> ArchivePOD:
    """Choose arithmetic and the modes that may be of use from the small factors.

    The bound is what the whole store has left of it, if there are `earlier` snapshots. Squared
    fluctuations are `totals` (V,), where they are known better than by the factors.
    """
    factor = held.factor
    totals = _totals(archive, factor) if totals is None else totals
    earlier = earlier or Earlier.none(len(totals))
    means = _mean_sums(archive, held)
    spare = earlier.spare(config.compression.tolerance)
    norms = _norms(archive, means, np.where(totals > 0, totals + spare, 0.0))
    budget = split_budget(norms, config.compression.tolerance, sharpened is not None)
    numbers = range(len(archive.variables))
    gram = [factor.gram[v] for v in numbers]
    tolerance = sharpened.tolerance if sharpened else config.compression.tolerance
    turn = _principal_axes(gram, totals, tolerance)
    gram = [each.turned(turn) for each in gram]
    discarded = np.array([factor.discarded[v] for v in numbers])
    apart = np.array([factor.apart.get(v, 0.0) for v in numbers])
    shares = _energies(gram)
    limit = config.compression.max_rank
    most = len(turn) if limit == "auto" else limit
    names = [variable.name for variable in archive.variables]
    rank_within(shares, discarded, apart, budget.allowed, most, names)
    counted = np.array([factor.snapshots * each.weight for each in means])
    if sharpened is not None:
        budget = replace(budget, bounds=sharpened.bounds)
    if sharpened is not None and limit == "auto":
        aims = np.maximum(sharpened.errors * np.sqrt(counted), 2 * np.sqrt(discarded + apart))
        budget = replace(budget, allowed=np.minimum(budget.allowed, aims))
    useful = min(_useful(shares, budget.allowed), most)
    right = held.right.cut(block_spans(factor.snapshots, useful + 1))
    return ArchivePOD(
        held=HeldBlocks(held.plan, held.blocks),
        turn=turn[:, :useful],
        right=right.map(_turned, useful + 1, turn[:, :useful], factor.snapshots**-0.5).kept(),
        gram=tuple(each.part(slice(useful)).smaller for each in gram),
        dropped=np.sqrt(discarded + shares[:, useful:].sum(axis=1)),
        apart=np.sqrt(apart),
        scales=_scales(totals),
        averages=np.array([each.total / max(each.points, 1) for each in means]),
        counted=counted,
        norms=norms,
        masks=_same_masks(archive, means, totals),
        budget=budget,
        cost=factor.cost,
        earlier=earlier,
    )


def _useful(shares: Matrix, allowed: Matrix) -> int:
    """Modes that could change the error of some variable, whatever is kept of the others."""
    left = tails(shares) <= NEGLIGIBLE * allowed[:, None] ** 2
    return int(np.argmax(left.all(axis=0)))


def _scales(totals: Matrix) -> Matrix:
    """Factor on each variable's energy in the inner product of the record: all are alike."""
    return np.array([1 / total if total > 0 else 0.0 for total in totals])


def _principal_axes(gram: Sequence[Gram], totals: Matrix, tolerance: float) -> Matrix:
    """Rotation (K, K) from the tree's columns, found with estimated scales, to the modes.

    Gram matrices cannot resolve what the tightest tolerances keep; there the tree's own
    columns, which are as good a basis, stay.
    """
    if tolerance < 1e-5:
        return np.eye(len(gram[0]))
    joint = joint_gram(gram, _scales(totals))
    return np.ascontiguousarray(np.linalg.eigh(joint)[1][:, ::-1])


class _MeanSums(NamedTuple):
    """Sums of a temporal mean over points: weighted squares, values, points, weights.

    ``mask`` is a digest of which points have no values, empty where all have.
    """

    square: float
    total: float
    points: int
    weight: float
    mask: str

    def joined(self, other: _MeanSums) -> _MeanSums:
        return _MeanSums(
            self.square + other.square,
            self.total + other.total,
            self.points + other.points,
            self.weight + other.weight,
            digest_of([self.mask, other.mask]) if self.mask or other.mask else "",
        )


def _mean_sums(archive: Archive, held: HeldPOD) -> tuple[_MeanSums, ...]:
    """Sums of the mean of each variable."""
    parts = dask.compute(
        *(
            delayed(_sums_of_block, pure=False)(block, row.inner_product(archive.variables))
            for block, row in zip(held.blocks, held.plan.rows, strict=True)
        )
    )
    found = [_MeanSums(0.0, 0.0, 0, 0.0, "")] * len(archive.variables)
    for part, row in zip(parts, held.plan.rows, strict=True):
        found[row.variable] = found[row.variable].joined(part)
    return tuple(found)


def _sums_of_block(block: RowBlock, inner: InnerProduct) -> _MeanSums:
    mean, mask = block.mean, ""
    # Streams say of every point whether it has values.
    if block.valid is not None and not block.valid.all():
        mask = digest_of([np.packbits(block.valid).tobytes()])
        mean, inner = mean[block.valid], inner.on(block.valid)
    # What cannot be squared is refused with its name, as rounding of float64 is too much beside it,
    # or it is constant: then nobody asks for its sums, in which even infinities may meet.
    with np.errstate(over="ignore", invalid="ignore"):
        # Rooted before it is squared, so that points without weight do not count.
        square, weight = float(np.sum(inner.rooted(mean) ** 2)), inner.total(len(mean))
        total = float(mean.sum())
    return _MeanSums(square, total, len(mean), weight, mask)


def _same_masks(
    archive: Archive, means: Sequence[_MeanSums], totals: Matrix
) -> tuple[int | None, ...]:
    """For each variable with a mask the first that has the same; both vary in time."""
    first: dict[Any, int] = {}
    masks: list[int | None] = []
    for number, (variable, each, total) in enumerate(
        zip(archive.variables, means, totals, strict=True)
    ):
        same = (variable.space_dims, variable.space_shape, each.mask)
        masks.append(first.setdefault(same, number) if each.mask and total > 0 else None)
    return tuple(masks)


def _norms(
    archive: Archive, means: Sequence[_MeanSums], totals: Matrix
) -> tuple[VariableNorms, ...]:
    m = len(archive.time.values)
    return tuple(
        VariableNorms(
            v.name, float(total**0.5), float((m * mean.square) ** 0.5), v.dtype, m * mean.weight
        )
        for v, total, mean in zip(archive.variables, totals, means, strict=True)
    )


def _defect_error(archive: Archive, plan: PODPlan, defect: Defect) -> ArchiveError:
    row = plan.rows[defect.row]
    return defect_error(archive, row.variable, row.region, defect)
