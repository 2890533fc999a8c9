"""Tolerance 0: every bit comes back, in no more bytes than the archive's own compression."""

from __future__ import annotations

import os
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import romzarr
from romzarr.chunked.exact import WriteExact
from romzarr.compression import lossless
from romzarr.store.reading.reader import open_store
from romzarr_flows.tables import info_table
from tests.format_page import decoded_by_hand
from tests.oracles import assert_same_but_values, compressed_names, files_below
from tests.strategies import datasets, grids, seeds


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


varied = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def size(folder: Path) -> int:
    return sum(map(os.path.getsize, files_below(folder)))


def bits(values: np.ndarray) -> np.ndarray:
    """Bytes, the least first: indexing does not keep the order, and need not."""
    ordered = values if values.dtype.byteorder != ">" else values.byteswap()
    return np.frombuffer(np.ascontiguousarray(ordered).tobytes(), np.uint8)


def assert_identical(source: xr.Dataset, decoded: xr.Dataset) -> None:
    assert_same_but_values(source, decoded)
    for name in compressed_names(source):
        np.testing.assert_array_equal(bits(source[name].values), bits(decoded[name].values), name)


def kept(source: xr.Dataset, folder: Path, **options):
    """Report and dataset of a lossless store."""
    store = folder / "store.romzarr"
    report = romzarr.compress(source, store, tolerance=0, overwrite=True, **options)
    return report, xr.open_dataset(store, engine="romzarr")


@given(source=datasets(), least=st.sampled_from([40, 1 << 18]))
@varied
def test_every_bit_of_any_dataset_comes_back(tmp_path, source, least):
    """In one tile and in many, each chunk read once but for those that are tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lossless, "LEAST", least)
        patch.setattr(lossless, "MOST", 2 * least)
        report, decoded = kept(source, tmp_path)
    assert_identical(source, decoded)
    assert set(report.relative_l2_error.values()) == {0.0}
    chunks = [np.prod(source[n].data.numblocks) for n in compressed_names(source)]
    assert report.chunks_read == sum(chunks)
    assert romzarr.verify(tmp_path / "store.romzarr", source).ok


@given(
    shape=st.tuples(st.integers(5, 30), st.integers(5, 9), st.integers(5, 9)),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4", ">f8"]),
    axis=st.integers(0, 2),
    seed=seeds,
    data=st.data(),
)
@varied
def test_nasty_floats_come_back(tmp_path, shape, dtype, axis, seed, data):
    """Random bits: NaN that come and go, with any payload, infinities, both zeros."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, np.prod(shape) * np.dtype(dtype).itemsize, np.uint8)
    values = np.frombuffer(raw.tobytes(), dtype).reshape(shape).copy()
    special = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf], dtype)
    some = rng.random(shape) < 0.3
    values[some] = rng.choice(special, some.sum())
    dims = ["y", "x"]
    dims.insert(axis, "time")
    source = xr.Dataset({"u": (dims, values)}, {"time": np.arange(shape[axis])})
    source = source.chunk(dict(zip(dims, data.draw(grids(shape)), strict=True)))
    _, decoded = kept(source, tmp_path)
    assert_identical(source, decoded)
    part = {"time": slice(1, None, 2), "x": [0, -1]}
    expected, found = source.u.isel(part).values, decoded.u.isel(part).values
    np.testing.assert_array_equal(bits(expected), bits(found))
    assert romzarr.verify(tmp_path / "store.romzarr", source).ok


def smooth() -> xr.Dataset:
    t, y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in (60, 30, 40)), indexing="ij")
    u = 280 + 10 * np.sin(x + t) * np.cos(2 * y - t)
    return xr.Dataset(
        {"u": (("time", "y", "x"), u.astype("f4")), "v": (("time", "y", "x"), np.round(u, 1))},
        {"time": np.arange(60.0)},
    )


@pytest.mark.parametrize(
    "compressor",
    [
        ZstdCodec(level=19),
        GzipCodec(level=9),
        BloscCodec(cname="zstd", clevel=9, shuffle="shuffle"),
        BloscCodec(cname="lz4hc", clevel=9, shuffle="bitshuffle"),
    ],
    ids=lambda codec: type(codec).__name__,
)
@pytest.mark.parametrize("chunks", [(7, 30, 40), (60, 10, 10)])
def test_it_is_no_larger_than_the_archive_s_own_compression(tmp_path, compressor, chunks):
    path = tmp_path / "archive.zarr"
    encoding = {name: {"chunks": chunks, "compressors": [compressor]} for name in "uv"}
    smooth().to_zarr(path, encoding=encoding, consolidated=False)
    _, decoded = kept(path, tmp_path)
    assert_identical(smooth(), decoded)
    values = sum(size(path / name) for name in "uv")
    assert sum(size(tmp_path / "store.romzarr" / f) for f in generation_parts(tmp_path)) <= values


def generation_parts(folder: Path) -> list[Path]:
    return list((folder / "store.romzarr").glob("2*/basis"))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32"])
