"""What the compression of a store has lost, as attributes of the variables that it opens as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from romzarr.coding.gains import NO_GAINS, Gains
from romzarr.contracts import EXACT
from romzarr.encoding import encoding_from_json
from romzarr.loss import Loss
from romzarr.store.reading.facts import l2_error_of
from romzarr.store.reading.variables import StoredVariable


@dataclass(frozen=True)
class Shown:
    """What a view shows of a variable, and how far off that may be more than the store.

    With a ``tolerance`` at which some layers are read alone, ``relative_l2_error`` is what is known
    of it then. Where no more than so many ``modes`` are read, the others have the L2 norm
    ``beyond``. On a ``level`` but 0 errors grow by the ``gains`` at most; it has a ``share`` of the
    points.
    """

    tolerance: float = 0.0
    relative_l2_error: float | None = None
    modes: int | None = None
    beyond: float = 0.0
    level: int = 0
    gains: Gains = NO_GAINS
    share: float = 1.0

    def on(self, level: int, gains: Gains, share: float) -> Shown:
        """The same on a coarser grid."""
        return replace(self, level=level, gains=gains, share=share)

    @property
    def attributes(self) -> dict[str, Any]:
        """What is said of the view itself."""
        level = {"romzarr_level": self.level} if self.level else {}
        return level if self.modes is None else level | {"romzarr_modes": self.modes}


def with_loss(facts: Mapping[str, Any], stored: StoredVariable, shown: Shown) -> dict[str, Any]:
    """The archive's attributes of a variable, and what was promised and reached (`romzarr.loss`).

    They are attributes and no encoding, which arithmetic, NetCDF and Zarr do not carry on: whoever
    is handed a variable should see that it is not the original. Nothing else differs from the
    archive: exact variables keep the attributes that they had, and those of lossy ones count what
    the archive's say was lost before. Of a view no bound holds but those that follow from the
    store's.
    """
    attrs = encoding_from_json(stored.attrs)
    loss = Loss.of(attrs) if stored.coding in EXACT else _loss(facts, stored, attrs, shown)
    if loss is not None and shown.level:
        loss = loss.coarsened(shown.gains.l2, shown.gains.largest, shown.share)
    elif stored.coding in EXACT:
        loss = None
    return (attrs if loss is None else loss.within(attrs)) | shown.attributes


def _loss(
    facts: Mapping[str, Any], stored: StoredVariable, attrs: Mapping[str, Any], shown: Shown
) -> Loss:
    """The loss of a lossy variable on the whole grid."""
    fluctuation = facts.get("fluctuation", {}).get(stored.name, 0.0) ** 0.5
    loss = _at_tolerance(_own_loss(facts, stored), shown, fluctuation)
    if shown.beyond:
        loss = loss.with_more(shown.beyond, fluctuation)
    return loss.after(Loss.of(attrs), fluctuation)


def _at_tolerance(own: Loss, shown: Shown, fluctuation: float) -> Loss:
    """The loss of a store of which no more layers are read than a tolerance needs."""
    error = shown.relative_l2_error
    if error is None or error == own.relative_l2_error:
        return own
    return Loss(
        own.implementation,
        weights=own.weights,
        tolerance=shown.tolerance,
        relative_l2_error=error,
        l2_error=error * fluctuation,
    )


def _own_loss(facts: Mapping[str, Any], stored: StoredVariable) -> Loss:
    def known(fact: str) -> float | None:
        found = facts.get(fact, {}).get(stored.name)
        return None if found is None else float(found)

    l2 = l2_error_of(facts, stored.name)
    version = facts.get("versions", {}).get("romzarr", "unknown")
    return Loss(
        implementation=f"romzarr version {version} ({stored.coding})",
        weights=str(facts.get("config", {}).get("archive", {}).get("weights", "none")),
        tolerance=facts.get("tolerance"),
        relative_l2_error=known("relative_l2_error"),
        l2_error=l2 if l2 < math.inf else None,
        max_error=known("max_error"),
        largest_error=known("largest_pointwise_error"),
        max_relative_error=known("max_relative_error"),
        largest_relative_error=known("largest_relative_error"),
    )
