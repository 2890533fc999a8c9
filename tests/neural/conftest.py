"""Tests below that need a network framework are skipped where it is not installed."""

import pytest


@pytest.fixture(scope="session")
def jax():
    """JAX, on the CPU."""
    found = pytest.importorskip("jax", reason="romzarr[neural] is not installed")
    pytest.importorskip("optax", reason="romzarr[neural] is not installed")
    return found
