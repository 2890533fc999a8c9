"""Zarr archives: what tasks read is what xarray reads, and nothing is missed in silence."""

import functools
import os
import pickle
import shutil
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.archive import open_archive
from romzarr.archive.blocks import Grid
from romzarr.archive.location import process_store
from romzarr.archive.zarr_archive import block_chunks
from romzarr.archive.zarr_listing import stored_below
from romzarr.errors import ArchiveError, ChunkError

DIMS = st.permutations(["time", "y", "x"])
PACKING = st.sampled_from(
    [
        {},
        {"_FillValue": np.float32(-999.0)},
        {"dtype": "int16", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -32768},
        {"dtype": "int16", "scale_factor": np.float32(0.01), "_FillValue": -32768},
        {"dtype": "uint8", "scale_factor": 0.5, "_FillValue": 255},
        {"dtype": ">f4"},
    ]
)


def sample(dims=("time", "y", "x"), shape=(7, 5, 6), dtype="f4", seed=0):
    values = np.random.default_rng(seed).uniform(1.0, 100.0, shape).astype(dtype)
    time = xr.Variable("time", np.arange(shape[list(dims).index("time")]) * 0.5)
    return xr.Dataset({"u": (tuple(dims), values)}, coords={"time": time})


def written(dataset, folder, name="a.zarr", **options):
    path = Path(folder) / name
    dataset.to_zarr(path, consolidated=False, **options)
    return path


