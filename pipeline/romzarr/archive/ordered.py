"""An archive whose variables have the points of meshes in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.archive.archive import Archive
from romzarr.archive.provider import digest_of
from romzarr.contracts import (
    ArchivedVariable,
    BlockSource,
    Floats,
    PointOrder,
    ReadBlock,
    Region,
)
from romzarr.inner_product import InnerProduct


def ordered(archive: Archive, orders: Sequence[PointOrder]) -> Archive:
    """The archive with the points of its variables in such orders; as it is if there are none.

    Blocks are read as before, since points stay in their chunk.
    """
    variables = archive.variables
    for order in orders:
        variables = tuple(_ordered(v, order) if order.dim in v.dims else v for v in variables)
    return replace(archive, variables=variables, orders=tuple(orders))


def pieces_of(variables: Sequence[ArchivedVariable], dim: str) -> tuple[int, ...]:
    """Lengths of the parts of a dim that no chunk of any variable divides."""
    ends = {
        end
        for variable in variables
        if dim in variable.dims
        for end in accumulate(variable.chunks[variable.dims.index(dim)])
    }
    return tuple(np.diff(sorted({0, *ends})).tolist())


def _ordered(variable: ArchivedVariable, order: PointOrder) -> ArchivedVariable:
    axis, weights = variable.dims.index(order.dim), variable.inner_product.weights
    inner = variable.inner_product
    if weights is not None:
        inner = InnerProduct(weights.take(order.positions, variable.space_dims.index(order.dim)))
    key = f"order-{order.dim}-{digest_of([order.positions.tobytes()])}"
    # They travel with each slice of a graph.
    narrow = order.positions.astype(np.min_scalar_type(len(order.positions)))
    source = OrderedSource(variable.source, axis, key, narrow)
    return replace(variable, inner_product=inner, source=source)


@dataclass(frozen=True)
class OrderedSource:
    """Blocks with their points in another order along an ``axis``.

    Tasks share the ``positions``, which a graph has under a ``key``.
    """

    source: BlockSource
    axis: int
    key: str
    positions: NDArray[np.integer[Any]]

    def graph(self) -> Mapping[Any, Any]:
        return {**self.source.graph(), self.key: self.positions}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_Taken(self.axis, region[self.axis]), self.source.task(region), self.key)


@dataclass(frozen=True)
class _Taken:
    axis: int
    points: slice

    def __call__(self, block: ReadBlock, positions: NDArray[np.integer[Any]]) -> ReadBlock:
        inside = positions[self.points] - self.points.start
        values: Floats = np.take(block.values, inside, axis=self.axis)
        return replace(block, values=values)
