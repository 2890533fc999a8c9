"""A store of known content, built without any of the numerics."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.contracts import LatentCode, TimeAxis
from pipeline.encoding import encoding_to_json
from pipeline.numerics.library import PolynomialLibrary
from pipeline.store.writer import StoreWriter


@dataclass(frozen=True)
class Example:
    """Factors of a dataset and the dataset they stand for."""

    latent: np.ndarray
    means: dict[str, np.ndarray]
    modes: dict[str, np.ndarray]
    dataset: xr.Dataset
    chunks: dict[str, tuple[tuple[int, ...], ...]]
    block_steps: int


def make_example(
    dims: dict[str, tuple[str, ...]] | None = None,
    sizes: dict[str, int] | None = None,
    dtype: Any = "float32",
    rank: int = 3,
    chunk_lengths: dict[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    carried: xr.Dataset | None = None,
    block_steps: int = 7,
) -> Example:
    dims = dims or {"u": ("time", "y", "x"), "v": ("y", "time", "x")}
    sizes = sizes or {"time": 20, "y": 6, "x": 8}
    chunk_lengths = chunk_lengths or {}
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((sizes["time"], rank)) * 2.0 ** -np.arange(rank)
    means, modes, arrays, chunks = {}, {}, {}, {}
    for name, order in dims.items():
        space = [d for d in order if d != "time"]
        shape = [sizes[d] for d in space]
        phi = np.asarray(rng.standard_normal((rank, *shape)), dtype)
        mean = np.asarray(10 + rng.standard_normal(shape), dtype)
        hidden = np.asarray(rng.random(shape) < 0.1)
        phi[:, hidden], mean[hidden] = 0, np.nan
        full = np.tensordot(latent, phi.astype(float), 1) + mean.astype(float)
        values = np.moveaxis(full, 0, order.index("time")).astype(dtype)
        means[name], modes[name], arrays[name] = mean, phi, (order, values, {"units": "m/s"})
        chunks[name] = tuple(chunk_lengths.get(d, (sizes[d],)) for d in order)
    dataset = xr.Dataset(arrays, attrs={"title": "made up", "levels": np.array([1, 2])})
    if carried is None:
        carried = xr.Dataset(coords={"time": np.arange(sizes["time"]) * 0.5})
    return Example(latent, means, modes, dataset.merge(carried), chunks, block_steps)


def space_of(order: tuple[str, ...], chunks: tuple[tuple[int, ...], ...]) -> Any:
    return [(d, c) for d, c in zip(order, chunks, strict=True) if d != "time"]


def write_example(
    example: Example, target: str | Path, overwrite: bool = False, before_commit: Any = None
) -> None:
    snapshots, rank = example.latent.shape
    data = example.dataset
    with StoreWriter(target, overwrite=overwrite) as writer:
        facts: dict[str, Any] = {"variables": {}}
        for name, modes in example.modes.items():
            order, dtype = data[name].dims, data[name].dtype
            space = space_of(order, example.chunks[name])
            writer.create_basis(name, [d for d, _ in space], [c for _, c in space], dtype, rank)
            everywhere = tuple(slice(0, n) for n in modes.shape[1:])
            writer.modes.write(name, everywhere, example.means[name], modes)
            facts["variables"][name] = {
                "dims": list(order),
                "shape": list(data[name].shape),
                "dtype": dtype.str,
                "time_axis": order.index("time"),
                "chunks": [c[0] if len(c) == 1 else list(c) for c in example.chunks[name]],
                "attrs": encoding_to_json(data[name].attrs),
                "encoding": encoding_to_json(data[name].encoding),
            }
        writer.write_singular_values(np.linspace(2, 1, rank))
        blocks = -(-snapshots // example.block_steps)
        code = LatentCode(
            index=np.arange(snapshots),
            samples=example.latent,
            block_steps=example.block_steps,
            block_model=np.full(blocks, -1, np.int16),
            substeps=1,
        )
        writer.write_latent(code, TimeAxis("time", np.arange(snapshots) * 0.5, "s"))
        library = PolynomialLibrary(max(1, rank), 2)
        writer.write_model(np.zeros((1, library.size, rank)))
        writer.write_coordinates(data.drop_vars(list(example.modes)))
        facts |= {
            "order": [str(name) for name in data.variables],
            "attrs": encoding_to_json(data.attrs),
            "encoding": encoding_to_json(data.encoding),
            "library": library.spec(),
            "arithmetic": "float64",
            "tolerance": 1e-2,
        }
        if before_commit is not None:
            before_commit()
        writer.commit(facts)


@pytest.fixture(scope="session")
def make() -> Callable[..., Example]:
    return make_example


@pytest.fixture(scope="session")
def write() -> Callable[..., None]:
    return write_example


@pytest.fixture
def small(tmp_path: Path) -> tuple[Example, Path]:
    """An example and the store it was written to."""
    example = make_example()
    write_example(example, tmp_path / "small.romzarr")
    return example, tmp_path / "small.romzarr"
