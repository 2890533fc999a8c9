"""The values passed between stages, in the order of the data flow.

Archive -> PODFactors -> TriangularFactor -> SparseModel -> LatentCode -> CodedLatent -> store.

Symbols: n points in space, m snapshots, r modes, p library terms, q modelled modes (q <= r).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

# Times that are looked at together.
PIECE = 1 << 20
# A model needs a few samples for a fit; one of every series a few more.
MIN_SNAPSHOTS, LEAST_SAMPLES = 5, 8


class Coding(StrEnum):
    """How the values of a variable are stored."""

    POD = "pod"
    """Mean and modes; values as in `DIRECT` during episodes."""
    HYBRID = "hybrid"
    """Mean and few modes; what they leave as in `DIRECT`."""
    DIRECT = "direct"
    """Values, coded by wavelets in space and time."""
    CONSTANT = "constant"
    """One snapshot, lossless."""
    LOSSLESS = "lossless"
    """Values, lossless."""

    @property
    def has_modes(self) -> bool:
        """Whether the store has a mean and modes of such a variable."""
        return self in (Coding.POD, Coding.HYBRID)


# Without any loss.
EXACT = (Coding.CONSTANT, Coding.LOSSLESS)


class Curve(StrEnum):
    """The curve along which the points of a mesh are ordered, by what their coordinates are."""

    PLANE = "plane"
    """Hilbert's, through x and y in the same units."""
    SPACE = "space"
    """Hilbert's, through x, y and z in the same units."""
    DEGREES = "sphere, degrees"
    """Hilbert's, over the faces of a cube around a sphere, by longitude and latitude."""
    RADIANS = "sphere, radians"
    """The same by angles in radians."""


class Layout(StrEnum):
    """What the columns of a table are."""

    AUTO = "auto"
    """Series if the first row names them, or if there are more rows than columns."""
    SERIES = "series"
    TIMES = "times"


class Series(StrEnum):
    """What the named series of a table are."""

    ONE = "one"
    """One variable, ``x(row, time)``, with the names as labels of its rows."""
    EACH = "each"
    """A variable each, whose bounds may differ."""


class FurtherMeasure(StrEnum):
    """What `romzarr.verify` measures besides the bounds, where it is asked to."""

    BIAS = "bias"
    CORRELATION = "correlation"
    EXTREMES = "extremes"
    GRADIENT = "gradient"
    SPECTRUM = "spectrum"
    SSIM = "ssim"