def test_packed_values_are_kept_as_the_integers_they_are(tmp_path, dtype):
    """Unpacked, their digits are noise that no codec makes smaller than the integers."""
    rng = np.random.default_rng(0)
    source = smooth()[["u"]]
    source["u"] += 0.3 * rng.standard_normal(source.u.shape).astype("f4")
    source["u"][:, 3, 4:9] = np.nan
    source["u"][11, 7, 7] = np.nan
    limits = np.iinfo(dtype)
    scale = 40 / min(float(limits.max), 30000.0)
    packed = {
        "dtype": dtype,
        "scale_factor": scale,
        "add_offset": 280.0 - 0.5 * 40 * (limits.min == 0),
        "_FillValue": limits.max,
        "chunks": (20, 30, 40),
        "compressors": [BloscCodec(cname="zstd", clevel=9, shuffle="shuffle")],
    }
    path = tmp_path / "archive.zarr"
    source.to_zarr(path, encoding={"u": packed}, consolidated=False)
    given_ = xr.open_zarr(path, consolidated=False)
    _, decoded = kept(path, tmp_path)
    assert_identical(given_, decoded)
    (basis,) = generation_parts(tmp_path)
    assert size(basis) <= 1.03 * size(path / "u")
    assert romzarr.verify(tmp_path / "store.romzarr", path).ok


def test_values_that_are_not_as_packed_as_they_say_are_kept_all_the_same(tmp_path):
    """Where it is not seen on trial either: what was written is dropped."""
    source = smooth()[["v"]].chunk(time=10)
    integers = (source.v * 10).round()
    source["v"] = (integers * 0.1 + 0.0).compute()
    source["v"].encoding = {"dtype": "int16", "scale_factor": 0.1, "add_offset": 0.0}
    coding = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lossless, "TRIED_VALUES", 200)
        patch.setattr(lossless, "LEAST", 1000)
        init = WriteExact.__init__

        def noted(self, writer, variable, given_):
            coding.append(given_.packing)
            init(self, writer, variable, given_)

        patch.setattr(WriteExact, "__init__", noted)
        source["v"][33, 1, 1] = np.pi
        _, decoded = kept(source.chunk(time=10), tmp_path)
    assert_identical(source, decoded)
    assert [packing is None for packing in coding] == [False, True]


def test_a_lossless_store_does_all_that_stores_do(tmp_path):
    source = smooth()
    report, decoded = kept(source, tmp_path, max_error={"u": 1e-3})
    store = tmp_path / "store.romzarr"
    assert (report.rank, report.kept_samples, report.tolerance) == (0, 0, 0.0)
    assert report.advice == ""
    info = romzarr.info(store)
    assert {v["coding"] for v in info.variables.values()} == {"lossless"}
    text = info_table(info.to_dict(), "s")
    assert "float32; values, lossless" in text
    assert "0, lossless" in text
    assert "coded without POD" in romzarr.equations(store).text()
    romzarr.reconstruct(store, tmp_path / "out.zarr", start=10, stop=20)
    again = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    xr.testing.assert_equal(again.u, decoded.u.isel(time=slice(10, 20)))
    opened = open_store(store)
    np.testing.assert_allclose(opened.mean("u"), source.u.mean("time"), rtol=1e-6)
    np.testing.assert_allclose(opened.mean("u", (3, [1, 2])), source.u.mean("time")[3, 1:3])
    assert not opened.modes("u").size
    report = romzarr.verify(store, source)
    assert report.ok
    assert report.max_error == {"u": 1e-3}


@pytest.mark.parametrize("change", ["bit", "nan", "zero"])
def test_a_bit_that_differs_is_found_where_it_is(tmp_path, change):
    source = smooth()
    source["u"][4, 5, 6] = 0.0
    source["u"][4, 5, 7] = np.nan
    kept(source, tmp_path)
    values = source.u.values
    if change == "bit":
        values.view("u4")[17, 8, 9] ^= 1
    elif change == "nan":
        values.view("u4")[4, 5, 7] ^= 1
    else:
        values[4, 5, 6] = -0.0
    place = {"bit": (17, 8, 9), "nan": (4, 5, 7), "zero": (4, 5, 6)}[change]
    report = romzarr.verify(tmp_path / "store.romzarr", source)
    assert not report.ok
    assert (
        "variable 'u': the value differs at time={} ({}), y={}, x={}".format(
            place[0], float(place[0]), *place[1:]
        )
        in report.problems
    )


@pytest.mark.parametrize(
    "name", ["combustion_opinf", "kdv_pysindy", "ks_pysindy", "globcurrent_agulhas"]
)
def test_real_data_take_less_than_their_own_compression(shared_data, tmp_path, name):
    path = shared_data / f"{name}.zarr"
    source = xr.open_zarr(path, consolidated=False).load()
    _, decoded = kept(path, tmp_path)
    # Without consolidated metadata the order of variables is that of a folder's listing.
    assert_identical(source[sorted(source.data_vars)], decoded)
    assert size(tmp_path / "store.romzarr") <= 1.03 * size(path)


@pytest.mark.parametrize("packed", [False, True])
def test_the_snippet_of_the_format_page_decodes_it(tmp_path, packed):
    source = smooth()
    if packed:
        source["v"] = (source.v * 10).round() * 0.1 + 0.0
        source["v"].encoding = {"dtype": "int16", "scale_factor": 0.1, "add_offset": 0.0}
    _, decoded = kept(source, tmp_path)
    for name in ("u", "v"):
        found = decoded_by_hand(tmp_path / "store.romzarr", name)
        np.testing.assert_array_equal(bits(found), bits(decoded[name].values))
