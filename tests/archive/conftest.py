"""Fixtures of the archive's tests: evaluating block tasks as a scheduler would."""

from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
from hypothesis import strategies as st

from romzarr.archive.blocks import Grid
from romzarr.contracts import ArchivedVariable, ReadBlock, Region


def evaluate(variable: ArchivedVariable, region: Region) -> ReadBlock:
    graph = {**variable.source.graph(), "block": variable.source.task(region)}
    return dask.get(graph, "block")


def whole(variable: ArchivedVariable) -> np.ndarray[Any, Any]:
    """The variable put together from all of its blocks."""
    grid = Grid(variable.chunks)
    values = np.empty(variable.shape, variable.dtype)
    for index in grid.positions():
        block = evaluate(variable, grid.region(index)).values
        assert block.dtype == variable.dtype.newbyteorder("=")
        values[grid.region(index)] = block
    return values


@st.composite
def aligned_region(draw: st.DrawFn, variable: ArchivedVariable) -> Region:
    """A region that starts and stops at chunk boundaries, at least one chunk long."""
    region = []
    for lengths in variable.chunks:
        ends = np.concatenate([[0], np.cumsum(lengths)])
        first = draw(st.integers(0, len(lengths) - 1))
        last = draw(st.integers(first + 1, len(lengths)))
        region.append(slice(int(ends[first]), int(ends[last])))
    return tuple(region)


@pytest.fixture(scope="session")
def read_block() -> Callable[[ArchivedVariable, Region], ReadBlock]:
    return evaluate


@pytest.fixture(scope="session")
def read_all() -> Callable[[ArchivedVariable], np.ndarray[Any, Any]]:
    return whole


@pytest.fixture(scope="session")
def regions_of() -> Callable[[ArchivedVariable], st.SearchStrategy[Region]]:
    return aligned_region
