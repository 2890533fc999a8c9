"""Stores made to harm are refused before anything is allocated, decoded or evaluated."""

import json
import struct

import google_crc32c
import numpy as np
import pytest
import xarray as xr

from pipeline.errors import LibraryError, StoreError
from pipeline.store.engine import RomzarrBackendEntrypoint
from pipeline.store.reader import _opened, open_store


def changed(path, keys, value):
    """Set ``document[keys[0]][keys[1]]...`` of the generation's metadata (None deletes).

    After `NODE` follows the path of the array whose own metadata are meant.
    """
    file = next(path.glob("*/zarr.json"))
    if keys[0] == NODE:
        file, keys = file.parent / keys[1] / "zarr.json", keys[2:]
    if not keys:
        file.unlink()
        _opened.cache_clear()
        return
    document = json.loads(file.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    file.write_text(json.dumps(document))
    _opened.cache_clear()


FACTS = ("attributes", "romzarr")
NODE = "node"


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((*FACTS, "variables", "u", "group"), "../../../etc", "no name of a group"),
        ((*FACTS, "variables", "u", "group"), "v/../u", "no name of a group"),
        ((*FACTS, "variables", "u", "shape"), [20, 6, 9], "basis/u/mean has shape"),
        ((*FACTS, "variables", "u", "shape"), [2**40, 2**40, 8], "too large"),
        ((*FACTS, "variables", "u", "shape"), [20.0, 6, 8], "must be integers"),
        ((*FACTS, "variables", "u", "shape"), [20, -6, 8], "must be integers"),
        ((*FACTS, "variables", "u", "dtype"), "O", "not a floating-point"),
        ((*FACTS, "variables", "u", "dtype"), "f4,(1000000000,)f8", "not a floating-point"),
        ((*FACTS, "variables", "u", "dims"), ["time", "time", "x"], "different strings"),
        ((*FACTS, "variables", "u", "dims"), ["time", "x"], "do not fit shape"),
        ((*FACTS, "variables", "u", "time_axis"), 3, "'time_axis' must be"),
        ((*FACTS, "variables", "u", "time_axis"), True, "'time_axis' must be"),
        ((*FACTS, "variables", "u", "chunks"), [0, 1, 1], "'chunks' do not fit"),
        ((*FACTS, "variables", "u"), 7, "must be a JSON object"),
        ((*FACTS, "variables"), None, "'variables' is missing"),
        ((*FACTS, "arithmetic"), "object", "'arithmetic' must be"),
        ((*FACTS, "latent", "snapshots"), 10**12, "'snapshots' must be"),
        ((*FACTS, "latent", "snapshots"), 21, "'u' has 20 snapshots"),
        ((*FACTS, "latent", "block_steps"), 0, "'block_steps' must be"),
        ((*FACTS, "latent", "substeps"), 10**9, "'substeps' must be"),
        ((*FACTS, "time", "step"), -1.0, "'step' must be positive"),
        ((*FACTS, "time", "step"), float("nan"), "not JSON: .*NaN is no number"),
        ((NODE, "basis/u/modes"), None, "basis/u/modes is missing"),
        ((NODE, "basis/u/modes", "shape"), [2**50, 6, 8], "basis/u/modes has shape"),
        ((NODE, "basis/u/modes", "chunk_grid", "configuration", "chunk_shape"),
         [2**20, 2**10, 2**10], "exceed"),
        ((NODE, "basis/u/modes", "chunk_grid", "configuration", "chunk_shape"),
         [0, 6, 8], "at least 1"),
        ((NODE, "basis/u/modes", "data_type"), "int32", "dims of float"),
        ((NODE, "basis/u/modes", "data_type"), "numpy.void", "must be a JSON object"),
        ((NODE, "basis/u/modes", "codecs"), [{"name": "numcodecs.pickle"}], "codecs must be"),
        ((NODE, "basis/u/modes", "codecs"),
         [{"name": "bytes"}, {"name": "blosc"}, {"name": "blosc"}, {"name": "crc32c"}],
         "codecs must be"),
        ((NODE, "basis/u/modes", "fill_value"), {"a": [1]}, "metadata of an array"),
        ((NODE, "basis/u/modes", "fill_value"), float("inf"), "not JSON"),
        ((NODE, "basis/u/modes", "storage_transformers"), [{"name": "x"}], "transformers"),
        ((*FACTS, "carried", "../../x"), {}, "no name of a variable"),
        ((NODE, "basis/u/modes", "node_type"), 3, "'node_type' must be"),
    ],
)  # fmt: skip
def test_metadata_that_do_not_fit_are_named(small, keys, value, message):
    _, path = small
    changed(path, keys, value)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_a_missing_generation_is_named(small):
    _, path = small
    root = path / "zarr.json"
    root.write_text(root.read_text().replace("2", "3"))
    with pytest.raises(StoreError, match=r"missing|reads format 1|no name"):
        open_store(path)


