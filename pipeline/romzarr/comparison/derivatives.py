"""Errors of derivatives in space, where a store bounds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from romzarr.archive import Archive
from romzarr.archive.climatology import groups_asked
from romzarr.chunked.derivatives import derivative_errors
from romzarr.contracts import Region
from romzarr.derivatives import bounded_derivatives
from romzarr.numerics.gaps import special_values
from romzarr.recorded_config import config_of
from romzarr.store.layout import Root
from romzarr.store.reading.reader import CoefficientStore, open_store


@dataclass(frozen=True)
class _Stored:
    """A store as tasks decode it."""

    url: str
    root: Root

    def decode(self, variable: str, time_axis: int, region: Region) -> NDArray[Any]:
        space = region[:time_axis] + region[time_axis + 1 :]
        return _opened_once(self.url, self.root).decode(variable, region[time_axis], space)


# The store is opened once in each process that runs tasks.
_opened_once = lru_cache(maxsize=4)(open_store)


@dataclass(frozen=True)
class DerivativeErrors:
    """Errors of derivatives by their own fluctuation, and the bounds, by name."""

    errors: dict[str, float]
    tolerances: dict[str, float]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is above its bound, in words."""
        return tuple(
            f"{name}: error {error:.4e} of its own fluctuation is above {self.tolerances[name]:g}"
            for name, error in self.errors.items()
            if error > self.tolerances[name]
        )


def derivative_errors_of(archive: Archive, opened: CoefficientStore) -> DerivativeErrors:
    """Measure the derivatives whose errors a store bounds. Runs Dask, and reads their variables."""
    compression = config_of(opened).compression
    asked = bounded_derivatives(archive, compression)
    known = {variable.name: variable for variable in archive.variables}
    special = {
        name: values if any(part.variables[name].gaps for part in opened.parts) else values[:3]
        for name, variable in known.items()
        for values in [special_values(variable.dtype)]
    }
    groups = groups_asked(archive, compression.climatology and bool(asked))
    stored = _Stored(opened.url, opened.root)
    found, _ = derivative_errors(asked, known, stored, special, groups)
    errors = {name: each.relative for name, each in found.items()}
    return DerivativeErrors(errors, {each.name: each.tolerance for each in asked})
