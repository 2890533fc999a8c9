"""Names that the examples in docstrings may use."""

import pytest
from _pytest.doctest import DoctestItem


@pytest.fixture(autouse=True)
def names_for_examples(request: pytest.FixtureRequest) -> None:
    """``tmp``: an empty folder of the example's own."""
    if isinstance(request.node, DoctestItem):
        namespace = request.getfixturevalue("doctest_namespace")
        namespace["tmp"] = request.getfixturevalue("tmp_path")