@given(
    data=st.data(),
    dims=DIMS,
    shape=st.tuples(*[st.integers(5, 9)] * 3),
    chunks=st.tuples(*[st.integers(1, 6)] * 3),
    shards=st.none() | st.tuples(*[st.integers(1, 3)] * 3),
    zarr_format=st.sampled_from([2, 3]),
    packing=PACKING,
    masked=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_blocks_equal_what_xarray_decodes(
    read_block, regions_of, data, dims, shape, chunks, shards, zarr_format, packing, masked
):
    dataset = sample(dims, shape)
    if masked and ("_FillValue" in packing or not packing):
        # Fixed in time, so that whole chunks of it are absent at all times.
        dataset = dataset.where(dataset.u.isel(time=0) > 50.0).transpose(*dims)
    encoding = dict(packing, chunks=chunks)
    if shards and zarr_format == 3:
        encoding["shards"] = tuple(c * s for c, s in zip(chunks, shards, strict=True))
    with TemporaryDirectory() as folder:
        path = written(dataset, folder, zarr_format=zarr_format, encoding={"u": encoding})
        with xr.open_zarr(path, consolidated=False) as expected:
            (variable,) = open_archive(path).variables
            assert variable.dims == tuple(dims)
            assert variable.dtype == expected.u.dtype
            assert variable.shape == tuple(map(sum, variable.chunks)) == expected.u.shape
            region = data.draw(regions_of(variable))
            block = read_block(variable, region)
            assert block.values.dtype == expected.u.dtype.newbyteorder("=")
            # Bit for bit: the same numbers, not nearly the same.
            assert_array_equal(block.values, expected.u[region].values)
            sizes = stored_sizes(path, Grid(variable.chunks), region)
            assert block.chunks_read == len(sizes)
            assert block.bytes_read == sum(sizes)


def stored_sizes(path, grid, region):
    """Sizes of the chunk files of a region, found by the names the Zarr specification gives."""
    sizes = []
    for index in grid.touched(region):
        v2 = path / "u" / ".".join(map(str, index))
        v3 = path / "u" / "c" / "/".join(map(str, index))
        sizes += [os.path.getsize(file) for file in (v2, v3) if file.exists()]
    return sizes


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_or_not_is_the_same_archive(tmp_path, read_all, consolidated, zarr_format):
    dataset = sample()
    with warnings.catch_warnings():
        # zarr warns whoever writes them that they are no part of the v3 specification yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        dataset.to_zarr(tmp_path / "a.zarr", consolidated=consolidated, zarr_format=zarr_format)
    archive = open_archive(tmp_path / "a.zarr")
    assert_array_equal(read_all(archive.variables[0]), dataset.u.values)
    assert archive.name == str(tmp_path / "a.zarr")


def test_url_is_read_through_fsspec(read_all):
    dataset = sample()
    dataset.to_zarr("memory://archives/a.zarr", consolidated=False)
    archive = open_archive("memory://archives/a.zarr")
    assert archive.name == "memory://archives/a.zarr"
    assert_array_equal(read_all(archive.variables[0]), dataset.u.values)
    (variable,) = archive.variables
    block = variable.source.reader.read(tuple(slice(0, n) for n in variable.shape))
    assert block.bytes_read > 0


def test_a_lost_chunk_of_a_url_is_named():
    encoding = {"u": {"chunks": (2, 5, 6)}}
    sample().to_zarr("memory://archives/lost.zarr", consolidated=False, encoding=encoding)
    fsspec.filesystem("memory").rm("/archives/lost.zarr/u/c/2/0/0")
    with pytest.raises(ChunkError, match=r"'u': chunk 'u/c/2/0/0' .* is missing \(1 of 4"):
        open_archive("memory://archives/lost.zarr")


def chunked(tmp_path, **options):
    encoding = {"u": {"chunks": (2, 3, 3), **options}}
    return written(sample(), tmp_path, encoding=encoding)


def test_a_missing_chunk_is_refused_by_name_before_anything_is_read(tmp_path):
    path = chunked(tmp_path)
    (path / "u" / "c" / "1" / "0" / "1").unlink()
    with pytest.raises(ChunkError, match=r"variable 'u': chunk 'u/c/1/0/1'.*missing_chunks: fill"):
        open_archive(path)


def test_missing_chunks_read_as_fill_values_when_allowed(tmp_path, read_all):
    path = chunked(tmp_path, fill_value=np.float32(7.0))
    (path / "u" / "c" / "1" / "0" / "1").unlink()
    values = read_all(open_archive(path, missing_chunks="fill").variables[0])
    expected = sample().u.values
    expected[2:4, 0:3, 3:6] = 7.0
    assert_array_equal(values, expected)


def test_a_place_without_chunks_at_any_time_is_land(tmp_path, read_all):
    path = chunked(tmp_path)
    dataset = sample()
    for time in range(4):
        (path / "u" / "c" / str(time) / "0" / "1").unlink()
    dataset.u[:, 0:3, 3:6] = np.nan
    assert_array_equal(read_all(open_archive(path).variables[0]), dataset.u.values)


def test_an_archive_without_any_chunk_is_not_land(tmp_path):
    path = written(sample().chunk(), tmp_path, compute=False)
    with pytest.raises(ChunkError, match="missing"):
        open_archive(path)


def test_a_chunk_that_vanishes_later_is_named(tmp_path, read_all):
    path = chunked(tmp_path)
    archive = open_archive(path)
    (path / "u" / "c" / "3" / "1" / "0").unlink()
    with pytest.raises(ChunkError, match=r"'u/c/3/1/0'.*has disappeared since the"):
        read_all(archive.variables[0])


@pytest.mark.parametrize("shards", [None, (4, 6, 6)])
def test_a_corrupt_chunk_is_found_among_its_neighbours(tmp_path, read_block, shards):
    path = chunked(tmp_path, **({"shards": shards} if shards else {}))
    key = "u/c/1/0/0"
    (path / key).write_bytes(b"not a chunk")
    (variable,) = open_archive(path).variables
    everything = tuple(slice(0, n) for n in variable.shape)
    with pytest.raises(
        ChunkError, match=f"'u': chunk '{key}', region .*cannot be decoded"
    ) as found:
        read_block(variable, everything)
    assert found.value.__cause__ is not None


def test_tasks_are_small_and_read_without_opening_metadata(tmp_path):
    path = chunked(tmp_path, shards=(4, 6, 6))
    (variable,) = open_archive(path).variables
    task = variable.source.task(tuple(slice(0, n) for n in variable.shape))
    assert len(pickle.dumps(variable.source.reader)) < 2000
    (path / "u" / "zarr.json").unlink()
    function, *arguments = pickle.loads(pickle.dumps(task))
    assert_array_equal(function(*arguments).values, sample().u.values)


SECRET = "canary-4711"


def test_credentials_of_the_environment_stay_out_of_tasks(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "FSSPEC_S3_SECRET"):
        monkeypatch.setenv(name, SECRET)
    (variable,) = open_archive(chunked(tmp_path)).variables
    process_store(str(tmp_path / "a.zarr"))
    region = tuple(slice(0, n) for n in variable.shape)
    assert SECRET.encode() not in pickle.dumps((variable, variable.source.task(region)))


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/a.zarr",
        f"s3://bucket/a.zarr?X-Amz-Signature={SECRET}",
        f"https://host/a.nc?sig={SECRET}",
    ],
)
def test_secrets_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(ArchiveError, match="environment of the workers") as refusal:
        open_archive(url)
    assert SECRET not in str(refusal.value)


def test_blocks_of_huge_shards_are_whole_inner_chunks():
    array = zarr.create_array(
        {}, dtype="f4", shape=(64, 4096, 4096), chunks=(1, 512, 512), shards=(64, 4096, 4096)
    )
    chunks = block_chunks(array)
    assert tuple(map(sum, chunks)) == array.shape
    assert all(
        lengths[0] % inner == 0 for lengths, inner in zip(chunks, (1, 512, 512), strict=True)
    )
    block = 4 * np.prod([lengths[0] for lengths in chunks])
    assert 2**25 <= block <= 2**26


