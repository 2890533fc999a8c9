"""Variables coded straight from their chunks, each of which is read once.

Nobody knows the fluctuation of a record, nor what a quantisation step loses, before all of it is
read. So a share of the record, spread over all of it, is coded with the step that a survey
suggests; what is learnt from it sets the step of the next share, and that the step of the rest.
Should the bound be missed all the same, just so many tiles are coded anew as it takes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from operator import attrgetter
from typing import Any, TypeVar

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from romzarr.archive import Archive
from romzarr.archive.provider import digest_of
from romzarr.chunked.blocks import Lengths, lazy_tiles, time_groups
from romzarr.chunked.slices import gathered
from romzarr.chunked.spots import spread
from romzarr.chunked.values import (
    CountBytes,
    Held,
    HoldValues,
    MeasureValues,
    OnHeld,
    OnTiles,
    RewriteValues,
    Sums,
    ValuesCoding,
    WriteValues,
    joined,
)
from romzarr.coding.field import WHOLE, rounded_share, share_of
from romzarr.coding.tiles import grid, region_of
from romzarr.compression.block_errors import error_grid
from romzarr.compression.defects import defect_error
from romzarr.contracts import ArchivedVariable, ReadCost
from romzarr.errors import AccuracyError, GapsError
from romzarr.numerics.error_blocks import BlockErrors
from romzarr.numerics.pod.factors import Defect
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

log = logging.getLogger(__name__)

T = TypeVar("T")

# Results that are put together at a time: each has the mean of a part of space.
SUMMANDS = 4
# Shares of the record after which the step is set anew: the more of it is known, the less is left
# to be wrong about.
CHECKED = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16)
# Until so much is coded all tiles should have the one step that is best for them together; what
# is left then makes up for what was not foreseen.
SETTLED = 7 / 8
# What is aimed at, of the squared error allowed, while a rest is left to make up for it, and at
# the end: about as little less as neighbouring steps differ by.
AIM, LAST_AIM = 0.99, 0.997
# Variables up to here are held while the step is sought: nothing is read again for it.
HELD_BYTES = 64 << 20
# Where all is coded at once, how close to it is close enough, and what is tried for it at most.
NEAR, MOST_MEASURED = 0.006, 6
# The squared error of the rest differs from what it was before by no more than such a factor.
MOST_CHANGE = 4.0
# Tiles that are coded anew give back about so much of their squared error; how often that is done.
GIVEN_BACK, MOST_ATTEMPTS = 0.3, 12
# What a step is multiplied by that cannot be mended.
COARSE = 0.25
# Rounding of the sums themselves.
SUMMED = 1e-9


@dataclass(frozen=True)
class ValuesPlan:
    """How variable `number` is coded: in tiles of this shape, in its own order of dims.

    The squared error grows with this ``power`` of the step, which was found with so many
    ``surveyed`` snapshots. ``variance`` is the mean square of a value about its mean in time, as
    far as is ``known`` from so many snapshots, which to read was the ``cost``. Coded is what a
    ``draft`` of the store leaves, if that has modes of the variable. ``masked_as`` names
    the variable that is already there with the same mask, if any.
    """

    number: int
    tile: Lengths
    coding: ValuesCoding
    tolerance: float
    power: float
    surveyed: int
    variance: float
    known: int
    cost: ReadCost = field(default_factory=ReadCost)
    draft: Draft | None = None
    masked_as: str | None = None


@dataclass(frozen=True)
class WrittenValues:
    """What came of it: the ``error``, relative to the fluctuation, and the square of that; errors
    by block, time first; and the cost."""

    error: float
    fluctuation: float
    blocks: BlockErrors
    cost: ReadCost


def write_values(
    writer: StoreWriter, archive: Archive, plans: Sequence[ValuesPlan]
) -> dict[str, WrittenValues]:
    """Code variables into the store, from the chunks of the archive. Runs Dask.

    A worker holds a block of chunks and a few tiles, whatever the length of the archive, and
    workers together hold a variable of up to 64 MB; here are the temporal mean of one variable, and
    its mask.

    Raises
    ------
    GapsError
        If a value is infinite or a fill value, or NaN come and go.
    AccuracyError
        If no step meets the bound.
    """
    written, masks = {}, dict[Any, str]()
    for plan in plans:
        variable = archive.variables[plan.number]
        sums, cost = _written(writer, archive, plan)
        if plan.masked_as:
            writer.share_mask(variable.name, plan.masked_as)
        else:
            _write_mask(writer, variable, plan.tile, sums, masks)
        fluctuation = _fluctuation(variable, sums)
        error = (sums.lost / fluctuation) ** 0.5 * (1 + SUMMED) if sums.lost else 0.0
        blocks = BlockErrors(np.maximum(sums.blocks, 0.0) * (1 + SUMMED) ** 2)
        written[variable.name] = WrittenValues(error, fluctuation, blocks, cost)
    return written


def values_bytes(archive: Archive, plan: ValuesPlan) -> int:
    """Bytes that a variable would take as values. Runs Dask, and holds all of it on the workers."""
    tiles = _Tiles(archive.variables[plan.number], plan)
    tiles.hold()
    return tiles.sums(CountBytes(_measured(tiles, plan).coding)).nbytes


def _write_mask(
    writer: StoreWriter,
    variable: ArchivedVariable,
    tile: Lengths,
    sums: Sums,
    masks: dict[Any, str],
) -> None:
    """Write the mask of a variable that has one, unless another one has the same."""
    if not any(part.mask for part in sums.parts.values()):
        return
    lengths = _space(tile, variable)
    parts = []
    for index, part in sorted(sums.parts.items()):
        region = region_of(index, variable.space_shape, lengths)
        parts.append((region, part.masked(tuple(s.stop - s.start for s in region))))
    digest = digest_of([mask.tobytes() for _, mask in parts])
    home = masks.setdefault((variable.space_dims, lengths, digest), variable.name)
    if home == variable.name:
        writer.write_mask(home, variable.space_dims, lengths, parts)
    else:
        writer.share_mask(variable.name, home)


def _space(items: Sequence[T], variable: ArchivedVariable) -> tuple[T, ...]:
    """Of items for the dims of a variable, those for its dims in space."""
    return (*items[: variable.time_axis], *items[variable.time_axis + 1 :])


def _written(writer: StoreWriter, archive: Archive, plan: ValuesPlan) -> tuple[Sums, ReadCost]:
    """All tiles in the store within the bound, and what reading cost."""
    variable, tiles = archive.variables[plan.number], _Tiles(archive.variables[plan.number], plan)
    cost, size = plan.cost, math.prod(variable.shape) * variable.dtype.itemsize
    if size <= HELD_BYTES or len(_batches(variable, plan.tile)) == 1:
        cost += tiles.hold()
        plan = _measured(tiles, plan)
    for _ in range(MOST_ATTEMPTS):
        coder = _Coder(writer, archive, plan, tiles)
        coder.code_batches()
        if coder.settle():
            return coder.sums, cost + coder.sums.cost
        # Where all is rounded to nothing, no smaller share of the step changes anything.
        cost += coder.sums.cost
        plan = replace(plan, coding=replace(plan.coding, step=COARSE * plan.coding.step))
        log.info("variable %r: a step that is far too coarse", variable.name)
    raise AccuracyError(
        f"variable {variable.name!r}: no quantisation step keeps the tolerance; raise "
        f"compression.tolerance"
    )


class _Tiles:
    """The tiles of one variable: each is read when it is asked for, unless all are held."""

    def __init__(self, variable: ArchivedVariable, plan: ValuesPlan) -> None:
        self._variable, self._tile = variable, plan.tile
        self._hold = HoldValues(
            variable=variable.name,
            time_axis=variable.time_axis,
            inner=variable.inner_product,
            offset=plan.coding.offset,
            below=plan.draft,
        )
        self._held: tuple[Delayed, ...] = ()
        self.grid = grid(variable.shape, plan.tile)

    @property
    def are_held(self) -> bool:
        return bool(self._held)

    def hold(self) -> ReadCost:
        """Read all of them once, onto the cluster; what that cost."""
        lazy = lazy_tiles(self._variable, self._tile, self._hold, Held.joined)
        self._held = dask.persist(*lazy)
        costs = dask.compute(*(delayed(attrgetter("cost"))(each) for each in self._held))
        return sum(costs, ReadCost())

    def sums(self, task: Callable[[Held], Sums], places: Sequence[Lengths] | None = None) -> Sums:
        """What a task makes of all tiles, or of those at some places. Runs Dask."""
        results: Iterable[Delayed]
        if self._held:
            some = frozenset(product(*map(range, self.grid)) if places is None else places)
            apply = delayed(OnHeld(task, some), pure=False)
            results = [apply(each) for each in self._held]
        else:
            read = OnTiles(self._hold, task)
            results = lazy_tiles(self._variable, self._tile, read, joined, places)
        found: Sums = gathered(results, joined, SUMMANDS)
        return found


def _measured(tiles: _Tiles, plan: ValuesPlan) -> ValuesPlan:
    """The plan with the largest step that meets the bound, or nearly.

    Of tiles that are all coded at once, none makes up for what was not foreseen.
    """
    best, step = 0.0, plan.coding.step
    for _ in range(MOST_MEASURED):
        sums = tiles.sums(MeasureValues(replace(plan.coding, step=step)))
        allowed = plan.tolerance**2 * plan.variance * sums.counted
        ratio = sums.lost / allowed if allowed else 1.0
        if sums.defect or not ratio:
            break
        if ratio <= LAST_AIM:
            best = max(best, step)
            if ratio >= LAST_AIM - NEAR:
                break
        wanted = (LAST_AIM - NEAR / 4) / ratio
        step *= float(np.clip(wanted, 1 / MOST_CHANGE, MOST_CHANGE)) ** (1 / plan.power)
    return replace(plan, coding=replace(plan.coding, step=best or step))


class _Coder:
    """Codes one variable, and sets the step of what is left so that all together just meets the
    bound."""

    def __init__(
        self, writer: StoreWriter, archive: Archive, plan: ValuesPlan, tiles: _Tiles
    ) -> None:
        variable, coding = archive.variables[plan.number], plan.coding
        time = variable.time_axis

        def time_first(items: Sequence[T]) -> tuple[T, ...]:
            return (items[time], *_space(items, variable))

        writer.create_values(
            variable.name,
            time_first(variable.dims),
            time_first(variable.shape),
            time_first(plan.tile),
            coding.step,
            coding.offset,
            coding.dtype,
        )
        errors = error_grid(archive, variable)
        self._task = WriteValues(writer.values, variable.name, coding, errors)
        self._archive, self._plan, self._tiles = archive, plan, tiles
        self._variable, self._snapshots = variable, variable.shape[time]
        # Shares of the step that tiles have, by place along time, and of those coded anew.
        self._shares: dict[int, int] = {}
        self._finer: dict[Lengths, int] = {}
        # Squared error as it would be with the whole step, about.
        self._lost_whole = 0.0
        self.sums = Sums()

    def code_batches(self) -> None:
        """Code all tiles, those of a batch with the step that those before suggest."""
        share, batches = WHOLE, _batches(self._variable, self._plan.tile)
        if self._tiles.are_held:
            batches = [[place for batch in batches for place in batch]]
        for number, batch in enumerate(batches):
            if number:
                share = self._next_share(LAST_AIM if number == len(batches) - 1 else AIM)
            self._shares |= dict.fromkeys(batch, share)
            counts: list[Sequence[int]] = [range(n) for n in self._tiles.grid]
            counts[self._variable.time_axis] = sorted(batch)
            task = replace(self._task, share=share)
            found = self._tiles.sums(task, list(product(*counts)))
            if found.defect:
                raise _defect_error(self._archive, self._plan)
            self.sums = joined([self.sums, found])
            self._lost_whole += found.lost / share_of(share) ** self._plan.power

    def settle(self) -> bool:
        """Code tiles anew with a finer step until the bound is met; False if that does not help."""
        fluctuation = _fluctuation(self._variable, self.sums)
        allowed = self._plan.tolerance**2 * fluctuation * (1 - 4 * SUMMED)
        count = math.prod(self._tiles.grid)
        for attempt in range(MOST_ATTEMPTS):
            if self.sums.lost <= allowed:
                return True
            excess, usual = self.sums.lost - allowed, self.sums.lost / count
            wanted = min(count, math.ceil(excess / (GIVEN_BACK * usual)))
            # A little more the more often it was not enough.
            given_back = min((1.1 + 0.5 * attempt) * excess / (wanted * usual), 0.9)
            self._code_anew(wanted, (1 - given_back) ** (1 / self._plan.power))
            log.info("variable %r: %d tiles coded anew", self._variable.name, wanted)
        return False

    def _code_anew(self, wanted: int, factor: float) -> None:
        """Code so many tiles, evenly spread, with steps that are so many times what they were."""
        groups: dict[tuple[int, int], list[Lengths]] = {}
        for number in spread(math.prod(self._tiles.grid), wanted):
            index = tuple(map(int, np.unravel_index(number, self._tiles.grid)))
            had = self._finer.get(index, self._shares[index[self._variable.time_axis]])
            share = min(rounded_share(factor * share_of(had)), max(had - 1, 0))
            groups.setdefault((had, share), []).append(index)
        for (had, share), tiles in groups.items():
            self._finer |= dict.fromkeys(tiles, share)
            task = self._task
            again = RewriteValues(task.writer, task.variable, task.coding, task.grid, share, had)
            self.sums = joined([self.sums, self._tiles.sums(again, tiles)])

    def _next_share(self, aim: float) -> int:
        """Share of the step for what comes next.

        That with which all together would just be within the bound, which the survey knows as
        well as some of the tiles do; near the end that with which the rest spends what is left.
        """
        seen, whole = self.sums.snapshots, self._lost_whole
        if not whole:
            return rounded_share(MOST_CHANGE)
        allowed = aim * self._plan.tolerance**2 * self._foretold()
        power = 1 / self._plan.power
        if seen < SETTLED * self._snapshots:
            known = seen / (seen + self._plan.surveyed)
            ratio = allowed / (whole * self._snapshots / seen)
            return rounded_share(float(ratio ** (power * known)))
        left = (allowed - self.sums.lost) / (self._snapshots - seen)
        ratio = float(np.clip(left * seen / self.sums.lost, 1 / MOST_CHANGE, MOST_CHANGE))
        return rounded_share(float((self.sums.lost / whole * ratio) ** power))

    def _foretold(self) -> float:
        """Squared fluctuation of the whole record, as far as is known."""
        plan, sums = self._plan, self.sums
        if self._variable.fluctuation is not None:
            return self._variable.fluctuation
        if sums.snapshots > plan.known:
            return sums.foretold(self._snapshots)
        return plan.variance * sums.counted / sums.snapshots * self._snapshots


def _fluctuation(variable: ArchivedVariable, sums: Sums) -> float:
    """Squared fluctuation of a record that has been seen; with gaps that of its numbers."""
    return sums.fluctuation if variable.fluctuation is None else variable.fluctuation


def _batches(variable: ArchivedVariable, tile: Lengths) -> list[list[int]]:
    """Places of tiles along time, in the order in which they are coded.

    Each batch is spread over the record, unless it would read chunks twice.
    """
    groups, apart = time_groups(variable, tile)
    if apart:
        groups = [groups[i] for i in sorted(range(len(groups)), key=_reversed_bits)]
    ends = sorted({0, *(math.ceil(share * len(groups)) for share in (*CHECKED, 1))})
    return [[place for group in groups[a:b] for place in group] for a, b in pairwise(ends)]


def _reversed_bits(number: int) -> int:
    """A key by which neighbours are far apart: every leading part is spread over all numbers."""
    return int(f"{number:064b}"[::-1], 2)


def _defect_error(archive: Archive, plan: ValuesPlan) -> Exception:
    """What is wrong with a variable: it may have gaps; or its fluctuations cannot be squared."""
    variable = archive.variables[plan.number]
    if not archive.gaps_known:
        return GapsError(f"{archive.name}: variable {variable.name!r} may have gaps")
    region = tuple(slice(0, n) for n in variable.space_shape)
    return defect_error(archive, plan.number, region, Defect(0, "scale", 0, 0))
