"""Variables stored as their values: what is written comes back, and nothing is believed."""

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.coding import tiles
from romzarr.contracts import TimeAxis
from romzarr.errors import StoreError
from romzarr.store.reading.engine import RomzarrBackendEntrypoint
from romzarr.store.reading.reader import _opened, open_store
from romzarr.store.writing.writer import StoreWriter
from tests.forgery import write_chunk
from tests.format_page import PAGE, decoded_by_hand
from tests.store.test_hostile import FACTS, NODE, changed
from tests.store.test_roundtrip import indexers

STEP = 1e-2


@dataclass(frozen=True)
class Values:
    """A variable, time first, in the bytes of its tiles, and what these decode to."""

    dims: tuple[str, ...]
    decoded: np.ndarray
    mask: np.ndarray
    tile: tuple[int, ...]
    contents: dict[tuple[int, ...], bytes]
    offset: float
    arithmetic: str

    def expected(self, dtype: str) -> np.ndarray:
        """Values in the order of the dims."""
        values = np.where(self.mask, np.nan, self.decoded.astype(np.float64) + self.offset)
        return np.moveaxis(values, 0, self.dims.index("time")).astype(dtype)


def coded(
    dims: tuple[str, ...],
    sizes: dict[str, int],
    tile_lengths: dict[str, int],
    offset: float = 300.0,
    masked: float = 0.2,
    arithmetic: str = "float64",
    step: float = STEP,
    seed: int = 0,
) -> Values:
    rng = np.random.default_rng(seed)
    order = ("time", *(d for d in dims if d != "time"))
    shape, tile = ([lengths[d] for d in order] for lengths in (sizes, tile_lengths))
    values = rng.standard_normal(shape)
    decoded, contents = np.empty(shape, arithmetic), {}
    for index, region in tiles.tiles(shape, tile):
        contents[index], decoded[region] = tiles.code_values(
            values[region], tile, step, np.dtype(arithmetic)
        )
    mask = np.asarray(rng.random(shape[1:]) < masked)
    return Values(dims, decoded, mask, tuple(tile), contents, offset, arithmetic)


def create(writer: StoreWriter, values: Values, step: float = STEP) -> None:
    order = ("time", *(d for d in values.dims if d != "time"))
    writer.create_values(
        "u", order, values.decoded.shape, values.tile, step, values.offset,
        np.dtype(values.arithmetic), "u" if values.mask.any() else None,
    )  # fmt: skip


def fill(writer: StoreWriter, values: Values) -> None:
    """As tasks do: with a copy of the writer from another process, masks once."""
    tasks = pickle.loads(pickle.dumps(writer.values))
    for index, region in tiles.tiles(values.decoded.shape, values.tile):
        tasks.write_tile("u", index, values.contents[index])
        if values.mask.any() and index[0] == 0:
            tasks.write_mask("u", region[1:], values.mask[region[1:]])


def finish(writer: StoreWriter, values: Values, dtype: str) -> None:
    snapshots = len(values.decoded)
    sizes = dict(zip(("time", *(d for d in values.dims if d != "time")), values.decoded.shape))  # noqa: B905
    writer.write_coordinates(xr.Dataset())
    writer.write_time(TimeAxis("time", np.arange(snapshots) * 0.5, "s"))
    facts = {
        "dims": list(values.dims),
        "shape": [sizes[d] for d in values.dims],
        "dtype": np.dtype(dtype).str,
        "time_axis": values.dims.index("time"),
        "coding": "direct",
    }
    writer.commit(
        {"variables": {"u": facts}, "order": ["u"], "attrs": {}, "encoding": {},
         "arithmetic": values.arithmetic}
    )  # fmt: skip


def write(values: Values, target: Path, dtype: str = "float32") -> Path:
    with StoreWriter(target) as writer:
        create(writer, values)
        fill(writer, values)
        finish(writer, values, dtype)
    return target


def opened(path: Path) -> xr.DataArray:
    return xr.open_dataset(path, engine=RomzarrBackendEntrypoint)["u"]


