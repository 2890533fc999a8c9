"""Curves that order points: through every cell once, from neighbour to neighbour, everywhere."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from romzarr.coding.hilbert import curve_order, hilbert_index, sine
from romzarr.contracts import Curve
from tests.strategies import seeds


@pytest.mark.parametrize(("dims", "bits"), [(2, 1), (2, 5), (3, 1), (3, 3)])
def test_the_curve_goes_once_through_every_cell_and_only_to_neighbours(dims, bits):
    cells = np.stack([a.ravel() for a in np.indices((1 << bits,) * dims)])
    index = hilbert_index(cells, bits)
    assert sorted(index) == list(range(cells.shape[1]))
    steps = np.abs(np.diff(cells[:, np.argsort(index)], axis=1)).sum(axis=0)
    assert (steps == 1).all()


def test_halves_of_cells_lie_where_the_cells_do():
    cells = np.stack([a.ravel() for a in np.indices((32, 32))])
    coarse = hilbert_index(cells // 2, 4)
    # Four of the finer curve for one of the coarser one, whose axes may be exchanged.
    quarters = hilbert_index(cells, 5) // 4
    swapped = hilbert_index(cells[::-1] // 2, 4)
    assert np.array_equal(quarters, coarse) or np.array_equal(quarters, swapped)


def test_the_curve_on_a_sphere_has_no_seams():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((3, 60_000))
    x, y, z = points / np.linalg.norm(points, axis=0)
    lon, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(z))
    order = curve_order(Curve.DEGREES, [lon, lat], 60_000)
    steps = np.linalg.norm(np.diff(np.stack([x, y, z])[:, order], axis=1), axis=0)
    # One point in 2e-4 of the sphere, so 0.014 from its neighbours; gaps are larger here and there.
    assert steps.max() < 0.12
    radians = curve_order(Curve.RADIANS, np.radians([lon, lat]), 60_000)
    moved = np.linalg.norm(np.stack([x, y, z])[:, order] - np.stack([x, y, z])[:, radians], axis=0)
    assert np.mean(moved < 0.05) > 0.99
    around = curve_order(Curve.DEGREES, [np.where(lon < 0, lon + 360, lon), lat], 60_000)
    assert np.mean(around == order) > 0.99


@given(st.floats(-1e4, 1e4))
def test_sines_are_close_enough(angle):
    assert abs(float(sine(np.array(angle))) - math.sin(math.radians(angle))) < 0.0017


@given(
    seeds, st.sampled_from(Curve), st.integers(1, 60), st.sampled_from([1.0, 1e-300, 1e300]),
    st.data(),
)  # fmt: skip
def test_points_stay_in_their_piece_and_equal_ones_in_their_order(seed, curve, n, scale, data):
    rng = np.random.default_rng(seed)
    unit = scale if curve in (Curve.PLANE, Curve.SPACE) else 1.0
    some = rng.uniform(-1, 1, (3 if curve == Curve.SPACE else 2, 5)) * unit
    which = rng.integers(0, 5, n)
    piece = data.draw(st.integers(1, n))
    order = curve_order(curve, list(some[:, which]), piece)
    assert sorted(order) == list(range(n))
    assert np.array_equal(order // piece, np.arange(n) // piece)
    for point in range(5):
        for start in range(0, n, piece):
            part = order[start : start + piece]
            numbers = part[which[part] == point]
            assert (np.diff(numbers) > 0).all()
            # They follow one another.
            where = np.flatnonzero(np.isin(part, numbers))
            assert (np.diff(where) == 1).all()
    lengths = [min(piece, n - start) for start in range(0, n, piece)]
    assert np.array_equal(curve_order(curve, list(some[:, which]), lengths), order)


def test_the_order_is_that_of_all_machines():
    """What stores were written with: another result means that they cannot be read."""
    points = np.random.default_rng(5).integers(-(1 << 30), 1 << 30, (3, 5000)) / (1 << 30)
    curves = {
        Curve.PLANE: points[:2], Curve.SPACE: points, Curve.DEGREES: points[:2] * 90,
        Curve.RADIANS: points[1:],
    }  # fmt: skip
    found = {
        curve: zlib.crc32(curve_order(curve, list(each), 4000).astype("<i8").tobytes())
        for curve, each in curves.items()
    }
    assert found == {
        Curve.PLANE: 1196174750, Curve.SPACE: 1077599358, Curve.DEGREES: 1937459943,
        Curve.RADIANS: 559414207,
    }  # fmt: skip
