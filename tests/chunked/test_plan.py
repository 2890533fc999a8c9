"""A plan covers every chunk once and splits none."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.chunked.plan import LEAF_SNAPSHOTS, leaf_region, plan_pod
from romzarr.contracts import ArchivedVariable
from tests.strategies import grids


def variable(chunks, time_axis, dtype="float32"):
    shape = tuple(sum(lengths) for lengths in chunks)
    dims = tuple("time" if k == time_axis else f"d{k}" for k in range(len(shape)))
    return ArchivedVariable("v", dims, shape, np.dtype(dtype), chunks, time_axis, source=None)


@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=3
    ),
    snapshots=st.integers(2, 40),
    leaf_bytes=st.sampled_from([1, 64, 1000, 2**25]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_every_value_is_in_one_leaf_and_no_chunk_is_split(shapes, snapshots, leaf_bytes, data):
    variables = []
    for axis, *space in shapes:
        space.insert(min(axis, 2), snapshots)
        variables.append(variable(data.draw(grids(tuple(space))), min(axis, 2)))
    plan = plan_pod(variables, leaf_bytes)

    assert [row.number for row in plan.rows] == list(range(len(plan.rows)))
    assert plan.time_blocks[0].start == 0
    assert plan.time_blocks[-1].stop == snapshots
    assert all(a.stop == b.start for a, b in pairwise(plan.time_blocks))
    for number, each in enumerate(variables):
        seen = np.zeros(each.shape, int)
        edges = [set(np.cumsum([0, *lengths]).tolist()) for lengths in each.chunks]
        for row, blocks in zip(plan.rows, plan.leaves, strict=True):
            if row.variable != number:
                continue
            for block, spans in zip(plan.time_blocks, blocks, strict=True):
                assert (spans[0].start, spans[-1].stop) == (block.start, block.stop)
                for span in spans:
                    region = leaf_region(each, row.region, span)
                    seen[region] += 1
                    assert all({s.start, s.stop} <= e for s, e in zip(region, edges, strict=True))
        assert (seen == 1).all()


def test_small_chunks_share_a_leaf_within_its_limits():
    """10 snapshots of 10 kB a chunk: leaves take 256 snapshots in time, then space."""
    plan = plan_pod([variable(((10,) * 100, (2500,) * 4), 0)], 2**25)
    assert max(len(block) for block in plan.time_blocks) == 250 <= LEAF_SNAPSHOTS
    sizes = [4 * 250 * int(np.prod(row.shape)) for row in plan.rows]
    assert max(sizes) <= 2**25
    assert len(plan.rows) == 2


def test_a_chunk_above_the_limits_stays_whole():
    plan = plan_pod([variable(((1000,) * 3, (50_000,)), 0)])
    assert [len(block) for block in plan.time_blocks] == [1000] * 3
    assert len(plan.rows) == 1


@given(st.integers(1, 400))
def test_levels_grow_with_the_logarithm_of_the_record(chunks):
    plan = plan_pod([variable(((1,) * chunks, (7,)), 0)], 1)
    merges = 0
    while plan.arity**merges < chunks:
        merges += 1
    assert plan.levels == 1 + merges
