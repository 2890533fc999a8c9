"""Compactly supported test functions psi(s) on s in [-1, 1], and how wide to make them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from romzarr.contracts import Matrix, Vector
from romzarr.errors import LibraryError
from romzarr.numerics.dynamics.symbolic import Expression, parse

MAX_ORDER = 32
EDGE_VALUE = 1e-10  # tau of Messenger & Bortz: the bell one sample inside its edge
SPREAD = 2.0  # tau-hat: the corner lies this many standard deviations into psi's spectrum
SEGMENT = 16384
MAX_SEGMENTS = 8


class TestFunction(Protocol):
    """psi and its derivative on [-1, 1]; zero at both ends."""

    def __call__(self, s: Vector) -> Vector: ...

    def derivative(self, s: Vector) -> Vector: ...

    def spec(self) -> str:
        """Text from which `parse_test_function` makes this function again."""
        ...


@dataclass(frozen=True)
class Bell:
    """psi(s) = (1 - s^2)^order."""

    order: int

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise LibraryError(f"order of the bell must be 1 to {MAX_ORDER}, got {self.order}")

    def __call__(self, s: Vector) -> Vector:
        return np.maximum(1.0 - s * s, 0.0) ** self.order

    def derivative(self, s: Vector) -> Vector:
        return -2.0 * self.order * s * np.maximum(1.0 - s * s, 0.0) ** (self.order - 1)

    def spec(self) -> str:
        return f"bell({self.order})"


@dataclass(frozen=True)
class SymbolicTestFunction:
    """psi given by an expression in s, differentiated by SymPy."""

    expression: Expression
    slope: Expression

    @classmethod
    def parse(cls, text: str) -> SymbolicTestFunction:
        """Check `text`: an expression in s, finite on [-1, 1] and zero at both ends."""
        expression = parse(text, ("s",))
        inside = np.linspace(-1.0, 1.0, 1001)
        values = np.broadcast_to(expression.evaluate({"s": inside}), inside.shape)
        size = float(np.max(np.abs(values)))
        if not np.isfinite(size) or size == 0.0:
            raise LibraryError(f"test function {text!r} is not finite, or zero, on [-1, 1]")
        for end, value in ((-1, values[0]), (1, values[-1])):
            if abs(value) > 1e-10 * size:
                raise LibraryError(
                    f"test function {text!r} is {value:.3g} at s = {end}; it must vanish at "
                    f"s = -1 and s = 1, as (1 - s**2)**4 does"
                )
        slope = expression.derivative("s")
        if not np.isfinite(slope.evaluate({"s": inside})).all():
            raise LibraryError(f"the derivative of test function {text!r} is not finite")
        return cls(expression, slope)

    def __call__(self, s: Vector) -> Vector:
        return np.broadcast_to(self.expression.evaluate({"s": s}), s.shape)

    def derivative(self, s: Vector) -> Vector:
        return np.broadcast_to(self.slope.evaluate({"s": s}), s.shape)

    def spec(self) -> str:
        return self.expression.text


def parse_test_function(text: str, half_width: int) -> TestFunction:
    """Test function of a config file: ``bell``, ``bell(8)`` or an expression in s.

    ``half_width`` is the radius of the support in samples, from which ``bell`` alone
    chooses its order (`bell_order`).
    """
    if not isinstance(text, str):
        raise LibraryError(f"a test function must be text, got {text!r}")
    if text.strip() == "bell":
        return Bell(bell_order(half_width))
    if found := re.fullmatch(r"\s*bell\(\s*(\d{1,4})\s*\)\s*", text):
        return Bell(int(found[1]))
    return SymbolicTestFunction.parse(text)


def bell_order(half_width: float) -> int:
    """Order at which the bell is `EDGE_VALUE` one sample inside its edge, within 4 to 12.

    Messenger & Bortz (2021), section 4.1: p = log tau / log((2 m - 1) / m^2). Windows of
    a few samples would get orders so high that three samples carry all the weight.
    """
    if half_width < 3:
        return 4
    ratio = (2.0 * half_width - 1.0) / half_width**2
    return int(np.clip(np.ceil(np.log(EDGE_VALUE) / np.log(ratio)), 4, 12))


def trapezoid_weights(psi: TestFunction, width: int, step: float) -> tuple[Vector, Vector]:
    """Weights of int psi f dt and -int psi' f dt on ``width + 1`` uniform samples."""
    s = np.linspace(-1.0, 1.0, width + 1)
    integral, slope = step * psi(s), -(2.0 / width) * psi.derivative(s)
    slope[[0, -1]] *= 0.5  # psi' need not vanish at the ends, psi does
    return integral, slope


