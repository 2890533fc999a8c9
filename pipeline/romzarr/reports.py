"""What the operations return: frozen values that print as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from romzarr.contracts import Coding


class ErrorsByVariable(dict[str, float]):
    """Errors of variables by name; ``["largest"]`` is the largest, unless one has that name."""

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
        """The largest of all variables'."""
        return max(self.relative_l2_error.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return values | {"largest_relative_l2_error": self.largest_relative_l2_error}


@dataclass(frozen=True)
class CompressionReport(Report):
    """What one compression did.

    ``relative_l2_error`` maps each variable to its fluctuation-relative error;
    ``largest_pointwise_error`` each variable that has a bound in ``max_error`` to the largest
    error of a single value, as measured; ``bytes_read`` counts bytes fetched from storage and
    ``chunks_read`` the chunks of the archive they came in; ``cpu_seconds`` are of this process
    alone.
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


@dataclass(frozen=True)
class AppendReport(Report):
    """What appending to a store did: ``appended`` of now ``snapshots`` were new.

    ``relative_l2_error`` is the bound on the error of each variable over all of them; ``parts``
    are the generations that the store has now.
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
class VerifyReport(Report):
    """Errors measured against the source, beside the bounds that they have to keep.

    ``worst`` says in words where the largest pointwise error of the worst variable lies;
    ``problems`` names what is lost or broken, and is empty when ``ok``. ``compared`` is the
    share of the archive's values that were: with less than 1 the errors are those of a sample.
    """

    ok: bool
    relative_l2_error: Mapping[str, float]
    largest_pointwise_error: Mapping[str, float]
    tolerance: float
    worst: str
    problems: tuple[str, ...]
    seconds: float
    max_error: Mapping[str, float] = field(default_factory=dict)
    compared: float = 1.0


@dataclass(frozen=True)
class StoreInfo(Report):
    """What a store says about itself.

    ``prediction`` says how many ``blocks`` of time there are, in how many of them the model
    foretells the coefficients (``modelled_blocks``), and the ``polynomial_orders`` of the leading
    modes: polynomials of one degree less extrapolate them or what the model misses. Where that is
    0, and for all modes beyond, wavelets along time are coded.
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
    prediction: Mapping[str, Any] = field(default_factory=dict)


def advice(ratio: float, rank: int, snapshots: int, codings: Sequence[str]) -> str:
    """What to tell somebody about this result; empty where there is nothing to warn of."""
    if ratio >= 3 or (Coding.LOSSLESS in codings and ratio >= 1):
        return ""
    if Coding.LOSSLESS in codings:
        why = "values are kept to the bit, and these are rough"
    elif Coding.DIRECT in codings:
        why = (
            "the data has no low-dimensional dynamics at this accuracy, so values were coded as "
            "they are, and these are rough"
        )
    elif rank > snapshots / 4:
        why = (
            f"the tolerance needs {rank} of at most {snapshots - 1} modes, so the data has no "
            f"low-dimensional dynamics at this accuracy"
        )
    else:
        why = f"{snapshots} snapshots are few beside the {rank} modes and what is always stored"
    if ratio < 1:
        return (
            f"The store is LARGER than the uncompressed data (ratio {ratio:.2f}): {why}. Do not "
            f"use it; keep the archive, use a general compressor, or allow a larger tolerance."
        )
    return f"A ratio of {ratio:.2f} is hardly worth it: {why}. Allow a larger tolerance."
