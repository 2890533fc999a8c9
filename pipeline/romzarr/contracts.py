"""The values that pass between stages, in the order the data flows.

Archive -> PODFactors -> TriangularFactor -> SparseModel -> LatentCode -> CodedLatent -> store.

Symbols: n points in space, m snapshots, r modes, p library terms, q modelled modes (q <= r).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from romzarr.inner_product import InnerProduct

Floats = NDArray[np.floating[Any]]
Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Region = tuple[slice, ...]


class Coding(StrEnum):
    """How the values of a variable are stored, by the word that stores and reports use."""

    POD = "pod"
    """A mean and modes; in episodes values as in `DIRECT`."""
    DIRECT = "direct"
    """Values, by wavelets in space and time."""
    CONSTANT = "constant"
    """One snapshot, to the bit."""
    LOSSLESS = "lossless"
    """Values, to the bit."""


@dataclass(frozen=True)
class BlockSpan:
    """Half-open range of snapshots ``[start, stop)``."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ReadCost:
    """What reading took.

    ``bytes_read`` counts what was fetched from storage (before decompression; the array's
    bytes where the source is in memory), ``chunks_read`` the chunks of the archive touched.
    """

    bytes_read: int = 0
    chunks_read: int = 0

    def __add__(self, other: ReadCost) -> ReadCost:
        return ReadCost(self.bytes_read + other.bytes_read, self.chunks_read + other.chunks_read)


@dataclass(frozen=True)
class ReadBlock:
    """Values of one block of the archive and what reading them cost, as of `ReadCost`.

    ``values`` has the variable's own order of dims; masked points are NaN.
    """

    values: Floats
    bytes_read: int
    chunks_read: int

    @property
    def cost(self) -> ReadCost:
        return ReadCost(self.bytes_read, self.chunks_read)


class BlockSource(Protocol):
    """Where the blocks of one variable come from, as pieces of a Dask graph."""

    def graph(self) -> Mapping[Any, Any]:
        """Tasks that the results of `task` refer to (empty if they stand alone)."""
        ...

    def task(self, region: Region) -> tuple[Any, ...]:
        """Dask task ``(callable, *args)`` that evaluates to the `ReadBlock` of `region`.

        `region` has one slice per dim of the variable and starts and stops at boundaries
        of the variable's chunks. The task is idempotent, picklable and free of secrets.
        """
        ...


@dataclass(frozen=True)
class TimeAxis:
    """The times of the snapshots as numbers.

    ``values`` (m,) float64, strictly increasing, counted from the first snapshot;
    ``units`` is what one unit of it is ("s", "h", "d" for calendars; the coordinate's own
    ``units`` attribute or "1" for numbers).
    """

    dim: str
    values: NDArray[np.float64]
    units: str

    def label(self, index: int) -> str:
        """How to name snapshot `index` in a message."""
        return f"{self.dim}[{index}] (t0 + {self.values[index]:g} {self.units})"


@dataclass(frozen=True)
class ArchivedVariable:
    """One time-dependent floating-point variable of the archive.

    ``chunks`` holds the chunk lengths per dim, in the variable's own order of dims, as
    dask.array does. ``inner_product`` is that of the points, in the shape of the variable without
    time.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, ...], ...]
    time_axis: int
    source: BlockSource
    inner_product: InnerProduct = field(default_factory=InnerProduct)

    @property
    def space_dims(self) -> tuple[str, ...]:
        return self.dims[: self.time_axis] + self.dims[self.time_axis + 1 :]

    @property
    def space_shape(self) -> tuple[int, ...]:
        return self.shape[: self.time_axis] + self.shape[self.time_axis + 1 :]

    @property
    def space_chunks(self) -> tuple[tuple[int, ...], ...]:
        return self.chunks[: self.time_axis] + self.chunks[self.time_axis + 1 :]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class TriangularFactor:
    """Upper-triangular R with ``R.T @ R = [G b].T @ [G b]`` for ``windows`` test functions.

    ``r`` has shape (p + q, p + q): the first p columns belong to the library, the last q
    to the modelled coefficients. Everything least squares needs of (G, b) is in it.
    ``noise``, of the same shape, is the triangular factor of what white noise in a(t) adds
    to [G b] (None: no noise seen); regression takes its share out of ``r.T @ r``.
    """

    r: NDArray[np.float64]
    terms: int
    windows: int
    noise: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class SparseModel:
    """Sparse ODE ``da/dt = Theta(a) @ coefficients`` and how it was found.

    ``coefficients`` (p, q); ``residual`` (q,) is ``||b - G xi|| / ||b||`` per equation;
    ``dependent`` names library columns that are combinations of others, in words.
    """

    coefficients: NDArray[np.float64]
    threshold: float
    residual: NDArray[np.float64]
    stop_reason: str
    iterations: int = 0
    condition: float = float("nan")
    dependent: tuple[str, ...] = field(default=())

    @property
    def nonzero_terms(self) -> int:
        return int(np.count_nonzero(self.coefficients))


@dataclass(frozen=True)
class LatentCode:
    """The kept samples of a(t) from which every snapshot's coefficients are rebuilt.

    ``index`` (k,) int64 strictly increasing snapshot numbers, ``samples`` (k, r) the
    coefficients kept there. The first snapshot of every time block of ``block_steps`` is
    kept, and the last of the record, so any time range decodes from the samples around it.
    Between two kept samples model ``block_model[start // block_steps]`` is integrated (-1:
    straight line) with ``substeps`` Runge-Kutta steps a snapshot and closed on the next one.
    Of a part of a record ``first`` samples come before.
    """

    index: NDArray[np.int64]
    samples: Floats
    block_steps: int
    block_model: NDArray[np.int16]
    substeps: int
    first: int = 0

    @property
    def kept(self) -> int:
        return len(self.index)

    @property
    def modelled(self) -> bool:
        """Whether a model is integrated anywhere."""
        return bool((self.block_model >= 0).any())

    @property
    def says_nothing(self) -> bool:
        """Whether all that is rebuilt is zero: no model, and samples of zeros."""
        return not self.modelled and not self.samples.any()


@dataclass(frozen=True)
class CodedLatent:
    """A latent code in the bytes that a store keeps of it, and what corrects its error.

    ``code.samples`` are the values that ``sample_bytes`` decode to, each string holding
    ``sample_rows`` of them; so with ``correction_bytes``, which decode to what has to be
    added to each of the m snapshots rebuilt from the code (empty: nothing). They are coded
    with the quantisation steps ``sample_step`` and ``step``. Corrections of the leading modes are
    coded as differences of ``correction_orders`` in time; where that is 0, and of all other
    modes, by wavelets, or as they are if corrections are not ``smooth``.
    """

    code: LatentCode
    step: float
    sample_step: float
    sample_rows: int
    sample_bytes: tuple[bytes, ...]
    correction_rows: int = 1
    correction_bytes: tuple[bytes, ...] = ()
    correction_orders: tuple[int, ...] = ()
    smooth: bool = True
