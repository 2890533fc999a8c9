"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

DATA = Path(__file__).parents[2] / "shared" / "data"

# The same examples on every run of the automatic build; locally they vary.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real datasets beside the checkout; they are no part of the repository."""
    if not DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout: real datasets are not distributed")
    return DATA