def test_uneven_grids_are_read_where_zarr_has_them(tmp_path, read_all):
    if not hasattr(zarr.Array, "write_chunk_sizes"):
        pytest.skip("this zarr knows regular grids only")
    values = sample().u.values
    with zarr.config.set({"array.rectilinear_chunks": True}):
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        array = group.create_array(
            "u",
            shape=values.shape,
            dtype="f4",
            chunks=[[2, 5], [5], [1, 2, 3]],
            dimension_names=("time", "y", "x"),
        )
        array[:] = values
        (variable,) = open_archive(tmp_path / "a.zarr").variables
        assert variable.chunks == ((2, 5), (5,), (1, 2, 3))
        assert_array_equal(read_all(variable), values)


def test_the_fingerprint_follows_data_metadata_and_times(tmp_path):
    first = open_archive(chunked(tmp_path)).fingerprint
    assert open_archive(tmp_path / "a.zarr").fingerprint == first
    others = {
        "values": sample(seed=1).isel(time=slice(None)).assign(u=lambda d: d.u * 0),
        "attrs": sample().assign(u=lambda d: d.u.assign_attrs(units="m")),
        "times": sample().assign_coords(time=np.arange(7.0) + 1),
    }
    for name, dataset in others.items():
        encoding = {"u": {"chunks": (2, 3, 3)}}
        path = written(dataset, tmp_path, name, encoding=encoding)
        found = open_archive(path, missing_chunks="fill").fingerprint
        assert found != first, name


def test_what_is_no_zarr_group_is_said_to_be_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match="cannot be opened as a Zarr group"):
        open_archive(tmp_path / "empty")
    with pytest.raises(ArchiveError, match="no such file or folder"):
        open_archive(tmp_path / "nowhere.zarr")


def test_every_kind_of_store_lists_the_same_chunks(tmp_path):
    obstore = pytest.importorskip("obstore", reason="obstore is optional")
    path = chunked(tmp_path, shards=(4, 6, 6))
    stores = [
        zarr.storage.LocalStore(path),
        zarr.storage.FsspecStore.from_url(f"local://{path}"),
        zarr.storage.ObjectStore(obstore.store.LocalStore(path)),
    ]
    listings = []
    for store in stores:
        found = stored_below(store, zarr.open_array(store, path="u", mode="r"))
        listings.append({key: each.nbytes for key, each in found.items()})
    assert len(listings[0]) == 3  # two shards and the metadata
    assert listings[0] == listings[1] == listings[2]


def test_a_zip_file_is_a_store(tmp_path, read_all):
    path = chunked(tmp_path)
    archive = shutil.make_archive(str(tmp_path / "a.zarr"), "zip", path)
    assert_array_equal(read_all(open_archive(archive).variables[0]), sample().u.values)


def test_parts_of_a_shard_are_counted_and_their_loss_is_noticed(tmp_path):
    path = chunked(tmp_path, shards=(4, 6, 6))
    (variable,) = open_archive(path).variables
    part = (slice(0, 2), slice(0, 3), slice(0, 6))
    block = variable.source.reader.read(part)
    assert_array_equal(block.values, sample().u.values[part])
    assert block.chunks_read == 1
    assert 0 < block.bytes_read < (path / "u/c/0/0/0").stat().st_size
    (path / "u/c/0/0/0").unlink()
    with pytest.raises(ChunkError, match="'u/c/0/0/0'"):
        variable.source.reader.read(part)


class SilentHandler(SimpleHTTPRequestHandler):
    """A web server that lists no folders and writes no log."""

    def list_directory(self, path):
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def web_folder(tmp_path):
    pytest.importorskip("aiohttp", reason="http:// through fsspec needs aiohttp")
    handler = functools.partial(SilentHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_chunks_on_a_server_that_lists_nothing_are_asked_for_one_by_one(web_folder, read_all):
    folder, url = web_folder
    dataset = sample()
    encoding = {"u": {"chunks": (2, 5, 6)}}
    options = {"consolidated": True, "zarr_format": 2, "encoding": encoding}
    dataset.to_zarr(folder / "a.zarr", **options)
    assert_array_equal(read_all(open_archive(f"{url}/a.zarr").variables[0]), dataset.u.values)
    (folder / "a.zarr/u/2.0.0").unlink()
    with pytest.raises(ChunkError, match=r"chunk 'u/2\.0\.0' of archive 'http://.* is missing"):
        open_archive(f"{url}/a.zarr")
    written(dataset, folder, "b.zarr")
    with pytest.raises(ArchiveError, match=r"consolidate_metadata\(\)"):
        open_archive(f"{url}/b.zarr")
