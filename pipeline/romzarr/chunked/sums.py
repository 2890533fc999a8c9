"""Weighted sums over space that a store should have exactly: what decoded values lack of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from romzarr.chunked.blocks import Lengths, Tile
from romzarr.chunked.by_index import Decoder, broadcast_part
from romzarr.contracts import Floats, Mask, Matrix, ReadBlock, ReadCost, Region
from romzarr.numerics.gaps import gap_codes


@dataclass(frozen=True)
class FoundSums:
    """Of parts of time and of dims that are not summed over, by their place in the grid of tiles.

    ``missing`` (J, m, *rest) are the sums of the archive's values less those of the decoded ones;
    ``products`` (J, J, m, *rest) those of weights times fields, where there are numbers.
    """

    missing: Mapping[Lengths, Matrix] = field(default_factory=dict)
    products: Mapping[Lengths, Matrix] = field(default_factory=dict)
    cost: ReadCost = field(default_factory=ReadCost)


def joined_sums(several: Sequence[FoundSums]) -> FoundSums:
    """Those of several tiles."""
    missing, products = dict[Lengths, Matrix](), dict[Lengths, Matrix]()
    for each in several:
        for kept, found in ((missing, each.missing), (products, each.products)):
            for place, values in found.items():
                kept[place] = kept[place] + values if place in kept else values
    return FoundSums(missing, products, sum((each.cost for each in several), ReadCost()))


@dataclass(frozen=True)
class MeasureSums:
    """Task: what decoded values of a tile lack of weighted sums.

    ``weights`` (J, *space) and ``fields`` (J, *space), of which multiples may be added, broadcast
    over the variable without time; what is ``special`` is no number. Axes of ``rest``, among those
    of the variable, are not summed over. Nothing is added to what is ``left_out``, which broadcasts
    over the variable.
    """

    decoder: Decoder
    variable: str
    time_axis: int
    weights: Matrix
    fields: Matrix
    rest: tuple[int, ...]
    special: Floats
    left_out: Mask

    def __call__(self, block: ReadBlock, tile: Tile) -> FoundSums:
        axis = self.time_axis
        decoded = self.decoder.decode(self.variable, axis, tile.region)
        present = gap_codes(block.values, self.special) == 0
        errors = np.zeros(block.values.shape)
        np.subtract(block.values, decoded, out=errors, where=present, dtype=np.float64)
        weights, fields = self._of(self.weights, tile.region), self._of(self.fields, tile.region)
        kept, every = (axis, *self.rest), "abcdefghijklmnopqrstuvw"[: errors.ndim]
        left = "".join(every[a] for a in kept)
        missing = np.einsum(f"x{every},{every}->x{left}", weights, errors)
        left_out = self.left_out[broadcast_part(self.left_out.shape, tile.region)]
        counted = (present & ~left_out).astype(np.float64)
        products = np.einsum(f"x{every},y{every},{every}->xy{left}", weights, fields, counted)
        place = tuple(tile.index[a] for a in kept)
        return FoundSums({place: missing}, {place: products}, block.cost)

    def _of(self, fields: Matrix, region: Region) -> Matrix:
        """The part of fields in a region, with an axis of time."""
        space = (*region[: self.time_axis], *region[self.time_axis + 1 :])
        both = zip(fields.shape[1:], space, strict=True)
        part = tuple(slice(0, 1) if n == 1 else s for n, s in both)
        return np.expand_dims(fields[(slice(None), *part)], self.time_axis + 1)
