"""What a store leaves of its bounds, to those who code once more what it decodes to.

The archive x is gone; of the decoded y a store says that ``||x - y|| <= lost``. Whoever codes y
anew as z, with ``||y - z|| <= allowed``, has ``||x - z|| <= lost + allowed`` by the triangle
inequality. No more can be said in general: what POD or coding once dropped may point the same way
as what is dropped now. The bound is relative to the fluctuation of x, which is no less than what
the store records, and no less than that of y less what was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.compression.by_index import Aim, IndexBounds
from romzarr.compression.index_norms import Groups, IndexNorms, index_norms
from romzarr.contracts import ArchivedVariable, Matrix, ReadCost
from romzarr.errors import AccuracyError
from romzarr.numerics.budget import RESERVE
from romzarr.numerics.scaling import along, exponents_of
from romzarr.store.reading.facts import ERRORS_BY_INDEX

# Less than this share of a bound is not worth coding for: numbers would take five bits more.
LEAST_LEFT = 1 / 32
# Indices are evened out by factors and need attempts; a variable as a whole meets what is asked.
INDEX_AIM, WHOLE_AIM = 0.93, 1 - RESERVE


@dataclass(frozen=True)
class Remaining:
    """Of each index of the ``dims`` of a variable: the norm of what is ``lost``, a lower bound on
    the ``fluctuation`` of the archive, and the norm of the error that is ``allowed``.

    Arrays that broadcast over the variable, with a single number where no dim is bounded.
    """

    dims: tuple[str, ...]
    lost: Matrix
    fluctuation: Matrix
    allowed: Matrix

    def errors(self, added: Matrix) -> Matrix:
        """Bounds on the relative errors of each index, where coding has `added` errors of these
        norms."""
        known = np.where(self.fluctuation > 0, self.fluctuation, 1.0)
        return np.asarray((self.lost + added) / known)


def remaining_bounds(
    archive: Archive, facts: Mapping[str, Any], groups: Groups, most: float = 1.0
) -> tuple[IndexBounds, dict[str, Remaining]]:
    """Find what may be lost of a decoded archive, by variable and index. Runs Dask.

    Reads the archive once, and holds the temporal mean of one variable at a time.

    Parameters
    ----------
    archive : Archive
        What the store decodes to.
    facts : mapping
        Those of the whole store, with the errors against the original.
    groups : (m,) int64
        Of snapshots, about whose means fluctuations are.
    most : float in (0, 1]
        Share of the bounds that may be used at most, if more is left.

    Returns
    -------
    IndexBounds
        By which `romzarr.compression.written.write_within_bounds` codes the archive.
    dict of str to Remaining

    Raises
    ------
    AccuracyError
        Naming the first variable of whose bound next to nothing is left.
    """
    norms, found = dict[str, IndexNorms](), dict[str, Remaining]()
    tolerance, cost = float(facts["tolerance"]), ReadCost()
    for variable in archive.variables:
        by_index = facts.get(ERRORS_BY_INDEX, {}).get(variable.name)
        dims = tuple(by_index["dims"]) if by_index else ()
        each, read = index_norms(variable, dims, groups, gaps=True, sampled=False)
        left = _remaining(variable, each, facts, bool(groups.any()), most)
        _refuse_spent(variable, each, left, tolerance)
        found[variable.name], cost = left, cost + read
        norms[variable.name] = replace(each, squares=(left.allowed / tolerance) ** 2)
    aims = {
        name: Aim(exponents_of(each.sizes), INDEX_AIM if each.dims else WHOLE_AIM)
        for name, each in norms.items()
    }
    return IndexBounds(norms, aims, tolerance, cost), found


def _remaining(
    variable: ArchivedVariable,
    norms: IndexNorms,
    facts: Mapping[str, Any],
    cyclic: bool,
    most: float,
) -> Remaining:
    decoded, name = np.sqrt(norms.squares), variable.name
    tolerance = float(facts["tolerance"])
    by_index = facts.get(ERRORS_BY_INDEX, {}).get(name, {})
    errors = by_index.get("errors", facts["relative_l2_error"][name])
    squares = by_index.get("fluctuation") if by_index else facts["fluctuation"][name]
    relative = _along(variable, norms.dims, errors)
    if squares is None:
        # Relative to what the archive fluctuates by, which is at most decoded / (1 - relative).
        lost, known = decoded * relative / (1 - relative), np.zeros_like(decoded)
    else:
        known = np.sqrt(_along(variable, norms.dims, squares))
        lost = relative * known
    # What repeats exactly from group to group is measured about its mean, which is more.
    about = np.where(norms.squares < norms.about_mean, decoded, 0.0) if cyclic else decoded
    known = np.where(norms.bounded, np.maximum(known, about - lost), known)
    allowed = np.minimum(tolerance * known - lost, most * tolerance * known)
    allowed = np.where(norms.bounded, allowed, 0.0)
    return Remaining(norms.dims, lost, known, allowed)


def _along(variable: ArchivedVariable, dims: tuple[str, ...], values: Any) -> Matrix:
    """Recorded numbers of indices in an array that broadcasts over the variable."""
    sizes = [variable.shape[variable.dims.index(dim)] for dim in dims]
    return along(variable.dims, dims, np.reshape(np.asarray(values, np.float64), sizes))


def _refuse_spent(
    variable: ArchivedVariable, norms: IndexNorms, left: Remaining, tolerance: float
) -> None:
    share = np.where(norms.bounded, left.allowed, np.inf) / (
        tolerance * np.where(norms.bounded, left.fluctuation, 1.0)
    )
    if share.min() < LEAST_LEFT:
        raise AccuracyError(
            f"variable {variable.name!r}: its parts have used up {1 - share.min():.1%} of the "
            f"tolerance {tolerance:g}; at least {LEAST_LEFT:.1%} has to be left to put them "
            "together. Parts that are appended leave a share, so try again when there are more"
        )
