"""Names and JSON checks that need no store."""

import pytest
import xarray as xr

from romzarr.errors import StoreError
from romzarr.store import layout


@pytest.mark.parametrize("name", ["../x", "a/b", "singular_values", "ü", "", "u" * 65, ".", "U"])
def test_names_that_a_file_system_may_not_take_are_replaced(name):
    segment = layout.segment(name, ["u"])
    assert segment == "variable-0"


def root(**facts):
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"romzarr": facts}}
    return layout.compact_json(document)


PART = ["20260101T000000-01234567", "0000abcd"]
ROOT = layout.Root(
    (layout.Part(*PART), layout.Part("20260102T000000-01234567", "00000007")),
    (layout.Superseded("20251231T000000-01234567", "20260101T010000"),),
)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b"[]", "not a romzarr store"),
        (b'{"attributes":{}}', "not a romzarr store"),
        (b'{"node_type":"group","attributes":{"romzarr":{}}}', "not a romzarr store"),
        (root().replace(b"group", b"array"), "not a romzarr store"),
        (root(format=2, generation="x"), "reads format 4; use an older romzarr, or compress"),
        (root(format=5, parts=[]), "reads format 4; use a newer"),
        (root(format=True, parts=[PART]), "'format' must be"),
        (root(format=4), "'parts': None does not name a generation"),
        (root(format=4, parts={}), "'parts': {} does not name a generation"),
        (root(format=4, parts=[]), "is damaged"),
        (root(format=4, parts=[["../x", PART[1]]]), "does not name a generation"),
        (root(format=4, parts=[[PART[0], 7]]), "does not name a generation"),
        (root(format=4, parts=[[PART[0], "7"]]), "does not name a generation"),
        (root(format=4, parts=[PART, PART]), "lists a generation twice"),
        (root(format=4, parts=[PART], superseded=[PART]), "does not name a generation"),
        (root(format=4, parts=[PART]), "is damaged, or was not written"),
        (root(format=4, parts=[PART], checksum=1), "is damaged, or was not written"),
        (layout.root_document(ROOT) + b" ", "is damaged, or was not written"),
    ],
)
def test_root_metadata_that_are_not_ours_are_refused(raw, message):
    with pytest.raises(StoreError, match=message):
        layout.parse_root(raw, "somewhere")


def test_root_metadata_come_back():
    assert layout.parse_root(layout.root_document(ROOT), "somewhere") == ROOT


def test_no_bit_of_the_root_metadata_can_be_changed_unseen():
    content = layout.root_document(ROOT)
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError):
            layout.parse_root(bytes(flipped), "somewhere")


def test_what_is_coded_is_known_by_its_path():
    coded = [path for path in PATHS if layout.is_coded(path)]
    assert coded == ["basis/u/fields", "basis/u/values", "latent/samples", "latent/corrections"]


PATHS = [
    *(f"basis/u/{name}" for name in ("fields", "values", "mask")),
    *(f"latent/{name}" for name in ("samples", "corrections", "steps")),
    *("coordinates/values", "coordinates/basis/fields", "latent/block_model"),
]


def test_whoever_opens_a_store_as_a_zarr_group_is_told_what_reads_it(tmp_path):
    (tmp_path / "zarr.json").write_bytes(layout.root_document(ROOT))
    with xr.open_zarr(tmp_path, consolidated=False) as dataset:
        assert "engine='romzarr'" in dataset.attrs["open_with"]