@pytest.fixture
def small(tmp_path: Path) -> tuple[Values, Path]:
    """Two tiles in time, three in space, the last of each sticking out."""
    sizes, lengths = {"time": 20, "y": 6, "x": 8}, {"time": 12, "y": 6, "x": 3}
    values = coded(("y", "time", "x"), sizes, lengths)
    return values, write(values, tmp_path / "small.romzarr")


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_lazy_indexing_equals_indexing_what_was_coded(data, tmp_path_factory):
    space = data.draw(st.sampled_from([[], ["x"], ["y", "x"], ["z", "y", "x"]]))
    dims = tuple(data.draw(st.permutations(["time", *space])))
    sizes = {"time": data.draw(st.integers(2, 30))} | {
        d: data.draw(st.integers(1, 10)) for d in space
    }
    values = coded(
        dims,
        sizes,
        {d: data.draw(st.integers(1, n)) for d, n in sizes.items()},
        offset=data.draw(st.sampled_from([0.0, -1.5, 1e8])),
        masked=data.draw(st.sampled_from([0.0, 0.3])) if space else 0.0,
        arithmetic=data.draw(st.sampled_from(["float32", "float64"])),
    )
    dtype = data.draw(st.sampled_from(["<f4", "<f8", ">f4"]))
    path = write(values, tmp_path_factory.mktemp("store") / "a.romzarr", dtype)
    lazy, expected = opened(path), xr.DataArray(values.expected(dtype), dims=dims)
    key = {d: data.draw(indexers(n)) for d, n in sizes.items()}
    assert lazy.dtype == np.dtype(dtype)
    # Rounded once: to the bit what was coded.
    np.testing.assert_array_equal(lazy.isel(key).values, expected.isel(key).values)
    np.testing.assert_array_equal(lazy.values, expected.values)


def test_a_corner_costs_one_tile_and_its_mask(small, monkeypatch):
    from romzarr.store.reading.checked import CheckedStore

    seen: list[str] = []
    checked = CheckedStore._checked

    def recorded(self, key, chunk):
        if "/c/" in key:
            seen.append(key)
        return checked(self, key, chunk)

    monkeypatch.setattr(CheckedStore, "_checked", recorded)
    _, path = small
    _opened.cache_clear()
    opened(path).isel(time=13, y=0, x=slice(3, 5)).load()
    assert sorted(seen) == ["basis/u/mask/c/0/1", "basis/u/values/c/1/0/1"]


def test_mean_and_modes_of_a_variable_without_modes(small):
    values, path = small
    store = open_store(path)
    assert store.variables["u"].coding == "direct"
    assert store.modes("u").shape == (0, 6, 8)
    assert store.last.latent.span(slice_of(store)).shape == (20, 0)
    expected = values.expected("float64").mean(axis=1)
    np.testing.assert_allclose(store.mean("u"), expected, rtol=1e-12)
    np.testing.assert_allclose(store.mean("u", (2, slice(5, 1, -2))), expected[2, 5:1:-2])


def slice_of(store):
    from romzarr.contracts import BlockSpan

    return BlockSpan(0, store.snapshots)


def test_created_again_with_another_step_nothing_of_before_is_left(tmp_path):
    sizes, lengths = {"time": 9, "x": 7}, {"time": 4, "x": 4}
    rough = coded(("time", "x"), sizes, lengths, step=0.5)
    fine = coded(("time", "x"), sizes, lengths)
    with StoreWriter(tmp_path / "s") as writer:
        create(writer, rough, step=0.5)
        fill(writer, rough)
        create(writer, fine)
        fill(writer, fine)
        finish(writer, fine, "float64")
    np.testing.assert_array_equal(opened(tmp_path / "s").values, fine.expected("float64"))
    with StoreWriter(tmp_path / "t") as writer:
        create(writer, rough, step=0.5)
        fill(writer, rough)
        create(writer, fine)
        with pytest.raises(StoreError, match=r"basis/u/\w+: 0 of \d+ chunks were written"):
            finish(writer, fine, "float64")
    assert not (tmp_path / "t").exists()


