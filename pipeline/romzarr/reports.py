"""The results of the operations: frozen dataclasses with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from romzarr.contracts import Coding

# Coding of a variable that is copied unchanged.
CARRIED = "carried"


class ErrorsByVariable(dict[str, float]):
    """Errors by variable; ``["largest"]`` is the largest, unless a variable has that name."""

    def __missing__(self, name: str) -> float:
        if name == "largest" and self:
            return max(self.values())
        raise KeyError(name)


class Report:
    """Base of the reports."""

    relative_l2_error: Mapping[str, float]

    def __post_init__(self) -> None:
        # Reports are frozen.
        object.__setattr__(self, "relative_l2_error", ErrorsByVariable(self.relative_l2_error))

    @property
    def largest_relative_l2_error(self) -> float:
        """The largest error of all variables."""
        return max(self.relative_l2_error.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return values | {"largest_relative_l2_error": self.largest_relative_l2_error}

    def _repr_html_(self) -> str:
        pairs = ((escape(key), escape(str(each))) for key, each in self.to_dict().items())
        rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in pairs)
        return f"<table>{rows}</table>"


@dataclass(frozen=True)
class StoredVariableReport:
    """How a variable is stored: its coding ("carried": unchanged), bytes and error.

    ``stored_bytes`` are those of its own arrays, and their ``share`` in those of the store. Modes
    of several small variables and coefficients belong to none. ``gaps`` says what is kept apart.
    ``bounded_by`` are the dims of whose indices each has a bound of its own, ``largest_by_index``
    the largest of their errors, relative to the fluctuation of that index. ``why`` says why
    a variable is carried that might have been coded, ``before`` what its attributes know of loss
    before this compression, which errors here do not count.
    """

    coding: str
    raw_bytes: int
    stored_bytes: int
    share: float
    relative_l2_error: float
    gaps: str = ""
    bounded_by: tuple[str, ...] = ()
    largest_by_index: float = 0.0
    why: str = ""
    before: str = ""


@dataclass(frozen=True)
class CompressionReport(Report):
    """The result of `romzarr.compress`.

    ``relative_l2_error`` maps each variable to its error relative to the fluctuation.
    ``largest_pointwise_error`` maps each variable with a bound in ``max_error`` to the largest
    measured error of a value, ``largest_relative_error`` each with one in ``max_relative_error`` to
    the largest error of a value relative to itself. ``derivative_errors`` maps each derivative with
    a bound in ``derivatives`` to its error relative to its own fluctuation. ``variables`` has a
    line for each data variable. ``raw_bytes`` counts all that is stored, with coordinates;
    ``orders`` has, for each dim whose points are stored along a Hilbert curve, the coordinates that
    it goes through; ``bytes_read`` bytes fetched from storage, and ``chunks_read`` the chunks of
    the archive that were read. ``cpu_seconds`` covers this process alone.
    """

    relative_l2_error: Mapping[str, float]
    tolerance: float
    rank: int
    nonzero_terms: int
    kept_samples: int
    snapshots: int
    raw_bytes: int
    stored_bytes: int
    compression_ratio: float
    seconds: float
    cpu_seconds: float
    bytes_read: int
    chunks_read: int
    advice: str
    largest_pointwise_error: Mapping[str, float] = field(default_factory=dict)
    max_error: Mapping[str, float] = field(default_factory=dict)
    largest_relative_error: Mapping[str, float] = field(default_factory=dict)
    max_relative_error: Mapping[str, float] = field(default_factory=dict)
    derivative_errors: Mapping[str, float] = field(default_factory=dict)
    derivatives: Mapping[str, float] = field(default_factory=dict)
    variables: Mapping[str, StoredVariableReport] = field(default_factory=dict)
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class AppendReport(Report):
    """The result of `romzarr.append`: ``appended`` of the ``snapshots`` are new.

    ``relative_l2_error`` bounds the error of each variable over all snapshots; ``parts`` is the
    number of generations in the store.
    """

    appended: int
    snapshots: int
    relative_l2_error: Mapping[str, float]
    tolerance: float
    rank: int
    parts: int
    raw_bytes: int
    stored_bytes: int
    compression_ratio: float
    seconds: float


@dataclass(frozen=True)
class ErrorsByIndex:
    """Errors of a variable on each index of one dim, such as a level.

    ``relative_l2_error`` is relative to the fluctuation on that index alone, ``rms_error`` in the
    units of the variable; None where nothing was compared, and a relative error also where nothing
    fluctuates but something is off. ``labels`` name the indices by their coordinate. ``worst`` is
    the index with the largest relative error. ``warnings`` tell of an index whose error is ten
    times that of the whole variable or more, and of errors where nothing fluctuates.
    """

    relative_l2_error: tuple[float | None, ...]
    rms_error: tuple[float | None, ...]
    labels: tuple[str, ...]
    worst: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport(Report):
    """Errors measured against the source, and their bounds.

    ``worst`` locates the largest pointwise error of the variable with the largest relative error.
    ``problems`` names everything lost or violated, and is empty if ``ok``. ``compared`` is the
    share of the archive's values that were compared; below 1 the errors are those of a sample.
    ``derivative_errors`` and ``derivatives`` are as in `CompressionReport`, and empty for a sample.
    ``by_index`` has the errors on each index by variable and dim, and ``warnings`` all that is said
    there; they break no bound. ``measures`` are further ones by variable and name, if any were
    asked for.
    """

    ok: bool
    relative_l2_error: Mapping[str, float]
    largest_pointwise_error: Mapping[str, float]
    tolerance: float
    worst: str
    problems: tuple[str, ...]
    seconds: float
    max_error: Mapping[str, float] = field(default_factory=dict)
    largest_relative_error: Mapping[str, float] = field(default_factory=dict)
    max_relative_error: Mapping[str, float] = field(default_factory=dict)
    derivative_errors: Mapping[str, float] = field(default_factory=dict)
    derivatives: Mapping[str, float] = field(default_factory=dict)
    compared: float = 1.0
    by_index: Mapping[str, Mapping[str, ErrorsByIndex]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    measures: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class CompactReport(Report):
    """The result of `romzarr.compact`.

    Parts were ``compacted`` or left as they are, in which case the words ``why`` say the reason.
    ``relative_l2_error`` bounds the errors against the archive.
    """

    compacted: bool
    why: str
    parts_before: int
    parts: int
    bytes_before: int
    stored_bytes: int
    snapshots: int
    relative_l2_error: Mapping[str, float]
    tolerance: float
    rank: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class StoreInfo(Report):
    """The content of a store.

    ``prediction`` has the number of ``blocks`` of time, how many of them the model predicts
    (``modelled_blocks``), and the ``polynomial_orders`` of the leading modes: polynomials of one
    degree less extrapolate the coefficients or the errors of the model. Wavelets along time code
    the modes of order 0 and all others. ``errors_by_index`` has the ``dims`` of each variable with
    a bound for each of their indices, and the ``errors`` of these. ``layers`` are the errors that
    the first layer of each variable leaves, the first two, and so on. ``derivative_errors``,
    ``derivatives`` and ``orders`` are as in `CompressionReport`.
    """

    relative_l2_error: Mapping[str, float]
    error_measured_by: str
    tolerance: float
    rank: int
    nonzero_terms: int
    kept_samples: int
    snapshots: int
    raw_bytes: int
    stored_bytes: int
    compression_ratio: float
    bytes_by_part: Mapping[str, int]
    variables: Mapping[str, Any]
    episodes: Sequence[tuple[int, int]]
    time: Mapping[str, Any]
    energy_by_mode: tuple[float, ...]
    model: Mapping[str, Any]
    source: Mapping[str, Any]
    versions: Mapping[str, str]
    format: int
    advice: str
    max_error: Mapping[str, float] = field(default_factory=dict)
    largest_pointwise_error: Mapping[str, float] = field(default_factory=dict)
    max_relative_error: Mapping[str, float] = field(default_factory=dict)
    largest_relative_error: Mapping[str, float] = field(default_factory=dict)
    derivative_errors: Mapping[str, float] = field(default_factory=dict)
    derivatives: Mapping[str, float] = field(default_factory=dict)
    prediction: Mapping[str, Any] = field(default_factory=dict)
    errors_by_index: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class VariableEstimate:
    """How a variable would be coded, why, and in how many bytes.

    Bounding every single value by ``max_error``, in the units of the variable, would add about
    ``max_error_bytes``.
    """

    coding: Coding
    why: str
    stored_bytes: int
    max_error: float
    max_error_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What compression would give at one tolerance; ``problem`` says why it would be refused."""

    tolerance: float
    stored_bytes: int
    compression_ratio: float
    variables: Mapping[str, VariableEstimate]
    problem: str = ""


