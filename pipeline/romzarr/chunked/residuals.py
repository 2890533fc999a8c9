"""Residuals of a variable, tile by tile: the archive's values less what a store decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.chunked.blocks import Tile, TileWriter
from romzarr.coding.residuals import encode_residuals, rounded_residuals
from romzarr.contracts import Floats, Matrix, ReadBlock, ReadCost, Region
from romzarr.numerics.rounding import rounded


class Decoder(Protocol):
    """A store as its readers will see it; works in any process."""

    def predict(self, variable: str, time_axis: int, region: Region) -> Matrix: ...

    def drift(self, variable: str, time_axis: int, region: Region, predicted: Matrix) -> float: ...


@dataclass(frozen=True)
class Found:
    """What residuals of some tiles are, and what decides whether they are enough.

    ``largest`` value, ``drift`` of the decoded values where samples are shaken, and
    ``error`` of the corrected ones, all absolute; ``coded`` residuals that are not zero; and
    what reading cost.
    """

    largest: float
    drift: float
    error: float
    coded: int
    cost: ReadCost


def joined(parts: Sequence[Found]) -> Found:
    return Found(
        largest=max(part.largest for part in parts),
        drift=max(part.drift for part in parts),
        error=max(part.error for part in parts),
        coded=sum(part.coded for part in parts),
        cost=sum((part.cost for part in parts), ReadCost()),
    )


@dataclass(frozen=True)
class Spread:
    """Task: sum of the squares of a tile about its means in time, and how many values it has."""

    time_axis: int

    def __call__(self, block: ReadBlock, tile: Tile) -> Matrix:
        values = np.moveaxis(block.values, self.time_axis, 0).astype(np.float64)
        # What cannot be squared is refused by the POD, with its name.
        with np.errstate(over="ignore", invalid="ignore"):
            about = values - values.mean(axis=0)
            counted = np.isfinite(about)
            return np.array([np.sum(about**2, where=counted), counted.sum()])


@dataclass(frozen=True)
class WriteResiduals:
    """Task: code the residuals of a tile and put them into the store."""

    decoder: Decoder
    writer: TileWriter
    variable: str
    time_axis: int
    step: float

    def __call__(self, block: ReadBlock, tile: Tile) -> Found:
        values = block.values
        decoded = self.decoder.predict(self.variable, self.time_axis, tile.region)
        drift = self.decoder.drift(self.variable, self.time_axis, tile.region, decoded)
        residuals = rounded_residuals(values - decoded, self.step)
        content = encode_residuals(residuals, tile.shape, self.step)
        self.writer.write_tile(self.variable, tile.index, content)
        with np.errstate(over="ignore", invalid="ignore"):
            corrected = rounded(decoded + residuals, values.dtype)
        return Found(
            largest=_largest(values),
            drift=drift,
            error=_largest(values.astype(np.float64) - corrected),
            coded=int(np.count_nonzero(residuals)),
            cost=block.cost,
        )


def _largest(values: Floats | NDArray[Any]) -> float:
    """Largest absolute value but NaN, 0 if there is none."""
    return float(np.nanmax(np.abs(values), initial=0.0))
