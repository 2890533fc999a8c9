"""Schema of ``config.yaml``: one frozen dataclass per section, in the order of the data flow.

Only these dataclasses define defaults. Every field has a check, so a `Config` made in Python obeys
the same rules as one read from a file.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import SequenceMatcher
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from romzarr.arguments import as_place, shown, wrong_type
from romzarr.errors import ConfigError

Auto = Literal["auto"]
Nothing = Literal["none"]
T = TypeVar("T")

AUTO: Auto = "auto"
NONE: Nothing = "none"


# Keeps 99.99 % of the variance of every variable.
DEFAULT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Check:
    """A check of a setting: `allowed` describes the allowed values, `accept` returns the value.

    `accept` raises ValueError for a value that is not allowed. `advice` ends the message.
    """

    allowed: str
    accept: Callable[[Any], Any]
    advice: str = ""

    def __or__(self, other: Check) -> Check:
        def accept(value: Any) -> Any:
            try:
                return self.accept(value)
            except ValueError:
                return other.accept(value)

        return Check(f"{self.allowed} or {other.allowed}", accept, self.advice or other.advice)


def setting(default: T, check: Check) -> T:
    """Make a dataclass field with a default and a check."""
    result: T = field(default=default, metadata={"check": check})
    return result


def require(condition: bool) -> None:
    if not condition:
        raise ValueError


def one_of(*words: str) -> Check:
    def accept(value: Any) -> str:
        require(isinstance(value, str) and value in words)
        return str(value)

    return Check(" or ".join(repr(word) for word in words), accept)


def _accept_flag(value: Any) -> bool:
    require(isinstance(value, bool))
    return bool(value)


flag = Check("true or false", _accept_flag)


def text(meaning: str, pattern: str = r".*\S.*") -> Check:
    def accept(value: Any) -> str:
        require(isinstance(value, str) and re.fullmatch(pattern, value) is not None)
        return str(value)

    return Check(meaning, accept)


def whole_place(place: str) -> str:
    """Return an absolute path or a URL, without a trailing slash.

    >>> whole_place("s3://bucket/runs/"), whole_place("/data/../runs/")
    ('s3://bucket/runs', '/runs')
    """
    if "://" in place:
        return place.rstrip("/")
    return os.path.abspath(os.path.expanduser(place))


def a_place(meaning: str) -> Check:
    """Accept a folder or URL; paths become absolute, so that all commands agree."""

    def accept(value: Any) -> str:
        require(isinstance(value, str) and bool(value.strip()))
        return whole_place(value)

    return Check(meaning, accept)


def texts(meaning: str, *, least: int) -> Check:
    def accept(value: Any) -> tuple[str, ...]:
        require(isinstance(value, list | tuple) and len(value) >= least)
        require(all(isinstance(item, str) and item.strip() for item in value))
        require(len(set(value)) == len(value))
        return tuple(value)

    return Check(meaning, accept)


def integer(low: int, high: int | None = None) -> Check:
    def accept(value: Any) -> int:
        require(isinstance(value, int) and not isinstance(value, bool))
        require(value >= low and (high is None or value <= high))
        return int(value)

    upper = f" to {high}" if high is not None else " or more"
    return Check(f"an integer, {low}{upper}", accept)


def number(words: str, inside: Callable[[float], bool], advice: str = "") -> Check:
    def accept(value: Any) -> float:
        require(isinstance(value, int | float) and not isinstance(value, bool))
        # Integers may exceed all floats.
        require(abs(value) <= sys.float_info.max and inside(value))
        return float(value)

    return Check(words, accept, advice)


def mapping(words: str, each: Check, *keys: str, least: int = 0) -> Check:
    """Accept a mapping of names, or of exactly these keys, to values that pass a check."""

    def accept(value: Any) -> dict[str, Any]:
        require(isinstance(value, Mapping) and len(value) >= least)
        require(all(isinstance(name, str) and name.strip() for name in value))
        require(not keys or set(value) == set(keys))
        return {name: each.accept(value[name]) for name in keys or value}

    return Check(words, accept)


def _accept_scalar(value: Any) -> str | float:
    require(isinstance(value, str | int | float))
    scalar: str | float = value
    return scalar


automatic = one_of(AUTO)
nothing = one_of(NONE)
positive = number("a number above 0", lambda value: value > 0)
not_negative = number("a number, 0 or more", lambda value: value >= 0)
# The largest tolerance below 1, which is the error of the mean alone, stands for none.
NO_TOLERANCE = math.nextafter(1.0, 0.0)


def _accept_no_tolerance(value: Any) -> float:
    require(value == NONE)
    return NO_TOLERANCE


a_tolerance = number(
    "0, which is lossless, or a number above 0 and below 1",
    lambda value: 0 <= value < 1,
    "it bounds the error relative to the fluctuation of a variable about its temporal mean: "
    "0.01 keeps 99.99 % of the variance",
)
MOST_LAYERS = 7


def _accept_tolerances(value: Any) -> tuple[float, ...]:
    require(isinstance(value, list | tuple) and 1 <= len(value) <= MOST_LAYERS)
    require(all(type(each) in (int, float) and 0 < each < 1 for each in value))
    require(len(set(value)) == len(value))
    return tuple(map(float, value))


some_tolerances = Check(
    f"a list of up to {MOST_LAYERS} different numbers above 0 and below 1", _accept_tolerances
)
A_SHARE = re.compile(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*%(?:\s+of\s+(range|value))?")
# Shares of values above would leave neither their sign nor their order of magnitude.
MOST_OF_VALUE = 40.0


class BoundKind(StrEnum):
    """What the size of a bound on single values is relative to."""

    ABSOLUTE = "absolute"
    """Nothing: it is in the units of the variable."""
    RANGE = "range"
    """The difference between the largest and the smallest value of the variable."""
    VALUE = "value"
    """Each value itself: zeros are exact."""


@dataclass(frozen=True)
class ValueBound:
    """A bound on the error of every single value of a variable."""

    size: float
    kind: BoundKind = BoundKind.ABSOLUTE

    @classmethod
    def of(cls, given: float | str) -> ValueBound:
        """Parse a number, or text such as "1%", "1% of range" and "1% of value".

        Raises
        ------
        ValueError

        >>> ValueBound.of("0.5% of value")
        ValueBound(size=0.005, kind=<BoundKind.VALUE: 'value'>)
        """
        if not isinstance(given, str):
            return cls(given)
        found = A_SHARE.fullmatch(given.strip())
        require(found is not None)
        percent, kind = float(found[1]), BoundKind(found[2] or BoundKind.RANGE)  # type: ignore[index]
        most = MOST_OF_VALUE if kind == BoundKind.VALUE else 100.0
        require(0 < percent <= most)
        return cls(percent / 100, kind)


def _accept_share(value: Any) -> str:
    require(isinstance(value, str))
    ValueBound.of(value)
    return str(value)


a_share = Check(
    f"a share such as '1%' (of the range of the variable) or '1% of value', up to "
    f"{MOST_OF_VALUE:g}%",
    _accept_share,
)
some_bounds = mapping(
    "a mapping of variables to numbers above 0, in their units, or shares such as {u: 0.01, v: 1%, "
    "w: 1% of value}, of which that of each value is at most 40%, or one share for all",
    positive | a_share,
    least=1,
)
A_DERIVATIVE = re.compile(r"(gradient|divergence|vorticity)\(([^()]+)\)")


class DerivativeKind(StrEnum):
    """A combination of first derivatives in space, of one variable or of the components of a
    vector."""

    GRADIENT = "gradient"
    DIVERGENCE = "divergence"
    VORTICITY = "vorticity"

    @property
    def components(self) -> tuple[int, ...]:
        """How many variables it may be of."""
        counts = {DerivativeKind.GRADIENT: (1,), DerivativeKind.DIVERGENCE: (2, 3)}
        return counts.get(self, (2,))


@dataclass(frozen=True)
class DerivativeBound:
    """A bound on the error of a derivative of some ``variables``, by its own fluctuation.

    Without variables it is one on the gradient of each that has one.
    """

    kind: DerivativeKind
    variables: tuple[str, ...]
    tolerance: float

    @classmethod
    def of(cls, expression: str, tolerance: float) -> DerivativeBound:
        """Parse text such as "vorticity(u, v)".

        Raises
        ------
        ValueError

        >>> DerivativeBound.of("vorticity(u, v)", 0.01).variables
        ('u', 'v')
        """
        found = A_DERIVATIVE.fullmatch(expression.strip())
        require(found is not None)
        kind = DerivativeKind(found[1])  # type: ignore[index]
        names = tuple(name.strip() for name in found[2].split(","))  # type: ignore[index]
        require(all(names) and len(set(names)) == len(names) and len(names) in kind.components)
        return cls(kind, names, tolerance)

    @property
    def name(self) -> str:
        return f"{self.kind}({', '.join(self.variables)})"


below_one = number("a number above 0 and below 1", lambda value: 0 < value < 1)


def _accept_derivatives(value: Any) -> dict[str, float]:
    require(isinstance(value, Mapping) and len(value) > 0)
    require(all(isinstance(name, str) for name in value))
    found = [DerivativeBound.of(name, below_one.accept(each)) for name, each in value.items()]
    accepted = {bound.name: bound.tolerance for bound in found}
    require(len(accepted) == len(value))
    return accepted


some_derivatives = below_one | Check(
    "a mapping of gradient(u), divergence(u, v) and vorticity(u, v) to such numbers",
    _accept_derivatives,
)
some_lengths = mapping(
    "a mapping of dims to integers, 1 or more, such as {lev: 1, time: 61}", integer(1), least=1
)
scalar = Check("text, a number, true or false", _accept_scalar)
a_size = text("a size such as '4 GB' or '512 MiB'", r"\d+(\.\d+)?\s*([kMGT]i?)?B")
a_cluster = one_of("threads", "local", "slurm", "kubernetes", "gateway") | text(
    "the address of a Dask scheduler such as 'tcp://10.0.0.1:8786'", r"(tcp|tls)://\S+:\d+"
)
certificates = mapping(
    "a mapping of ca_file, cert and key to the paths of PEM files",
    text("a path"),
    *("ca_file", "cert", "key"),
)
a_walltime = text("hours such as '01:30:00', with days '2-00:00:00'", r"(\d+-)?\d+:[0-5]\d:[0-5]\d")
a_kind = text(
    "'polynomial', 'fourier', 'symbolic', 'neural' or several of them joined with '+'",
    r"(polynomial|fourier|symbolic|neural)(\+(polynomial|fourier|symbolic|neural))*",
)


class Compaction(StrEnum):
    """Whether parts that are appended leave a share of the bound to put them together later."""

    AUTO = "auto"
    """They do, and `romzarr.append` puts them together when it pays."""
    NONE = "none"
    """They spend the bound, and stay."""


class Reference(StrEnum):
    """What fluctuations, by which tolerances are meant, are about."""

    MEAN = "mean"
    """The temporal mean of each point."""
    CLIMATOLOGY = "climatology"
    """The mean of each calendar month, or of each hour of these."""


class Section:
    """Base class of the sections: checks every field."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            check, value = each.metadata["check"], getattr(self, each.name)
            try:
                accepted = check.accept(value)
            except ValueError:
                raise ConfigError(refusal(self, each.name, value, check)) from None
            object.__setattr__(self, each.name, accepted)


