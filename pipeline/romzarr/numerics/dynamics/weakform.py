"""The weak form of da/dt = Theta(a) Xi over one block of time, reduced to a triangle.

Window k starts at snapshot ``k * stride`` of the *record*; a time block owns the windows that
start in it and reads as far past its end as they reach. So G and b do not depend on how time
is cut into blocks.

White noise in a(t) is a matter of its own. It enters Theta, so plain least squares is biased
(errors in variables) by an amount that more data does not lower. Two steps take the bias out:

1. features are corrected for the mean that noise adds to them (``variance`` of a library);
2. each window is integrated twice, over the even and over the odd snapshots. The two halves
   see the same signal and independent noise, so with S = (even + odd) / 2 and
   D = (even - odd) / 2 the mean of S.T S - D.T D is that of the clean record: the
   instrumental-variable estimate with each half as the instrument of the other [1]_, [2]_.
   S is the ordinary trapezoid rule; ``TriangularFactor.noise`` is the triangle of D.

Both are left out where the spectrum shows no white noise, so clean data is not touched.

References
----------
.. [1] J. D. Angrist, A. B. Krueger, "Split-sample instrumental variables estimates of the
   return to schooling", J. Bus. Econ. Stat. 13 (1995) 225-235.
.. [2] T. Soderstrom, "Errors-in-variables methods in system identification", Automatica 43
   (2007) 939-958, section 6 (instrumental variables).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import BlockSpan, Matrix, Times, TriangularFactor, Vector
from romzarr.errors import ConfigError, LibraryError
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.dynamics.testfunctions import (
    TestFunction,
    bell_order,
    choose_support,
    exact_weights,
    parse_test_function,
    trapezoid_weights,
)
from romzarr.numerics.triangles import Triangle, square_r

PIECE = 2048  # snapshots whose features are held at once
TIMES = 1 << 20  # times that are looked at together
LARGEST_GAP = 1 / 3  # of the support: a window with a wider gap says nothing


@dataclass(frozen=True)
class WindowPlan:
    """Where the test functions sit, the same for every block of the record.

    ``support`` is the length of a window in units of time, and ``width`` the number of
    intervals in it where time is uniform with ``step`` (None: uneven time, and ``width`` is
    what a record of the median step would have). Windows start every ``stride`` snapshots.
    ``noise`` (q,) is the standard deviation of white noise in the coefficients, or None.
    """

    test_function: TestFunction
    support: float
    width: int
    stride: int
    snapshots: int
    step: float | None
    noise: tuple[float, ...] | None = None

    def windows(self, span: BlockSpan) -> range:
        """Numbers of the windows that start in `span` (the last may not fit the record)."""
        return range(-(-span.start // self.stride), -(-span.stop // self.stride))

    def count(self, snapshots: int) -> int:
        """Windows that fit a record of so many snapshots."""
        return max(0, (snapshots - 1 - self.width) // self.stride + 1)

    def halo(self, times: Times, span: BlockSpan) -> BlockSpan:
        """Snapshots that the windows of `span` read."""
        owned = self.windows(span)
        if not owned:
            return BlockSpan(span.start, span.start)
        first, last = owned[0] * self.stride, owned[-1] * self.stride
        if self.step is not None:
            return BlockSpan(first, min(last + self.width + 1, self.snapshots))
        later = times[last:]
        stop = last + int(np.searchsorted(later, later[0] + self.support)) + 3
        return BlockSpan(max(first - 2, 0), min(stop, self.snapshots))


def plan_windows(
    times: Times,
    a: Matrix,
    *,
    test_function: str = "bell",
    support: float | str = "auto",
    spacing: float | str = "auto",
    first: int = 0,
) -> WindowPlan:
    """Choose the windows for the record a(t).

    Parameters
    ----------
    times : (m,) float64, strictly increasing
    a : (k, q) float64, k <= m
        The record, or an unbroken part of it that tells its spectrum.
    test_function : str
        ``bell``, ``bell(8)``, or an expression in s.
    support, spacing : float or "auto"
        Length of a window, and time between the starts of windows, in the unit of `times`.
        ``auto`` takes the support from the spectrum (`choose_support`), ``finest`` that of
        the coefficient with the highest frequencies; ``auto`` takes for the spacing
        half a standard deviation of the bell, beyond which more windows hold nothing new.
    first : int
        The snapshot that ``a[0]`` is.

    Raises
    ------
    ConfigError
        If a number given is not positive or longer than the record.
    """
    length_of_record, mean, uniform = _regularity(times)
    regular = a if uniform else _on_regular_times(times[first : first + len(a)], a)
    scales = choose_support(regular)
    width = 2 * (scales.finest if support == "finest" else scales.half_width)
    if support not in ("auto", "finest"):
        length = _positive("weak_form.support", support, length_of_record)
        width = max(2, round(length / mean))
    psi = parse_test_function(test_function, max(width // 2, 1))
    stride = max(1, int(width / (4 * math.sqrt(2 * bell_order(width / 2) + 3))))
    if spacing != "auto":
        between = _positive("weak_form.spacing", spacing, length_of_record)
        stride = max(1, round(between / mean))
    noisy = uniform and scales.resolved
    return WindowPlan(
        test_function=psi,
        support=width * mean,
        width=min(width, len(times) - 1),
        stride=stride,
        snapshots=len(times),
        step=mean if uniform else None,
        noise=tuple(float(v) for v in scales.noise) if noisy else None,
    )


def _regularity(times: Times) -> tuple[float, float, bool]:
    """Length of the record, mean step, and whether all steps are alike but for rounding.

    Raises
    ------
    ConfigError
        If there are fewer than three times, or they do not increase.
    """
    count, (begin,), (end,) = len(times) - 1, times[:1], times[-1:]
    mean, smallest, off, drift = float(end - begin) / max(count, 1), np.inf, 0.0, 0.0
    for start in range(0, count, TIMES):
        part = times[start : start + TIMES + 1]
        steps, even = np.diff(part), mean * np.arange(start, start + len(part))
        smallest, off = min(smallest, steps.min()), max(off, np.max(np.abs(steps - mean)))
        drift = max(drift, np.max(np.abs(part - begin - even)))
    if count < 2 or not smallest > 0:
        raise ConfigError(f"the weak form needs 3 increasing times, got {len(times)}")
    # Times written as multiples of a step carry the rounding of their largest value.
    rounding = 1e-6 * mean + 8 * np.finfo(float).eps * max(abs(float(begin)), abs(float(end)))
    return float(end - begin), mean, bool(off <= rounding and drift <= 1e-3 * mean)


def _positive(name: str, value: float | str, largest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= largest:
        raise ConfigError(
            f"{name} is {value!r}; it must be auto or a time above 0 and at most the length "
            f"of the record, {largest:g}"
        )
    return float(value)


def _on_regular_times(times: Vector, a: Matrix) -> Matrix:
    """`a` interpolated to as many evenly spaced times, for its spectrum only."""
    regular = np.linspace(times[0], times[-1], len(times))
    return np.column_stack([np.interp(regular, times, column) for column in a.T])


def weak_rows(
    a: Matrix, times: Vector, library: Library, plan: WindowPlan, span: BlockSpan, first: int
) -> Iterator[tuple[Matrix, Matrix | None]]:
    """Rows [G b] of the windows that start in `span`, some at a time, and their noise.

    `a` and `times` hold the snapshots from `first` on that ``plan.halo`` asks for.

    Raises
    ------
    LibraryError
        If a feature is not finite somewhere; it is named.
    """
    owned = plan.windows(span)
    for rows, noise in _rows(a, times, library, plan, owned, first):
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=0))[0])
            name = (*library.names(), *(f"a{j + 1}" for j in range(library.states)))[bad]
            raise LibraryError(f"term {name!r} is not finite on snapshots {span.start} onwards")
        yield rows, noise


def _rows(
    a: Matrix, times: Vector, library: Library, plan: WindowPlan, owned: range, first: int
) -> Iterator[tuple[Matrix, Matrix | None]]:
    if plan.step is None:
        yield from _uneven_rows(a, times, library, plan, owned, first)
        return
    count = min(owned.stop, plan.count(plan.snapshots)) - owned.start
    if count > 0:
        yield from _uniform_rows(a[owned.start * plan.stride - first :], library, plan, count)


def _uniform_rows(
    a: Matrix, library: Library, plan: WindowPlan, count: int
) -> Iterator[tuple[Matrix, Matrix | None]]:
    """Rows of `count` windows, the first of which starts at a[0].

    The weights of ``group`` neighbouring windows form one banded matrix, the same for every
    group, so that the integrals are products of matrices over overlapping pieces of Theta.
    """
    stride, width = plan.stride, plan.width
    group = 2 * max(1, min(count, -(-width // stride)) // 2)
    if group > count:
        group = count
    reach = (group - 1) * stride + width + 1
    integral, derivative = _banded(plan, group, reach)
    groups = max(1, PIECE // (group * stride))
    variance = None if plan.noise is None else np.square(plan.noise)
    states = library.states
    for start in range(0, count, groups * group):
        here = min(groups, -(-(count - start) // group))
        rows = min(here * group, count - start)
        length = (here - 1) * group * stride + reach
        part = a[start * stride : start * stride + length]
        theta = library.evaluate(part, variance=variance)
        if len(part) < length:  # windows past the last: padded here, dropped below
            padding = ((0, length - len(part)), (0, 0))
            theta, part = np.pad(theta, padding), np.pad(part, padding)
        g = _products(integral, theta, here, group * stride)
        b = _products(derivative, np.ascontiguousarray(part[:, :states]), here, group * stride)
        both = np.concatenate([g, b], axis=2)
        values = both[:, :group].reshape(here * group, -1)[:rows]
        if plan.noise is None:
            yield values, None
        else:
            yield values, both[:, group:].reshape(here * group, -1)[:rows]


def _banded(plan: WindowPlan, group: int, reach: int) -> tuple[Matrix, Matrix]:
    """Weights of a group of windows; below them, if noise is split off, with alternating signs."""
    if plan.step is None:
        raise ValueError("banded weights exist for uniform time only")
    both = []
    for weights in trapezoid_weights(plan.test_function, plan.width, plan.step):
        band = np.zeros((group, reach))
        for k in range(group):
            band[k, k * plan.stride : k * plan.stride + plan.width + 1] = weights
        if plan.noise is not None:
            signs = 1.0 - 2.0 * (np.arange(reach) % 2)
            band = np.concatenate([band, band * signs])
        both.append(band)
    return both[0], both[1]


def _products(band: Matrix, values: Matrix, groups: int, advance: int) -> NDArray[np.float64]:
    """band @ (the rows of `values` from g * advance on), for each group g."""
    row, column = values.strides
    windows = np.lib.stride_tricks.as_strided(
        values,
        shape=(groups, band.shape[1], values.shape[1]),
        strides=(advance * row, row, column),
        writeable=False,
    )
    return np.matmul(band, windows)


def _uneven_rows(
    a: Matrix, times: Vector, library: Library, plan: WindowPlan, owned: range, first: int
) -> Iterator[tuple[Matrix, None]]:
    starts = [k * plan.stride - first for k in owned if k * plan.stride < plan.snapshots]
    ends = [times[s] + plan.support for s in starts]
    rounding = 1e-12 * plan.support
    gaps = np.diff(times)
    kept = []
    for start, end in zip(starts, ends, strict=True):
        stop = int(np.searchsorted(times, end - rounding))
        inside = stop < len(times) and stop > start
        if inside and gaps[start:stop].max() <= LARGEST_GAP * plan.support:
            kept.append(start)
    for batch in range(0, len(kept), 256):
        part = kept[batch : batch + 256]
        low = max(part[0] - 1, 0)
        high = min(int(np.searchsorted(times, times[part[-1]] + plan.support)) + 3, len(times))
        theta = library.evaluate(a[low:high])
        rows = np.empty((len(part), library.size + library.states))
        for k, start in enumerate(part):
            inside_span, integral, slope = exact_weights(
                plan.test_function, times, start, plan.support
            )
            local = slice(inside_span.start - low, inside_span.stop - low)
            rows[k, : library.size] = integral @ theta[local]
            rows[k, library.size :] = slope @ a[inside_span, : library.states]
        yield rows, None


def triangular_factor(
    a: Matrix,
    times: Vector,
    library: Library,
    plan: WindowPlan,
    span: BlockSpan,
    *,
    first: int = 0,
) -> TriangularFactor:
    """Triangle of the weak system of the windows that start in `span`.

    Parameters
    ----------
    a : (k, q) float64
        Coefficients of the snapshots from `first` on, at least those of ``plan.halo``.
    times : (k,) float64
        Their times.
    library : Library
        Of the q coefficients.
    plan : WindowPlan
    span : BlockSpan
        The block, in snapshots of the record.
    first : int
        The snapshot that ``a[0]`` is.

    Returns
    -------
    TriangularFactor
        By Householder QR of [G b], a few thousand windows at a time; G and b are never
        held whole. Its diagonal is non-negative.

    Raises
    ------
    LibraryError
        If a feature is not finite somewhere on the record; it is named.
    """
    if a.shape[1] != library.states:
        raise LibraryError(f"library of {library.states} states, coefficients {a.shape}")
    columns = library.size + library.states
    batch = max(4 * columns, 1024)
    values, noise, windows = Triangle(columns, batch), Triangle(columns, batch), 0
    for rows, differences in weak_rows(a, times, library, plan, span, first):
        windows += len(rows)
        values.add(rows)
        if differences is not None:
            noise.add(differences)
    return TriangularFactor(
        values.result(),
        library.size,
        windows,
        noise.result() if plan.noise is not None else None,
    )


def merge_factors(factors: Sequence[TriangularFactor]) -> TriangularFactor:
    """Triangle of the windows of all `factors` together (stack, then QR).

    Its Gram matrix is the sum of theirs, so the order and the grouping do not matter beyond
    rounding.
    """
    if not factors:
        raise ValueError("nothing to merge")
    terms = {factor.terms for factor in factors}
    if len({factor.r.shape for factor in factors}) > 1 or len(terms) > 1:
        raise ValueError(f"factors of different libraries: {[f.r.shape for f in factors]}")
    noise = [factor.noise for factor in factors if factor.noise is not None]
    return TriangularFactor(
        square_r(np.concatenate([factor.r for factor in factors])),
        factors[0].terms,
        sum(factor.windows for factor in factors),
        square_r(np.concatenate(noise)) if noise else None,
    )
