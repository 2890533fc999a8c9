"""Cases that other tests generate: forged stores, data under all bounds, what strangers give.

Such a generator is a function ``run_case(seed)`` that returns what came of the case, a kind of
outcome or several with colons between ("refused: append"), and raises what is wrong.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import ClassVar

from tests.torture.campaign import Campaign, Case, Outcome


class Generated(Campaign):
    """A campaign whose cases are seeds of a function of a module."""

    module: ClassVar[str]
    function: ClassVar[str] = "run_case"

    @classmethod
    def is_there(cls) -> bool:
        return importlib.util.find_spec(cls.module) is not None

    def cases(self) -> Iterator[Case]:
        yield from ({"seed": self.seed * (1 << 32) + number} for number in range(1 << 32))

    def run(self, case: Case) -> Outcome:
        run_case = getattr(importlib.import_module(self.module), self.function)
        return Outcome(tuple(run_case(case["seed"]).split(": ")))


class Forged(Generated):
    """Stores that a structure-aware generator forges, with all checksums right."""

    name = "forged"
    what = "stores with right checksums whose facts and metadata are forged"
    slice = 40
    share = 2.0
    module = "tests.forged"


class Bounds(Generated):
    """Data of any dtype, scale, mask and length, written in every way."""

    name = "bounds"
    what = "bounds recomputed from what xarray reads, for any data and any way of writing"
    slice = 4
    share = 2.0
    module = "tests.cases"


class Archives(Generated):
    """CSV, NetCDF and Zarr that are nearly right: an error of ours, or a store of what is read."""

    name = "archives"
    what = "archives that are cut, flipped, or described wrongly, given to commands and functions"
    slice = 24
    module = "tests.strange.archives"


class Settings(Generated):
    """Texts of settings, and those that can be read in use."""

    name = "settings"
    what = "settings that are changed, misspelt, too deep or no YAML, and any that are allowed"
    slice = 20
    module = "tests.strange.settings"


class Arguments(Generated):
    """The functions of `pipeline` with arguments of any type."""

    name = "arguments"
    what = "functions called with arguments of other types, shapes, dtypes, dims and names"
    slice = 40
    module = "tests.strange.arguments"
