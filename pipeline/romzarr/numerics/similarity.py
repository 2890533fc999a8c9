"""How alike a map and its copy are: gradients, spectra, structural similarity, histograms.

Maps are float64 arrays of one or two dims, NaN where there is no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from romzarr.contracts import Matrix, Vector

# The window of structural similarity [1]_: a Gaussian of 1.5 grid steps, 11 points wide.
SIGMA, RADIUS = 1.5, 5
WINDOW = 2 * RADIUS + 1
# Its constants for values between 0 and 1, K1 = 0.01 and K2 = 0.03 squared.
C1, C2 = 0.01**2, 0.03**2
# Points along a dim below which a spectrum has hardly a band.
FEWEST = 8


def gradient_squares(original: Matrix, decoded: Matrix, axis: int) -> tuple[float, float]:
    """Sum the squared differences between neighbours along an axis, of the error and the original.

    Pairs with a gap are left out. The root of their ratio is the relative error of the derivative
    along this axis by first differences, where grid steps are even.
    """
    steps = np.diff(original, axis=axis)
    errors = np.diff(decoded, axis=axis) - steps
    there = np.isfinite(errors)
    return float(np.sum(errors[there] ** 2)), float(np.sum(steps[there] ** 2))


def wavenumbers(shape: Sequence[int]) -> Vector:
    """Wavenumbers of the bands of `spectrum`, in cycles per grid step, up to one half."""
    longest = max(shape)
    return np.arange(1, longest // 2 + 1, dtype=np.float64) / longest


def spectrum(values: Matrix) -> Vector:
    """Return the power of a map without gaps in bands of wavenumber.

    The map less its mean is tapered by a Hann window along each dim. Band i has the waves of
    ``i - 1/2`` to ``i + 1/2`` cycles along the longest dim, in whatever direction: the spectrum of
    one dim, or the one integrated over directions of two. The sum over all waves is the mean
    square of the tapered map by that of the taper; waves shorter than two grid steps, which only
    diagonals have, are left out.
    """
    taper = np.ones(())
    for size in values.shape:
        taper = np.multiply.outer(taper, np.hanning(size + 2)[1:-1])
    waves = np.fft.fftn((values - values.mean()) * taper)
    power = np.abs(waves) ** 2 / (values.size * np.sum(taper**2))
    along = np.ix_(*(np.fft.fftfreq(size) for size in values.shape))
    longest = max(values.shape)
    band = np.rint(np.sqrt(sum(each**2 for each in along)) * longest).astype(np.int64)
    count = longest // 2
    bands = np.bincount(band.ravel(), weights=power.ravel(), minlength=count + 1)
    return np.asarray(bands[1 : count + 1], np.float64)


def resolved_wavelength(numbers: Vector, original: Vector, error: Vector) -> float | None:
    """Return the shortest wavelength, in grid steps, down to which the error has at most half the
    power of the original in all bands; None if not even in the first.

    References
    ----------
    .. [1] M. Ballarotta et al., "On the resolutions of ocean altimetry maps", Ocean Science 15
       (2019) 1091-1109, doi:10.5194/os-15-1091-2019. Their criterion of effective resolution is
       a ratio of one half between the spectra of error and truth.
    """
    good = error <= original / 2
    bands = len(good) if good.all() else int(np.argmin(good))
    return float(1 / numbers[bands - 1]) if bands else None


def structural_similarity(original: Matrix, decoded: Matrix) -> float:
    """Return the mean structural similarity (SSIM) of two maps, 1 if they are equal.

    Both are scaled by the range of the original to values from 0 to 1, so the result depends on
    neither units nor an offset such as that of kelvin. Windows that touch a gap or reach beyond
    the edge are left out. NaN if there is no other window, or the original is constant.

    References
    ----------
    .. [1] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from
       error visibility to structural similarity", IEEE Trans. Image Processing 13 (2004) 600-612,
       doi:10.1109/TIP.2003.819861. Equation 13, with the window and constants of section III.
    """
    there = np.isfinite(original) & np.isfinite(decoded)
    inside = np.zeros(there.shape, np.bool_)
    within = tuple(slice(RADIUS, size - RADIUS) for size in there.shape)
    inside[within] = ndimage.minimum_filter(there, WINDOW)[within]
    if not inside.any():
        return float("nan")
    low, high = float(original[there].min()), float(original[there].max())
    if not 0 < high - low < np.inf:
        return float("nan")
    x, y = (np.where(there, (each - low) / (high - low), 0.0) for each in (original, decoded))
    mean_x, mean_y = _smoothed(x), _smoothed(y)
    variances = _smoothed(x * x) - mean_x**2 + _smoothed(y * y) - mean_y**2
    covariance = _smoothed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return float((luminance * structure)[inside].mean())


def _smoothed(values: Matrix) -> Matrix:
    return np.asarray(ndimage.gaussian_filter(values, SIGMA, radius=RADIUS))


@dataclass(frozen=True)
class Bins:
    """Bins of equal width from ``low`` to ``high``."""

    low: float
    high: float
    count: int

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.count

    def counted(self, values: Matrix) -> NDArray[np.int64]:
        """Count (count,) the finite values in each bin; those beyond the ends are in the outer."""
        finite = values[np.isfinite(values)]
        # Of what is constant all bins are the first.
        numbers = np.floor((finite - self.low) / (self.width or 1.0))
        inside = np.clip(numbers, 0, self.count - 1).astype(np.int64)
        return np.bincount(inside, minlength=self.count)

    def quantiles(self, counts: NDArray[np.int64], levels: Vector) -> Vector:
        """Return quantiles (inverses of the distribution function), right to one width."""
        total = np.cumsum(counts)
        at = np.searchsorted(total, np.maximum(levels * total[-1], 1))
        return np.asarray(self.low + (np.minimum(at, self.count - 1) + 0.5) * self.width)
