"""Ranges of the numbers of a variable, and their signed logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.chunked.blocks import Tile
from romzarr.chunked.gaps import FilledSource, NumbersSource
from romzarr.contracts import BlockSource, Floats, ReadBlock, ReadCost, Region
from romzarr.numerics.gaps import gap_codes
from romzarr.numerics.logarithm import logarithms


@dataclass(frozen=True)
class FoundRange:
    """The ``smallest`` and the ``largest`` number, and the ``least`` and ``most`` of the sizes of
    those that are not zero; infinite where there is none."""

    smallest: float
    largest: float
    least: float
    most: float
    cost: ReadCost


def joined_ranges(several: Sequence[FoundRange]) -> FoundRange:
    """That of all together."""
    return FoundRange(
        min(each.smallest for each in several),
        max(each.largest for each in several),
        min(each.least for each in several),
        max(each.most for each in several),
        sum((each.cost for each in several), ReadCost()),
    )


@dataclass(frozen=True)
class MeasureRange:
    """Task: the range of a tile, but for what is ``special``."""

    special: Floats

    def __call__(self, block: ReadBlock, tile: Tile) -> FoundRange:
        known = block.values[gap_codes(block.values, self.special) == 0].astype(np.float64)
        sizes = np.abs(known[known != 0])
        return FoundRange(
            float(known.min(initial=np.inf)),
            float(known.max(initial=-np.inf)),
            float(sizes.min(initial=np.inf)),
            float(sizes.max(initial=-np.inf)),
            block.cost,
        )


@dataclass(frozen=True)
class LogarithmSource:
    """Blocks of a variable as signed logarithms in a ``unit``, in float64."""

    source: BlockSource
    unit: float

    def graph(self) -> Mapping[Any, Any]:
        return self.source.graph()

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_LogarithmBlock(self.unit), self.source.task(region))


@dataclass(frozen=True)
class _LogarithmBlock:
    unit: float

    def __call__(self, block: ReadBlock) -> ReadBlock:
        return ReadBlock(logarithms(block.values, self.unit), block.bytes_read, block.chunks_read)


def logarithm_source(source: BlockSource, unit: float) -> BlockSource:
    """Logarithms of blocks. Gaps are filled after that, as numbers beside them may differ by orders
    of magnitude."""
    if not isinstance(source, FilledSource):
        return LogarithmSource(source, unit)
    numbers = NumbersSource(source.source, source.special)
    return source.again(LogarithmSource(numbers, unit), logarithms(source.mean, unit))