def refusal(section: Section, name: str, value: Any, check: Check) -> str:
    advice = f"; {check.advice}" if check.advice else ""
    place = f"{section_name(type(section))}.{name}"
    return f"{place}: found {shown(value)}, allowed is {check.allowed}{advice}"


@dataclass(frozen=True)
class ArchiveConfig(Section):
    """The part of the archive to compress, and the weights of the error norm."""

    time: str = setting(AUTO, automatic | text("the name of the time dimension"))
    variables: Literal["all"] | tuple[str, ...] = setting(
        "all", one_of("all") | texts("a list of different variable names or patterns", least=1)
    )
    exclude: Literal["none"] | tuple[str, ...] = setting(
        "none", one_of("none") | texts("a list of different variable names or patterns", least=1)
    )
    weights: str = setting(
        "none", one_of("none", "cos(latitude)") | text("the name of a variable that holds weights")
    )
    columns: str = setting("auto", one_of("auto", "series", "times"))
    series: str = setting("one", one_of("one", "each"))
    engine: str = setting("auto", text("'auto', or the name of an engine of xarray"))
    missing_chunks: Literal["error", "fill"] = setting("error", one_of("error", "fill"))
    record_path: bool = setting(False, flag)


@dataclass(frozen=True)
class CompressionConfig(Section):
    """The error bounds and the rank."""

    tolerance: float = setting(DEFAULT_TOLERANCE, a_tolerance | Check("none", _accept_no_tolerance))
    max_error: str | Mapping[str, float | str] = setting(NONE, nothing | a_share | some_bounds)
    per: str | tuple[str, ...] = setting(
        AUTO, automatic | nothing | texts("a list of different names of dims", least=1)
    )
    fluctuation: str = setting(Reference.MEAN, one_of(*Reference))
    sums: str | tuple[str, ...] = setting(
        NONE, nothing | texts("a list of different names of variables that hold weights", least=1)
    )
    derivatives: str | float | Mapping[str, float] = setting(NONE, nothing | some_derivatives)
    layers: str | tuple[float, ...] = setting(NONE, nothing | some_tolerances)
    max_rank: int | Auto = setting(AUTO, automatic | integer(1))
    compact: str = setting(Compaction.AUTO, one_of(*Compaction))

    def for_variables(self, names: Collection[str]) -> CompressionConfig:
        """The same for an archive with these variables, of which a tolerance may ask nothing only
        if all have bounds on single values."""
        given = self.max_error
        if isinstance(given, str) and given != NONE:
            return replace(self, max_error=dict.fromkeys(names, given))
        if self.tolerance < NO_TOLERANCE or set(names) <= self.bounds.keys():
            return self
        return replace(self, tolerance=DEFAULT_TOLERANCE)

    @property
    def layer_tolerances(self) -> tuple[float, ...]:
        """Relative errors at which a store can be read by a part of its bytes."""
        return () if isinstance(self.layers, str) else self.layers

    @property
    def sum_weights(self) -> tuple[str, ...]:
        """Names of the weights of sums that are kept exactly."""
        return () if isinstance(self.sums, str) else self.sums

    @property
    def derivative_bounds(self) -> tuple[DerivativeBound, ...]:
        """Bounds on derivatives in space; none where nothing is lost."""
        given = self.derivatives
        if isinstance(given, str) or self.tolerance == 0:
            return ()
        if not isinstance(given, Mapping):
            return (DerivativeBound(DerivativeKind.GRADIENT, (), given),)
        return tuple(DerivativeBound.of(name, each) for name, each in given.items())

    @property
    def climatology(self) -> bool:
        """Whether fluctuations are about a mean cycle."""
        return self.fluctuation == Reference.CLIMATOLOGY

    @property
    def bounds(self) -> Mapping[str, ValueBound]:
        """Bounds on the error of single values, by variable."""
        if isinstance(self.max_error, str):
            return {}
        return {name: ValueBound.of(bound) for name, bound in self.max_error.items()}

    @property
    def absolute_bounds(self) -> Mapping[str, float]:
        """Those of the bounds that are in the units of what is coded, by variable."""
        kind = BoundKind.ABSOLUTE
        return {name: each.size for name, each in self.bounds.items() if each.kind == kind}


