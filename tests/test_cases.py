"""The bound, whatever the data and however written: see `tests.cases`."""

import pytest

from tests.cases import run_case


@pytest.mark.parametrize("seed", range(24))
def test_a_case_keeps_its_bound_or_is_refused_by_name(seed):
    run_case(seed)
