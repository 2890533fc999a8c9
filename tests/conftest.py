"""Fixtures that every test may use."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

DATA = Path(__file__).parents[2] / "shared" / "data"

# The same examples on every run of the automatic build; locally they vary.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# What killed workers, and those who were connected to them, leave to the garbage collector.
LEFT_BEHIND = (
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cluster"):
            for each in LEFT_BEHIND:
                item.add_marker(pytest.mark.filterwarnings(each))


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """It is collected while the test that left it still runs, and fails no other."""
    yield
    if request.node.get_closest_marker("cluster"):
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real datasets beside the checkout; they are no part of the repository."""
    if not DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout: real datasets are not distributed")
    return DATA