@dataclass(frozen=True)
class LayoutConfig(Section):
    """How modes and values are cut into tiles, which are read and decoded whole."""

    tile: Auto | Mapping[str, int] = setting(AUTO, automatic | some_lengths)

    @property
    def lengths(self) -> Mapping[str, int]:
        """What tiles have at most along some dims."""
        return {} if isinstance(self.tile, str) else self.tile


@dataclass(frozen=True)
class WeakFormConfig(Section):
    """Test functions and time blocks of the weak system."""

    test_function: str = setting(
        "bell", text("'bell', 'bell(q)', or an expression in s that vanishes at -1 and 1")
    )
    support: float | Auto = setting(AUTO, automatic | positive)
    spacing: float | Auto = setting(AUTO, automatic | positive)
    block_steps: int | Auto = setting(AUTO, automatic | integer(2))


@dataclass(frozen=True)
class LibraryConfig(Section):
    """Candidate terms of the model."""

    kind: str = setting("polynomial", a_kind)
    degree: int | Auto = setting(AUTO, automatic | integer(0, 10))
    interactions: bool = setting(True, flag)
    frequencies: int = setting(1, integer(1, 100))
    expressions: tuple[str, ...] = setting(
        (), texts("a list of different expressions in a1, a2, ...", least=0)
    )
    operators: tuple[str, ...] = setting(
        ("identity", "sin", "cos", "mul"), texts("a list of names of operators", least=1)
    )
    nested: tuple[str, ...] = setting((), texts("a list of names of binary operators", least=0))
    weights: str = setting("shipped", text("'shipped' or the path of a file of weights"))
    modes: int | Auto = setting(AUTO, automatic | integer(1))
    max_terms: int = setting(300, integer(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        symbolic = "symbolic" in self.kinds
        if symbolic != bool(self.expressions):
            found = f"{len(self.expressions)} expressions with kind {self.kind!r}"
            raise ConfigError(
                f"library.expressions: found {found}; give expressions exactly when "
                "library.kind names 'symbolic'"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.kind.split("+"))


@dataclass(frozen=True)
class SparseRegressionConfig(Section):
    """Sequentially thresholded least squares."""

    threshold: float | Auto = setting(AUTO, automatic | not_negative)
    ridge: float = setting(0.0, not_negative)
    max_iterations: int = setting(20, integer(1))


# Settings of each kind of cluster; those of other kinds are refused.
SCALING = ("workers", "minimum", "maximum")
SIZING = ("threads_per_worker", "memory_limit")
SETTINGS_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "threads": ("workers",),
    "local": (*SCALING, *SIZING),
    "slurm": (
        *(*SCALING, *SIZING, "start_minutes", "queue", "account", "walltime", "interface"),
        *("directives", "prologue", "log_directory", "tls"),
    ),
    "kubernetes": (*SCALING, *SIZING, "start_minutes", "image", "namespace", "secret"),
    "gateway": (*SCALING, "start_minutes", "gateway", "options"),
    "address": ("tls",),
}
# Settings without a reasonable default.
NEEDED_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "slurm": ("memory_limit",),
    "kubernetes": ("memory_limit", "image"),
    "gateway": ("gateway",),
}


