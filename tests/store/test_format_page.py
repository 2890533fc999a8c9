"""The page that describes the format is right: its snippet decodes, its list is complete."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from romzarr.coding import tiles
from romzarr.store import layout
from tests.golden.cases import CASES

PAGE = (Path(layout.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
OTHER_PAGE = (Path(tiles.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
DICTIONARY = (Path(layout.__file__).parent / "dictionary.txt").read_bytes().replace(b"\n", b"")


def snippet():
    """What decodes a variable, with what it takes from the page of coded arrays."""
    numbers, _ = re.findall(r"```python\n(.*?)```", OTHER_PAGE, re.DOTALL)
    (decoding,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return numbers + decoding


def test_the_snippet_decodes_a_store_by_zarr_and_the_codec(small):
    example, path = small
    for name in example.variables:
        scope = {"store": path, "name": name, "dictionary": DICTIONARY}
        exec(snippet(), scope)
        assert scope["values"].dtype == example.dataset[name].dtype
        np.testing.assert_allclose(scope["values"], example.dataset[name], rtol=1e-6)


@pytest.mark.parametrize("name", ["pod_with_listed_gaps", "values_with_coded_gaps"])
def test_the_snippet_decodes_gaps(name, tmp_path):
    CASES[name](tmp_path / "s")
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr")
    for variable in decoded.data_vars:
        scope = {"store": tmp_path / "s", "name": variable, "dictionary": DICTIONARY}
        exec(snippet(), scope)
        np.testing.assert_allclose(scope["values"], decoded[variable], rtol=1e-6, atol=1e-6)


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
