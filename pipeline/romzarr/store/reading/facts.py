"""The JSON facts of a store, whose types are checked once when it is opened.

A missing fact raises `StoreError` when it is accessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from romzarr.errors import StoreError
from romzarr.store.document import BY_NAME
from romzarr.store.layout import JsonObject

Check = Callable[[Any], bool]


class Facts(dict[str, Any]):
    """A JSON object that raises `StoreError` for missing keys."""

    def __init__(self, document: Any = (), where: str = "") -> None:
        # Copying a dict passes pairs.
        pairs = dict(document).items()
        super().__init__({key: _strict(each, f"{where}/{key}") for key, each in pairs})
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise StoreError(f"{self.where}: {key!r} is missing")

    def __reduce__(self) -> tuple[Any, ...]:
        return Facts, (dict(self), self.where)


def _strict(value: Any, where: str) -> Any:
    return Facts(value, where) if isinstance(value, Mapping) else value


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _error(value: Any) -> bool:
    # Without an upper limit: an error may be the largest float.
    return type(value) in (int, float) and 0 <= value < math.inf


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _all(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _named(check: Check) -> Check:
    return lambda value: _object(value) and all(map(check, value.values()))


def _of(**checks: Check) -> Check:
    """Check the entries of an object that exist."""
    return lambda value: (
        _object(value)
        and all(check(value[name]) for name, check in checks.items() if name in value)
    )


# The fact with the errors of single indices: there if these are bounded.
ERRORS_BY_INDEX = "errors_by_index"
# Facts on derivatives in space, by their name: bounds, and errors; there if they are bounded.
DERIVATIVES, DERIVATIVE_ERRORS = "derivatives", "derivative_errors"
# The fact with the errors of each part by block of time and tile of space.
BLOCK_ERRORS = "block_errors"
# The facts that the modules `checks` and `variables` do not check.
_CHECKS: dict[str, tuple[Check, str]] = {
    "tolerance": (_error, "a number of at least 0"),
    "relative_l2_error": (_named(_error), "numbers of at least 0 by name"),
    "max_error": (_named(_positive), "positive numbers by name"),
    "max_relative_error": (_named(_positive), "positive numbers by name"),
    "largest_relative_error": (_named(_error), "numbers of at least 0 by name"),
    "largest_pointwise_error": (_named(_error), "numbers of at least 0 by name"),
    "fluctuation": (_named(_error), "numbers of at least 0 by name"),
    DERIVATIVES: (_named(_positive), "positive numbers by name"),
    DERIVATIVE_ERRORS: (_named(_error), "numbers of at least 0 by name"),
    ERRORS_BY_INDEX: (
        _named(_of(dims=_all(_text), errors=_all(_error), fluctuation=_all(_error))),
        "objects with 'dims', 'errors' and 'fluctuation' by name",
    ),
    BLOCK_ERRORS: (
        _named(_of(blocks=_all(_count), largest=_error, codes=_text, anywhere=_error)),
        "objects with 'blocks', 'largest', 'codes' and 'anywhere' by name",
    ),
    "raw_bytes": (lambda value: _count(value) and value > 0, "a positive integer"),
    "nonzero_terms": (_count, "an integer of at least 0"),
    "rank": (_count, "an integer of at least 0"),
    "attrs": (_object, "an object"),
    "encoding": (_object, "an object"),
    "config": (_named(_object), "objects by name"),
    "versions": (_named(_text), "strings by name"),
    "source": (_of(name=_text, path=_text, fingerprint=_text, stamp=_text), "an object of texts"),
    "time": (_of(dim=_text, units=_text), "an object with 'dim' and 'units'"),
    "stream": (_of(parts=_count), "an object"),
    "model": (
        _of(
            dependent=_all(_text),
            bytes=_of(model=_number, none=_number),
            tried=_all(lambda each: _all(_number)(each) and len(each) == 3),
        ),
        "an object that describes the model",
    ),
}
# Squared fluctuations are sums that were rounded.
_DIGITS = 1 + 1e-9
# Stores made before this key was dropped have it among their errors.
_LARGEST = "largest"


def checked_facts(facts: JsonObject) -> Facts:
    """Check the types of the facts of a generation.

    Raises
    ------
    StoreError
        Naming the fact with a wrong type.
    """
    for name, (check, allowed) in _CHECKS.items():
        if name in facts.document and not check(facts.document[name]):
            raise StoreError(f"{facts.where}: {name!r} must be {allowed}")
    return Facts(facts.document, facts.where)


def errors_of(facts: Mapping[str, Any], variables: Iterable[str]) -> dict[str, float]:
    """Return the relative error of each variable."""
    return {name: facts["relative_l2_error"][name] for name in variables}


def l2_error_of(facts: Mapping[str, Any], name: str) -> float:
    """Return the L2 norm of the error of a variable in its units; inf if it is not known."""
    square = facts.get("fluctuation", {}).get(name, 0.0)
    if not 0 < square < math.inf:
        return math.inf
    return float(errors_of(facts, [name])[name]) * float(square) ** 0.5 * _DIGITS


def check_errors(facts: Mapping[str, Any], variables: Mapping[str, Any], where: str) -> None:
    """Refuse errors and bounds of unknown variables, and missing errors.

    Raises
    ------
    StoreError
    """
    known = {*variables, _LARGEST}
    errors = facts.get("relative_l2_error")
    for name in BY_NAME:
        if not set(facts.get(name, {})) <= known:
            raise StoreError(f"{where}: {name!r} names an unknown variable")
    if errors is not None and not set(variables) <= set(errors):
        raise StoreError(f"{where}: 'relative_l2_error' lacks a variable")
