"""Weak systems of a record: triangles of its time blocks, and of regimes that need a model each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from romzarr.chunked.latent import LatentRecord
from romzarr.chunked.systems import QuietRecord, weak_factors
from romzarr.chunked.tables import LeftOut
from romzarr.contracts import Times, TriangularFactor
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.regimes import find_regimes, serving
from romzarr.numerics.dynamics.weakform import WindowPlan, merge_factors

# Snapshots a block of kept samples spans: short enough to decode a time range cheaply and
# to keep chaos from amplifying rounding, long enough that its first sample is no burden.
CODE_BLOCK = 256
# Regimes are told apart by blocks as short as those of the code, where all their triangles take
# no more than so many bytes, and merging them no more than so many products.
REGIME_BYTES, REGIME_PRODUCTS = 2**24, 2**29


@dataclass(frozen=True)
class Offer:
    """Triangles to fit a model to each, and its number (blocks,) for every block of the code."""

    factors: tuple[TriangularFactor, ...]
    serving: NDArray[np.int16]


@dataclass(frozen=True)
class WeakSystems:
    """Triangular factors of a record, for one library and one choice of windows.

    Attributes
    ----------
    library : Library
    plan : WindowPlan
    pooled : TriangularFactor
        That of the whole record.
    regimes : tuple of TriangularFactor
        One for each stretch of time that needs a model of its own; none, if one serves all.
    serving : (blocks,) int16
        Number of the regime of each block of `CODE_BLOCK` snapshots.
    """

    library: Library
    plan: WindowPlan
    pooled: TriangularFactor
    regimes: tuple[TriangularFactor, ...]
    serving: NDArray[np.int16]

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """One model for the whole record and, where there are regimes, one for each."""
        pooled = Offer((self.pooled,), np.zeros_like(self.serving))
        return (pooled, Offer(self.regimes, self.serving)) if self.regimes else (pooled,)


def lazy_systems(
    record: LatentRecord,
    times: Times,
    left_out: LeftOut,
    library: Library,
    plan: WindowPlan,
    *,
    block_steps: int | str,
) -> Delayed:
    """The `WeakSystems` of a(t), but for some snapshots, as a task.

    Features are evaluated once: triangles of blocks of `block_steps` snapshots, or of as few as
    memory and merging allow ("auto"), are merged to those of regimes and of the whole record.

    Parameters
    ----------
    record : LatentRecord
    times : (m,) float64 or UniformTimes
        Of the snapshots that are not left out.
    left_out : LeftOut
    library : Library
    plan : WindowPlan
    block_steps : int or "auto"
    """
    short = _short_steps(len(times), library)
    if block_steps != "auto":
        short = min(short, -(-int(block_steps) // CODE_BLOCK) * CODE_BLOCK)
    quiet = QuietRecord.of(record, left_out, library.states, times)
    factors = weak_factors(quiet, library, plan, short)
    # Blocks of the code begin elsewhere where snapshots are left out: the middle tells.
    middles = np.arange(0, record.snapshots, CODE_BLOCK) + CODE_BLOCK // 2
    middles = np.minimum(middles, record.snapshots - 1) + 1
    inside = np.maximum(left_out.before(middles) - 1, 0)
    return delayed(_systems, pure=False)(factors, library, plan, short, inside // short)


def _systems(
    lists: Sequence[Sequence[TriangularFactor]],
    library: Library,
    plan: WindowPlan,
    short: int,
    blocks: NDArray[np.int64],
) -> WeakSystems:
    """Systems from the triangles of all blocks of `short` snapshots, of which `blocks` has that of
    each block of the code."""
    factors = [factor for some in lists for factor in some]
    spans = find_regimes(factors, across=1 + -(-plan.width // short))
    return WeakSystems(
        library,
        plan,
        merge_factors(factors),
        tuple(merge_factors(factors[s.start : s.stop]) for s in spans) if len(spans) > 1 else (),
        serving(factors, spans)[blocks].astype(np.int16),
    )


def _short_steps(snapshots: int, library: Library) -> int:
    """Snapshots of the blocks that regimes are told apart by, a multiple of the code's."""
    columns = library.size + library.states
    blocks = max(1, min(REGIME_BYTES // (8 * columns**2), REGIME_PRODUCTS // columns**3))
    return -(-snapshots // (blocks * CODE_BLOCK)) * CODE_BLOCK