def test_no_store_is_said_so(tmp_path):
    with pytest.raises(StoreError, match="there is no romzarr store"):
        open_store(tmp_path / "nothing")


def test_code_in_the_library_is_not_run(small):
    _, path = small
    expression = "__import__('os').system('false')"
    library = {"kind": "symbolic", "states": 3, "expressions": [expression]}
    changed(path, (*FACTS, "library"), library)
    with pytest.raises((LibraryError, StoreError)):
        _ = open_store(path).models


def with_checksum(payload):
    return payload + google_crc32c.value(payload).to_bytes(4, "little")


def test_a_chunk_that_claims_to_be_huge_is_not_decoded(small):
    _, path = small
    chunk = next(path.glob("*/basis/u/modes/c/0/0/0"))
    bomb = bytearray(chunk.read_bytes()[:-4])
    struct.pack_into("<I", bomb, 4, 2**31 - 1)
    chunk.write_bytes(with_checksum(bytes(bomb)))
    with pytest.raises(StoreError, match="should decode to 576"):
        open_store(path).decode("u", 0, (0, 0))


def test_a_chunk_shorter_than_it_claims_is_not_decoded(small):
    _, path = small
    chunk = next(path.glob("*/basis/u/modes/c/0/0/0"))
    chunk.write_bytes(with_checksum(chunk.read_bytes()[:-24]))
    with pytest.raises(StoreError, match="chunk claims"):
        open_store(path).decode("u", 0, (0, 0))


def test_garbage_with_a_right_checksum_is_an_error_of_ours(small):
    _, path = small
    chunk = next(path.glob("*/basis/u/modes/c/0/0/0"))
    rewritten(path, "basis/u/modes", np.ones_like)  # or the chunk would not be compressed
    content = bytearray(chunk.read_bytes()[:-4])
    content[16:] = np.random.default_rng(0).bytes(len(content) - 16)
    chunk.write_bytes(with_checksum(bytes(content)))
    with pytest.raises(StoreError, match="basis/u/modes"):
        open_store(path).decode("u", 0, (0, 0))


def rewritten(path, name, change):
    """Change the values of an array the way a hostile writer would: with plain zarr."""
    import zarr

    group = zarr.open_group(next(path.glob("2*")), mode="r+", use_consolidated=False)
    array = group[name]
    array[...] = change(array[...])
    _opened.cache_clear()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("latent/samples", lambda a: a * np.nan, "latent/samples holds NaN"),
        ("basis/u/modes", lambda a: a + np.inf, "basis/u/modes holds NaN"),
        ("latent/steps", lambda a: a[::-1], "latent/steps must lead"),
        ("latent/steps", lambda a: a * 2, "latent/steps must lead"),
        ("latent/block_model", lambda a: a + 100, "names a model beyond"),
    ],
)
def test_values_that_cannot_be_are_named(small, name, change, message):
    _, path = small
    rewritten(path, name, change)
    with pytest.raises(StoreError, match=message):
        xr.open_dataset(path, engine=RomzarrBackendEntrypoint)["u"].load()


def test_a_carried_variable_that_is_not_there_is_named(small):
    _, path = small
    changed(path, (*FACTS, "carried", "height"), {})
    with pytest.raises(StoreError, match="coordinates/height is missing"):
        xr.open_dataset(path, engine=RomzarrBackendEntrypoint)
