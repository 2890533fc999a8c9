"""What varies in property tests: chunk grids, matrices, datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cftime
import numpy as np
import xarray as xr
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.oracles import decaying_matrix

Chunks = tuple[int, ...]
seeds = st.integers(0, 2**32 - 1)


@st.composite
def chunkings(draw: st.DrawFn, length: int, most: int = 6) -> Chunks:
    """Ragged chunk lengths that add up to `length`: one chunk, all ones, anything between."""
    if draw(st.booleans()):
        size = draw(st.sampled_from([1, 2, 3, max(1, length // 2), length]))
        if -(-length // size) <= 4 * most:
            return (
                *(size for _ in range(length // size)),
                *([length % size] * (length % size > 0)),
            )
    cuts = draw(st.sets(st.integers(1, max(1, length - 1)), max_size=most))
    edges = sorted({0, *(c for c in cuts if c < length), length})
    return tuple(b - a for a, b in pairwise(edges))


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...], most: int = 6) -> tuple[Chunks, ...]:
    return tuple(draw(chunkings(n, most)) for n in shape)


@st.composite
def time_axes(draw: st.DrawFn, length: int) -> NDArray[Any]:
    """Even, uneven, datetime64 and cftime (360-day) times."""
    kind = draw(st.sampled_from(["even", "uneven", "datetime", "months", "cftime"]))
    rng = np.random.default_rng(draw(seeds))
    if kind == "even":
        return -3.0 + 0.25 * np.arange(length)
    if kind == "uneven":
        return np.cumsum(rng.uniform(0.05, 1.0, length))
    if kind == "datetime":
        return np.datetime64("2001-01-01", "ns") + np.arange(length) * np.timedelta64(6, "h")
    months = [(2001 + k // 12, k % 12 + 1) for k in range(length)]
    if kind == "months":
        return np.array([f"{y}-{k:02d}-16" for y, k in months], "datetime64[ns]")
    return np.array([cftime.Datetime360Day(y, k, 30) for y, k in months])


@dataclass(frozen=True)
class Field:
    """How the values of one variable are made up."""

    kind: str
    dtype: str
    offset: float
    scale: float
    masked: float
    dims: tuple[str, ...]


KINDS = ("waves", "decay", "noise", "trend", "steps")


def field_values(field: Field, sizes: Mapping[str, int], rng: np.random.Generator) -> NDArray[Any]:
    """The values of `field`, with its own order of dims."""
    space = [d for d in field.dims if d != "time"]
    m, n = sizes["time"], int(np.prod([sizes[d] for d in space], dtype=int))
    t, x = np.linspace(0, 1, m)[:, None], rng.permutation(np.linspace(0, 1, n))[None, :]
    rows = {
        "waves": lambda: sum(np.sin(k * (7 * x - 11 * t)) / k**2 for k in (1, 2, 3)),
        "decay": lambda: decaying_matrix(rng, m, n, 8) * (m * n) ** 0.5,
        "noise": lambda: rng.standard_normal((m, n)),
        "trend": lambda: (3 * t**2 - t) * np.cos(5 * x) + 1e-3 * rng.standard_normal((m, n)),
        # Quiet for most of the record, then loud: blocks of time differ by orders.
        "steps": lambda: np.where(t > 0.8, 1e3, 1.0) * rng.standard_normal((m, n)),
        "constant": lambda: np.repeat(rng.standard_normal((1, n)), m, axis=0),
    }[field.kind]()
    rows = field.offset + field.scale * rows
    hidden = rng.random(n) < field.masked
    if field.masked < 1 and n > 1:
        hidden[rng.integers(n)] = False
    rows[:, hidden] = np.nan
    values = rows.reshape(m, *(sizes[d] for d in space))
    return np.moveaxis(values, 0, field.dims.index("time")).astype(field.dtype)


@st.composite
def fields(draw: st.DrawFn, tight: bool = False) -> Field:
    dims = draw(
        st.sampled_from([("time", "x"), ("x", "time"), ("time", "y", "x"), ("y", "time", "x"),
                         ("x", "y", "time")])
    )  # fmt: skip
    dtype = draw(st.sampled_from(["float64"] if tight else ["float16", "float32", "float64"]))
    modest = dtype == "float16"
    return Field(
        kind=draw(st.sampled_from([*KINDS, "constant"])),
        dtype=dtype,
        offset=draw(st.sampled_from([0.0, 1.0] if tight or modest else [0.0, 1.0, -300.0])),
        scale=draw(st.sampled_from([1.0] if modest else [1e-2, 1.0, 1e6])),
        masked=draw(st.sampled_from([0.0, 0.0, 0.3])),
        dims=dims,
    )


@st.composite
def datasets(draw: st.DrawFn, tight: bool = False) -> xr.Dataset:
    """Dask-backed dataset of one to three variables, each with a chunk grid of its own."""
    sizes = {
        "time": draw(st.integers(6, 70)),
        "x": draw(st.integers(1, 24)),
        "y": draw(st.integers(1, 5)),
    }
    rng = np.random.default_rng(draw(seeds))
    variables = {}
    for name in "uvw"[: draw(st.integers(1, 3))]:
        field = draw(fields(tight))
        variable = xr.Variable(
            field.dims, field_values(field, sizes, rng), {"units": "m", "long_name": name}
        )
        grid = draw(grids(variable.shape, most=4))
        variables[name] = variable.chunk(dict(zip(field.dims, grid, strict=True)))
    variables["area"] = xr.Variable("x", rng.random(sizes["x"]))
    variables["flag"] = xr.Variable(("time",), np.arange(sizes["time"], dtype="int16"))
    coords = {"time": draw(time_axes(sizes["time"])), "height": 2.0, "x": np.arange(sizes["x"])}
    return xr.Dataset(variables, coords, {"title": "made up"})
