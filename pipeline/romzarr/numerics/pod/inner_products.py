"""Inner products of blocks, panel by panel: Gram matrices, or triangular factors.

References
----------
.. [1] L. Sirovich, "Turbulence and the dynamics of coherent structures", Quart. Appl.
   Math. 45 (1987) 561-571. The method of snapshots (Gram matrices).
.. [2] J. Demmel, L. Grigori, M. Hoemmen, J. Langou, "Communication-optimal parallel and
   sequential QR and LU factorizations", SIAM J. Sci. Comput. 34 (2012) A206-A239
   (triangular factors, one panel of points after the other).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from romzarr.contracts import Floats, Matrix
from romzarr.inner_product import InnerProduct
from romzarr.numerics.pod.gram import Gram, joint_gram

# Squares of smaller or larger fluctuations leave the range of the dtype of the products.
RANGE = {np.dtype(np.float32): (1e-15, 1e15), np.dtype(np.float64): (1e-140, 1e140)}


@dataclass(frozen=True)
class Precision:
    """How a POD is computed.

    ``products``: dtype of the panel products that are summed into float64 Gram matrices;
    ``rows``: dtype in which rows are kept; ``householder``: QR instead of Gram matrices,
    for singular values below about 1e-8 of the first, which squaring would lose;
    ``sketch``: directions of a block or merge may be sought on some of its points. What they
    miss is orthogonal in time but not in space to what they keep, which merges over space need.
    """

    products: np.dtype[Any]
    rows: np.dtype[Any]
    householder: bool = False
    sketch: bool = False

    @property
    def floor(self) -> float:
        """Share of the energy that products cannot tell from rounding."""
        return 1e-7 if self.products.itemsize < 8 else 0.0

    @property
    def range(self) -> tuple[float, float]:
        """Norms whose squares products and rows can hold."""
        return RANGE[min(self.products, self.rows, key=lambda dtype: dtype.itemsize)]

    @property
    def rounding(self) -> float:
        """Energies under this share of the largest are rounding."""
        return 1e-30 if self.householder else 1e-15


# Where a block has so many times more columns than points QR is less work than a Gram matrix of
# the columns, whose rank is no more than the points.
FEW_POINTS = 2
# Numbers of a block below which float64 products cost next to nothing.
SMALL = 2**20
DOUBLE = Precision(np.dtype(np.float64), np.dtype(np.float64))


def choose_precision(dtypes: Sequence[np.dtype[Any]], tolerance: float | None) -> Precision:
    """Cheapest arithmetic whose rounding stays far below `tolerance`.

    Products of float32 panels summed in float64 are good to about 1e-7 of the energy, hence
    to errors of 5e-3; float64 Gram matrices to about 1e-15 of the energy, hence to 1e-5;
    below that Householder QR. Without a tolerance (a rank is given) float64 input asks for
    Householder QR; float32 input is taken to be good to its own precision, and singular values
    below about 3e-4 of the first are lost: give a precision where they matter.
    """
    f4, f8 = np.dtype(np.float32), np.dtype(np.float64)
    double = any(dtype.itemsize > 4 for dtype in dtypes)
    if tolerance is None:
        return Precision(f8, f8, householder=True) if double else Precision(f4, f4)
    if tolerance >= 5e-3:
        return Precision(f4, f4)
    if tolerance >= 1e-3:
        return Precision(f8, f4)
    return Precision(f8, f8, householder=tolerance < 1e-5)


def affordable(precision: Precision, numbers: int) -> Precision:
    """`precision` for a block of so many numbers: products in float64 where it is small."""
    return replace(precision, products=DOUBLE.products) if numbers <= SMALL else precision


def least_work(precision: Precision, points: int, columns: int) -> Precision:
    """`precision` for so many `columns`: Householder QR where the points are far fewer."""
    few = FEW_POINTS * points <= columns
    return replace(precision, householder=True) if few else precision


def panels(points: int, height: int) -> Iterator[slice]:
    """Ranges of points such that a (height, range) panel fits a core's cache.

    Short ranges also keep sums of squares in float32 exact to 1e-7.
    """
    width = int(np.clip(2**17 // max(height, 1), 1024, 8192))
    for start in range(0, points, width):
        yield slice(start, min(start + width, points))


def product_of_panels(
    rows: Iterable[tuple[slice, Floats]], height: int, inner: InnerProduct, precision: Precision
) -> Matrix:
    """Gram matrix G, or R with R^T R = G, of rows (height, n) given by panels."""
    total = np.zeros((0 if precision.householder else height, height))
    for span, panel in rows:
        if precision.householder:
            total = _r_factor(np.vstack([total, inner.on(span).rooted(panel).T]))
        else:
            total += inner.on(span).gram(panel)
    return total


def _r_factor(matrix: Matrix) -> Matrix:
    """R of a QR factorisation, without the checks and copies of NumPy's."""
    r: Matrix = scipy.linalg.qr(matrix, mode="r", overwrite_a=True, check_finite=False)[0]
    return r[: min(matrix.shape)]


def add_products(products: Sequence[Gram], precision: Precision) -> Gram:
    """Inner product of a union of points: Gram matrices add, roots stack."""
    if precision.householder:
        return Gram(_r_factor(np.vstack([each.root for each in products])), factored=True)
    return sum(products[1:], products[0])


def spectrum(
    products: Mapping[int, Gram], scales: Mapping[int, float], precision: Precision
) -> tuple[Matrix, Matrix]:
    """Directions of the joint inner product, and the energy of each in every variable.

    Returns
    -------
    directions : (K, K') orthonormal columns, largest joint energy first
    shares : (V, K') energies in each variable's own units squared, in the order of `products`
    """
    grams, factors = list(products.values()), [scales[v] for v in products]
    rows = sum(len(gram.matrix) for gram in grams)
    if all(gram.factored for gram in grams):
        precision = least_work(precision, rows, len(grams[0]))
    if precision.householder:
        roots = [np.sqrt(f) * gram.root for f, gram in zip(factors, grams, strict=True)]
        stacked = np.vstack(roots)
        directions = scipy.linalg.svd(stacked, full_matrices=False, check_finite=False)[2].T
    else:
        directions = scipy.linalg.eigh(joint_gram(grams, factors), check_finite=False)[1][:, ::-1]
    # Rounding must not decide about signs: the same archive has the same modes on any worker.
    largest = np.abs(directions).argmax(axis=0)
    signs = np.where(np.take_along_axis(directions, largest[None], axis=0) < 0, -1.0, 1.0)
    directions = np.ascontiguousarray(directions * signs)
    return directions, np.array([gram.along(directions) for gram in grams])
