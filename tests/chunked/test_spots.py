"""A spot check looks at a few leaves of every variable, spread over time, and says how few."""

from hypothesis import given
from hypothesis import strategies as st

from romzarr.chunked.plan import PODPlan, SpaceBlock
from romzarr.chunked.spots import all_leaves, share_of, some_leaves
from romzarr.contracts import BlockSpan


@st.composite
def plans(draw):
    """Space blocks of several variables, all with the same spans of different lengths."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    spans = tuple((BlockSpan(a, a + n),) for a, n in zip(starts, lengths, strict=True))
    of = draw(st.lists(st.integers(0, 3), min_size=1, max_size=15).map(sorted))
    rows = tuple(SpaceBlock(i, v, (slice(0, i + 1),)) for i, v in enumerate(of))
    return PODPlan(rows, tuple(span for (span,) in spans), (spans,) * len(rows))


@given(plan=plans(), seed=st.text(max_size=8), most=st.integers(1, 40))
def test_about_as_many_leaves_as_asked_for_of_every_variable(plan, seed, most):
    chosen, whole = some_leaves(plan, seed, most), all_leaves(plan)
    for some, every in zip(chosen, whole, strict=True):
        assert [span for span in every if span in some] == list(some)
    for variable in {row.variable for row in plan.rows}:
        mine = [row.number for row in plan.rows if row.variable == variable]
        counts = [len(chosen[number]) for number in mine]
        there = sum(len(whole[number]) for number in mine)
        # Every space block that is looked at is looked at as often.
        assert min(most, there) <= sum(counts) < most + counts.count(max(counts))
    assert some_leaves(plan, seed, most) == chosen


@given(plan=plans(), seed=st.text(max_size=8))
def test_the_share_is_that_of_the_values(plan, seed):
    def values(leaves):
        return sum(
            (row.number + 1) * (span.stop - span.start)
            for row, spans in zip(plan.rows, leaves, strict=True)
            for span in spans
        )

    chosen = some_leaves(plan, seed, 3)
    assert share_of(plan, chosen) == values(chosen) / values(all_leaves(plan))
    assert (share_of(plan, chosen) == 1) == (chosen == all_leaves(plan))


def test_other_seeds_see_other_leaves():
    spans = tuple((BlockSpan(i, i + 1),) for i in range(100))
    plan = PODPlan((SpaceBlock(0, 0, (slice(0, 1),)),), tuple(s for (s,) in spans), (spans,))
    assert len({some_leaves(plan, str(seed), 4) for seed in range(20)}) == 20