def exact_weights(
    psi: TestFunction, times: Vector, first: int, support: float
) -> tuple[slice, Vector, Vector]:
    """Weights of int psi f dt and -int psi' f dt for the interpolant of uneven samples.

    f is interpolated by the cubic through the four samples around each interval (a straight
    line where neighbouring intervals differ by more than four times, a quadratic at the ends
    of the record). The integrals are exact for polynomial psi, so integration by parts holds
    to rounding for this interpolant. The support is ``[times[first], times[first] + support]``.

    Returns
    -------
    slice, (k,) array, (k,) array
        The samples involved and their weights.
    """
    begin, end = times[first], times[first] + support
    last = min(int(np.searchsorted(times, end * (1 - 1e-15))), len(times) - 1)
    left, right = times[first:last], np.minimum(times[first + 1 : last + 1], end)
    nodes, gauss = np.polynomial.legendre.leggauss(16)
    half = 0.5 * (right - left)[:, None]
    at = left[:, None] + half * (1.0 + nodes)
    s = 2.0 * (at - begin) / support - 1.0
    value = half * gauss * psi(s)
    slope = -half * gauss * psi.derivative(s) * (2.0 / support)
    span = slice(max(first - 1, 0), min(last + 2, len(times)))
    integral, derivative = np.zeros(span.stop - span.start), np.zeros(span.stop - span.start)
    cardinal, where = _cardinal_functions(times, first, last, at)
    for k in range(4):
        np.add.at(integral, where[:, k] - span.start, (value * cardinal[k]).sum(axis=1))
        np.add.at(derivative, where[:, k] - span.start, (slope * cardinal[k]).sum(axis=1))
    return span, integral, derivative


