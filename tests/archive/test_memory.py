"""Datasets that are open already: numpy, Dask, and lazy arrays of xarray without Dask."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.archive import open_archive
from romzarr.archive.blocks import PIECE_BYTES, Grid
from romzarr.errors import ChunkError

DIMS = st.permutations(["time", "y", "x"])


@given(
    data=st.data(),
    dims=DIMS,
    shape=st.tuples(*[st.integers(5, 9)] * 3),
    chunks=st.tuples(*[st.integers(1, 6)] * 3),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f8"]),
)
@settings(deadline=None, max_examples=30)
def test_regions_of_dask_arrays_are_put_together(
    read_block, regions_of, data, dims, shape, chunks, dtype
):
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    array = da.from_array(values, chunks=chunks) * np.array(2, dtype)
    (variable,) = open_archive(xr.Dataset({"u": (tuple(dims), array)})).variables
    region = data.draw(regions_of(variable))
    block = read_block(variable, region)
    assert variable.chunks == array.chunks
    assert_array_equal(block.values, 2 * values[region])
    assert block.values.dtype == variable.dtype.newbyteorder("=")
    assert block.chunks_read == len(list(Grid(variable.chunks).touched(region)))
    assert block.bytes_read == block.values.nbytes


def test_a_block_of_a_dask_array_computes_nothing_else(read_block):
    def load(block_info=None):
        start = block_info[None]["array-location"][0][0]
        if start >= 10:
            raise AssertionError("a block outside of the region was computed")
        return np.full((10, 3), float(start))

    array = da.map_blocks(load, chunks=((10, 10), (3,)), dtype="f8", meta=np.empty((0, 0)))
    (variable,) = open_archive(xr.Dataset({"u": (("time", "x"), array)})).variables
    assert_array_equal(read_block(variable, (slice(0, 10), slice(0, 3))).values, np.zeros((10, 3)))


def test_variables_of_one_origin_share_the_tasks_that_read_it():
    base = da.from_array(np.ones((10, 4)), chunks=(5, 4), name="origin")
    dataset = xr.Dataset({"u": (("time", "x"), base + 1), "v": (("time", "x"), base * 2)})
    graphs = [variable.source.graph() for variable in open_archive(dataset).variables]
    shared = graphs[0].keys() & graphs[1].keys()
    assert {("origin", 0, 0), ("origin", 1, 0)} <= shared


@pytest.mark.parametrize("dims", [("time", "y", "x"), ("y", "time", "x"), ("y", "x", "time")])
def test_arrays_in_memory_are_cut_along_time_and_not_copied(dims, read_block, read_all):
    sizes = {"time": 600, "y": 128, "x": 100}
    values = np.zeros([sizes[dim] for dim in dims], "f4")
    (variable,) = open_archive(xr.Dataset({"u": (dims, values)})).variables
    assert variable.space_chunks == tuple((size,) for size in variable.space_shape)
    grid = Grid(variable.chunks)
    assert len(grid) > 1
    for index in grid.positions():
        block = read_block(variable, grid.region(index))
        assert block.values.nbytes <= PIECE_BYTES
        assert np.shares_memory(block.values, values)
    values[...] = 1.0
    assert_array_equal(read_all(variable), values)


def test_lazy_arrays_without_dask_are_not_loaded_whole(tmp_path, read_all):
    values = np.random.default_rng(0).standard_normal((20, 4))
    xr.Dataset({"u": (("time", "x"), values)}).to_zarr(
        tmp_path / "a.zarr", consolidated=False, encoding={"u": {"chunks": (3, 2)}}
    )
    with xr.open_dataset(tmp_path / "a.zarr", engine="zarr", consolidated=False) as dataset:
        archive = open_archive(dataset)
        (variable,) = archive.variables
        assert variable.chunks[1] == (2, 2)
        assert_array_equal(read_all(variable), values)
        assert archive.name == str(tmp_path / "a.zarr")


def test_a_data_array_is_a_dataset_of_one():
    array = xr.DataArray(np.ones((6, 2)), dims=("time", "x"))
    assert open_archive(array).order == ("data",)
    assert open_archive(array.rename("u")).order == ("u",)
    assert open_archive(array).name == "dataset in memory"


def test_dask_chunks_of_unknown_length_are_refused():
    array = da.from_array(np.arange(12.0).reshape(6, 2), chunks=(3, 2))
    unknown = array[da.from_array(np.array([1, 1, 1, 1, 1, 1], bool), chunks=3)]
    dataset = xr.Dataset({"u": (("time", "x"), array)})
    dataset["u"].variable._data = unknown
    with pytest.raises(ChunkError, match=r"'u'.*compute_chunk_sizes\(\)"):
        open_archive(dataset)


def test_the_fingerprint_of_data_in_memory_follows_its_values():
    values = np.random.default_rng(0).standard_normal((50, 60))
    dataset = xr.Dataset({"u": (("time", "x"), values)})
    first = open_archive(dataset).fingerprint
    assert open_archive(dataset.copy(deep=True)).fingerprint == first
    assert open_archive(dataset + 1).fingerprint != first
    lazy = open_archive(dataset.chunk(time=10)).fingerprint
    assert open_archive(dataset.chunk(time=10)).fingerprint == lazy
    assert open_archive((dataset + 1).chunk(time=10)).fingerprint != lazy
