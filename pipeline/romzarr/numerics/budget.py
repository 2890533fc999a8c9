"""How the error of a variable is split between truncation, coding and rounding.

How the errors of truncation and coding add up is said in `romzarr.numerics.dynamics.sampling`;
rounding is bounded and subtracted from the bound before anything else is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from romzarr.contracts import Matrix
from romzarr.errors import AccuracyError

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# Share of the tolerance that the factorisation, whose arithmetic suits the tolerance and may be
# narrower than the decoder's, and the sums of this accounting may round off.
ROUNDED = 9e-4
# Share that is never spent: that, which rounding of decoded values may double, and a little.
RESERVE = 2e-3
# Coefficients of wavelets, and sums on the way to values, may be so many times larger than fields.
GROWTH = 100.0
# Arithmetic is good enough when its rounding takes up less than this share of the bound.
ROUNDING_SHARE = 5e-3


@dataclass(frozen=True)
class VariableNorms:
    """Norms over the record, in the variable's own units: of the fluctuation and the mean.

    ``counted`` is the weight of all its values: a value that is off by 1 everywhere makes the
    square of that norm.
    """

    name: str
    fluctuation: float
    mean: float
    dtype: np.dtype[Any]
    counted: float = 0.0


@dataclass(frozen=True)
class ErrorBudget:
    """What may be spent, and the arithmetic that leaves it.

    ``tolerated`` (V,) error of truncation and coding together; ``allowed`` (V,) what of it POD
    may make, which is less where single values have ``bounds`` (V,), infinite where they have
    none: residuals see to these, at a cost. ``basis`` dtype of decoded
    fields and of the decoder's arithmetic; ``tolerance`` what was asked for.
    """

    tolerated: Matrix
    allowed: Matrix
    bounds: Matrix
    basis: np.dtype[Any]
    tolerance: float

    def part(self, share: float) -> ErrorBudget:
        """What of it may be spent on a part of the record: that share of the squared error."""
        factor = share**0.5
        return replace(self, tolerated=factor * self.tolerated, allowed=factor * self.allowed)

    def with_rounding(self, variable: VariableNorms, error: float) -> float:
        """Bound on the error of decoded values, where truncation and coding make `error`."""
        factor, rounded = self.rounding(variable, error)
        return factor * error + rounded

    def rounding(self, variable: VariableNorms, error: float) -> tuple[float, float]:
        """What rounding multiplies an `error` by, and what it adds, on the whole record or a part.

        Those with which the whole, on which truncation and coding make that error, has the
        lower bound.
        """
        if variable.fluctuation == 0:
            return 1.0, 0.0
        inner = _decoding(variable, self.basis) + ROUNDED * self.tolerance * variable.fluctuation
        if variable.dtype.itemsize >= self.basis.itemsize:
            return 1.0, inner
        last = _last(variable)
        return (1.0, inner + last) if last <= error + inner else (2.0, 2 * inner)


def split_budget(
    variables: Sequence[VariableNorms], tolerance: float, double: bool = False
) -> ErrorBudget:
    """Choose the arithmetic of the store and what it leaves to truncation and coding.

    With `double` it is float64, whether the tolerance asks for it or not.

    Raises
    ------
    AccuracyError
        If rounding in float64 alone could break the bound.
    """
    single = not double and all(_fits(variable, tolerance, FLOAT32) for variable in variables)
    basis = FLOAT32 if single else FLOAT64
    allowed = np.array([_allowed(variable, tolerance, basis) for variable in variables])
    for variable, error in zip(variables, allowed, strict=True):
        if error < 0:
            raise AccuracyError(
                f"variable {variable.name!r}: tolerance {tolerance:g} of a fluctuation of norm "
                f"{variable.fluctuation:.3g} about a mean of norm {variable.mean:.3g} is below "
                f"the rounding of float64; raise compression.tolerance"
            )
    return ErrorBudget(allowed, allowed, np.full(len(allowed), np.inf), basis, tolerance)


def _unit(dtype: np.dtype[Any]) -> float:
    """Unit roundoff."""
    return float(np.finfo(dtype).eps) / 2


def _decoding(variable: VariableNorms, basis: np.dtype[Any]) -> float:
    """Rounding of decoded mean, modes and their sums."""
    relative = _unit(basis) * (2 * variable.mean + 20 * variable.fluctuation)
    return relative + 22 * _smallest(variable, basis)


def _fits(variable: VariableNorms, tolerance: float, basis: np.dtype[Any]) -> bool:
    if variable.fluctuation == 0:
        # A constant is stored exactly, in its own dtype.
        return variable.dtype.itemsize <= basis.itemsize
    # A field is the root of the number of snapshots larger than values, and transforms add some.
    largest = GROWTH * (variable.mean + variable.fluctuation)
    if not largest < float(np.finfo(basis).max):
        return False
    return _decoding(variable, basis) <= ROUNDING_SHARE * tolerance * variable.fluctuation


def _allowed(variable: VariableNorms, tolerance: float, basis: np.dtype[Any]) -> float:
    """Error left to truncation and coding (negative: rounding alone is too much)."""
    if variable.fluctuation == 0:
        return 0.0
    whole = (1 - RESERVE) * tolerance * variable.fluctuation
    inner = _decoding(variable, basis)
    if variable.dtype.itemsize >= basis.itemsize:
        return whole - inner
    return max(whole - inner - _last(variable), whole / 2 - inner)


def _last(variable: VariableNorms) -> float:
    """Rounding of the decoded value to the variable's dtype.

    No more than half a unit in the last place; and, because the source is on that grid, it
    moves a value by no more than its distance from the source.
    """
    relative = _unit(variable.dtype) * float(np.hypot(variable.mean, variable.fluctuation))
    return relative + _smallest(variable, variable.dtype)


def _smallest(variable: VariableNorms, dtype: np.dtype[Any]) -> float:
    """Rounding of values below the normal ones of a dtype, whose distance is always the same."""
    return float(np.finfo(dtype).smallest_subnormal) / 2 * float(variable.counted) ** 0.5
