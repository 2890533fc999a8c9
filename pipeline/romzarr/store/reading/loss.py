"""What the compression of a store has lost, as attributes of the variables that it opens as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from romzarr.contracts import EXACT
from romzarr.loss import Loss
from romzarr.store.reading.facts import l2_error_of
from romzarr.store.reading.variables import StoredVariable


def with_loss(
    attrs: Mapping[str, Any],
    facts: Mapping[str, Any],
    stored: StoredVariable,
    tolerance: float,
    errors: Mapping[str, float],
) -> dict[str, Any]:
    """The archive's attributes of a variable, and what was promised and reached (`romzarr.loss`).

    They are attributes and no encoding, which arithmetic, NetCDF and Zarr do not carry on: whoever
    is handed a variable should see that it is not the original. Nothing else differs from the
    archive: exact variables keep the attributes that they had, and those of lossy ones count what
    the archive's say was lost before. With a `tolerance` at which some layers are read alone,
    `errors` are the relative L2 errors of variables then; no other bound holds of what is read.
    """
    if stored.coding in EXACT:
        return dict(attrs)
    own = _own_loss(facts, stored)
    square = facts.get("fluctuation", {}).get(stored.name, 0.0)
    error = errors.get(stored.name)
    if error is not None and error != own.relative_l2_error:
        own = Loss(
            own.implementation,
            weights=own.weights,
            tolerance=tolerance,
            relative_l2_error=error,
            l2_error=error * square**0.5,
        )
    return own.after(Loss.of(attrs), square**0.5).within(attrs)


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
