"""What a store leaves of its bounds on single values, to those who code anew what it decodes to.

Errors of single values add up, ``|x - z| <= |x - y| + |y - z|`` for the archive x, the decoded y
and z as which y is coded anew. Errors relative to each value nearly do: with
``|x - y| <= p |x|`` and ``|y - z| <= q |y|``, ``|x - z| <= (p + q + p q) |x|``.

What was lost is what was bounded, on any machine, and not the error that was measured on one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from romzarr.config import NONE, BoundKind, CompressionConfig
from romzarr.errors import AccuracyError

# The fact with what values of a part alone may be off by, by name: absolute, or relative to each
# value, as its bound is. Without it, as of a store that was compressed at once, its bounds are.
PART_VALUE_BOUNDS = "part_value_bounds"
# Facts on bounds, and on the largest errors found: absolute ones, and those relative to each value.
ABSOLUTE, RELATIVE = (
    ("max_error", "largest_pointwise_error"),
    (
        "max_relative_error",
        "largest_relative_error",
    ),
)
# Less than this share of a bound is not worth coding for.
LEAST_LEFT = 1 / 32
# By so much bounds of what is coded anew are rounded down.
ROUNDED = 1e-9

Bounds = Mapping[str, float]


def value_bounds(facts: Mapping[str, Any]) -> dict[str, float]:
    """What single values may be off by, by name; nothing of those that are exact.

    Parameters
    ----------
    facts : mapping
        Of what was just written.
    """
    bounds, largest = (
        {**facts.get(absolute, {}), **facts.get(relative, {})}
        for absolute, relative in zip(ABSOLUTE, RELATIVE, strict=True)
    )
    return {name: float(each) for name, each in bounds.items() if largest.get(name, each) > 0}


def shared_bounds(config: CompressionConfig, share: float) -> str | dict[str, float | str]:
    """Settings of such a share of all bounds on single values."""
    asked = {
        name: share * bound.size
        if bound.kind == BoundKind.ABSOLUTE
        else _setting(share * bound.size, bound.kind)
        for name, bound in config.bounds.items()
    }
    return asked or NONE


def _setting(size: float, kind: BoundKind) -> str:
    return f"{100 * size:.12e}% of {kind}"


@dataclass(frozen=True)
class RemainingValues:
    """What values have ``lost``, and what all errors together are ``asked`` to be within, by name,
    absolute or relative to each value.

    There is nothing asked yet of a variable whose bound is relative to its range, if that was one
    value in each part.
    """

    config: CompressionConfig
    lost: Bounds
    asked: Bounds

    @classmethod
    def of(cls, config: CompressionConfig, parts: Sequence[Mapping[str, Any]]) -> RemainingValues:
        """Of values in parts with these facts, of which the last has the bounds of the store."""
        given = {**parts[-1].get(ABSOLUTE[0], {}), **parts[-1].get(RELATIVE[0], {})}
        asked = {
            name: bound.size if bound.kind != BoundKind.RANGE else given.get(name, 0.0)
            for name, bound in config.bounds.items()
        }
        own = [part.get(PART_VALUE_BOUNDS, value_bounds(part)) for part in parts]
        lost = {name: max(each.get(name, 0.0) for each in own) for name in asked}
        return cls(config, lost, {name: each for name, each in asked.items() if each > 0})

    @property
    def left(self) -> float:
        """Least share of a bound that is left; 1 where no values are bounded."""
        return min((1 - self.lost[name] / bound for name, bound in self.asked.items()), default=1.0)

    def settings(self, most: float) -> str | dict[str, float | str]:
        """Settings of the bounds that are left, or of a share of those that are asked for.

        Raises
        ------
        AccuracyError
            If next to nothing is left.
        """
        found = shared_bounds(self.config, most)
        if isinstance(found, str):
            return found
        for name, bound in self.asked.items():
            lost = self.lost[name]
            if bound - lost < LEAST_LEFT * bound:
                raise AccuracyError(
                    f"variable {name!r}: its parts have used up {lost / bound:.1%} of its bound on "
                    f"single values (compression.max_error); at least {LEAST_LEFT:.1%} has to be "
                    "left to put them together. What was compressed first may use all of it"
                )
            allowed = (1 - ROUNDED) * min(bound - lost, most * bound)
            relative = name in self._relative
            found[name] = _setting(allowed / (1 + lost), BoundKind.VALUE) if relative else allowed
        return found

    def facts(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Facts on bounds and errors of values against the archive, with those `found` against
        what was decoded."""
        bounds = {name: self._together(name, each) for name, each in value_bounds(found).items()}
        said: dict[str, Any] = {PART_VALUE_BOUNDS: bounds} if self.config.bounds else {}
        for kind in (ABSOLUTE, RELATIVE):
            for fact in kind:
                if fact in found:
                    said[fact] = {n: self._together(n, each) for n, each in found[fact].items()}
        return said

    @property
    def _relative(self) -> set[str]:
        kind = BoundKind.VALUE
        return {name for name, each in self.config.bounds.items() if each.kind == kind}

    def _together(self, name: str, added: float) -> float:
        lost = self.lost.get(name, 0.0)
        return lost + added + (lost * added if name in self._relative else 0.0)
