"""What coding does to fields besides their largest error: dSSIM, and the power spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[Any]

# Of Baker et al.: grey levels, constants, and a Gaussian window of 11 x 11 points.
LEVELS, SMALL, SIGMA, TRUNCATE = 256, 1e-8, 1.5, 3.5


def dssim(original: Array, decoded: Array) -> float:
    """Data SSIM of the last two dims, the least of all slices; 1 is perfect.

    A. H. Baker, A. Pinard, D. M. Hammerling, "On a structural similarity index approach for
    floating-point data", IEEE Trans. Vis. Comput. Graph. 30 (2024) 6261-6274.
    """
    slices = (each.reshape(-1, *each.shape[-2:]) for each in (original, decoded))
    return min(_dssim(one, other) for one, other in zip(*slices, strict=True))


def _dssim(one: Array, other: Array) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    least, most = min(one.min(), other.min()), max(one.max(), other.max())
    if least == most:
        return 1.0
    a, b = (
        np.rint((each - least) / (most - least) * (LEVELS - 1)) / (LEVELS - 1)
        for each in (one, other)
    )
    mean_a, mean_b = _local(a), _local(b)
    square_a, square_b = _local(a * a) - mean_a**2, _local(b * b) - mean_b**2
    both = _local(a * b) - mean_a * mean_b
    found = (2 * mean_a * mean_b + SMALL) * (2 * both + SMALL)
    found /= (mean_a**2 + mean_b**2 + SMALL) * (square_a + square_b + SMALL)
    return float(found.mean())


def _local(values: Array) -> Array:
    return np.asarray(gaussian_filter(values, SIGMA, truncate=TRUNCATE))


def spectral_error(original: Array, decoded: Array) -> float:
    """How much of the power spectrum is wrong: |P' - P| / P, at most 1, mean of all wave numbers.

    Spectra are of the last two dims (the last of one) less their mean, of all slices together, by
    whole wave numbers in cycles over the domain.
    """
    one, other = _spectrum(original), _spectrum(decoded)
    known = one > 0
    apart = np.abs(other - one)[known] / one[known]
    return float(np.minimum(apart, 1).mean()) if known.any() else 0.0


def _spectrum(values: Array) -> Array:
    axes = tuple(range(max(0, values.ndim - 2), values.ndim))
    about = values.astype(np.float64)
    about -= about.mean(axis=axes, keepdims=True)
    power = np.abs(np.fft.fftn(about, axes=axes)) ** 2
    power = power.reshape(-1, *(values.shape[axis] for axis in axes)).sum(axis=0)
    waves = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in power.shape), indexing="ij")
    shell = np.rint(np.sqrt(sum(k**2 for k in waves))).astype(int)
    # Beyond the shortest side's Nyquist wave shells have corners only.
    return np.bincount(shell.ravel(), power.ravel())[1 : min(power.shape) // 2 + 1]
