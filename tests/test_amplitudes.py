"""Modes of what a store of values decodes to are its principal components."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.contracts import BlockSpan
from romzarr.operations.amplitudes import MADE, amplitudes_of
from romzarr.store.reading.reader import open_store


@pytest.mark.parametrize(("snapshots", "points"), [(30, 90), (90, 30), (40, 5)])
def test_they_are_those_of_a_singular_value_decomposition(tmp_path, snapshots, points):
    values = np.random.default_rng(0).standard_normal((snapshots, points))
    romzarr.compress(xr.Dataset({"u": (("time", "x"), values)}), tmp_path / "s", tolerance=0)
    found = amplitudes_of(open_store(tmp_path / "s"))
    away = values - values.mean(axis=0)
    u, sigma, _ = np.linalg.svd(away / np.linalg.norm(away), full_matrices=False)
    count = min(MADE, points)
    assert not found.stored
    np.testing.assert_allclose(found.energy, sigma[:count] ** 2, rtol=1e-9)
    a = found.span(BlockSpan(3, 20))
    expected = (u * sigma)[3:20, :count]
    np.testing.assert_allclose(np.abs(a), np.abs(expected), atol=1e-9)