def test_a_tile_that_is_not_there_is_refused(tmp_path):
    values = coded(("time", "x"), {"time": 9, "x": 7}, {"time": 4, "x": 4})
    with StoreWriter(tmp_path / "s") as writer:
        create(writer, values)
        for index in [(3, 0), (0, 2), (-1, 0), (0,)]:
            with pytest.raises(StoreError, match="does not fit a grid"):
                writer.values.write_tile("u", index, b"\0\0")


CHUNK = (NODE, "basis/u/values", "chunk_grid", "configuration", "chunk_shape")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((*FACTS, "variables", "u", "offset"), None, "'offset' is missing"),
        ((*FACTS, "variables", "u", "offset"), "1", "'offset' must be a number"),
        ((*FACTS, "variables", "u", "offset"), True, "'offset' must be a number"),
        ((*FACTS, "variables", "u", "offset"), 10**400, "'offset' must be finite"),
        ((*FACTS, "variables", "u", "shape"), [6, 21, 8], "has 21 snapshots, the store 20"),
        ((*FACTS, "variables", "u", "shape"), [6, 20, 9], "basis/u/values has shape"),
        ((NODE, "basis/u/values"), None, "basis/u/fields is missing"),
        ((NODE, "basis/u/values", "shape"), [19, 6, 8], "basis/u/values has shape"),
        ((NODE, "basis/u/values", "shape"), [20, 48], "do not fit shape"),
        (CHUNK, [2**10, 2**10, 2**10], "exceed"),
        (CHUNK, [0, 6, 3], "at least 1"),
        (CHUNK, [4, 6, 3], "must be at most"),
        ((NODE, "basis/u/values", "codecs"), [{"name": "bytes"}], "codecs must be romzarr.wavelet"),
        ((NODE, "basis/u/values", "data_type"), "int32", "codes float32 and float64"),
        ((NODE, "basis/u/mask", "shape"), [6, 9], "basis/u/mask has shape"),
    ],
)
def test_metadata_that_do_not_fit_are_named(small, keys, value, message):
    _, path = small
    changed(path, keys, value)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_an_offset_beyond_all_values_gives_the_largest_silently(small):
    _, path = small
    changed(path, (*FACTS, "variables", "u", "offset"), 1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = opened(path).values
    most = np.finfo(values.dtype).max
    assert set(values[~np.isnan(values)].tolist()) == {float(most)}


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff" * 100, bytes(range(256)) * 40])
def test_garbage_with_a_right_checksum_is_an_error_of_ours_or_finite(small, content):
    _, path = small
    for chunk in next(path.glob("*/basis/u/values/c")).rglob("*"):
        if chunk.is_file():
            write_chunk(chunk, content)
    _opened.cache_clear()
    message, finite = "basis/u/values", 20 * (~small[0].mask).sum()
    try:
        values = open_store(path).decode("u", slice(None), (slice(None), slice(None)))
        finite = np.isfinite(values).sum()
    except StoreError as error:
        message = str(error)
    # Not all garbage can be told from what was coded.
    assert "basis/u/values" in message
    assert finite == 20 * (~small[0].mask).sum()


def test_a_missing_tile_is_damage_and_never_zeros(small):
    _, path = small
    next(path.glob("*/basis/u/values/c/1/0/2")).unlink()
    _opened.cache_clear()
    assert np.isfinite(opened(path).isel(x=0)).any()
    with pytest.raises(StoreError, match="is missing"):
        opened(path).isel(x=7).load()


def test_the_snippet_of_the_format_page_decodes_it(small):
    values, path = small
    found = decoded_by_hand(path, "u")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.expected("float32"))
    root = zarr.open_group(path, mode="r")
    described = root[root.attrs["romzarr"]["parts"][0][0]]["basis/u"]
    for array, _ in described.members():
        assert f"basis/<group>/{array} " in PAGE
