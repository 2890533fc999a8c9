"""Small datasets, and stores of every coding made of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

import romzarr
from romzarr import StreamCompressor
from romzarr.store import layout
from romzarr.store.reading.reader import _opened, open_store

TOLERANCE = 1e-2
SNAPSHOTS, POINTS = 40, 24


def waves(seed: int = 0, snapshots: int = SNAPSHOTS) -> xr.Dataset:
    """Two waves, land in them, something constant; longer ones begin as shorter ones do."""
    t, x = 0.3 * np.arange(snapshots)[:, None], np.linspace(0, 1, POINTS)[None, :]
    u = np.sin(3 * x - t + seed) + np.cos(5 * x + 2 * t) * (1 + 0.1 * seed)
    u[:, 3] = np.nan
    return xr.Dataset(
        {"u": (("time", "x"), u.astype("f4")), "depth": ("x", x[0] + seed)},
        {"time": t[:, 0], "x": x[0], "name": ("x", ["abc"] * POINTS)},
    )


def noise(seed: int = 0, snapshots: int = SNAPSHOTS) -> xr.Dataset:
    values = np.random.default_rng(seed).standard_normal((snapshots, POINTS))
    return xr.Dataset({"u": (("time", "x"), values)}, {"time": 0.3 * np.arange(snapshots)})


def storm(seed: int = 0) -> xr.Dataset:
    """Waves, and in the middle of them noise."""
    t, x = np.linspace(0, 20, 60)[:, None], np.linspace(0, 1, 50)[None, :]
    u = np.sin(3 * x - t) + np.cos(5 * x + 2 * t + seed)
    u[20:44] += np.random.default_rng(seed).standard_normal((24, 50))
    return xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0]})


def constant(seed: int = 0) -> xr.Dataset:
    still = np.full((SNAPSHOTS, POINTS), 1.0 + seed)
    return waves(seed).assign(still=(("time", "x"), still))


def spike(seed: int = 0) -> xr.Dataset:
    """Waves, and a single value that is far off."""
    source = waves(seed)
    source["u"][20, 10] -= 2
    return source


def _appended(store: Path, seed: int) -> None:
    romzarr.compress(waves(seed), store, tolerance=TOLERANCE)
    for snapshots in (60, 80):
        romzarr.append(store, waves(seed, snapshots))


def _streamed(store: Path, seed: int) -> None:
    """A stream that is still open, and has parts."""
    stream = StreamCompressor(store, tolerance=TOLERANCE, commit_steps=8)
    source = waves(seed, 60)
    for start in range(0, 60, 6):
        stream.update(source.isel(time=slice(start, start + 6)))
    stream.commit()


def _replaced(store: Path, seed: int) -> None:
    for other in (seed + 10, seed):
        romzarr.compress(waves(other), store, tolerance=TOLERANCE, overwrite=True)


# Stores of each coding, by what they are there for.
MAKERS: dict[str, Callable[[Path, int], object]] = {
    "pod": lambda store, seed: romzarr.compress(waves(seed), store, tolerance=TOLERANCE),
    "direct": lambda store, seed: romzarr.compress(noise(seed), store, tolerance=TOLERANCE),
    "episodes": lambda store, seed: romzarr.compress(storm(seed), store, tolerance=TOLERANCE),
    "residuals": lambda store, seed: romzarr.compress(spike(seed), store, max_error={"u": 1e-3}),
    "lossless": lambda store, seed: romzarr.compress(waves(seed), store, tolerance=0),
    "constant": lambda store, seed: romzarr.compress(constant(seed), store, tolerance=TOLERANCE),
    "appended": _appended,
    "streamed": _streamed,
    "replaced": _replaced,
}


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Alone among processes that lock this place."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def stored(shared: Path, kind: str, seed: int = 0) -> Path:
    """The store of a kind; made where it is not there yet, once for all processes of a run."""
    path = shared / f"{kind}-{seed}"
    with alone(shared / ".lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory() as folder:
                MAKERS[kind](Path(folder, "store"), seed)
                shutil.copytree(Path(folder, "store"), shared / "made", dirs_exist_ok=True)
            (shared / "made").rename(path)
    return path


def files_of(store: Path) -> list[str]:
    """Files of a store that count, the root first."""
    root = layout.current_root(str(store))
    names = (p.relative_to(store) for p in sorted(store.rglob("*")) if p.is_file())
    below = [str(name) for name in names if name.parts[0] in root.generations]
    return [layout.ROOT, *below]


def sort_of(name: str) -> str:
    """What a file is: "root", "facts", "group", "metadata", or what array it is a chunk of."""
    parts = Path(name).parts
    if len(parts) <= 2:
        return "root" if len(parts) == 1 else "facts"
    if parts[-1] == layout.ROOT:
        groups = ("basis", "latent", "model", "coordinates")
        grouped = len(parts) == 3 or (parts[1] == "basis" and len(parts) == 4)
        return (
            "group"
            if grouped and parts[1] in groups and parts[2] != "singular_values"
            else ("metadata")
        )
    inner = parts[1 : parts.index("c", 2)]
    return "coordinates" if inner[0] == "coordinates" else inner[-1]


def load(store: Path) -> xr.Dataset:
    """All of a store as it is on the disk now."""
    _opened.cache_clear()
    return xr.open_dataset(store, engine="romzarr", cache=False).load()


def read(store: Path) -> dict[str, np.ndarray]:
    """All arrays that `load` is made of, in a third of its time."""
    _opened.cache_clear()
    opened = open_store(store)
    everything = {
        name: opened.decode(name, slice(None), (slice(None),) * (len(v.shape) - 1))
        for name, v in opened.variables.items()
    }
    for part in opened.parts:
        paths = (path for path in part.arrays.layouts if path.startswith("coordinates/"))
        everything |= {f"{part.name}/{path}": part.arrays.read(path) for path in paths}
    return everything


def same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)
