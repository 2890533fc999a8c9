"""Names that the examples in docstrings may use."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def names_for_examples(doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    """``tmp``: an empty folder of the example's own."""
    doctest_namespace["tmp"] = tmp_path
