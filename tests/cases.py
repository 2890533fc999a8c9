"""One case of the law that every store keeps its bound, whatever the data and however written.

`run_case` draws a dataset and a way of writing from a seed, and checks what xarray reads back in
long double. It shares no code with romzarr. Many cases::

    python -m tests.cases 0 1000
"""

from __future__ import annotations

import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

import romzarr
from romzarr import StreamCompressor
from romzarr.errors import AccuracyError, ArchiveError, ConfigError

Values = NDArray[Any]
TOLERANCES = (0.3, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
KINDS = (
    *("waves", "noise", "low rank", "trend", "bursts"),
    *("steps", "still", "spike", "spin-up"),
)
LENGTHS = (1, 2, 3, 5, 7, 13, 31, 10**6)
# More nights than this are more of the same.
NIGHTS = 24


@dataclass(frozen=True)
class Case:
    """A dataset, and how it is written."""

    source: xr.Dataset
    tolerance: float
    way: str
    weights: str | None
    bounds: dict[str, float] | None
    lengths: tuple[int, ...]
    reopened: int
    commit_steps: int

    def __str__(self) -> str:
        named = {n: (v.dtype.str, v.dims, v.shape, v.attrs["kind"]) for n, v in self.source.items()}
        return (
            f"{named}, tolerance {self.tolerance:g}, {self.way}, weights {self.weights}, "
            f"bounds {self.bounds}, blocks {self.lengths[:6]}, reopened every {self.reopened}, "
            f"commits every {self.commit_steps}"
        )


# --- drawing ------------------------------------------------------------------------------


def drawn(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    sizes = {"time": int(rng.choice([5, 8, 24, 60, 150])), "x": int(rng.integers(1, 40))}
    sizes["y"] = int(rng.integers(1, 6))
    count = int(rng.choice([1, 1, 2, 3]))
    source = xr.Dataset({name: _variable(rng, sizes) for name in "uvw"[:count]})
    source = source.assign_coords(time=np.arange(float(sizes["time"])))
    weights = None
    if rng.random() < 0.2:
        source = source.assign_coords(area=("x", rng.random(sizes["x"]) + 1e-3))
        weights = "area" if all("x" in v.dims for v in source.data_vars.values()) else None
    way = str(rng.choice(["compress", "append", "stream"]))
    lengths = _lengths(rng, sizes["time"])
    bounds = None
    if way == "compress" and rng.random() < 0.3:
        with np.errstate(over="ignore"):
            spread = {str(n): np.nanstd(v.values.astype("f8")) for n, v in source.data_vars.items()}
        bounds = {n: float(10 ** rng.uniform(-3, 0)) * float(s + 1e-9) for n, s in spread.items()}
    if way == "compress":
        source = source.chunk(time=int(rng.choice([1, 7, 10**6])), x=int(rng.choice([5, 10**6])))
    return Case(
        source,
        float(rng.choice(TOLERANCES)),
        way,
        weights,
        bounds,
        lengths,
        int(rng.choice([1, 2, 3, 10**6])),
        int(rng.choice([1, 4, 16, 1024])),
    )


def _lengths(rng: np.random.Generator, snapshots: int) -> tuple[int, ...]:
    """Lengths of blocks of a record: all alike, or any."""
    found: list[int] = []
    alike = rng.random() < 0.5
    length = int(rng.choice(LENGTHS))
    while sum(found) < snapshots:
        length = length if alike else int(rng.choice(LENGTHS))
        length = length if len(found) < NIGHTS else snapshots
        found.append(min(length, snapshots - sum(found)))
    return tuple(found)


def _variable(rng: np.random.Generator, sizes: dict[str, int]) -> xr.Variable:
    dims = [("time", "x"), ("x", "time"), ("time", "y", "x"), ("y", "x", "time")]
    order = dims[rng.integers(len(dims))]
    space = [d for d in order if d != "time"]
    m, n = sizes["time"], int(np.prod([sizes[d] for d in space]))
    kind, dtype = str(rng.choice(KINDS)), np.dtype(str(rng.choice(["f2", "f4", "f8"])))
    values = _scaled(rng, _fluctuation(rng, kind, m, n), dtype)
    masked = rng.random(n) < rng.choice([0.0, 0.0, 0.3])
    masked[rng.integers(n)] = False
    values[:, masked] = np.nan
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    most = np.finfo(dtype).max
    values = np.clip(values, -most, most).reshape(m, *(sizes[d] for d in space))
    values = np.moveaxis(values, 0, order.index("time"))
    order_of_bytes = str(rng.choice(["<", ">"]))
    return xr.Variable(order, values.astype(dtype.newbyteorder(order_of_bytes)), {"kind": kind})


def _fluctuation(rng: np.random.Generator, kind: str, m: int, n: int) -> Values:
    t, x = np.linspace(0, 1, m)[:, None], rng.permutation(np.linspace(0, 1, n))[None, :]
    rank = int(rng.integers(1, 6))
    if kind == "waves":
        return np.asarray(sum(np.sin(k * (7 * x - 11 * t)) / k**2 for k in (1, 2, 3)))
    if kind == "low rank":
        # Nights hold ever more of a few modes.
        a = rng.standard_normal((m, rank)) * (t * rank >= np.arange(rank) * 0.7)
        return np.asarray(a @ rng.standard_normal((rank, n)))
    if kind == "trend":
        return np.asarray((3 * t**2 - t) * np.cos(5 * x) + 1e-3 * rng.standard_normal((m, n)))
    if kind == "bursts":
        return np.asarray(np.where(t > 0.8, 1e3, 1.0) * rng.standard_normal((m, n)))
    if kind == "steps":
        return rng.integers(-3, 4, (m, rank)).astype(float) @ rng.integers(-2, 3, (rank, n))
    if kind == "still":
        return np.repeat(rng.standard_normal((1, n)), m, axis=0)
    if kind == "spin-up":
        # At rest but for rounding, until it moves.
        at_rest = 10.0 ** rng.uniform(-15, -2)
        return np.asarray(np.where(t > 0.3, 1.0, at_rest) * rng.standard_normal((m, n)))
    if kind == "spike":
        values = np.zeros((m, n))
        values[rng.integers(m), rng.integers(n)] = 1.0
        return values
    return rng.standard_normal((m, n))


def _scaled(rng: np.random.Generator, values: Values, dtype: np.dtype[Any]) -> Values:
    """Offset and scale; some on a grid of few numbers, some near the ends of the dtype."""
    if rng.random() < 0.3:
        values = np.rint(values * 4) / 4
    offset = float(rng.choice([0.0, 0.0, 1.0, -300.0, 1e3, 1e6]))
    values = values + offset
    largest = float(np.finfo(dtype).max)
    place = rng.random()
    if place < 0.1:
        return np.asarray(values / max(np.abs(values).max(), 1e-9) * largest)
    if place < 0.2:
        return np.asarray(values * 10.0 ** rng.uniform(-1.0, -0.2) * np.log10(largest))
    if dtype.itemsize == 2:
        scale = 10.0 ** rng.integers(-6, 2)
    else:
        scale = 10.0 ** float(rng.choice([-30.0, -12.0, -2.0, 0.0, 0.0, 6.0, 30.0]))
        if dtype.itemsize == 8 and rng.random() < 0.1:
            scale = 10.0 ** float(rng.choice([-300.0, -200.0, -160.0, 150.0, 200.0, 300.0]))
    return values * scale


# --- writing ------------------------------------------------------------------------------


def _blocks(case: Case) -> Iterator[xr.Dataset]:
    start = 0
    for length in case.lengths:
        yield case.source.isel(time=slice(start, start + length))
        start += length


def written(case: Case, store: Path) -> Iterator[int]:
    """Write the store, and yield how many snapshots it promises the bound of, at each commit."""
    options: dict[str, Any] = {"tolerance": case.tolerance, "weights": case.weights}
    if case.way == "compress":
        romzarr.compress(case.source, store, max_error=case.bounds, **options)
        yield case.source.sizes["time"]
    elif case.way == "append":
        seen = 0
        for block in _blocks(case):
            seen += block.sizes["time"]
            if not store.exists():
                if seen >= 5:
                    romzarr.compress(case.source.isel(time=slice(seen)), store, **options)
                    yield seen
            else:
                romzarr.append(store, case.source.isel(time=slice(seen)))
                yield seen
    else:
        stream = StreamCompressor(store, commit_steps=case.commit_steps, **options)
        committed = 0
        for number, block in enumerate(_blocks(case)):
            stream.update(block)
            if number % case.reopened == case.reopened - 1:
                if number % 2:
                    stream.close()
                else:
                    stream.commit()
                stream = StreamCompressor(store, commit_steps=case.commit_steps)
            if stream.committed > committed:
                committed = stream.committed
                yield committed
        stream.close()
        yield case.source.sizes["time"]


# --- judging ------------------------------------------------------------------------------


def _violations(case: Case, store: Path, seen: int) -> Iterator[str]:
    decoded = xr.open_dataset(store, engine="romzarr")
    told = romzarr.info(store).relative_l2_error
    for name, variable in case.source.data_vars.items():
        given = variable.isel(time=slice(seen)).transpose("time", ...).values
        found = decoded[name].transpose("time", ...).values
        if (found.shape, found.dtype) != (given.shape, given.dtype):
            yield f"{name}: {found.shape} of {found.dtype}, was {given.shape} of {given.dtype}"
            continue
        if not np.array_equal(np.isnan(given), np.isnan(found)):
            yield f"{name}: NaN moved"
        if np.isinf(found).any():
            yield f"{name}: {np.isinf(found).sum()} infinite values"
            continue
        error = relative_error(given, found, _weights(case, variable))
        if not error <= case.tolerance:
            yield f"{name}: error {error:.6e} is above {case.tolerance:g} after {seen} snapshots"
        if not error <= told[str(name)] * (1 + 1e-9):
            yield f"{name}: error {error:.6e} is above {told[str(name)]:.6e}, which is said"
        if case.bounds:
            off = np.abs(given.astype(np.longdouble) - found.astype(np.longdouble))
            worst = float(np.nanmax(off, initial=0.0))
            if not worst <= case.bounds[str(name)]:
                yield f"{name}: a value is off by {worst:g}, allowed {case.bounds[str(name)]:g}"


def relative_error(given: Values, found: Values, weights: Values) -> float:
    """In long double, of arrays with time first; inf where a constant is not exact."""
    x, y = (np.nan_to_num(v.astype(np.longdouble), posinf=np.inf) for v in (given, found))
    about = x - x[0]
    about = about - about.mean(axis=0)
    whole = np.sqrt(np.sum(weights * about**2))
    if (x == x[0]).all():
        return 0.0 if np.array_equal(x, y) else np.inf
    return float(np.sqrt(np.sum(weights * (x - y) ** 2)) / whole)


def _weights(case: Case, variable: xr.DataArray) -> Values:
    space = variable.isel(time=0, drop=True)
    if case.weights is None:
        return np.ones(space.shape, np.longdouble)
    spread = case.source[case.weights].broadcast_like(space).transpose(*space.dims)
    return np.asarray(spread.values, np.longdouble)


def run_case(seed: int) -> str:
    """Run one case: "kept" where every law holds, "refused" where romzarr says why it will not.

    Raises
    ------
    AssertionError
        Where a law is violated, with the case.
    """
    case = drawn(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(scheduler="synchronous"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UserWarning)
        store, outcome = Path(folder) / "store", f"kept: {case.way}"
        try:
            broken = [
                each for seen in written(case, store) for each in _violations(case, store, seen)
            ]
        except (AccuracyError, ArchiveError, ConfigError) as error:
            broken, outcome = [], f"refused: {case.way}"
            # By name, and not because something went wrong on the way.
            if not _is_explained(case, str(error)):
                broken = [f"refused without a reason: {error}"]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            broken = [f"{type(error).__name__} at {where.filename}:{where.lineno}: {error}"]
    assert not broken, f"seed {seed}: {'; '.join(broken[:4])}\n{case}"
    return outcome


def _is_explained(case: Case, message: str) -> bool:
    named = any(repr(str(name)) in message for name in case.source.data_vars)
    return named and "Please report" not in message


def main(first: int, last: int) -> int:
    """Run cases, print each that fails and at last how many of each outcome there were."""
    counts: Counter[str] = Counter()
    for seed in range(first, last):
        try:
            counts[run_case(seed)] += 1
        except AssertionError as error:
            counts["wrong"] += 1
            print(error, flush=True)
    print(dict(counts), flush=True)
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
