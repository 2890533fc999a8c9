"""What lossy compression has done to a variable, as its attributes say.

CF has words for one kind of loss, that of numbers with fewer bits: section 8.4 of CF-1.12 knows
four algorithms, and a number of bits or digits. Nothing in it names a transform coder or a bound on
an error. So all that is said of the error has names of our own, which CF allows beside its own, and
a file has CF's form besides: the attribute ``quantization`` names a variable without data, whose
attributes ``algorithm`` and ``implementation`` say what was done (`quantization_variable`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

# CF's attribute, and the variable that it names in files of ours.
QUANTIZATION, CONTAINER = "quantization", "romzarr_quantization"
# CF's list of algorithms is closed; ours is on none.
_ALGORITHM = "romzarr_transform_coding"
_PREFIX = "romzarr_"
# Parameters of the algorithms that CF knows.
_CF_PARAMETERS = ("quantization_nsb", "quantization_nsd")


@dataclass(frozen=True)
class Loss:
    """How far the values of a variable may be from the original ones; None: no bound is known.

    Each field is an attribute ``romzarr_<field>``. Promised are ``tolerance``, the L2 error
    relative to the fluctuation, ``max_error``, that of a single value in the variable's units, and
    ``max_relative_error``, that of a single value relative to itself. Reached are
    ``relative_l2_error``, ``l2_error`` (the same in the variable's units), ``largest_error`` and
    ``largest_relative_error``. L2 norms are over all snapshots and points, with ``weights`` as of
    ``archive.weights``. ``compressions`` counts lossy ones, ``implementation`` is the last one's.
    """

    implementation: str
    compressions: int = 1
    weights: str = "none"
    tolerance: float | None = None
    relative_l2_error: float | None = None
    l2_error: float | None = None
    max_error: float | None = None
    largest_error: float | None = None
    max_relative_error: float | None = None
    largest_relative_error: float | None = None

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> Loss | None:
        """What the attributes of a variable say; None if they say nothing of loss."""
        implementation = attrs.get(_PREFIX + "implementation")
        if not isinstance(implementation, str):
            return None
        times = _bound(attrs.get(_PREFIX + "compressions"))
        weights = attrs.get(_PREFIX + "weights", "none")
        bounds = {name: _bound(attrs.get(_PREFIX + name)) for name in _BOUNDS}
        return cls(implementation, max(1, int(times or 1)), str(weights), **bounds)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that say so."""
        found = {_PREFIX + each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def within(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of a variable with these in the place of what they said of loss."""
        return without_loss(attrs) | self.attributes

    def with_more(self, l2: float, fluctuation: float) -> Loss:
        """The loss where values are off by as much more, in the L2 norm over all of them.

        Relative errors are relative to the `fluctuation`. With weights, and of single values, no
        bound is known then.
        """
        known = self.weights == "none" and self.l2_error is not None and fluctuation > 0
        return Loss(
            implementation=self.implementation,
            compressions=self.compressions,
            weights=self.weights,
            l2_error=_sum(self.l2_error, l2) if known else None,
            relative_l2_error=_sum(self.relative_l2_error, l2 / fluctuation) if known else None,
        )

    def coarsened(self, l2_gain: float, largest_gain: float, share: float) -> Loss:
        """The loss of values on a coarser grid, which has a `share` of the points.

        Errors grow by no more than the gains. Relative L2 errors are root mean squares relative to
        that of the fluctuation on the whole grid. With weights they are not known.
        """
        known = l2_gain if self.weights == "none" else None
        relative = None if known is None else known * share**-0.5
        return Loss(
            implementation=self.implementation,
            compressions=self.compressions,
            weights=self.weights,
            tolerance=_times(self.tolerance, relative),
            relative_l2_error=_times(self.relative_l2_error, relative),
            l2_error=_times(self.l2_error, known),
            max_error=_times(self.max_error, largest_gain),
            largest_error=_times(self.largest_error, largest_gain),
        )

    def packed(self) -> Loss:
        """The loss of values that are rounded once more, as the original ones were when packed.

        The original lies where packing rounds to, so that moves no value further than it was off.
        """
        bounds = {name: getattr(self, name) for name in _BOUNDS}
        doubled = {name: 2 * each for name, each in bounds.items() if each is not None}
        return replace(self, **doubled)

    def after(self, earlier: Loss | None, fluctuation: float | None) -> Loss:
        """The loss of both compressions together, by the triangle inequality.

        Relative L2 errors are relative to the `fluctuation` of what was compressed last, the root
        of its square over the record; None: unknown. The earlier L2 error is absolute, so that it
        bounds that of every part of the record too. It is of no use with other weights.
        """
        if earlier is None:
            return self
        l2 = earlier.l2_error if earlier.weights == self.weights else None
        share = l2 / fluctuation if l2 is not None and fluctuation else None
        return Loss(
            implementation=self.implementation,
            compressions=self.compressions + earlier.compressions,
            weights=self.weights,
            tolerance=_sum(self.tolerance, share),
            relative_l2_error=_sum(self.relative_l2_error, share),
            l2_error=_sum(self.l2_error, l2),
            max_error=_sum(self.max_error, earlier.max_error),
            largest_error=_sum(self.largest_error, earlier.largest_error),
            max_relative_error=_product(self.max_relative_error, earlier.max_relative_error),
            largest_relative_error=_product(
                self.largest_relative_error, earlier.largest_relative_error
            ),
        )


_NAMES = frozenset(_PREFIX + each.name for each in fields(Loss))
_BOUNDS = tuple(each.name for each in fields(Loss) if each.default is None)


def without_loss(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a variable that do not speak of loss."""
    return {name: value for name, value in attrs.items() if name not in _NAMES}


def quantization_variable(version: str) -> dict[str, str]:
    """Attributes of the variable without data that CF asks for (CF-1.12, section 8.4.1)."""
    return {"algorithm": _ALGORITHM, "implementation": f"romzarr version {version}"}


def loss_in_words(attrs: Mapping[str, Any]) -> str:
    """What was lost of a variable before, by its attributes; empty: they know of nothing."""
    loss = Loss.of(attrs)
    if loss is not None:
        known = "of unknown size" if loss.l2_error is None else f"of up to {loss.l2_error:.3g}"
        return f"compressed with loss before, by {loss.implementation}: L2 error {known}"
    if QUANTIZATION not in attrs:
        return ""
    kept = [f"{name} {attrs[name]}" for name in _CF_PARAMETERS if name in attrs]
    return f"quantised before ({', '.join(kept) or 'CF 8.4'}), which no bound here counts"


def _bound(value: Any) -> float | None:
    """A number of at least 0; None for anything else that an attribute may be."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return None
    number = float(np.real(value))
    return number if 0 <= number < math.inf else None


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _times(error: float | None, factor: float | None) -> float | None:
    return None if error is None or factor is None else error * factor


def _product(one: float | None, other: float | None) -> float | None:
    """Errors relative to values of which the first are off themselves."""
    return None if one is None or other is None else (1 + one) * (1 + other) - 1