@dataclass(frozen=True)
class ClusterConfig(Section):
    """Where tasks run."""

    kind: str = setting("threads", a_cluster)
    workers: int | Auto = setting(AUTO, automatic | integer(1))
    minimum: int = setting(1, integer(1))
    maximum: int | Nothing = setting(NONE, nothing | integer(1))
    threads_per_worker: int = setting(1, integer(1))
    memory_limit: str = setting(AUTO, automatic | a_size)
    start_minutes: float = setting(10.0, positive)
    queue: str = setting(NONE, text("'none' or the name of a partition"))
    account: str = setting(NONE, text("'none' or the name of an account"))
    walltime: str = setting("01:00:00", a_walltime)
    interface: str = setting(AUTO, automatic | text("the name of a network interface"))
    tls: Nothing | Mapping[str, str] = setting(NONE, nothing | certificates)
    directives: tuple[str, ...] = setting((), texts("a list of options of sbatch", least=0))
    prologue: tuple[str, ...] = setting((), texts("a list of lines of shell", least=0))
    log_directory: str = setting(".", text("the path of a folder"))
    image: str = setting(NONE, text("'none' or the name of a container image"))
    namespace: str = setting("default", text("the name of a namespace"))
    secret: str = setting(NONE, text("'none' or the name of a secret"))
    gateway: str = setting(
        NONE, nothing | text("the URL of a gateway such as 'https://hub/gateway'", r"https?://\S+")
    )
    options: Nothing | Mapping[str, Any] = setting(
        NONE, nothing | mapping("a mapping of names to values such as {worker_cores: 2}", scalar)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_settings_of_other_kinds()
        self._require_settings_of_this_kind()
        self._check_scaling()
        if self.tls != NONE and self.kind.startswith("tcp://"):
            raise ConfigError(
                f"cluster.tls: found {self.tls!r} with kind {self.kind!r}, which is not encrypted; "
                "give the address as tls://, or remove cluster.tls"
            )

    @property
    def family(self) -> str:
        """The kind, or "address" for the address of a scheduler."""
        return "address" if "://" in self.kind else self.kind

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the settings that differ from their defaults, except the kind."""
        return tuple(
            each.name
            for each in fields(self)
            if each.name != "kind" and getattr(self, each.name) != each.default
        )

    def _refuse_settings_of_other_kinds(self) -> None:
        taken = SETTINGS_OF_KIND[self.family]
        for name in self.given:
            if name not in taken:
                kinds = ", ".join(k for k, names in SETTINGS_OF_KIND.items() if name in names)
                raise ConfigError(
                    f"cluster.{name}: found {getattr(self, name)!r} with kind {self.kind!r}, which "
                    f"takes {', '.join(taken) or 'no other setting'}; remove it, or set "
                    f"cluster.kind to what takes it ({kinds})"
                )

    def _require_settings_of_this_kind(self) -> None:
        for name in NEEDED_BY_KIND.get(self.family, ()):
            if name not in self.given:
                raise ConfigError(
                    f"cluster.{name}: kind {self.kind!r} needs it, found {getattr(self, name)!r}"
                )

    def _check_scaling(self) -> None:
        if self.maximum == NONE:
            if self.minimum != 1:
                raise ConfigError(
                    f"cluster.minimum: found {self.minimum} without cluster.maximum; set both for "
                    "adaptive scaling, or cluster.workers for a fixed number"
                )
            if self.workers == AUTO and self.family in NEEDED_BY_KIND:
                raise ConfigError(
                    f"cluster.workers: kind {self.kind!r} needs a number, or cluster.minimum and "
                    "cluster.maximum for adaptive scaling; found neither"
                )
        elif self.workers != AUTO:
            raise ConfigError(
                f"cluster.workers: found {self.workers} with cluster.maximum {self.maximum}; "
                "remove one: the number of workers is either fixed or adaptive"
            )
        elif self.minimum > self.maximum:
            raise ConfigError(
                f"cluster.minimum: found {self.minimum}, allowed are 1 to cluster.maximum "
                f"({self.maximum})"
            )


@dataclass(frozen=True)
class NightlyConfig(Section):
    """The archive that ``romzarr nightly`` keeps compressed, and where its stores are."""

    archive: str = setting(
        NONE, nothing | a_place("the folder or URL below which the datasets lie")
    )
    pattern: str = setting("*.zarr", text("a glob such as '*.zarr' or '**/*.nc'", r"[^/].*"))
    stores: str = setting(NONE, nothing | a_place("the folder or URL below which the stores lie"))
    empty: Literal["error", "allow"] = setting("error", one_of("error", "allow"))
    verify: Literal["sample", "full"] = setting("sample", one_of("sample", "full"))
    parallel: int | Auto = setting(AUTO, automatic | integer(1))
    max_hours: float | Literal["unlimited"] = setting("unlimited", one_of("unlimited") | positive)


@dataclass(frozen=True)
class Config:
    """All settings of one run.

    Examples
    --------
    >>> config = Config(compression=CompressionConfig(tolerance=1e-3))
    >>> config.library.max_terms
    300
    """

    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    weak_form: WeakFormConfig = field(default_factory=WeakFormConfig)
    library: LibraryConfig = field(default_factory=LibraryConfig)
    sparse_regression: SparseRegressionConfig = field(default_factory=SparseRegressionConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    nightly: NightlyConfig = field(default_factory=NightlyConfig)

    def __post_init__(self) -> None:
        for name, section in SECTIONS.items():
            if not isinstance(found := getattr(self, name), section):
                raise ConfigError(f"{name}: found {shown(found)}, allowed is a {section.__name__}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, which `load_config` can read."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


SECTIONS: dict[str, type[Section]] = {
    "archive": ArchiveConfig,
    "compression": CompressionConfig,
    "layout": LayoutConfig,
    "weak_form": WeakFormConfig,
    "library": LibraryConfig,
    "sparse_regression": SparseRegressionConfig,
    "cluster": ClusterConfig,
    "nightly": NightlyConfig,
}
KNOWN_KEYS = tuple(
    f"{name}.{each.name}"
    for name, section in SECTIONS.items()
    for each in fields(section)  # type: ignore[arg-type]  # every subclass is a dataclass
)


def section_name(section: type[Section]) -> str:
    return next(name for name, known in SECTIONS.items() if known is section)


TOLERANCE = "compression.tolerance"
# Bounds on single values: by variable, or one share for all.
MaxError = Mapping[str, float | str] | str
# What functions take as settings.
Settings = Config | Mapping[str, object] | str | os.PathLike[str]


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> Config:
    """Read a configuration file and apply `overrides`.

    Parameters
    ----------
    path : str or Path, optional
        A YAML file with any of the sections and keys; the others have their defaults.
    overrides : mapping of str to object, optional
        Values by dotted key, such as ``{"compression.tolerance": 1e-3}``.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown or given twice, or a value is not
        allowed. The message names the line, what was found and what is allowed.

    Examples
    --------
    >>> load_config(overrides={"compression.tolerance": 1e-3}).compression.tolerance
    0.001
    >>> load_config(overrides={"compression.tolerence": 1e-3})
    Traceback (most recent call last):
    ...
    romzarr.errors.ConfigError: unknown key 'compression.tolerence'; the nearest known key is \
'compression.tolerance'
    """
    config, said = Config(), dict[str, object]()
    if path is not None:
        place = as_place(path, "path")
        try:
            said = dict(read_yaml(Path(place)))
            config = with_values(config, said)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: not a YAML file: {error}") from error
        # Tags such as !!timestamp and !!binary may have invalid values.
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ConfigError(f"{path}: contains an invalid value: {error}") from error
    if not isinstance(overrides, Mapping | None):
        raise wrong_type("overrides", overrides, "a mapping of dotted keys to values")
    config = with_values(config, overrides or {})
    given = {**said, **(overrides or {})}
    return config if TOLERANCE in given else _bounds_alone(config)


def _bounds_alone(config: Config) -> Config:
    """Without a tolerance that was asked for, bounds on single values are all that is asked."""
    compression = config.compression
    if compression.max_error == NONE or compression.tolerance != DEFAULT_TOLERANCE:
        return config
    return with_values(config, {TOLERANCE: NONE})


def given_config(config: Settings | None) -> Config:
    """Make settings of the argument ``config`` of a function; None gives the defaults.

    A mapping has values by dotted key, or sections with values by key; text is the path of a file.
    """
    if config is None or isinstance(config, Config):
        return Config() if config is None else config
    if isinstance(config, str | os.PathLike):
        return load_config(Path(as_place(config, "config")))
    if not isinstance(config, Mapping):
        raise wrong_type("config", config, "a Config, a mapping of settings, or a path of a file")
    return load_config(overrides=dict(_by_dotted_key(config)))


def _by_dotted_key(settings: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if key in SECTIONS and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", each) for name, each in value.items())
        else:
            yield key, value


def with_engine(config: Config, engine: str | None) -> Config:
    """The settings with the engine of a call, if one is given."""
    return config if engine is None else with_values(config, {"archive.engine": engine})


def with_values(config: Config, values: Mapping[str, object]) -> Config:
    """Replace some values of `config`, given by dotted key."""
    changes: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if not isinstance(key, str) or key not in KNOWN_KEYS:
            raise ConfigError(unknown(str(key)))
        section, name = key.split(".")
        changes.setdefault(section, {})[name] = value
    sections = {name: replace(getattr(config, name), **new) for name, new in changes.items()}
    return replace(config, **sections)


def unknown(key: str) -> str:
    """Write the message for an unknown key, with the nearest known key or section."""

    def likeness(known: str) -> float:
        # Recognise a key in the wrong section, or in none, by its own name.
        leaves = SequenceMatcher(None, key.split(".")[-1], known.split(".")[-1]).ratio()
        return max(leaves, SequenceMatcher(None, key, known).ratio())

    sections = [each.name for each in fields(Config)] if "." not in key else []
    nearest = max([*KNOWN_KEYS, *sections], key=likeness)
    kind = "section" if nearest in sections else "known key"
    return f"unknown key {key!r}; the nearest {kind} is {nearest!r}"


# A configuration file is far smaller and flat. The limits protect the YAML parser.
MAX_BYTES, MAX_DEPTH = 1 << 20, 16


class StrictLoader(yaml.SafeLoader):
    """Loads YAML 1.2 numbers and booleans: 1e-2 is a number, and NO may name a variable."""


StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"


def _modest_text(path: Path) -> str:
    """Read a file, but refuse what would exhaust a parser."""
    if not path.is_file() and path.exists():
        raise ConfigError("is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"has more than {MAX_BYTES} bytes")
    text, depth = content.decode("utf-8"), 0
    for event in yaml.parse(text, Loader=StrictLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                f"{_line(event)}: aliases (*{event.anchor}) are not allowed; write the value out"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{_line(event)}: values are nested deeper than {MAX_DEPTH} levels")
    return text


def read_yaml(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield keys ``section.key`` and values of a configuration file; refuse duplicates."""
    text = _modest_text(path)
    loader = StrictLoader(text)
    root = loader.get_single_node()
    for name, section, where in entries(loader, root, "the file"):
        if name not in SECTIONS:
            raise ConfigError(f"{where}: {unknown(name)}; sections are {', '.join(SECTIONS)}")
        for key, node, place in entries(loader, section, f"section {name!r}"):
            if f"{name}.{key}" not in KNOWN_KEYS:
                raise ConfigError(f"{place}: {unknown(f'{name}.{key}')}")
            yield f"{name}.{key}", loader.construct_object(node, deep=True)


def entries(
    loader: StrictLoader, node: yaml.Node | None, what: str
) -> Iterator[tuple[str, yaml.Node, str]]:
    """Yield key, value node and line of each entry of a mapping, which may be empty."""
    if node is None or (
        isinstance(node, yaml.ScalarNode) and loader.construct_object(node) is None
    ):
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"line {node.start_mark.line + 1}: {what} must hold lines 'key: value'")
    first: dict[str, int] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        key = str(loader.construct_object(key_node))
        if key in first:
            raise ConfigError(
                f"line {line}: key {key!r} is already given on line {first[key]}; "
                "remove one of them"
            )
        first[key] = line
        yield key, value, f"line {line}"


def settled(
    config: Config,
    tolerance: float | None,
    max_error: MaxError | None,
    variables: Sequence[str] | None,
    weights: str | None,
    engine: str | None = None,
) -> Config:
    """Apply the keyword arguments of a call to the configuration.

    With `max_error` alone a tolerance of the configuration that is the default one asks nothing.
    """
    given = {
        TOLERANCE: tolerance,
        "compression.max_error": max_error,
        "archive.variables": _listed(variables),
        "archive.weights": weights,
        "archive.engine": engine,
    }
    config = with_values(config, {key: value for key, value in given.items() if value is not None})
    return _bounds_alone(config) if tolerance is None and max_error is not None else config


def _listed(names: Any) -> Any:
    """Convert names to a tuple; leave anything else for the check to refuse."""
    if names is None or isinstance(names, str | bytes):
        return names
    try:
        return tuple(names)
    except TypeError:
        return names
