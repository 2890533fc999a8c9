"""The page that describes the format is right: its snippet decodes, its list is complete."""

import re

import numpy as np
import pytest
import xarray as xr
import zarr

from romzarr.store import layout
from tests.format_page import PAGE, decoded_by_hand
from tests.golden.cases import CASES


def test_the_snippet_decodes_a_store_by_zarr_and_the_codec(small):
    example, path = small
    for name in example.variables:
        values = decoded_by_hand(path, name)
        assert values.dtype == example.dataset[name].dtype
        np.testing.assert_allclose(values, example.dataset[name], rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "pod_with_listed_gaps",
        "pod_with_a_moving_edge",
        "values_with_coded_gaps",
        "points_along_a_curve",
    ],
)
def test_the_snippet_decodes_gaps_and_points_in_another_order(name, tmp_path):
    CASES[name](tmp_path / "s")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    for variable in decoded.data_vars:
        values = decoded_by_hand(tmp_path / "s", variable)
        np.testing.assert_allclose(values, decoded[variable], rtol=1e-6, atol=1e-6)


def test_every_array_and_fact_of_a_store_is_described(small):
    _, path = small
    root = zarr.open_group(path, mode="r")
    generation = root[root.attrs["romzarr"]["parts"][0][0]]
    described = set(re.findall(r"STORE/<id>/(\w+/[\w<>/]+?) ", PAGE))
    for array, _ in generation.members(max_depth=None):
        generic = re.sub(r"basis/[^/]+/", "basis/<group>/", array)
        is_array = isinstance(generation[array], zarr.Array)
        assert not is_array or generic in described or array.startswith("coordinates/"), array
    for fact in set(generation.attrs["romzarr"]) - {"tolerance"}:
        assert f"`{fact}`" in PAGE, fact


def test_the_version_on_the_page_is_the_one_written():
    assert f"format {layout.FORMAT}\n" in PAGE
    assert len(PAGE.splitlines()) <= 245
