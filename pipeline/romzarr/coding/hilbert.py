"""Orders of points along a Hilbert curve, the same to the last point on every machine.

Coordinates meet only sums, products and quotients of float64, which IEEE 754 rounds in one way; all
else is integers. Sines come from a rational approximation, since those of libraries differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Curve, Floats, Matrix

Index = NDArray[np.int64]

# Bits of an index: as many as are left without the sign, and on a cube without three for its face.
INDEX_BITS, FACE_BITS = 62, 28
# Points that are ordered at most: whoever reads one of them orders all, in about 1.2 s a million.
MOST_POINTS = 1 << 25
DEGREES_PER_RADIAN = 57.29577951308232


def curve_order(curve: Curve, coordinates: Sequence[Floats], pieces: int | Sequence[int]) -> Index:
    """Order points along a curve, those of each piece for themselves.

    Parameters
    ----------
    curve : Curve
    coordinates : sequence of ndarray, shape (n,), finite
        Longitude and latitude, x and y, or x, y and z.
    pieces : int or sequence of int
        Lengths of consecutive parts of the points, n together; or that of all but the last.

    Returns
    -------
    ndarray of int64, shape (n,)
        The numbers of the points in their new order. Those in the same cell of the grid of the
        curve, of 2**31 by 2**31 cells on a plane, keep theirs.
    """
    points = np.stack([np.asarray(each, np.float64) for each in coordinates])
    if curve == Curve.RADIANS:
        points = points * DEGREES_PER_RADIAN
    on_sphere = curve in (Curve.DEGREES, Curve.RADIANS)
    index = _on_cube(*points) if on_sphere else _in_square(points)
    if isinstance(pieces, int):
        numbers = np.arange(len(index)) // pieces
    else:
        numbers = np.repeat(np.arange(len(pieces)), pieces)
    return np.lexsort((index, numbers))


def _in_square(points: Matrix) -> Index:
    """Places along the curve that fills the square or cube around all points (d, n)."""
    bits = INDEX_BITS // len(points)
    low = points.min(axis=1, keepdims=True)
    # Halves: a difference may be too large for a float.
    extent = float((points.max(axis=1) / 2 - points.min(axis=1) / 2).max()) or 1.0
    return hilbert_index(_cells((points / 2 - low / 2) / extent, bits), bits)


def _cells(shares: Matrix, bits: int) -> Index:
    """Cells of a grid of 2**bits cells along each axis, from shares of its length."""
    last = (1 << bits) - 1
    return np.clip(np.floor(shares * float(1 << bits)), 0, last).astype(np.int64)


def _on_cube(longitude: Matrix, latitude: Matrix) -> Index:
    """Places on a sphere along the curve over the faces of a cube, one after the other.

    Faces and their axes are those of the library S2: each begins where the one before ends.
    """
    radius, z = sine(latitude + 90.0), sine(latitude)
    x, y = radius * sine(longitude + 90.0), radius * sine(longitude)
    axis = np.argmax(np.abs([x, y, z]), axis=0)
    face = axis + 3 * (np.choose(axis, [x, y, z]) < 0)
    # An axis is longer than the others, and not zero, where its face is chosen.
    along = np.choose(axis, [x, y, z])
    u = np.choose(face, [y, -x, -x, z, z, -y]) / along
    v = np.choose(face, [z, z, -y, y, -x, -x]) / along
    cells = _cells((np.stack([u, v]) + 1) / 2, FACE_BITS)
    cells = np.where(face % 2 == 1, cells[::-1], cells)
    return (face.astype(np.int64) << (2 * FACE_BITS)) | hilbert_index(cells, FACE_BITS)


def sine(degrees: Matrix) -> Matrix:
    """Sine of angles in degrees within 0.0017, by Bhaskara I (Mahabhaskariya, 7th century)."""
    turned = np.fmod(degrees, 360.0)
    turned = np.where(turned < 0, turned + 360.0, turned)
    half = np.where(turned > 180.0, turned - 180.0, turned)
    product = half * (180.0 - half)
    value = 4.0 * product / (40500.0 - product)
    return np.where(turned > 180.0, -value, value)


def hilbert_index(cells: Index, bits: int) -> Index:
    """Place along the Hilbert curve of cells of a grid in any number of dimensions.

    J. Skilling, Programming the Hilbert curve, AIP Conference Proceedings 707 (2004).

    Parameters
    ----------
    cells : ndarray of int64, shape (d, n)
        From 0 to ``2**bits - 1``.
    bits : int
        ``d * bits`` is at most `INDEX_BITS`.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    axes = _gray_coded(_unrotated(cells.copy(), bits), bits)
    index = np.zeros(cells.shape[1], np.int64)
    for bit in range(bits - 1, -1, -1):
        for axis in axes:
            index = (index << 1) | ((axis >> bit) & 1)
    return index


def _unrotated(axes: Index, bits: int) -> Index:
    """Undo, from the coarsest cells on, how the curve is turned and mirrored within each."""
    first = axes[0]
    for bit in range(bits - 1, 0, -1):
        lower = (1 << bit) - 1
        for number, axis in enumerate(axes):
            is_set = (axis >> bit) & 1 == 1
            exchanged = np.where(is_set, 0, (first ^ axis) & lower)
            first ^= np.where(is_set, lower, exchanged)
            if number:
                axis ^= exchanged
    return axes


def _gray_coded(axes: Index, bits: int) -> Index:
    for number in range(1, len(axes)):
        axes[number] ^= axes[number - 1]
    flips = np.zeros_like(axes[0])
    for bit in range(bits - 1, 0, -1):
        flips ^= np.where((axes[-1] >> bit) & 1 == 1, (1 << bit) - 1, 0)
    return axes ^ flips
