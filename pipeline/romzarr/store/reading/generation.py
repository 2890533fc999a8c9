"""One generation of a store: consecutive snapshots of all variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.errors import StoreError
from romzarr.store.reading.arrays import StoredArrays
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.points import StoredOrder
from romzarr.store.reading.variables import StoredVariable


@dataclass(frozen=True)
class Generation:
    """A generation: its facts, and its arrays on demand.

    Attributes
    ----------
    name : str
    facts : mapping
        All JSON facts (FORMAT.md).
    variables : mapping of str to StoredVariable
    own : int
        Modes that it adds to those of the generations `before`, or of these those that are read.
    arrays : StoredArrays
    latent : StoredLatent
        Coefficients of all modes.
    before : tuple of Generation
        Those that it extends, oldest first.
    orders : mapping of str to StoredOrder
        Orders of points by dim, which these share.
    """

    name: str
    facts: Mapping[str, Any]
    variables: Mapping[str, StoredVariable]
    own: int
    arrays: StoredArrays = field(repr=False)
    latent: StoredLatent = field(repr=False)
    before: tuple[Generation, ...] = field(default=(), repr=False)
    orders: Mapping[str, StoredOrder] = field(default_factory=dict, repr=False)

    @property
    def rank(self) -> int:
        return self.latent.rank

    @property
    def snapshots(self) -> int:
        return self.latent.snapshots

    @cached_property
    def episodes(self) -> NDArray[np.int64]:
        """Numbers of the snapshots that are coded without POD."""
        spans = self.facts.get("episodes", [])
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in spans)])

    @cached_property
    def places(self) -> Mapping[str, NDArray[np.int64]]:
        """Where the points of the archive are in its arrays, by dims with an order."""
        return {dim: np.argsort(order.positions(self.arrays)) for dim, order in self.orders.items()}

    @cached_property
    def singular_values(self) -> NDArray[np.float64]:
        """Singular values (r,), by which fields are divided to give modes."""
        return np.concatenate([each.own_values for each in (*self.before, self)])

    @cached_property
    def own_values(self) -> NDArray[np.float64]:
        """The `singular_values` of its own modes."""
        if not self.own:
            return np.zeros(0)
        # From the cache, as views of a store are generations of their own.
        path = "basis/singular_values"
        values = self.arrays.cached((path,), partial(self.arrays.finite, path))[: self.own]
        # Fields are divided by them.
        if not (values > 0).all():
            raise StoreError(f"{self.arrays.url}: basis/singular_values are not all positive")
        return values

    @property
    def mean_weight(self) -> float:
        """The factor of the first field that gives the mean."""
        return float(self.snapshots**-0.5)

    @property
    def chain(self) -> tuple[Generation, ...]:
        """The generations that it extends, and itself."""
        return (*self.before, self)
