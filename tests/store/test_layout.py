"""Chunk shapes, names and JSON checks that need no store."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.store import layout

lengths = st.lists(st.integers(1, 400), min_size=1, max_size=5).map(tuple)
regular = st.tuples(st.integers(1, 500), st.integers(1, 6), st.integers(0, 400)).map(
    lambda t: (t[0],) * t[1] + ((min(t[2], t[0]),) if t[2] else ())
)


@given(
    grid=st.lists(st.one_of(lengths, regular), max_size=3),
    rank=st.integers(0, 300),
    itemsize=st.sampled_from([4, 8]),
)
def test_aligned_chunks_are_never_shared_by_two_blocks(grid, rank, itemsize):
    chunk = layout.basis_chunks(grid, rank, itemsize)

    assert len(chunk) == len(grid)
    assert all(1 <= c <= sum(n) for c, n in zip(chunk, grid, strict=True))
    # Oracle: list the chunks that every block touches, dim by dim.
    shared = False
    for blocks, length in zip(grid, chunk, strict=True):
        start, last = 0, -1
        for block in blocks:
            shared |= start // length <= last
            start, last = start + block, (start + block - 1) // length
    assert layout.aligned(grid, chunk) == (not shared)


@given(
    shape=st.lists(st.integers(1, 3000), min_size=1, max_size=3),
    rank=st.integers(1, 300),
)
def test_chunks_hold_about_a_megabyte_where_the_archive_leaves_the_choice(shape, rank):
    chunk = layout.basis_chunks([(n,) for n in shape], rank, 4)

    size = math.prod(chunk) * rank * 4
    assert size <= 2 * layout.CHUNK_BYTES or math.prod(chunk) == 1
    assert size * 8 >= min(layout.CHUNK_BYTES, math.prod(shape) * rank * 4)


def test_regular_archive_grids_are_written_side_by_side():
    grid = [(100, 100, 56), (256,)]
    assert layout.aligned(grid, layout.basis_chunks(grid, 30, 4))


def test_grids_of_tiny_or_ragged_chunks_are_given_up():
    grid = [(3, 5, 7) * 60, (2,) * 400]
    chunk = layout.basis_chunks(grid, 10, 4)
    assert not layout.aligned(grid, chunk)
    assert math.prod(chunk) * 40 > layout.CHUNK_BYTES / 2


@pytest.mark.parametrize("name", ["../x", "a/b", "singular_values", "ü", "", "u" * 65, ".", "U"])
def test_names_that_a_file_system_may_not_take_are_replaced(name):
    segment = layout.segment(name, ["u"])
    assert segment == "variable-0"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a romzarr store"),
        (b'{"attributes":{}}', "not a romzarr store"),
        (b'{"attributes":{"romzarr":{"format":2,"generation":"x"}}}', "reads format 1"),
        (b'{"attributes":{"romzarr":{"format":true,"generation":"x"}}}', "'format' must be"),
        (b'{"attributes":{"romzarr":{"format":1,"generation":"../../etc"}}}', "no name of a gen"),
        (b'{"attributes":{"romzarr":{"format":1}}}', "'generation' is missing"),
    ],
)
def test_root_metadata_that_are_not_ours_are_refused(raw, message):
    with pytest.raises(StoreError, match=message):
        layout.parse_root(raw, "somewhere")
