"""Coordinates among the facts have the bits of the arrays that they replace."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import romzarr
from romzarr.errors import StoreError
from romzarr.store.checksums import ChecksumCodec
from romzarr.store.inline import inline_array, inlined, inlined_chunk
from romzarr.store.layout import JsonObject

LARGE = 1 << 30
DTYPES = ["int8", "uint16", "int32", "int64", "uint64", "float32", "float64"]
REGULAR = [
    np.linspace(-3.0, 3.0, 512),
    np.linspace(0.0, 20.1, 202),
    0.1 * np.arange(201),
    np.arange(-80.0, 80.0, 0.25) + 0.125,
    np.linspace(0, 360, 97, endpoint=False).astype("f4"),
    np.arange(0, 24 * 365, 6),
    np.arange(200, dtype="u1")[::-1],
]


def metadata_of(values):
    return {
        "data_type": values.dtype.name,
        "dimension_names": ["x"][: values.ndim],
        "attributes": {"units": "1"},
        "fill_value": 0,
        "shape": list(values.shape),
    }


def read_again(entry):
    """The values of an array as its metadata and chunk have them; an oracle of its own."""
    found = inline_array(JsonObject(json.loads(json.dumps(entry)), "x"))
    assert found.metadata["shape"] == found.metadata["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = np.dtype(found.metadata["data_type"]).newbyteorder("<")
    return np.frombuffer(found.chunk[:-4], dtype).reshape(found.metadata["shape"])


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(max_dims=1, max_side=40)))
@example(np.array([5e-324, 1.0, 2.0]))
@example(np.array([-1.7e308, 0.0, 1.7e308]))
@example(np.array([2**63 - 1, 0, -(2**63)]))
@example(np.array([1, -(2**63)]))
@example(np.array([-(2**63), -(2**63)]))
@example(np.array([0.0, -0.0, 0.0]))
@example(np.array([*(k * 1.0 for k in range(30)), 30 + 2.0**-40, -0.0]))
@example(np.array([-0.0, *(k * 1.0 for k in range(1, 30)), 30 + 2.0**-40]))
@example(np.array(7.5))
def test_every_value_has_its_bits(values):
    entry = inlined(metadata_of(values), values, LARGE)
    if not np.isfinite(values).all():
        assert entry == {}
    else:
        found = read_again(entry)
        assert found.tobytes() == values.astype(found.dtype).tobytes()


@pytest.mark.parametrize("values", REGULAR)
def test_a_regular_axis_takes_few_bytes(values):
    entry = inlined(metadata_of(values), values, LARGE)
    assert "start" in entry
    assert_array_equal(read_again(entry), values)
    assert "units" not in entry or np.abs(entry["units"]).max() < 1 << 10


def test_noise_stays_an_array():
    values = np.random.default_rng(0).standard_normal(300)
    assert inlined(metadata_of(values), values, values.nbytes) == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data_type": "complex128"}, "is not one of"),
        ({"size": 1 << 40}, "must be from 2 to"),
        ({"size": None}, "must be an integer"),
        ({"start": "0"}, "must be a number"),
        ({"step": 1e400}, "must be finite"),
        ({"units": [0, 1]}, "2 'units' for 9 values"),
        ({"units": [0.5] * 9}, "must be integers"),
        ({"units": [1] * 9, "exponent": 5000}, "must be from"),
        ({"values": ["1"]}, "must be a number, or a list of numbers"),
        ({"values": [[1.0]]}, "must be a number, or a list of numbers"),
        ({"values": [300], "data_type": "uint8"}, "do not fit"),
        ({"values": [1e300], "data_type": "float32"}, "do not fit"),
    ],
)
def test_what_nobody_writes_is_refused(changed, message):
    entry = {"data_type": "float64", "size": 9, "start": 0.0, "step": 0.5} | changed
    with pytest.raises(StoreError, match=message):
        inline_array(JsonObject(entry, "x"))


def test_a_store_keeps_regular_coordinates_without_files(tmp_path):
    rng = np.random.default_rng(0)
    data = xr.Dataset(
        {"u": (("time", "x"), rng.standard_normal((30, 400)))},
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(30) * np.timedelta64(6, "h"),
            "x": ("x", np.linspace(0.0, 1.0, 400), {"units": "m"}),
            "place": ("x", rng.standard_normal(400)),
        },
    )
    romzarr.compress(data, tmp_path / "s")
    found = xr.open_dataset(tmp_path / "s", engine="romzarr")
    for name, coordinate in data.coords.items():
        xr.testing.assert_identical(
            found[name].drop_vars("place", errors="ignore"),
            coordinate.drop_vars("place", errors="ignore"),
        )
    (stored,) = (path for path in tmp_path.rglob("coordinates/**/0"))
    assert stored.parent.parent.name == "place"
    stored.unlink()
    with pytest.raises(StoreError, match=r"coordinates/place/c.*missing"):
        xr.open_dataset(tmp_path / "s", engine="romzarr").load()


# --- chunks -------------------------------------------------------------------------------


def coded(values):
    """Metadata and chunk of an array as Zarr writes it, with room for a checksum."""
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store, shape=values.shape, chunks=values.shape, dtype=values.dtype, fill_value=None,
        compressors=(zarr.codecs.BloscCodec(), ChecksumCodec()),
        config={"write_empty_chunks": True},
    )  # fmt: skip
    array[...] = values
    files = {key: each.to_bytes() for key, each in store._store_dict.items()}
    metadata = json.loads(files.pop("zarr.json"))
    (chunk,) = files.values()
    return metadata, chunk


def opened_again(entry):
    found = inline_array(JsonObject(json.loads(json.dumps(entry)), "x"))
    store = zarr.storage.MemoryStore()
    for key, content in (("zarr.json", json.dumps(found.metadata).encode()), found[1:]):
        sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))
    return zarr.open_array(store, mode="r")[...]


@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=9), elements={"max_value": 3}
    )
    | st.lists(st.text(max_size=9), min_size=1, max_size=40).map(np.array)
)
def test_texts_and_codes_are_what_they_were(values):
    if values.dtype.kind == "U":
        values = values.astype(np.dtypes.StringDType())
    entry = inlined_chunk(*coded(values))
    assert_array_equal(opened_again(entry), values)


def test_large_codes_and_other_types_stay_arrays():
    noise = np.random.default_rng(0).integers(0, 2, (300, 500), np.uint8)
    assert inlined_chunk(*coded(noise)) == {}
    assert inlined_chunk(*coded(np.arange(9, dtype="f8"))) == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunk": "%"}, "not base 64"),
        ({"chunk": "AAAA"}, "shorter than its header"),
        ({"shape": [1 << 40, 1 << 40]}, "too large"),
        ({"shape": [2, 2]}, "should decode to 4"),
        ({"shape": [-1]}, "shape"),
        ({"data_type": "float64"}, "not one of"),
        ({"chunk": 5}, "chunk"),
    ],
)
def test_a_chunk_that_no_writer_makes_is_refused(changed, message):
    entry = inlined_chunk(*coded(np.ones((3, 4), np.uint8)))
    with pytest.raises(StoreError, match=message):
        inline_array(JsonObject(entry | changed, "x"))


def test_a_moving_edge_costs_a_small_store_little(tmp_path):
    """The codes of its gaps are no array with metadata and a request of its own."""
    y, t = np.arange(40)[:, None], np.arange(120)[:, None, None]
    waves = np.sin(0.1 * t + 0.2 * y) + np.cos(0.13 * np.arange(50) + 0.07 * t)
    moving = np.where(y > 20 + 6 * np.sin(0.1 * t), waves, np.nan)
    source = xr.Dataset({"u": (("time", "y", "x"), moving.astype("f4"))})
    romzarr.compress(source, tmp_path / "s", tolerance=0.1)
    assert not list((tmp_path / "s").glob("*/basis/u/gaps"))
    found = xr.open_dataset(tmp_path / "s", engine="romzarr").u
    assert_array_equal(found.isnull(), source.u.isnull())
    some = found.isel(time=[5, 90], y=slice(20, 30))
    assert_array_equal(some.isnull(), source.u.isel(time=[5, 90], y=slice(20, 30)).isnull())
