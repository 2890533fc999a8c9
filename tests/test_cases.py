"""The bound, whatever the data and however written: see `tests.cases`."""

import pytest

from tests import forged
from tests.cases import run_case


@pytest.mark.parametrize("seed", range(24))
def test_a_case_keeps_its_bound_or_is_refused_by_name(seed):
    run_case(seed)


# Found by `make torture`: more chunks in the metadata of an array than ranges have room in memory.
@pytest.mark.parametrize("seed", [4294970523])
def test_forged_stores_that_were_not_refused_as_they_should_be_are(seed):
    assert forged.run_case(seed) == "refused"
