"""Names and JSON checks that need no store."""

import pytest

from pipeline.errors import StoreError
from pipeline.store import layout


@pytest.mark.parametrize("name", ["../x", "a/b", "singular_values", "ü", "", "u" * 65, ".", "U"])
def test_names_that_a_file_system_may_not_take_are_replaced(name):
    segment = layout.segment(name, ["u"])
    assert segment == "variable-0"


def root(**facts):
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"romzarr": facts}}
    return layout.compact_json(document)


PART = {"generation": "20260101T000000-01234567", "checksum": 1}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a romzarr store"),
        (b'{"attributes":{}}', "not a romzarr store"),
        (b'{"node_type":"group","attributes":{"romzarr":{}}}', "not a romzarr store"),
        (root().replace(b"group", b"array"), "not a romzarr store"),
        (root(format=1, generation="x"), "reads formats 2 and 3; use an older"),
        (root(format=4, generation="x"), "reads formats 2 and 3; use a newer"),
        (root(format=3, before={}, **PART), "'before' must be a list of generations"),
        (root(format=3, before=[["../x", 1]], **PART), "no name of a generation"),
        (root(format=3, before=[[PART["generation"], 1]], **PART), "named twice"),
        (root(format=True, generation="x"), "'format' must be"),
        (root(format=2, generation="../../etc"), "no name of a gen"),
        (root(format=2), "'generation' is missing"),
        (root(format=2, generation="20260101T000000-01234567"), "'checksum' is missing"),
    ],
)
def test_root_metadata_that_are_not_ours_are_refused(raw, message):
    with pytest.raises(StoreError, match=message):
        layout.parse_root(raw, "somewhere")


def test_what_is_coded_is_known_by_its_path():
    coded = [path for path in PATHS if layout.is_coded(path)]
    assert coded == ["basis/u/fields", "basis/u/values", "latent/samples", "latent/corrections"]


PATHS = [
    *(f"basis/u/{name}" for name in ("fields", "values", "mask")),
    *(f"latent/{name}" for name in ("samples", "corrections", "steps")),
    *("coordinates/values", "coordinates/basis/fields", "model/factors"),
]
