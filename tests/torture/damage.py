"""What a damaged store may do: give an error or the right values, and be found by the check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import xarray as xr

from romzarr.errors import PipelineError
from romzarr.store.reading.reader import open_store
from tests.torture import data
from tests.torture.campaign import Outcome


class Expected:
    """What a store holds while it is whole."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.dataset: xr.Dataset = data.load(store)
        self.arrays = data.read(store)

    def as_users_do(self) -> bool:
        return data.load(self.store).identical(self.dataset)

    def quickly(self) -> bool:
        return data.same_arrays(data.read(self.store), self.arrays)


def outcome_of(store: Path, same: Callable[[], bool], files: Sequence[str]) -> Outcome:
    """What came of damage to `files` of a store."""
    kinds = []
    try:
        if not same():
            return Outcome(wrong="reads as other values without an error")
        kinds.append("same")
    except PipelineError:
        kinds.append("refused")
    found = _found(store, files)
    return Outcome((*kinds, "found")) if not found else Outcome(tuple(kinds), found)


def _found(store: Path, files: Sequence[str]) -> str:
    """What is wrong with what the check of all files says; empty if it names a damaged file.

    What was opened a moment ago may be remembered: the check has to look at what is there now.
    """
    try:
        open_store(store).check_files()
    except PipelineError as error:
        # The root says where everything is, and stands for the store.
        named = [name if "/" in name else str(store) for name in files]
        if any(name in str(error) for name in named):
            return ""
        return f"the check of all files names another: {error}"
    return "the check of all files finds nothing"