def _cardinal_functions(
    times: Vector, first: int, last: int, at: Matrix
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Cardinal functions (4, intervals, points) of the local interpolant, and their samples."""
    interval = np.arange(first, last)
    where = np.clip(interval[:, None] + np.arange(-1, 3), 0, len(times) - 1)
    steps = np.diff(times)
    here = steps[interval]
    before = steps[np.maximum(interval - 1, 0)]
    after = steps[np.minimum(interval + 1, len(steps) - 1)]
    rough = np.maximum(before, after) > 4 * here
    rough |= here > 4 * np.minimum(before, after)
    use = np.ones((len(interval), 4), dtype=bool)
    use[:, 0] = ~rough & (interval > 0)
    use[:, 3] = ~rough & (interval < len(times) - 2)
    knots = times[where]
    cardinal = np.empty((4, *at.shape))
    for k in range(4):
        product = np.ones_like(at)
        for other in range(4):
            if other != k:
                active = (use[:, other] & use[:, k])[:, None]
                gap = np.where(active[:, 0], knots[:, k] - knots[:, other], 1.0)[:, None]
                product *= np.where(active, (at - knots[:, other, None]) / gap, 1.0)
        cardinal[k] = np.where(use[:, k, None], product, 0.0)
    return cardinal, where


@dataclass(frozen=True)
class TimeScales:
    """What the spectrum of a(t) says: all in samples, so for uniform time.

    ``half_width`` is the radius of the test functions, ``finest`` that of the coefficient
    with the highest frequencies alone. ``noise`` (q,) is the standard
    deviation of white noise in each coefficient, zero if the record is `resolved` too
    coarsely to tell noise from signal.
    """

    half_width: int
    finest: int
    noise: Vector
    resolved: bool


def choose_support(a: Matrix) -> TimeScales:
    """Radius of the test functions and level of white noise, from the spectrum of a(t).

    The rule is that of Messenger & Bortz [1]_, section 4.1 and appendix A: the corner k* of
    the cumulative amplitude spectrum (best fit by two straight lines) separates what the
    signal holds from what noise holds; the radius m is the root of::

        log((2m - 1)/m^2) (4 pi^2 k*^2 m^2 - 3 N^2 tauhat^2) - 2 N^2 tauhat^2 log tau = 0

    with tau = 1e-10 and tauhat = 2, which puts k* two standard deviations into the spectrum
    of the bell. Departures: the spectrum is the mean of tapered segments (Welch), so that m
    follows the time scale of the data and not the length of the record; the median of k*
    over the coefficients is used; and m is at most an eighth of the record, so that a short
    record still holds several independent windows.

    White noise is a flat floor of the power spectrum: the least of the mean levels of four
    bands that fill the upper half of the frequencies. It counts as noise if half as many
    samples would still resolve the signal: if above a quarter of the sampling frequency
    there is less signal than noise.

    References
    ----------
    .. [1] D. A. Messenger, D. M. Bortz, "Weak SINDy for partial differential equations",
       J. Comput. Phys. 443 (2021) 110525, doi:10.1016/j.jcp.2021.110525.
    """
    samples = len(a)
    largest = max(2, min(samples // 8, (samples - 1) // 2))
    no_noise = np.zeros(a.shape[1])
    if samples < 16:
        return TimeScales(largest, largest, no_noise, False)
    length = min(samples, SEGMENT)
    while True:
        power = _mean_spectrum(a, length)
        corners = [_corner(np.sqrt(p)) for p in power.T if p.any()]
        if not corners:  # every coefficient is constant
            return TimeScales(largest, largest, no_noise, False)
        corner = float(np.median(corners))
        if corner >= 16 or length == samples:
            break
        length = min(4 * length, samples)  # a slow process, finely sampled
    radii = [_radius(k / length) for k in (corner, max(corners))]
    half_width, finest = (int(np.clip(round(radius), 2, largest)) for radius in radii)
    noise, resolved = _white_noise(power, length)
    return TimeScales(half_width, finest, noise, resolved)


def _mean_spectrum(a: Matrix, length: int) -> Matrix:
    """Power (frequencies without zero, q) of tapered segments spread over the record."""
    count = int(np.clip(len(a) // length, 1, MAX_SEGMENTS))
    taper = np.square(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length))
    taper /= np.linalg.norm(taper)  # then white noise of variance v has power v
    power = np.zeros((length // 2, a.shape[1]))
    for first in np.linspace(0, len(a) - length, count).astype(int):
        part = a[first : first + length]
        weighted = taper[:, None] * (part - part.mean(axis=0))
        waves = np.fft.rfft(weighted, axis=0)[1 : length // 2 + 1]
        power += waves.real**2 + waves.imag**2
    return power / count


def _corner(amplitude: Vector) -> int:
    """Index (from 1) where two chords fit the cumulative amplitude spectrum best."""
    total = np.cumsum(amplitude)
    total /= total[-1]
    if len(total) == 1:
        return 1
    from_the_end = 1.0 - total[-2::-1]
    misfit = _chord_misfit(total[:-1]) + _chord_misfit(from_the_end)[::-1]
    return int(np.argmin(misfit)) + 1


def _chord_misfit(values: Vector) -> Vector:
    """Sum of (values - chord)^2 up to each k = 1 ..., for the chord from (0, 0) to k."""
    k = np.arange(1.0, len(values) + 1)
    slope = values / k
    squares = k * (k + 1) * (2 * k + 1) / 6
    misfit: Vector = np.cumsum(values**2) - 2 * slope * np.cumsum(values * k) + slope**2 * squares
    return misfit


def _radius(frequency: float) -> float:
    """Root m of the equation in `choose_support`, for k*/N in cycles a sample."""

    def equation(m: float) -> float:
        return float(
            np.log((2 * m - 1) / m**2) * (4 * (np.pi * frequency * m) ** 2 - 3 * SPREAD**2)
            - 2 * SPREAD**2 * np.log(EDGE_VALUE)
        )

    # The first bracket closes at zero, where the left side is positive.
    low = max(np.sqrt(3.0) * SPREAD / (2 * np.pi * frequency), 1.5)
    high = 40 * low
    return float(brentq(equation, low, high)) if equation(low) * equation(high) < 0 else low


def _white_noise(power: Matrix, length: int) -> tuple[Vector, bool]:
    upper = power[length // 4 :]
    if len(upper) < 16:
        return np.zeros(power.shape[1]), False
    bands = np.array([band.mean(axis=0) for band in np.array_split(upper, 4)])
    variance = bands.min(axis=0)
    signal = np.maximum(upper.mean(axis=0) - variance, 0.0)
    if not (signal <= variance).all():
        return np.zeros(power.shape[1]), False
    return np.sqrt(variance), True
