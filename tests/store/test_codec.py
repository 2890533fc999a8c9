"""Any Zarr with the codec registered reads and writes coded arrays."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore

from romzarr.coding.bands import depth
from romzarr.coding.field import coded_field
from romzarr.store.checksums import ChecksumCodec
from romzarr.store.codec import NAME, WaveletCodec


def created(store, shape, chunks, dtype, codec):
    return zarr.create_array(
        store, name="x", shape=shape, chunks=chunks, dtype=dtype, filters=(), serializer=codec,
        compressors=(ChecksumCodec(),), fill_value=0,
    )  # fmt: skip


@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple),
    step=st.sampled_from([1, 0.5, 1e-3]),
    dtype=st.sampled_from(["f4", "f8"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=20)
def test_zarr_writes_and_reads_within_the_step(shape, step, dtype, data):
    chunks = tuple(data.draw(st.integers(1, n + 3)) for n in shape)
    levels = tuple(data.draw(st.integers(0, depth(c))) for c in chunks)
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    store, codec = MemoryStore(), WaveletCodec(float(step), levels)
    created(store, shape, chunks, dtype, codec)[...] = values

    array = zarr.open_array(store, path="x", mode="r")
    assert array.metadata.codecs[0] == codec
    assert array.dtype == values.dtype
    # Each transformed axis spreads an error of a coefficient over a few values.
    np.testing.assert_allclose(array[...], values, rtol=0, atol=step * 3 ** sum(map(bool, levels)))
    if chunks == shape:
        expected = coded_field(values, float(step), levels, np.dtype(dtype))
        np.testing.assert_array_equal(array[...], expected)


@given(rows=st.integers(1, 20), chunk=st.integers(1, 23), columns=st.integers(1, 4), data=st.data())
@settings(deadline=None, max_examples=20)
def test_zarr_writes_and_reads_tables_with_differences(rows, chunk, columns, data):
    orders = tuple(data.draw(st.lists(st.integers(0, 7), max_size=columns)))
    values = np.random.default_rng(0).standard_normal((rows, columns))
    store, codec = MemoryStore(), WaveletCodec(0.01, (0, 0), orders)
    created(store, (rows, columns), (chunk, columns), "f8", codec)[...] = values

    array = zarr.open_array(store, path="x", mode="r")
    assert array.metadata.codecs[0] == codec
    np.testing.assert_allclose(array[...], values, rtol=0, atol=0.01)
    differenced = np.flatnonzero(orders)
    row = data.draw(st.integers(0, rows - 1))
    expected = 0.01 * np.rint(values / 0.01)
    np.testing.assert_array_equal(array[row, differenced], expected[row, differenced])


def test_the_codec_is_registered_by_the_import_and_declared_for_installations():
    assert get_codec_class(NAME) is WaveletCodec
    declared = EntryPoint(NAME, "romzarr.store.codec:WaveletCodec", "zarr.codecs")
    assert declared.load() is WaveletCodec


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), 1, True, "1", None])
def test_steps_that_cannot_be_are_refused(step):
    with pytest.raises(ValueError, match="'step' must be positive and finite"):
        WaveletCodec(step, (0,))


@pytest.mark.parametrize("levels", [(-1,), (41,), (1.0,), (True,), [0], "0", None])
def test_levels_that_cannot_be_are_refused(levels):
    with pytest.raises(ValueError, match="'levels' must be integers from 0 to 40"):
        WaveletCodec(1.0, levels)


@pytest.mark.parametrize("differences", [(-1,), (8,), (1.0,), (True,), [1], "1", None])
def test_differences_that_cannot_be_are_refused(differences):
    with pytest.raises(ValueError, match="'differences' must be integers from 0 to 7"):
        WaveletCodec(1.0, (0, 0), differences)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (None, "must be 'step' and 'levels', perhaps 'differences', found None"),
        ({"step": 1.0}, "must be 'step' and 'levels'"),
        ({"step": 1.0, "levels": [0], "other": 1}, "must be 'step' and 'levels'"),
        ({"step": 10**30, "levels": [0]}, "'step' must be positive"),
        ({"step": 1, "levels": 0}, "'levels' must be integers"),
        ({"step": 1, "levels": [0, 0], "differences": 2}, "'differences' must be integers"),
    ],
)
def test_documents_that_do_not_fit_are_refused(configuration, message):
    with pytest.raises(ValueError, match=message):
        WaveletCodec.from_dict({"name": NAME, "configuration": configuration})


def test_documents_come_back():
    codec = WaveletCodec.from_dict({"name": NAME, "configuration": {"step": 1, "levels": [0, 2]}})
    assert codec == WaveletCodec(1.0, (0, 2)) == WaveletCodec.from_dict(codec.to_dict())
    # Stores without differences do not know the word.
    assert set(codec.to_dict()["configuration"]) == {"step", "levels"}
    other = WaveletCodec(1.0, (0, 0), (3, 0, 1))
    assert WaveletCodec.from_dict(other.to_dict()) == other != WaveletCodec(1.0, (0, 0))


@pytest.mark.parametrize(
    ("chunks", "dtype", "message"),
    [
        ((7,), "f8", r"levels' of chunks \(7,\) must be at most \[0\]"),
        ((8, 8), "f8", "must be at most"),
        ((8,), "i4", "codes float32 and float64"),
        ((8,), ">f8", "codes float32 and float64"),
    ],
)
def test_arrays_that_it_cannot_code_are_refused(chunks, dtype, message):
    with pytest.raises(ValueError, match=message):
        created(MemoryStore(), chunks, chunks, dtype, WaveletCodec(1.0, (1,)))


@pytest.mark.parametrize(
    ("chunk", "dtype", "message"),
    [
        ((8,), "f8", "at most the columns of a table; found 2"),
        ((8, 1), "f8", "at most the columns of a table"),
        ((8, 2, 2), "f8", "at most the columns of a table"),
        ((8, 2), "f4", "'differences' are of float64"),
        ((1 << 22, 5), "f8", "chunks of at most 16777216 values"),
    ],
)
def test_arrays_that_cannot_be_differenced_are_refused(chunk, dtype, message):
    with pytest.raises(ValueError, match=message):
        WaveletCodec(1.0, (0,) * len(chunk), (1, 2)).check(chunk, np.dtype(dtype))


def test_chunks_that_do_not_decode_are_errors_that_zarr_expects():
    store = MemoryStore()
    array = created(store, (8,), (8,), "f8", WaveletCodec(1.0, (0,)))
    array[...] = 1
    plain = zarr.create_array(
        store, name="y", shape=1, chunks=1, dtype="u1", compressors=(ChecksumCodec(),), fill_value=0
    )
    plain[...] = 1
    store._store_dict["x/c/0"] = store._store_dict["y/c/0"]
    with pytest.raises(ValueError, match="too short"):
        array[...]
