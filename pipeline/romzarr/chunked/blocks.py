"""A variable of the archive cut into tiles that are chunks of a store, each block read once.

Tiles are made of whole chunks of the archive, or these of whole tiles, wherever its grid is
regular; then a task that reads a block has all it needs. Where it is not, blocks that overlap
a tile are read by tasks of their own.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from romzarr.chunked.slices import Join, slices
from romzarr.chunked.spots import spread
from romzarr.coding.tiles import even_length, grid, region_of, tiles
from romzarr.contracts import ArchivedVariable, Floats, ReadBlock, Region

Lengths = tuple[int, ...]


class TileWriter(Protocol):
    """Where tasks put tiles; works in any process."""

    def write_tile(self, variable: str, index: tuple[int, ...], content: bytes) -> None: ...


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the grid, its part of the variable, the shape of a full one."""

    index: tuple[int, ...]
    region: Region
    shape: tuple[int, ...]


def aligned_tile(variable: ArchivedVariable, least: int, most: int) -> Lengths:
    """Shape of tiles of about `least` to `most` values that fit the chunks of the archive.

    Small chunks are joined, along time first; large ones are cut into equal parts.
    """
    tile = [max(lengths) for lengths in variable.chunks]
    shape, axis = variable.shape, variable.time_axis
    order = [axis, *(a for a in reversed(range(len(shape))) if a != axis)]
    for a in order:
        room = max(1, least // math.prod(tile))
        tile[a] = min(shape[a], tile[a] * room)
    while math.prod(tile) > most:
        a = max(range(len(tile)), key=lambda k: tile[k])
        tile[a] = _shortened(tile[a])
    return tuple(tile)


def stored_tile(variable: ArchivedVariable, least: int, most: int) -> Lengths:
    """`aligned_tile`, but no longer along any dim than tiles of a store shall be."""
    return tuple(map(min, aligned_tile(variable, least, most), variable.longest))


def _shortened(length: int) -> int:
    """The longest proper part of which `length` is a small multiple, or about half of it."""
    parts = next((k for k in (2, 3, 5) if length % k == 0), 0)
    return length // parts if parts else even_length(length, -(-length // 2))


def lazy_tiles(
    variable: ArchivedVariable,
    tile: Lengths,
    function: Callable[[ReadBlock, Tile], Any],
    join: Join,
    only: Sequence[Lengths] | None = None,
) -> Iterator[Delayed]:
    """``function(block, tile)`` of every tile, or of `only` those at some places in the grid.

    The block has the values of the tile. Tiles that share one block are the work of one task,
    which reads it, and returns what `join` makes of their results. What reading cost is said
    once, where several tiles share it. Graphs are made slice by slice, as they are asked for
    (`romzarr.chunked.slices`).
    """
    segments = [
        block_edges(lengths, length) for lengths, length in zip(variable.chunks, tile, strict=True)
    ]
    found: Iterable[tuple[Lengths, Region]] = tiles(variable.shape, tile)
    if only is not None:
        found = [(index, region_of(index, variable.shape, tile)) for index in only]
    for some in slices(found):
        yield from _slice(variable, tile, _Tasks(function, join), segments, some)


def _slice(
    variable: ArchivedVariable,
    tile: Lengths,
    tasks: _Tasks,
    segments: Sequence[Sequence[int]],
    some: Sequence[tuple[Lengths, Region]],
) -> list[Delayed]:
    """Some of the tiles, in a graph of their own."""
    token = uuid4().hex
    graph: dict[Any, Any] = dict(variable.source.graph())
    keys, sharing = [], dict[tuple[tuple[int, int], ...], list[Tile]]()
    for index, region in some:
        overlaps = [overlapping(edges, part) for edges, part in zip(segments, region, strict=True)]
        corners, piece = list(product(*overlaps)), Tile(index, region, tile)
        if len(corners) == 1:
            sharing.setdefault(tuple((s.start, s.stop) for s in corners[0]), []).append(piece)
            continue
        parts = [_part(graph, variable, token, corner, region) for corner in corners]
        keys.append((f"tile-{token}", *index))
        graph[keys[-1]] = (tasks.whole, parts, piece)
    for corner, pieces in sharing.items():
        block = tuple(slice(a, b) for a, b in corner)
        # Tiles that lie in several blocks may need this one too.
        key = (f"block-{token}", *(s.start for s in block))
        shared = key in graph
        keys.append((f"tiles-{token}", *pieces[0].index))
        read: Any = key if shared else variable.source.task(block)
        graph[keys[-1]] = (tasks.parts, read, block, pieces, shared)
    layer = HighLevelGraph.from_collections(f"tiles-{token}", graph)
    return [Delayed(key, layer, layer=f"tiles-{token}") for key in keys]


def time_groups(variable: ArchivedVariable, tile: Lengths) -> tuple[list[range], bool]:
    """Places of tiles along time, those that share blocks together, and whether any do not.

    Where tiles and chunks do not fit, each tile is a group of its own and shares blocks with the
    next one.
    """
    axis = variable.time_axis
    edges, length = block_edges(variable.chunks[axis], tile[axis]), tile[axis]
    if all(edge % length == 0 for edge in edges[:-1]):
        return [range(a // length, -(-b // length)) for a, b in pairwise(edges)], True
    return [range(i, i + 1) for i in range(-(-variable.shape[axis] // length))], False


def some_tiles(variable: ArchivedVariable, tile: Lengths, most: int) -> list[Lengths]:
    """Places in the grid of up to `most` tiles, evenly spread."""
    shape = grid(variable.shape, tile)
    return [
        tuple(map(int, np.unravel_index(number, shape)))
        for number in spread(math.prod(shape), most)
    ]


def block_edges(lengths: Sequence[int], tile: int) -> list[int]:
    """Return the edges of the blocks along an axis: of chunks, and of tiles too where these fit."""
    edges = [0, *accumulate(lengths)]
    both = [edge for edge in edges if edge % tile == 0 or edge == edges[-1]]
    longest = max(b - a for a, b in pairwise(both))
    return both if longest <= 2 * max(tile, *lengths) else edges


def overlapping(edges: Sequence[int], part: slice) -> list[slice]:
    """Return the blocks along an axis that overlap a part of it."""
    first, last = bisect_right(edges, part.start) - 1, bisect_left(edges, part.stop)
    return [slice(edges[i], edges[i + 1]) for i in range(first, last)]


def _part(
    graph: dict[Any, Any],
    variable: ArchivedVariable,
    token: str,
    block: Region,
    region: Region,
) -> tuple[Any, ...]:
    """Task of what a block has of a region. What several tiles share is read by one task."""
    key = (f"block-{token}", *(s.start for s in block))
    graph.setdefault(key, variable.source.task(block))
    return (cut_of(block, region), key)


def cut_of(block: Region, region: Region, own: Region | None = None) -> Cut:
    """What a block has of a region. It says what reading cost, if it begins in its `own` part of
    the region, or all of it: of the tiles that share a block one is its first."""
    inside = tuple(
        slice(max(b.start, r.start) - b.start, min(b.stop, r.stop) - b.start)
        for b, r in zip(block, region, strict=True)
    )
    place = tuple(max(b.start - r.start, 0) for b, r in zip(block, region, strict=True))
    begins = zip(block, region if own is None else own, strict=True)
    return Cut(inside, place, all(r.start <= b.start < r.stop for b, r in begins))


@dataclass(frozen=True)
class Cut:
    """Part of a block, where in the tile it goes, and whether it says what the block cost."""

    inside: Region
    place: tuple[int, ...]
    says_cost: bool

    def __call__(self, block: ReadBlock) -> tuple[tuple[int, ...], ReadBlock]:
        values = block.values[self.inside]
        present = None if block.present is None else block.present[self.inside]
        cost = (block.bytes_read, block.chunks_read) if self.says_cost else (0, 0)
        return self.place, ReadBlock(values, *cost, present)


@dataclass(frozen=True)
class _Tasks:
    """What is done with tiles, and what is made of the results of those that one task sees to."""

    function: Callable[[ReadBlock, Tile], Any]
    join: Join

    def whole(self, parts: Sequence[tuple[tuple[int, ...], ReadBlock]], tile: Tile) -> Any:
        """The result of one tile, put together from parts of several blocks."""
        return self.function(joined_block(parts, tile.region), tile)

    def parts(self, block: ReadBlock, place: Region, pieces: Sequence[Tile], shared: bool) -> Any:
        """The results of tiles that all lie in one block, which others may share."""
        results = []
        for number, tile in enumerate(pieces):
            _, part = cut_of(place, tile.region)(block)
            if not shared:
                cost = (block.bytes_read, block.chunks_read) if number == 0 else (0, 0)
                part = ReadBlock(part.values, *cost, part.present)
            results.append(self.function(part, tile))
        return results[0] if len(results) == 1 else self.join(results)


def joined_block(parts: Sequence[tuple[tuple[int, ...], ReadBlock]], region: Region) -> ReadBlock:
    """A region, put together from parts of several blocks."""
    if len(parts) == 1:
        return parts[0][1]
    shape = [s.stop - s.start for s in region]
    values: Floats = np.empty(shape, parts[0][1].values.dtype)
    gaps = any(part.present is not None for _, part in parts)
    present = np.ones(shape, bool) if gaps else None
    for place, part in parts:
        there = tuple(
            slice(start, start + n) for start, n in zip(place, part.values.shape, strict=True)
        )
        values[there] = part.values
        if present is not None and part.present is not None:
            present[there] = part.present
    return ReadBlock(
        values,
        sum(part.bytes_read for _, part in parts),
        sum(part.chunks_read for _, part in parts),
        present,
    )
