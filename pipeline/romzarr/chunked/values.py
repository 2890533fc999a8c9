"""Values coded straight from the chunks of an archive: one task reads, codes, and writes.

All that is left of a tile are a few sums, and its mean in time, by which the fluctuation of the
whole record is found in the same pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from romzarr.chunked.blocks import Lengths, Tile, TileWriter
from romzarr.chunked.fields import middle
from romzarr.coding.field import WHOLE
from romzarr.coding.fill import fill_masked
from romzarr.coding.tiles import code_values, coded_values, even_length, even_multiple
from romzarr.contracts import ArchivedVariable, Floats, Mask, Matrix, ReadBlock, ReadCost, Region
from romzarr.inner_product import InnerProduct
from romzarr.numerics.error_blocks import ErrorGrid
from romzarr.numerics.gaps import fill_value_in
from romzarr.numerics.moments import Moments
from romzarr.numerics.rounding import rounded_sum

# Snapshots of a tile where chunks allow it, and how many times more are too many: whoever reads
# one decodes all, but shorter tiles know less of what goes on.
USUAL, LONG = 64, 1.5
# Values of a tile, and of one that is not shortened in time.
MOST_VALUES, ENOUGH_VALUES = 1 << 22, 1 << 20
# Bytes that a task reads at once, unless single chunks are larger.
BLOCK_BYTES = 64 << 20
# What decoded values are added to: one number, or one for each of them.
Base = float | Matrix
# Values that are looked at together: about a second-level cache of float64.
PANEL = 1 << 16


def values_tile(variable: ArchivedVariable, usual: int | None = None) -> Lengths:
    """Shape of the tiles in which a variable is coded from its chunks, in its own order of dims.

    Chunks are cut evenly or joined, along time first, to about the `usual` number of snapshots.
    """
    return tuple(map(min, _fitting_tile(variable, usual or USUAL), variable.longest))


def _fitting_tile(variable: ArchivedVariable, usual: int) -> Lengths:
    """Shape of tiles that chunks of the archive are made of, or these of them."""
    tile, axis = [max(lengths) for lengths in variable.chunks], variable.time_axis
    size = variable.dtype.itemsize
    room = max(1, BLOCK_BYTES // (math.prod(tile) * size))
    joined = max(1, min(round(usual / tile[axis]), room))
    # Whole chunks, and as many in each tile as can be.
    parts = max(1, round(variable.shape[axis] / (joined * tile[axis])))
    joined = min(joined, -(-variable.shape[axis] // (parts * tile[axis])))
    tile[axis] = min(tile[axis] * joined, variable.shape[axis])
    for a in reversed([a for a in range(len(tile)) if a != axis]):
        room = BLOCK_BYTES // (math.prod(tile) * size)
        tile[a] = min(
            tile[a] * max(1, min(room, ENOUGH_VALUES // math.prod(tile))), variable.shape[a]
        )
    if tile[axis] > LONG * usual and math.prod(tile) > ENOUGH_VALUES:
        points = math.prod(tile) // tile[axis]
        tile[axis] = _part(tile[axis], max(usual, ENOUGH_VALUES // points))
    while math.prod(tile) > MOST_VALUES:
        a = max((a for a in range(len(tile)) if a != axis), key=lambda a: tile[a], default=axis)
        tile[a] = _part(tile[a], max(1, tile[a] // 2), even_multiple)
    return tuple(tile)


def _part(length: int, usual: int, otherwise: Callable[[int, int], int] = even_length) -> int:
    """A length near the usual one of which `length` is a multiple, or about that one."""
    fits = [n for n in range(max(1, 3 * usual // 8), 3 * usual // 2 + 1) if length % n == 0]
    return min(fits, key=lambda n: abs(math.log(n / usual)), default=otherwise(length, usual))


@dataclass(frozen=True)
class Part:
    """What is known of one part of space after some snapshots, the first of which is ``start``.

    ``mask`` is the packed mask of its first snapshot, empty where all points have values.
    """

    start: int
    moments: Moments
    mask: bytes = b""

    def masked(self, shape: Lengths) -> Mask:
        """The mask of a part of this shape (True: masked)."""
        if not self.mask:
            return np.zeros(shape, bool)
        bits = np.unpackbits(np.frombuffer(self.mask, np.uint8), count=math.prod(shape))
        return ~bits.astype(bool).reshape(shape)

    def joined(self, other: Part) -> Part:
        first = min(self, other, key=lambda part: part.start)
        return Part(first.start, self.moments.joined(other.moments), first.mask)


@dataclass(frozen=True)
class Sums:
    """What is known after some tiles: by part of space, and of all together.

    ``lost`` is their squared error, and ``blocks`` the same by block of a grid, of what is written;
    ``counted`` the weight of their values, ``nbytes`` what they take coded. ``defect`` says that
    somewhere values are infinite or fill values, too large to be squared, or that NaN come and go.
    """

    parts: Mapping[Lengths, Part] = field(default_factory=dict)
    lost: float = 0.0
    blocks: Matrix = field(default_factory=lambda: np.zeros(()))
    counted: float = 0.0
    nbytes: int = 0
    defect: bool = False
    cost: ReadCost = field(default_factory=ReadCost)

    @property
    def snapshots(self) -> int:
        """Snapshots seen of each part of space."""
        return next(iter(self.parts.values())).moments.snapshots if self.parts else 0

    @property
    def fluctuation(self) -> float:
        """Squared fluctuation of all snapshots seen."""
        return sum(part.moments.square for part in self.parts.values())

    def foretold(self, snapshots: int) -> float:
        """Squared fluctuation of so many snapshots, of which some were seen."""
        return sum(part.moments.foretold(snapshots) for part in self.parts.values())


def joined(several: Sequence[Sums]) -> Sums:
    """The sums of all tiles together."""
    return reduce(_both, several, Sums())


def _both(one: Sums, other: Sums) -> Sums:
    parts, moved = dict(one.parts), False
    for place, part in other.parts.items():
        if place in parts:
            moved |= parts[place].mask != part.mask
            parts[place] = parts[place].joined(part)
        else:
            parts[place] = part
    return Sums(
        parts,
        one.lost + other.lost,
        one.blocks + other.blocks,
        one.counted + other.counted,
        one.nbytes + other.nbytes,
        one.defect or other.defect or moved,
        one.cost + other.cost,
    )


@dataclass(frozen=True)
class ValuesCoding:
    """How values are coded: ``offset`` is taken off, ``dtype`` is that of the arithmetic."""

    step: float
    offset: float
    dtype: np.dtype[Any]


class Predictor(Protocol):
    """What a store decodes to without values; works in any process."""

    def coded(self, variable: str, time_axis: int, region: Region) -> Matrix: ...


@dataclass(frozen=True)
class Snapshots:
    """One tile, time first: its values and what they are added to when decoded, both where they
    are ``valid``, and how they count. ``place`` is that in the archive's order of dims. Errors
    count where values are ``present``; None: everywhere."""

    place: Lengths
    tile: Tile
    values: Floats
    valid: Mask | None
    base: Base
    inner: InnerProduct
    present: Mask | None = None

    @property
    def counted(self) -> float:
        return len(self.values) * self.inner.total(self.values[0].size)

    def above(self, dtype: np.dtype[Any]) -> Floats:
        """What there is beyond the base, filled in where there is nothing."""
        least = dtype if isinstance(self.base, float) else np.float64
        wide = np.result_type(least, self.values.dtype)
        about = np.subtract(self.values, self.base, dtype=wide).astype(dtype, copy=False)
        return _filled(about, self.valid)

    def measured(self, decoded: Floats, cuts: Sequence[int] = (0,)) -> tuple[Matrix, Moments]:
        """Squared errors (k, points) of decoded values as they are read, summed over the snapshots
        from each of k `cuts` on, and moments of the values."""
        return _measured(
            self.values, self.valid, decoded, self.base, self.inner, cuts, self.present
        )


@dataclass(frozen=True)
class Held:
    """Tiles that stay where they were read, and what that cost; None: they cannot be coded."""

    tiles: tuple[Snapshots, ...] | None
    cost: ReadCost

    @classmethod
    def joined(cls, several: Sequence[Held]) -> Held:
        parts = [each.tiles for each in several]
        tiles = None if None in parts else tuple(tile for part in parts for tile in part or ())
        return cls(tiles, sum((each.cost for each in several), ReadCost()))


@dataclass(frozen=True, kw_only=True)
class HoldValues:
    """Task: the values of a tile, and what a store has ``below`` them, or the offset."""

    variable: str
    time_axis: int
    inner: InnerProduct
    offset: float
    below: Predictor | None = None

    def __call__(self, block: ReadBlock, tile: Tile) -> Held:
        axis = self.time_axis

        def first(items: Sequence[Any]) -> tuple[Any, ...]:
            return (items[axis], *items[:axis], *items[axis + 1 :])

        own = Tile(first(tile.index), first(tile.region), first(tile.shape))
        values = _native(block.values, axis)
        valid = _valid(values)
        if _defective(values, valid):
            return Held(None, block.cost)
        inner, base = self.inner.on(own.region[1:]).within(valid), self._base(tile, valid)
        present = None if block.present is None else np.moveaxis(block.present, axis, 0)
        found = Snapshots(tile.index, own, values, valid, base, inner, present)
        return Held((found,), block.cost)

    def _base(self, tile: Tile, valid: Mask | None) -> Base:
        if self.below is None:
            return self.offset
        found = self.below.coded(self.variable, self.time_axis, tile.region)
        base = np.moveaxis(found, self.time_axis, 0)
        return base if valid is None else np.where(valid, base, 0.0)


@dataclass(frozen=True)
class MeasureValues:
    """Task: what coding of tiles would lose, which is all that is returned besides their weight."""

    coding: ValuesCoding

    def __call__(self, held: Held) -> Sums:
        if held.tiles is None:
            return Sums(defect=True)
        return joined([self._of(tile) for tile in held.tiles])

    def _of(self, found: Snapshots) -> Sums:
        step, dtype = self.coding.step, self.coding.dtype
        decoded = coded_values(found.above(dtype), found.tile.shape, step, dtype)
        squares, _ = found.measured(decoded)
        return Sums(lost=float(squares.sum()), counted=found.counted)


@dataclass(frozen=True)
class CountBytes:
    """Task: what tiles would take coded."""

    coding: ValuesCoding

    def __call__(self, held: Held) -> Sums:
        step, dtype = self.coding.step, self.coding.dtype
        sizes = (
            len(code_values(tile.above(dtype), tile.tile.shape, step, dtype)[0])
            for tile in held.tiles or ()
        )
        return Sums(nbytes=sum(sizes))


@dataclass(frozen=True)
class WriteValues:
    """Task: code tiles, with a ``share`` of the step, and put them into the store.

    Errors are measured by block of the ``grid``.
    """

    writer: TileWriter
    variable: str
    coding: ValuesCoding
    grid: ErrorGrid
    share: int = WHOLE

    def __call__(self, held: Held) -> Sums:
        if held.tiles is None:
            return Sums(defect=True, cost=held.cost)
        return joined([*map(self._of, held.tiles), Sums(cost=held.cost)])

    def _of(self, found: Snapshots) -> Sums:
        own = found.tile
        content, decoded = self._coded(found, self.share)
        self.writer.write_tile(self.variable, own.index, content)
        blocks, moments = self._errors(found, decoded)
        mask = b"" if found.valid is None else np.packbits(found.valid).tobytes()
        parts = {own.index[1:]: Part(own.region[0].start, moments, mask)}
        lost = float(blocks.sum())
        overflown = not np.isfinite(moments.square + lost)
        return Sums(parts, lost, blocks, found.counted, len(content), overflown)

    def _errors(self, found: Snapshots, decoded: Floats) -> tuple[Matrix, Moments]:
        """Squared errors by block, and moments of the values."""
        region = found.tile.region
        squares, moments = found.measured(decoded, self.grid.cuts(0, region[0]))
        extent = found.values.shape[1:]
        return self.grid.collected(region, squares.reshape(len(squares), *extent)), moments

    def _coded(self, found: Snapshots, share: int) -> tuple[bytes, Floats]:
        """Payload, and what it decodes to."""
        step, dtype = self.coding.step, self.coding.dtype
        return code_values(found.above(dtype), found.tile.shape, step, dtype, share)


@dataclass(frozen=True)
class RewriteValues(WriteValues):
    """Task: code tiles anew, with ``share`` in place of what they ``had``.

    Returns by how much the squared error and bytes change.
    """

    had: int = WHOLE

    def _of(self, found: Snapshots) -> Sums:
        content, decoded = self._coded(found, self.had)
        lost, _ = self._errors(found, decoded)
        better, decoded = self._coded(found, self.share)
        left, _ = self._errors(found, decoded)
        self.writer.write_tile(self.variable, found.tile.index, better)
        change = left - lost
        return Sums(lost=float(change.sum()), blocks=change, nbytes=len(better) - len(content))


@dataclass(frozen=True)
class OnTiles:
    """Task: what another one makes of some of the tiles that are held, wherever they are read."""

    hold: HoldValues
    task: Callable[[Held], Sums]

    def __call__(self, block: ReadBlock, tile: Tile) -> Sums:
        return self.task(self.hold(block, tile))


@dataclass(frozen=True)
class OnHeld:
    """Task: what another one makes of tiles at some places, if they are held here."""

    task: Callable[[Held], Sums]
    places: frozenset[Lengths]

    def __call__(self, held: Held) -> Sums:
        if held.tiles is not None:
            held = replace(held, tiles=tuple(t for t in held.tiles if t.place in self.places))
        return self.task(replace(held, cost=ReadCost()))


@dataclass(frozen=True)
class Sampled:
    """Moments of some tiles; of a few also runs of snapshots of their middles, filled in where
    masked, about the order of their tiles in time."""

    sums: Sums
    runs: Mapping[Lengths, tuple[Matrix, ...]] = field(default_factory=dict)


def joined_samples(several: Sequence[Sampled]) -> Sampled:
    """All samples together."""
    runs = {index: some for each in several for index, some in each.runs.items()}
    return Sampled(joined([each.sums for each in several]), runs)


@dataclass(frozen=True)
class TakeSample:
    """Task: moments of a tile, and of those at certain places runs of snapshots.

    These are ``count`` runs at even distances, of up to ``snapshots`` each, with about ``values``
    values together.
    """

    time_axis: int
    inner: InnerProduct
    places: frozenset[Lengths]
    count: int
    snapshots: int
    values: int

    def __call__(self, block: ReadBlock, tile: Tile) -> Sampled:
        values, axis = _native(block.values, self.time_axis), self.time_axis
        space = (*tile.region[:axis], *tile.region[axis + 1 :])
        valid = _valid(values)
        if _defective(values, valid):
            return Sampled(Sums(defect=True, cost=block.cost))
        inner = self.inner.on(space).within(valid)
        _, moments = _measured(values, valid, None, 0.0, inner)
        counted = len(values) * inner.total(values[0].size)
        parts = {(*tile.index[:axis], *tile.index[axis + 1 :]): Part(0, moments)}
        sums = Sums(parts, counted=counted, cost=block.cost)
        if tile.index not in self.places:
            return Sampled(sums)
        return Sampled(sums, {tile.index: self._runs(values, valid)})

    def _runs(self, values: Floats, valid: Mask | None) -> tuple[Matrix, ...]:
        length = min(self.snapshots, len(values))
        whole = tuple(slice(0, n) for n in values.shape[1:])
        # The same place of all tiles, also of a last one that is shorter.
        place = middle(whole, max(1, self.values // (self.count * self.snapshots)))
        starts = np.linspace(0, len(values) - length, self.count).astype(int)
        some = (values[(slice(start, start + length), *place)] for start in starts.tolist())
        within = None if valid is None else valid[place]
        return tuple(_filled(run, within).astype(np.float64) for run in some)


def _native(values: Floats, time_axis: int) -> Floats:
    """Time first, in the byte order of the machine."""
    values = np.moveaxis(values, time_axis, 0)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _valid(values: Floats) -> Mask | None:
    """Points of the first snapshot that have values; None if all have."""
    valid = ~np.isnan(values[0])
    return None if valid.all() else np.asarray(valid)


def _defective(values: Floats, valid: Mask | None) -> bool:
    """Whether values are infinite, look like fill values, or NaN come and go."""
    if fill_value_in(values) is not None:
        return True
    if valid is None:
        # A sum is not finite where a value is not, and needs no array of its own. It may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(values.sum(dtype=np.float64))
        return suspicious and not bool(np.isfinite(values).all())
    return not bool(np.isfinite(values[:, valid]).all() and np.isnan(values[:, ~valid]).all())


def _filled(values: Floats, valid: Mask | None) -> Floats:
    return values if valid is None else fill_masked(values, valid)


def _measured(
    values: Floats,
    valid: Mask | None,
    decoded: Floats | None,
    base: Base,
    inner: InnerProduct,
    cuts: Sequence[int] = (0,),
    present: Mask | None = None,
) -> tuple[Matrix, Moments]:
    """Squared errors (k, points) of decoded values as they are read, summed over the snapshots from
    each of k `cuts` on where values are `present`, and moments of all values."""
    flat, inner = values.reshape(len(values), -1), inner.flat
    parts, squares = [], np.zeros((len(cuts), flat.shape[1]))
    width = max(1, PANEL // len(flat))
    known = None if valid is None else valid.ravel()
    others = None if decoded is None else decoded.reshape(flat.shape)
    below = None if isinstance(base, float) else base.reshape(flat.shape)
    counting = None if present is None else present.reshape(flat.shape)
    # What cannot be squared is found by its sums.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.shape[1], width):
            some = slice(start, start + width)
            exact = flat[:, some].astype(np.float64)
            if known is not None:
                exact[:, ~known[some]] = 0.0
            weights = inner.on(some)
            if others is not None:
                read = np.empty(exact.shape, values.dtype)
                added = np.float64(base) if below is None else below[:, some]
                rounded_sum(others[:, some], added, read)
                off = exact - read
                if counting is not None:
                    off[~counting[:, some]] = 0.0
                for number, (first, last) in enumerate(pairwise([*cuts, len(flat)])):
                    during = off[first:last]
                    sums = np.einsum("tp,tp->p", during, during)
                    squares[number, some] = weights.weighted(sums)
            parts.append(Moments.of(exact, weights))
    return squares, Moments.beside(parts)