@dataclass(frozen=True)
class BlockSpan:
    """Half-open range of snapshots ``[start, stop)``."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ReadCost:
    """The cost of reading.

    ``bytes_read`` counts bytes fetched from storage (before decompression; the bytes of the array
    if the source is in memory), ``chunks_read`` the chunks of the archive that were read.
    """

    bytes_read: int = 0
    chunks_read: int = 0

    def __add__(self, other: ReadCost) -> ReadCost:
        return ReadCost(self.bytes_read + other.bytes_read, self.chunks_read + other.chunks_read)


@dataclass(frozen=True)
class ReadBlock:
    """Values of one block of the archive and what reading them cost, as of `ReadCost`.

    ``values`` has the variable's own order of dims; masked points are NaN. ``present`` tells values
    of the archive from what was put into gaps between them; None: there are no gaps.
    """

    values: Floats
    bytes_read: int
    chunks_read: int
    present: Mask | None = None

    @property
    def cost(self) -> ReadCost:
        return ReadCost(self.bytes_read, self.chunks_read)


class BlockSource(Protocol):
    """Provides the blocks of one variable as tasks of a Dask graph."""

    def graph(self) -> Mapping[Any, Any]:
        """Return the tasks that the results of `task` depend on."""
        ...

    def task(self, region: Region) -> tuple[Any, ...]:
        """Return the Dask task ``(callable, *args)`` that computes the `ReadBlock` of `region`.

        `region` has one slice per dim of the variable and starts and stops at boundaries
        of the variable's chunks. The task is idempotent, picklable and free of secrets.
        """
        ...


# The time dim of an archive without time, whose values are one snapshot.
NO_TIME = ""


@dataclass(frozen=True)
class UniformTimes:
    """Times ``step * k`` of ``count`` snapshots from ``first`` on: an array that is nowhere."""

    step: float
    count: int
    first: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> Vector:
        start, stop, _ = part.indices(self.count)
        return np.asarray(self.step * np.arange(self.first + start, self.first + stop))

    def part(self, span: BlockSpan) -> UniformTimes:
        """Those of some snapshots."""
        return UniformTimes(self.step, len(span), self.first + span.start)


Times = Vector | UniformTimes


@dataclass(frozen=True)
class TimeAxis:
    """The times of the snapshots as numbers.

    An archive without time has a single snapshot along the dim `NO_TIME`.

    ``values`` (m,) float64 increase strictly and count from the first snapshot. ``units`` is their
    unit: "s", "h" or "d" for calendar times, else the ``units`` attribute of the coordinate or "1".
    """

    dim: str
    values: NDArray[np.float64]
    units: str

    @property
    def step(self) -> float | None:
        """The step h with ``values == h * arange(m)`` exactly, any for a single snapshot; None if
        there is none."""
        count = len(self.values)
        if count < 2:
            return 1.0
        uniform = UniformTimes(float(self.values[-1] / (count - 1)), count)
        # In pieces, as a long record is long enough once.
        pieces = (slice(start, start + PIECE) for start in range(0, count, PIECE))
        same = all(np.array_equal(self.values[each], uniform[each]) for each in pieces)
        return uniform.step if same else None

    @property
    def compact(self) -> Times:
        """The values, without an array where a step says it all."""
        step = self.step
        return self.values if step is None else UniformTimes(step, len(self.values))

    def label(self, index: int) -> str:
        """Name snapshot `index` in a message."""
        return f"{self.dim}[{index}] (t0 + {self.values[index]:g} {self.units})"


@dataclass(frozen=True)
class Gaps:
    """Values of a variable that are no numbers to be coded, and are kept exactly.

    ``special`` has what stands there by its code: NaN, infinities, fill values; ``counts`` how
    often, of all ``values``. ``source`` provides blocks as they are. ``runs`` (k, 3) list the gaps
    (`romzarr.numerics.gaps.runs_of`), where points without any number hold the code ``masked``;
    None: the store has an array of codes of ``nbytes``, which is that of variable ``home``.
    """

    special: Mapping[int, float]
    counts: tuple[int, ...]
    values: int
    source: BlockSource
    runs: NDArray[np.int64] | None
    masked: int
    nbytes: int
    home: str = ""


@dataclass(frozen=True)
class Scaling:
    """Factors by which values of a variable are divided before they are coded, by index.

    The factor of an index of ``dims`` is ``2 ** (exponent / 8)``; ``exponents`` have the lengths of
    these dims, in the order of the variable. ``source`` provides blocks as they are. ``steady``
    are the values (*space) of indices that are constant in time, which are not coded; NaN
    elsewhere. None: no index is constant.
    """

    dims: tuple[str, ...]
    exponents: NDArray[np.int64]
    source: BlockSource
    steady: Floats | None = None


@dataclass(frozen=True)
class Logarithm:
    """Numbers are coded as `romzarr.numerics.logarithm`, in this ``unit``.

    ``source`` provides blocks as they are.
    """

    unit: float
    source: BlockSource


@dataclass(frozen=True)
class PointOrder:
    """The order in which a store has the points of a mesh, which one dim numbers.

    ``coordinates`` name what the ``curve`` goes through. Only points of the same piece change
    places: ``pieces`` are the lengths of consecutive parts of the dim, each in one chunk of the
    archive. ``positions`` (n,) are those of the stored points in the archive.
    """

    dim: str
    curve: Curve
    coordinates: tuple[str, ...]
    pieces: tuple[int, ...]
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class ArchivedVariable:
    """One time-dependent floating-point variable of the archive.

    ``chunks`` has the chunk lengths per dim, as in dask.array. ``inner_product`` is that of the
    points, in the shape of the variable without time. Where ``gaps`` are known, the source provides
    blocks without them; where there is a ``scaling`` or a ``logarithm``, it provides values as they
    are coded, which have this ``average``, if it is known. ``fluctuation`` is
    the squared norm by which the tolerance of what it provides is meant, where that is known from
    all values: that of the numbers about their temporal mean, or of a single snapshot about its
    mean in space, or about a mean cycle. ``share`` is its root by the norm about the temporal mean,
    which a POD takes tolerances by until it knows better. ``tile`` says what tiles have at most
    along dims, where that is asked for.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, ...], ...]
    time_axis: int
    source: BlockSource
    inner_product: InnerProduct = field(default_factory=InnerProduct)
    gaps: Gaps | None = None
    scaling: Scaling | None = None
    logarithm: Logarithm | None = None
    average: float | None = None
    fluctuation: float | None = None
    share: float = 1.0
    tile: Mapping[str, int] = field(default_factory=dict)

    @property
    def unscaled(self) -> ArchivedVariable:
        """The variable with its values as they are in the archive, or filled where it has gaps."""
        if self.scaling is None:
            return self
        return replace(self, source=self.scaling.source, scaling=None, fluctuation=None, share=1.0)

    @property
    def as_archived(self) -> ArchivedVariable:
        """The variable with its values as they are in the archive, gaps and all."""
        changed = self.logarithm or self.scaling
        source = self.source if changed is None else changed.source
        if self.gaps is not None:
            source = self.gaps.source
        return replace(self, source=source, scaling=None, logarithm=None, gaps=None)

    @property
    def space_dims(self) -> tuple[str, ...]:
        return self.dims[: self.time_axis] + self.dims[self.time_axis + 1 :]

    @property
    def space_shape(self) -> tuple[int, ...]:
        return self.shape[: self.time_axis] + self.shape[self.time_axis + 1 :]

    @property
    def longest(self) -> tuple[int, ...]:
        """What tiles have at most along each dim."""
        dims = zip(self.dims, self.shape, strict=True)
        return tuple(min(n, self.tile.get(dim, n)) for dim, n in dims)

    @property
    def longest_space(self) -> tuple[int, ...]:
        return self.longest[: self.time_axis] + self.longest[self.time_axis + 1 :]

    @property
    def space_chunks(self) -> tuple[tuple[int, ...], ...]:
        return self.chunks[: self.time_axis] + self.chunks[self.time_axis + 1 :]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Slope:
    """The first derivative of a ``variable`` along an ``axis`` of it, by a ``coordinate`` (n,).

    It counts with a ``sign`` of 1 or -1 in a sum. If it is ``weighted``, the variable is multiplied
    by the cosines of latitude before.
    """

    variable: str
    axis: int
    coordinate: Vector
    sign: float = 1.0
    weighted: bool = False


