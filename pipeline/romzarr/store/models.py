"""Converts models of a(t) to JSON facts and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import SparseModel
from romzarr.errors import LibraryError, StoreError
from romzarr.numerics.dynamics.library import Library, library_from_spec
from romzarr.store.layout import JsonObject

Matrix = NDArray[np.float64]

# Significant digits of numbers that are only printed.
DIGITS = 4
# Coefficients, including zeros, that a reader allocates: 32 MB.
MAX_COEFFICIENTS = 1 << 22
# Sums and products of a few such numbers stay finite.
MAX_NUMBER = 1e300
# An equation with a relative residual of this or more explains nothing.
UNEXPLAINED = 0.95


@dataclass(frozen=True)
class StoredModels:
    """Xi (models, p, q) over the terms of a library, and the residual of every equation.

    ``decode`` tells whether the models are used for decoding, or kept for reading only. In that
    case ``spans`` has the first and last snapshots of the time intervals of each of several models.
    """

    library: Library
    coefficients: Matrix
    residuals: tuple[tuple[float, ...], ...]
    decode: bool
    spans: tuple[tuple[tuple[int, int], ...], ...]


def models_to_facts(
    library: Library, models: Sequence[SparseModel], equations: int, decode: bool
) -> dict[str, Any]:
    """Convert the leading `equations` of models.

    The terms of an equation are numbers of library terms, each followed by its coefficient, which
    is rounded unless the models are used for decoding.
    """
    shown = float if decode else few_digits
    return {
        "decodes": decode,
        "library": library.spec(),
        "terms": [
            [
                [each for k in np.flatnonzero(xi) for each in (int(k), shown(xi[k]))]
                for xi in model.coefficients.T[:equations]
            ]
            for model in models
        ],
        "residuals": [[few_digits(r) for r in model.residual[:equations]] for model in models],
    }


def few_digits(value: float) -> float:
    """Round to the printed digits."""
    return float(f"{value:.{DIGITS}g}")


def models_from_facts(facts: JsonObject) -> StoredModels | None:
    """Convert the fact `model` of a generation; None if there is no model.

    Raises
    ------
    StoreError
        If anything has the wrong type or is too large.
    """
    if "terms" not in facts.document:
        return None
    try:
        library = library_from_spec(facts.object("library").document)
    except LibraryError as error:
        raise StoreError(f"{facts.where}: {error}") from error
    terms, residuals = _listed(facts, "terms"), _listed(facts, "residuals")
    count = len(terms[0])
    alike = {count} == {len(each) for each in (*terms, *residuals)}
    if not alike or not 0 < count <= library.states or len(residuals) != len(terms):
        raise StoreError(
            f"{facts.where}: 'terms' and 'residuals' must have the same 1 to {library.states} "
            "equations for each model"
        )
    if len(terms) * library.size * count > MAX_COEFFICIENTS:
        raise StoreError(
            f"{facts.where}: {len(terms)} models of {library.size} terms in {count} equations are "
            f"more than {MAX_COEFFICIENTS} coefficients"
        )
    coefficients = np.zeros((len(terms), library.size, count))
    for number, model in enumerate(terms):
        for equation, each in enumerate(model):
            places, values = _equation(each, library.size, facts.where)
            coefficients[number, places, equation] = values
    if not all(_is_number(r) for each in residuals for r in each):
        raise StoreError(f"{facts.where}: 'residuals' must be numbers")
    shares = tuple(tuple(map(float, each)) for each in residuals)
    decode, spans = facts.document.get("decodes") is True, _spans(facts, len(terms))
    return StoredModels(library, coefficients, shares, decode, spans)


def _spans(facts: JsonObject, models: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    if "spans" not in facts.document:
        return ((),) * models
    found = _listed(facts, "spans")
    each = [span for spans in found for span in spans]
    if len(found) != models or not all(
        isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)
        for span in each
    ):
        raise StoreError(f"{facts.where}: 'spans' must be pairs of snapshots for each model")
    return tuple(tuple((span[0], span[1]) for span in spans) for spans in found)


def _listed(facts: JsonObject, key: str) -> list[list[Any]]:
    """Return a non-empty list with a list for each model."""
    found = facts.document.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(e, list) for e in found):
        raise StoreError(f"{facts.where}: {key!r} must be a list for each model")
    return found


def _equation(terms: Any, size: int, where: str) -> tuple[list[int], list[float]]:
    """Return the numbers of the terms of an equation, and their coefficients."""
    if isinstance(terms, list) and len(terms) % 2 == 0 and all(map(_is_number, terms)):
        places, values = terms[::2], [float(value) for value in terms[1::2]]
        if all(type(place) is int and 0 <= place < size for place in places):
            return places, values
    raise StoreError(
        f"{where}: 'terms' of an equation must be numbers below {size}, each before a coefficient"
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER
