"""Small archives have many blocks of errors here, as large ones have."""

import pytest

from romzarr.numerics import error_blocks


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch):
    monkeypatch.setattr(error_blocks, "LEAST_VALUES", 64)