@dataclass(frozen=True)
class Derivative:
    """A sum of ``slopes`` whose error is bounded, relative to its own fluctuation.

    Variables have the same dims and shape. The sum is divided by the ``cosines`` of latitude, where
    there are any, which broadcast over the variables; it is left out where they are zero.
    """

    name: str
    tolerance: float
    slopes: tuple[Slope, ...]
    cosines: Matrix | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables, each once."""
        return tuple(dict.fromkeys(slope.variable for slope in self.slopes))

    @property
    def axes(self) -> frozenset[int]:
        """The axes along which a point needs its neighbours."""
        return frozenset(slope.axis for slope in self.slopes)


@dataclass(frozen=True)
class TriangularFactor:
    """Upper-triangular R with ``R.T @ R = [G b].T @ [G b]`` for ``windows`` test functions.

    ``r`` has shape (p + q, p + q): the first p columns belong to the library, the last q
    to the modelled coefficients. Least squares needs nothing else of (G, b).
    ``noise``, of the same shape, is the triangular factor of the contribution of white noise in
    a(t) to [G b] (None: no noise found); regression subtracts its share from ``r.T @ r``.
    """

    r: NDArray[np.float64]
    terms: int
    windows: int
    noise: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class SparseModel:
    """Sparse ODE ``da/dt = Theta(a) @ coefficients`` and the outcome of the regression.

    ``coefficients`` (p, q); ``residual`` (q,) is ``||b - G xi|| / ||b||`` per equation;
    ``dependent`` describes library columns that are linear combinations of others.
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
    """Samples of a(t) from which the coefficients of every snapshot are rebuilt.

    ``index`` (k,) int64 has strictly increasing snapshot numbers, ``samples`` (k, r) the
    coefficients there. They include the first snapshot of every time block of ``block_steps`` and
    the last of the record, so any time range decodes from the samples around it. Between two
    samples, model ``block_model[start // block_steps]`` is integrated (-1: linear interpolation)
    with ``substeps`` Runge-Kutta steps per snapshot, and corrected to end in the next sample.
    For a part of a record, ``first`` is the number of samples before it.
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


@dataclass(frozen=True)
class LatentFormat:
    """How the coefficients (m, r) of a record are coded: all but the bytes.

    ``index``, ``block_model``, ``block_steps`` and ``substeps`` are those of a `LatentCode`. The
    samples are in chunks of ``sample_rows`` with the quantisation step ``sample_step``; corrections
    of all m snapshots in chunks of ``correction_rows`` with the step ``step``. Corrections of the
    leading modes are coded as finite differences in time of ``correction_orders``. Those of order 0
    and of all other modes are coded by wavelets, or untransformed if they are not ``smooth``.
    """

    index: NDArray[np.int64]
    block_steps: int
    block_model: NDArray[np.int16]
    substeps: int
    rank: int
    step: float
    sample_step: float
    sample_rows: int
    correction_rows: int = 1
    correction_orders: tuple[int, ...] = ()
    smooth: bool = True

    @property
    def kept(self) -> int:
        return len(self.index)

    @property
    def modelled(self) -> bool:
        """Whether a model is integrated anywhere."""
        return bool((self.block_model >= 0).any())


@dataclass(frozen=True)
class CodedLatent:
    """A latent code in coded bytes, and the corrections of its error.

    ``sample_bytes`` decode to the samples (none: all are zero), ``correction_bytes`` to corrections
    that are added to what is rebuilt from these (none: there are no corrections).
    """

    format: LatentFormat
    sample_bytes: tuple[bytes, ...] = ()
    correction_bytes: tuple[bytes, ...] = ()
