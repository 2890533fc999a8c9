"""Power spectra in time, one-sided, as densities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from romzarr.answers.bounds import of_squares
from romzarr.answers.quantity import Quantity
from romzarr.contracts import Matrix


def frequencies(snapshots: int, step: float) -> Matrix:
    """Frequencies from 0 to the Nyquist frequency, per unit of `step`."""
    return np.asarray(np.fft.rfftfreq(snapshots, step), np.float64)


def spectrum_of_series(series: Matrix, step: float) -> Matrix:
    """Periodogram (f, ...) along the first axis, about the mean.

    Its sum is that of the squares of the series about its mean, times `step` (Parseval).
    """
    return _power(np.fft.rfft(series - series.mean(axis=0), axis=0), len(series), step)


def spectrum(quantity: Quantity, step: float) -> tuple[Matrix, float]:
    """Periodogram (f, points) at each point, and the bound on the sum over both of its errors.

    By Parseval the amplitudes are off by no more than the values are.
    """
    count = quantity.snapshots
    power = np.empty((count // 2 + 1, quantity.points))
    # Amplitudes are complex, and so are products of them.
    if quantity.factored:
        modes = quantity.coefficients[:, 1:]
        waves = np.fft.rfft(modes - modes.mean(axis=0), axis=0)
        for where, piece in quantity.pieces(2 * sum(waves.shape)):
            found = _power(waves @ piece.fields[1:], count, step)
            power[:, where] = np.where(np.isnan(piece.fields[0]), np.nan, found)
        error = quantity.error(quantity.norm)
    else:
        square = 0.0
        for where, piece in quantity.pieces(4 * count):
            values, norm = piece.values()
            power[:, where] = spectrum_of_series(values, step)
            square += norm**2
        error = quantity.error(square**0.5)
    total = float(np.nansum(np.nansum(power, axis=0) * quantity.weights))
    return power, of_squares(total**0.5, error * step**0.5)


def bound_of_series(power: Matrix, off: float, step: float) -> float:
    """Bound on the sum over frequencies of the errors of a series that is `off` in its L2 norm."""
    return of_squares(float(np.sum(power)) ** 0.5, off * step**0.5)


def _power(waves: NDArray[np.complex128], count: int, step: float) -> Matrix:
    power = np.abs(waves) ** 2 * (step / count)
    # Every frequency but 0 and the highest of an even number counts for its negative, too.
    power[1 : (count + 1) // 2] *= 2
    return np.asarray(power)
