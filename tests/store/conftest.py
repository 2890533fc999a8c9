"""A store of known content, built without any of the numerics."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from romzarr.coding import tiles
from romzarr.contracts import CodedLatent, LatentFormat, TimeAxis
from romzarr.encoding import attributes_to_json, encoding_to_json
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.store.writing.writer import StoreWriter

STEP = 1e-3
ORDERS = (2, 0, 1)


@dataclass(frozen=True)
class CodedVariable:
    """Fields in the bytes of their tiles, and what these decode to."""

    fields: np.ndarray
    mask: np.ndarray
    tile: tuple[int, ...]
    contents: dict[tuple[int, ...], bytes]


@dataclass(frozen=True)
class Example:
    """Coded factors of a dataset and the dataset they stand for."""

    latent: np.ndarray
    sigma: np.ndarray
    coded: CodedLatent
    variables: dict[str, CodedVariable]
    dataset: xr.Dataset
    chunks: dict[str, tuple[tuple[int, ...], ...]]
    arithmetic: str

    def mean(self, name: str) -> np.ndarray:
        variable = self.variables[name]
        mean = variable.fields[0] / np.sqrt(len(self.latent))
        return np.where(variable.mask, np.nan, mean)


def make_example(
    dims: dict[str, tuple[str, ...]] | None = None,
    sizes: dict[str, int] | None = None,
    dtype: Any = "float32",
    rank: int = 3,
    chunk_lengths: dict[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    carried: xr.Dataset | None = None,
    block_steps: int = 7,
    tile_lengths: dict[str, int] | None = None,
    rows: int = 8,
    corrected: bool = True,
    arithmetic: str = "float64",
) -> Example:
    dims = dims or {"u": ("time", "y", "x"), "v": ("y", "time", "x")}
    sizes = sizes or {"time": 20, "y": 6, "x": 8}
    lengths = chunk_lengths or {}
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((sizes["time"], rank)) * 2.0 ** -np.arange(rank)
    sigma = np.linalg.norm(raw, axis=0)
    coded, latent = code_latent(raw, block_steps, rows, corrected, rng)
    variables, arrays, chunks = {}, {}, {}
    for name, order in dims.items():
        shape = {d: sizes[d] for d in order if d != "time"}
        fields = rng.standard_normal((rank + 1, *shape.values()))
        fields[0] += 10
        scales = np.array([np.sqrt(len(raw)), *sigma])
        fields *= scales.reshape(-1, *[1] * len(shape))
        tile = tiles.tile_shape(tuple(shape.values()), rank)
        tile = tuple((tile_lengths or {}).get(d, n) for d, n in zip(shape, tile, strict=True))
        mask = np.asarray(rng.random(tuple(shape.values())) < 0.1)
        variables[name] = code_fields(fields, tile, mask, np.dtype(arithmetic))
        # The long way round: decoded fields back to modes and mean, then the sum over modes.
        modes = variables[name].fields / scales.reshape(-1, *[1] * len(shape))
        full = np.where(mask, np.nan, modes[0] + np.tensordot(latent, modes[1:], 1))
        values = np.moveaxis(full, 0, order.index("time")).astype(dtype)
        arrays[name] = (order, values, {"units": "m/s"})
        chunks[name] = tuple(lengths.get(d, (sizes[d],)) for d in order)
    dataset = xr.Dataset(arrays, attrs={"title": "made up", "levels": np.array([1, 2])})
    if carried is None:
        carried = xr.Dataset(coords={"time": np.arange(sizes["time"]) * 0.5})
    return Example(latent, sigma, coded, variables, dataset.merge(carried), chunks, arithmetic)


def code_latent(
    raw: np.ndarray, block_steps: int, rows: int, corrected: bool, rng: np.random.Generator
) -> tuple[CodedLatent, np.ndarray]:
    """Samples at every other snapshot, straight lines between them, corrections of what is left,
    of which polynomials extrapolate some modes."""
    snapshots, rank = raw.shape
    orders = ORDERS[:rank] if corrected else ()
    starts = np.arange(0, snapshots, block_steps)
    index = np.unique([*range(0, snapshots, 2), *starts, snapshots - 1])
    kept = raw[index]
    samples = tiles.coded_rows(kept, rows, STEP, smooth=False)
    latent = np.stack(
        [np.interp(np.arange(snapshots), index, column) for column in samples.T]
        or [np.zeros(snapshots)],
        axis=1,
    )[:, :rank]
    corrections: tuple[bytes, ...] = ()
    if corrected:
        left = raw - latent
        corrections = tiles.encode_rows(left, rows + 1, STEP, True, orders)
        latent = latent + tiles.coded_rows(left, rows + 1, STEP, True, orders)
    contents = tiles.encode_rows(kept, rows, STEP, smooth=False)
    straight = np.full(len(starts), -1, np.int16)
    form = LatentFormat(index, block_steps, straight, 1, rank, STEP, STEP, rows, rows + 1, orders)
    return CodedLatent(form, contents, corrections), latent


def code_fields(
    fields: np.ndarray, tile: tuple[int, ...], mask: np.ndarray, arithmetic: Any
) -> CodedVariable:
    contents, coded = {}, np.empty(fields.shape, arithmetic)
    for index, region in tiles.tiles(mask.shape, tile):
        part = fields[(slice(None), *region)]
        contents[index] = tiles.encode_tile(part, tile, STEP)
        coded[(slice(None), *region)] = tiles.coded_tile(part, tile, STEP, arithmetic)
    return CodedVariable(coded, mask, tile, contents)


def write_fields(writer: StoreWriter, name: str, example: Example) -> None:
    variable = example.variables[name]
    dims = [d for d in example.dataset[name].dims if d != "time"]
    shape, masked = variable.mask.shape, bool(variable.mask.any())
    rank, arithmetic = len(example.sigma), np.dtype(example.arithmetic)
    writer.create_fields(
        name, dims, shape, variable.tile, rank, STEP, arithmetic, name if masked else None
    )
    for index, region in tiles.tiles(shape, variable.tile):
        writer.fields.write_tile(name, index, variable.contents[index])
        if masked:
            writer.fields.write_mask(name, region, variable.mask[region])


def standing_still(rank: int) -> dict[str, Any]:
    """Facts of a model without terms, which makes straight lines like none."""
    library, nothing = PolynomialLibrary(rank, 2), [[]] * rank
    residuals = [[0.0] * rank]
    return {
        "decodes": True, "library": library.spec(), "terms": [nothing], "residuals": residuals
    }  # fmt: skip


def write_example(
    example: Example,
    target: str | Path,
    overwrite: bool = False,
    before_commit: Any = None,
    constants: dict[str, xr.Variable] | None = None,
    extends: str | None = None,
    **where: Any,
) -> None:
    snapshots, rank = example.latent.shape
    data = example.dataset
    with StoreWriter(target, overwrite=overwrite, **where) as writer:
        facts: dict[str, Any] = {"variables": {}} | ({"extends": extends} if extends else {})
        for name in example.chunks:
            if name in example.variables:
                write_fields(writer, name, example)
            facts["variables"][name] = {
                "dims": list(data[name].dims),
                "shape": list(data[name].shape),
                "dtype": data[name].dtype.str,
                "time_axis": data[name].dims.index("time"),
                "chunks": [c[0] if len(c) == 1 else list(c) for c in example.chunks[name]],
                "attrs": attributes_to_json(data[name].attrs),
                "encoding": encoding_to_json(data[name].encoding),
            }
        for name, mean in (constants or {}).items():
            writer.write_constant(name, mean.dims, mean.values)
            facts["variables"][name] = {
                "dims": [*mean.dims, "time"],
                "shape": [*mean.shape, snapshots],
                "dtype": mean.dtype.str,
                "time_axis": mean.ndim,
            }
        if len(example.sigma):
            writer.write_singular_values(example.sigma)
        writer.write_coordinates(data.drop_vars(list(example.chunks)))
        writer.write_time(TimeAxis("time", np.arange(snapshots) * 0.5, "s"))
        writer.write_latent(example.coded, "time")
        facts |= {
            "order": [*(str(name) for name in data.variables), *(constants or {})],
            "attrs": attributes_to_json(data.attrs),
            "encoding": encoding_to_json(data.encoding),
            "model": standing_still(max(1, rank)),
            "arithmetic": example.arithmetic,
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