@dataclass(frozen=True)
class EstimateReport:
    """The result of `romzarr.estimate`: an estimate for each tolerance."""

    estimates: tuple[Estimate, ...]
    raw_bytes: int
    snapshots: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


# Below this ratio lossless compressors are a match, and a lossy store is hardly worth it.
WORTHWHILE_RATIO = 3.0


def advice(ratio: float, rank: int, snapshots: int, codings: Sequence[str]) -> str:
    """Write a warning about a poor result; empty if there is nothing to warn of."""
    if ratio >= WORTHWHILE_RATIO or (Coding.LOSSLESS in codings and ratio >= 1):
        return ""
    if Coding.LOSSLESS in codings:
        why = "all bits are kept, and the values are not smooth"
    elif Coding.DIRECT in codings:
        why = (
            "the data has no low-dimensional dynamics at this accuracy, so the values themselves "
            "are coded, and they are not smooth"
        )
    elif rank > snapshots / 4:
        why = (
            f"the tolerance needs {rank} of at most {snapshots - 1} modes, so the data has no "
            "low-dimensional dynamics at this accuracy"
        )
    else:
        why = f"{snapshots} snapshots are few compared with {rank} modes and the metadata"
    if ratio < 1:
        return (
            f"The store is LARGER than the uncompressed data (ratio {ratio:.2f}): {why}. Do not "
            "use it: keep the archive, use a general compressor, or allow a larger tolerance."
        )
    return f"The ratio of {ratio:.2f} is hardly worthwhile: {why}. Allow a larger tolerance."
