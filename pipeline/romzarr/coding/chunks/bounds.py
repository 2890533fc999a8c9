"""Bounds on the error of one chunk, and what they allow in the units of its values."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from romzarr.contracts import Floats, Mask
from romzarr.errors import CodecError

# Errors are sums and differences of float64 themselves: these shares of a bound are left for that.
_SUMMED, _SUBTRACTED = 1 - 1e-9, 1 - 2.0**-50


@dataclass(frozen=True)
class Bounds:
    """What the error of each chunk may be; bounds that are None do not count, without any it is 0.

    Attributes
    ----------
    tolerance : float, optional
        Root of the sum of squared errors, relative to that of the chunk's differences from its own
        mean.
    max_error : float, optional
        Error of every single value, in its units.
    range_error : float, optional
        Error of every single value, relative to the chunk's greatest value less its least.

    Raises
    ------
    CodecError
        If a bound is negative, or no number.
    """

    tolerance: float | None = None
    max_error: float | None = None
    range_error: float | None = None

    def __post_init__(self) -> None:
        for name, bound in self.given().items():
            number = isinstance(bound, Real) and not isinstance(bound, bool)
            if not number or not 0 <= bound < math.inf:
                raise CodecError(
                    f"romzarr.Codec: {name!r} must be a number from 0 on, found {bound!r}; 0 is "
                    "lossless, None is no bound"
                )
            # Of NumPy's numbers, the plain ones.
            object.__setattr__(self, name, float(bound))

    def given(self) -> dict[str, Any]:
        """The bounds that count, by name."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: bound for name, bound in found.items() if bound is not None}


@dataclass(frozen=True)
class Allowed:
    """The errors allowed in one chunk: of every value, and the root of their mean square.

    Attributes
    ----------
    single, rms : float
        Infinite where there is no such bound; in the units of the values.
    unit : float
        A power of two about as large as the values' distance from `middle`: what is divided by it
        can be squared.
    middle : float
        Mean of the values.
    greatest, farthest : float
        Largest size of a value, and largest distance from `middle`.
    """

    single: float
    rms: float
    unit: float
    middle: float
    greatest: float
    farthest: float

    @classmethod
    def of(cls, values: Floats, bounds: Bounds) -> Allowed:
        """What the bounds allow in a chunk of finite values, at least one."""
        least, most = float(values.min()), float(values.max())
        # Half of each, as their sum may be beyond float64.
        centre = 0.5 * least + 0.5 * most
        unit = 2.0 ** min(max(math.frexp(most - centre)[1], -1000), 1000)
        apart = (values.astype(np.float64) - centre) / unit
        middle = centre + unit * float(apart.mean())
        fluctuation = unit * float(apart.std())
        singles = [bounds.max_error, None]
        if bounds.range_error is not None:
            singles[1] = bounds.range_error * (most - least)
        rms = math.inf if bounds.tolerance is None else bounds.tolerance * fluctuation
        return cls(
            min((float(s) for s in singles if s is not None), default=math.inf),
            rms,
            unit,
            middle,
            max(-least, most),
            max(most - middle, middle - least),
        )

    @property
    def lossless(self) -> bool:
        """Whether nothing may be lost, or there is no bound at all that can be computed."""
        least = min(self.single, self.rms)
        return not 0 < least < math.inf or not math.isfinite(self.farthest)

    def rms_of(self, error: Floats) -> float:
        """Root of the mean square."""
        scaled = error / self.unit
        return self.unit * math.sqrt(float(np.vdot(scaled, scaled)) / error.size)

    def kept(self, values: Floats, decoded: Floats, present: Mask | None) -> bool:
        """Whether decoded values keep both bounds, where they are present."""
        error = decoded.astype(np.float64) - values
        count = error.size
        if present is not None:
            error, count = np.where(present, error, 0.0), int(np.count_nonzero(present))
        worst = float(np.abs(error).max())
        mean = self.rms_of(error) * math.sqrt(error.size / count)
        return worst <= self.single * _SUBTRACTED and mean <= self.rms * _SUMMED
