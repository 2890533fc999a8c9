"""Synthetic archives of the benchmarks, made once and kept in a cache folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

WAVES = 60
NOISE = 1e-4
STEP = 0.05


@dataclass(frozen=True)
class Recipe:
    """`snapshots` x `ny` x `nx` float32 in chunks of `chunks`: 60 decaying modes plus noise."""

    snapshots: int = 2000
    ny: int = 256
    nx: int = 256
    chunks: tuple[int, int, int] = (50, 256, 256)

    @property
    def raw_bytes(self) -> int:
        return 4 * self.snapshots * self.ny * self.nx

    @property
    def chunk_count(self) -> int:
        shape = (self.snapshots, self.ny, self.nx)
        return int(np.prod([-(-s // c) for s, c in zip(shape, self.chunks, strict=True)]))

    @property
    def name(self) -> str:
        chunks = "x".join(map(str, self.chunks))
        return f"waves-{self.snapshots}x{self.ny}x{self.nx}-by-{chunks}"


def cache_folder() -> Path:
    """Where archives are kept between runs: ``$ROMZARR_BENCH_CACHE`` or a temporary folder."""
    folder = os.environ.get("ROMZARR_BENCH_CACHE")
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / "romzarr-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def archive(recipe: Recipe) -> Path:
    """Path of the archive, made now unless it is complete in the cache folder."""
    path = cache_folder() / f"{recipe.name}.zarr"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        need, free = recipe.raw_bytes, shutil.disk_usage(path.parent).free
        if free < 1.5 * need:
            raise OSError(
                f"{path.parent}: {free / 1e9:.1f} GB free, {1.5 * need / 1e9:.1f} GB needed; "
                f"set ROMZARR_BENCH_CACHE to a folder with more room"
            )
        _write(unfinished, recipe)
        unfinished.rename(path)
    return path


def _write(path: Path, recipe: Recipe) -> None:
    """Same bytes on every machine and in any order: the noise of a chunk has its own seed."""
    shape = (recipe.snapshots, recipe.ny, recipe.nx)
    times = np.arange(recipe.snapshots) * STEP
    dataset = xr.Dataset(coords={"time": times})
    dataset.to_zarr(path, consolidated=False)
    array = zarr.create_array(
        path, name="u", shape=shape, dtype="f4", chunks=recipe.chunks,
        dimension_names=("time", "y", "x"), compressors=zarr.codecs.ZstdCodec(level=0),
    )  # fmt: skip
    modes, a = _modes(recipe), _amplitudes(times)
    steps = [*range(0, recipe.snapshots, recipe.chunks[0]), recipe.snapshots]
    for first, last in pairwise(steps):
        noise = np.random.default_rng(first).standard_normal(
            (last - first, recipe.ny * recipe.nx), np.float32
        )
        values = a[first:last].astype(np.float32) @ modes + np.float32(NOISE) * noise
        array[first:last] = values.reshape(-1, recipe.ny, recipe.nx)


def _modes(recipe: Recipe) -> NDArray[np.float32]:
    y, x = np.meshgrid(np.linspace(0, 1, recipe.ny), np.linspace(0, 1, recipe.nx), indexing="ij")
    shapes = np.array(
        [
            np.sin(np.pi * (1 + i % 8) * x + i) * np.cos(np.pi * (1 + i // 8) * y + 2 * i)
            for i in range(WAVES)
        ],
        np.float32,
    )
    orthonormal = np.linalg.qr(shapes.reshape(WAVES, -1).T)[0]
    # The norm of the 256 x 256 case: noise and signal stay in proportion on any grid.
    return np.ascontiguousarray(orthonormal.T) * np.float32((recipe.ny * recipe.nx) ** 0.5)


def _amplitudes(times: Matrix) -> Matrix:
    i = np.arange(WAVES)
    return np.sin((0.3 + 0.17 * i) * times[:, None] + i) * 0.9**i


@dataclass(frozen=True)
class Oracle:
    """Squared singular values in float64, of the archive (``raw``) and about its mean."""

    raw: Matrix
    centred: Matrix

    def optimum(self, rank: int, *, centred: bool) -> float:
        """Smallest possible error of `rank` modes, relative to the norm of what is factored."""
        energies = self.centred if centred else self.raw
        return float(np.sqrt(energies[rank:].sum() / energies.sum()))


def oracle(recipe: Recipe) -> Oracle:
    """Method of snapshots on the whole matrix, in float64 and without any of our code."""
    path = cache_folder() / f"{recipe.name}.oracle.json"
    if not path.exists():
        array = zarr.open_group(archive(recipe), mode="r")["u"]
        flat = array[:].reshape(recipe.snapshots, -1)
        gram = np.zeros((recipe.snapshots, recipe.snapshots))
        for start in range(0, flat.shape[1], 8192):
            panel = flat[:, start : start + 8192].astype(np.float64)
            gram += panel @ panel.T
        centred = gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean()
        values = [np.maximum(np.linalg.eigvalsh(g)[::-1], 0).tolist() for g in (gram, centred)]
        path.write_text(json.dumps(values))
    raw, centred_values = json.loads(path.read_text())
    return Oracle(np.array(raw), np.array(centred_values))


def errors(path: Path, approximation: Callable[[slice], Any]) -> tuple[float, float]:
    """Error of ``approximation(steps)``: relative to the archive, and to its anomalies.

    Streamed in float64, from the archive itself and from nothing that a method claims.
    """
    array = zarr.open_group(path, mode="r")["u"]
    m, n = array.shape[0], int(np.prod(array.shape[1:]))
    mean, square, error = np.zeros(n), 0.0, 0.0
    for start in range(0, m, array.chunks[0]):
        steps = slice(start, min(start + array.chunks[0], m))
        x = array[steps].reshape(-1, n).astype(np.float64)
        mean += x.sum(axis=0) / m
        square += float(np.vdot(x, x))
        x -= approximation(steps).reshape(-1, n)
        error += float(np.vdot(x, x))
    fluctuation = square - m * float(mean @ mean)
    return float(np.sqrt(error / square)), float(np.sqrt(error / fluctuation))


def recipe_arguments(recipe: Recipe) -> list[str]:
    """`recipe` on a command line; `recipe_from` reads it."""
    return ["--recipe", json.dumps(asdict(recipe))]


def recipe_from(document: str) -> Recipe:
    fields = json.loads(document)
    if "chunks" in fields:
        fields["chunks"] = tuple(fields["chunks"])
    return Recipe(**fields)
