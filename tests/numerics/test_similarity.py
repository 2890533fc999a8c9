"""Measures of maps agree with plain NumPy that follows the definitions word by word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose

from romzarr.numerics.similarity import (
    Bins,
    gradient_squares,
    resolved_wavelength,
    spectrum,
    structural_similarity,
    wavenumbers,
)


def ssim_by_windows(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 13 of Wang et al. (2004), window by window, with weighted sums as written there."""
    low, high = (
        np.nanmin(np.where(np.isnan(y), np.nan, x)),
        np.nanmax(np.where(np.isnan(y), np.nan, x)),
    )
    x, y = (x - low) / (high - low), (y - low) / (high - low)
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2
    found = []
    for a, b in zip(
        sliding_window_view(x, (11, 11)).reshape(-1, 11, 11),
        sliding_window_view(y, (11, 11)).reshape(-1, 11, 11),
        strict=True,
    ):
        if np.isnan(a).any() or np.isnan(b).any():
            continue
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        both = (weights * (a - mean_a) * (b - mean_b)).sum()
        one, two = 1e-4, 9e-4
        found.append(
            (2 * mean_a * mean_b + one) * (2 * both + two)
            / ((mean_a**2 + mean_b**2 + one) * (var_a + var_b + two))
        )  # fmt: skip
    return float(np.mean(found))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(11, 20), st.integers(11, 20), st.integers(0, 10**6), st.floats(0, 2), st.booleans()
)
def test_ssim_is_that_of_its_equation(rows, columns, seed, noise, gap):
    rng = np.random.default_rng(seed)
    x = 280 + rng.standard_normal((rows, columns)).cumsum(axis=0)
    y = x + noise * rng.standard_normal(x.shape)
    if gap:
        x[0, 0] = y[0, 0] = y[-1, -1] = np.nan
    if gap and min(rows, columns) < 12:
        return  # no window may be left
    assert_allclose(structural_similarity(x, y), ssim_by_windows(x, y), rtol=1e-9)


def test_equal_maps_have_an_ssim_of_one_whatever_their_units():
    x = np.random.default_rng(0).standard_normal((15, 18))
    assert_allclose(structural_similarity(x, x), 1, rtol=1e-12)
    y = x + 0.3 * x[::-1]
    same = structural_similarity(1e6 + 1e3 * x, 1e6 + 1e3 * y)
    assert_allclose(structural_similarity(x, y), same, rtol=1e-6)


@pytest.mark.parametrize("case", ["small", "constant", "gaps"])
def test_where_there_is_no_window_or_range_there_is_no_ssim(case):
    x = np.random.default_rng(0).standard_normal((10 if case == "small" else 21, 30))
    if case == "constant":
        x[:] = 3.0
    if case == "gaps":
        x[5::6, 5::6] = np.nan
    assert np.isnan(structural_similarity(x, x))


@pytest.mark.parametrize("shape", [(64,), (32, 48), (48, 32), (40, 40)])
def test_a_wave_is_in_the_band_of_its_wavenumber(shape):
    numbers = wavenumbers(shape)
    for cycles in (4, 8):
        wave = np.cos(2 * np.pi * cycles * np.arange(shape[-1]) / shape[-1])
        power = spectrum(np.broadcast_to(wave, shape) + 5.0)
        assert len(power) == len(numbers) == max(shape) // 2
        expected = np.argmin(np.abs(numbers - cycles / shape[-1]))
        assert np.argmax(power) == expected
        # A taper widens a line to its neighbours, but holds it together.
        assert power[max(0, expected - 2) : expected + 3].sum() > 0.99 * power.sum()
        assert_allclose(power.sum(), 0.5, rtol=0.05)


def test_bands_hold_the_power_that_a_plain_transform_has_there():
    """Sums over waves one by one, from the definition of the discrete transform."""
    x = np.random.default_rng(1).standard_normal((9, 12))
    taper = np.outer(
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, 10) / 10),
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, 13) / 13),
    )
    tapered, bands = (x - x.mean()) * taper, np.zeros(6)
    rows, columns = np.mgrid[:9, :12]
    for k in range(-4, 5):
        for l in range(-6, 6):  # noqa: E741
            wave = np.exp(-2j * np.pi * (k * rows / 9 + l * columns / 12))
            band = round(12 * float(np.hypot(k / 9, l / 12)))
            if 1 <= band <= 6:
                bands[band - 1] += abs((tapered * wave).sum()) ** 2
    bands /= x.size * (taper**2).sum()
    assert_allclose(spectrum(x), bands, rtol=1e-10)


def test_white_noise_keeps_its_variance():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 64))
    powers = [spectrum(x_) for x_ in rng.standard_normal((100, 64))]
    assert_allclose(np.mean([p.sum() for p in powers]), 1, rtol=0.1)
    # Of two dims the corners of the square of waves are left out.
    assert 0.6 < spectrum(x).sum() < 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [([0, 0, 0, 0], 2.0), ([0.1, 0.5, 0.6, 0.1], 4.0), ([0.6, 0, 0, 0], None)],
)
def test_the_resolved_wavelength_is_the_last_before_noise_has_half_the_power(error, expected):
    numbers = np.array([1, 2, 3, 4]) / 8
    assert resolved_wavelength(numbers, np.ones(4), np.array(error)) == expected


def test_gradients_leave_out_pairs_with_gaps():
    x, y = np.array([[1.0, 4.0, np.nan, 2.0, 3.0]]), np.array([[1.5, 4.0, np.nan, 2.0, 2.0]])
    assert gradient_squares(x, y, 1) == (0.25 + 1.0, 9.0 + 1.0)
    assert gradient_squares(x, y, 0) == (0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 200))
def test_quantiles_of_bins_are_right_to_one_width(seed, size, count):
    values = np.random.default_rng(seed).standard_normal(size) ** 3
    bins = Bins(values.min(), values.max(), count)
    levels = np.array([0.0, 0.01, 0.5, 0.9, 1.0])
    exact = np.quantile(values, levels, method="inverted_cdf")
    found = bins.quantiles(bins.counted(np.append(values, np.nan)), levels)
    assert np.abs(found - exact).max() <= bins.width * (1 + 1e-9)
