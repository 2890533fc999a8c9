"""NetCDF files: netCDF4 through h5netcdf and netCDF3 through scipy."""

import pickle

import fsspec
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from romzarr.archive import open_archive
from romzarr.archive.blocks import PIECE_BYTES, Grid
from romzarr.errors import ArchiveError, ChunkError

FORMATS = [("h5netcdf", "NETCDF4"), ("scipy", "NETCDF3_64BIT")]


def sample(dims=("time", "y", "x"), shape=(12, 7, 8)):
    values = np.random.default_rng(0).standard_normal(shape).astype("f4")
    return xr.Dataset({"u": (dims, values)}, coords={"time": np.arange(shape[dims.index("time")])})


def written(path, engine, netcdf_format, dataset=None, **encoding):
    dataset = sample() if dataset is None else dataset
    dataset.to_netcdf(path, engine=engine, format=netcdf_format, encoding={"u": encoding})
    return path


@pytest.mark.parametrize(("engine", "netcdf_format"), FORMATS)
@pytest.mark.parametrize("dims", [("time", "y", "x"), ("y", "time", "x"), ("y", "x", "time")])
@pytest.mark.parametrize("packing", [{}, {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}])
def test_blocks_equal_what_xarray_decodes(tmp_path, read_all, engine, netcdf_format, dims, packing):
    dataset = sample(dims)
    path = written(tmp_path / "a.nc", engine, netcdf_format, dataset, **packing)
    (variable,) = open_archive(path).variables
    with xr.open_dataset(path, engine=engine) as expected:
        assert variable.dtype == expected.u.dtype
        assert_array_equal(read_all(variable), expected.u.values)


def test_chunked_files_are_read_by_whole_chunks_along_time(tmp_path, read_block):
    path = written(tmp_path / "a.nc", *FORMATS[0], chunksizes=(2, 7, 3), zlib=True)
    (variable,) = open_archive(path).variables
    assert variable.chunks == ((12,), (7,), (3, 3, 2))
    block = read_block(variable, (slice(0, 12), slice(0, 7), slice(3, 8)))
    assert block.chunks_read == 6 * 2
    # Each HDF5 chunk is read once: what is fetched is less than the file.
    assert 0 < block.bytes_read < path.stat().st_size


@pytest.mark.parametrize(("engine", "netcdf_format"), FORMATS)
def test_contiguous_files_are_cut_along_their_slowest_dim(
    tmp_path, read_block, engine, netcdf_format
):
    dataset = sample(shape=(500, 128, 100))
    path = written(tmp_path / "a.nc", engine, netcdf_format, dataset)
    (variable,) = open_archive(path).variables
    assert variable.space_chunks == ((128,), (100,))
    grid = Grid(variable.chunks)
    blocks = [read_block(variable, grid.region(index)) for index in grid.positions()]
    assert len(blocks) == 2
    assert max(block.values.nbytes for block in blocks) <= PIECE_BYTES
    assert dataset.u.nbytes <= sum(block.bytes_read for block in blocks) < 1.01 * dataset.u.nbytes


def test_tasks_are_small_and_hold_no_open_file(tmp_path):
    path = written(tmp_path / "a.nc", *FORMATS[0])
    (variable,) = open_archive(path).variables
    task = pickle.dumps(variable.source.task((slice(0, 12), slice(0, 7), slice(0, 8))))
    assert len(task) < 2000
    function, *arguments = pickle.loads(task)
    assert_array_equal(function(*arguments).values, sample().u.values)


def test_a_remote_file_is_read_through_fsspec(tmp_path, read_all):
    path = written(tmp_path / "a.nc", *FORMATS[0])
    with fsspec.open("memory://files/a.nc", "wb") as remote:
        remote.write(path.read_bytes())
    assert_array_equal(
        read_all(open_archive("memory://files/a.nc").variables[0]), sample().u.values
    )


def test_the_kind_of_file_is_told_by_its_first_bytes(tmp_path, read_all):
    path = written(tmp_path / "run.out", *FORMATS[1])
    assert_array_equal(read_all(open_archive(path).variables[0]), sample().u.values)
    (tmp_path / "b.nc").write_bytes(b"\x00" * 100)
    with pytest.raises(ArchiveError, match="neither netCDF4/HDF5 nor netCDF3"):
        open_archive(tmp_path / "b.nc")
    (tmp_path / "c.nc").write_bytes(path.read_bytes()[:4] + b"\xff" * 60)
    with pytest.raises(ArchiveError, match="cannot be opened as NetCDF"):
        open_archive(tmp_path / "c.nc")


def test_a_file_that_is_gone_or_damaged_is_named(tmp_path, read_all):
    path = written(tmp_path / "a.nc", *FORMATS[0], chunksizes=(12, 7, 8), fletcher32=True)
    (variable,) = open_archive(path).variables
    content = bytearray(path.read_bytes())
    start = content.find(sample().u.values.tobytes()[:64])
    content[start : start + 8] = b"\xff" * 8
    (tmp_path / "b.nc").write_bytes(content)
    with pytest.raises(ChunkError, match=r"variable 'u': region \[0:12, 0:7, 0:8\].*b\.nc"):
        read_all(open_archive(tmp_path / "b.nc").variables[0])
    assert_array_equal(read_all(variable), sample().u.values)


def test_a_file_that_was_replaced_is_read_anew(tmp_path, read_all):
    path = written(tmp_path / "a.nc", *FORMATS[0])
    first = open_archive(path)
    read_all(first.variables[0])
    path.unlink()
    written(path, *FORMATS[0], sample() * 2)
    second = open_archive(path)
    assert_array_equal(read_all(second.variables[0]), 2 * sample().u.values)
    assert first.fingerprint != second.fingerprint
