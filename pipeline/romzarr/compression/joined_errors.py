"""Errors of snapshots that follow each other: squares add up, and so do squared fluctuations.

All snapshots together fluctuate by no less than each part about its own mean, so errors relative to
the sum are bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from romzarr.store.reading.facts import DERIVATIVE_ERRORS, DERIVATIVES, ERRORS_BY_INDEX

ERRORS, FLUCTUATION = "relative_l2_error", "fluctuation"
# Bounds on single values, and the largest errors: the larger ones are those of all parts. So are
# those of derivatives, which few stores have.
LARGER = (
    "max_error",
    "largest_pointwise_error",
    "max_relative_error",
    "largest_relative_error",
)
OF_DERIVATIVES = (DERIVATIVES, DERIVATIVE_ERRORS)


def joined_errors(earlier: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on errors of earlier snapshots and those after them together.

    Parameters
    ----------
    earlier, own : mapping
        Facts, with errors and, where variables are not all lossless, squared fluctuations.
    """
    errors, fluctuation = dict[str, float](), dict[str, float]()
    # Stores of older versions have a name among their errors that is none of a variable.
    for name, error in own[ERRORS].items():
        squares = [facts.get(FLUCTUATION, {}).get(name, 0.0) for facts in (earlier, own)]
        lost = earlier[ERRORS][name] ** 2 * squares[0] + error**2 * squares[1]
        fluctuation[name] = sum(squares)
        errors[name] = (lost / fluctuation[name]) ** 0.5 if lost else 0.0
    return {ERRORS: errors, FLUCTUATION: fluctuation, **_by_index(earlier, own)}


def larger_errors(earlier: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on single values and derivatives of earlier snapshots and those after them
    together."""
    known = (*LARGER, *(key for key in OF_DERIVATIVES if key in earlier or key in own))
    return {key: _larger(earlier.get(key, {}), own.get(key, {})) for key in known}


def _larger(earlier: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The larger of two numbers for each name."""
    names = {*earlier, *own}
    return {name: max(earlier.get(name, 0.0), own.get(name, 0.0)) for name in sorted(names)}


def errors_after(earlier: Mapping[str, Any], joined: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on errors of the snapshots that were joined to earlier ones.

    Those of indices are known where fluctuations of both are recorded.
    """
    errors, fluctuation = dict[str, float](), dict[str, float]()
    for name, whole in joined[FLUCTUATION].items():
        before = earlier[FLUCTUATION][name]
        lost = joined[ERRORS][name] ** 2 * whole - earlier[ERRORS][name] ** 2 * before
        fluctuation[name] = max(whole - before, 0.0)
        varies = fluctuation[name] > 0
        errors[name] = (max(lost, 0.0) / fluctuation[name]) ** 0.5 if varies else 0.0
    found = {ERRORS: errors, FLUCTUATION: fluctuation}
    if ERRORS_BY_INDEX not in joined:
        return found
    both = {
        name: (each, joined[ERRORS_BY_INDEX][name])
        for name, each in earlier[ERRORS_BY_INDEX].items()
        if name in joined[ERRORS_BY_INDEX]
    }
    known = {name: pair for name, pair in both.items() if all(FLUCTUATION in each for each in pair)}
    return found | {ERRORS_BY_INDEX: {name: _after(*pair) for name, pair in known.items()}}


def _by_index(earlier: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    before, found = earlier.get(ERRORS_BY_INDEX), own.get(ERRORS_BY_INDEX, {})
    if before is None:
        return {}
    both = {
        name: _joined(each, found[name]) if name in found else each for name, each in before.items()
    }
    return {ERRORS_BY_INDEX: found | both}


def _joined(earlier: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Errors by index; where older stores lack fluctuations no larger than the larger ones."""
    if FLUCTUATION not in earlier:
        errors = list(map(max, earlier["errors"], own["errors"]))
        return {"dims": earlier["dims"], "errors": errors}
    (lost, squares), (more, others) = _squares(earlier), _squares(own)
    return _relative(earlier["dims"], lost + more, squares + others)


def _after(earlier: Mapping[str, Any], joined: Mapping[str, Any]) -> dict[str, Any]:
    (lost, squares), (all_lost, whole) = _squares(earlier), _squares(joined)
    return _relative(
        joined["dims"], np.maximum(all_lost - lost, 0.0), np.maximum(whole - squares, 0.0)
    )


def _squares(facts: Mapping[str, Any]) -> tuple[Any, Any]:
    """Squared errors and squared fluctuations by index."""
    squares = np.array(facts[FLUCTUATION])
    return np.array(facts["errors"]) ** 2 * squares, squares


def _relative(dims: Any, lost: Any, squares: Any) -> dict[str, Any]:
    errors = np.sqrt(lost / np.where(squares > 0, squares, 1.0))
    return {"dims": dims, "errors": errors.tolist(), FLUCTUATION: squares.tolist()}
