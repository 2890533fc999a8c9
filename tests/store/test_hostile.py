"""Stores made to harm are refused before anything is allocated, decoded or evaluated."""

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from romzarr.errors import LibraryError, StoreError
from romzarr.store import layout
from romzarr.store.reading.engine import RomzarrBackendEntrypoint
from romzarr.store.reading.reader import _opened, open_store
from tests.forgery import (
    metadata_of,
    put_metadata,
    sign,
    sign_metadata,
    write_as_files,
    write_chunk,
)


def changed(path, keys, value):
    """Set ``document[keys[0]][keys[1]]...`` of the generation's metadata (None deletes).

    After `NODE` follows the path of the array whose own metadata are meant. All checksums
    are set right, as one does who means harm.
    """
    (generation,) = path.glob("2*")
    place = document = metadata_of(generation)
    if keys[0] == NODE:
        place, keys = document["arrays"], keys[1:]
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    put_metadata(generation, document)
    sign_metadata(path)


FACTS = ("attributes", "romzarr")
NODE = "node"
SCALING = (*FACTS, "variables", "u", "scaling")
SUMS = (*FACTS, "variables", "u", "sums")
STEP = (NODE, "basis/u/fields", "codecs", 0, "configuration")
CORRECTIONS = (NODE, "latent/corrections", "codecs", 0, "configuration")
BLOSC = [{"name": "bytes"}, {"name": "blosc"}, {"name": "romzarr.crc32c"}]
CODECS = "codecs must be romzarr.wavelet, romzarr.crc32c"
WAVELET = {"name": "romzarr.wavelet", "configuration": {"step": 0.1, "levels": [0]}}


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((*FACTS, "variables", "u", "group"), "../../../etc", "not allowed as a group"),
        ((*FACTS, "variables", "u", "group"), "v/../u", "not allowed as a group"),
        ((*FACTS, "variables", "u", "shape"), [20, 6, 9], "basis/u/fields has shape"),
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
        ((*FACTS, "variables", "u", "mask"), "../../etc", "mask is missing"),
        ((*FACTS, "variables", "u", "logarithm"), 0.0, "must be a positive unit"),
        ((*FACTS, "variables", "u", "logarithm"), "1", "must be"),
        (SCALING, {"dims": ["time"], "exponents": [1] * 20}, "must be dims of the variable"),
        (SCALING, {"dims": ["x", "y"], "exponents": [1] * 48}, "must be dims of the variable"),
        (SCALING, {"dims": ["y"], "exponents": [1] * 7}, "must be 6 integers"),
        (SCALING, {"dims": ["y"], "exponents": [1.0] * 6}, "must be 6 integers"),
        (SCALING, {"dims": ["y"], "exponents": [10**9] * 6}, "must be 6 integers"),
        (SCALING, {"dims": ["y"], "exponents": "111111"}, "must be 6 integers"),
        (SUMS, {"names": ["a"], "dims": ["time"]}, "'dims' some of those"),
        (SUMS, {"names": [], "dims": ["x"]}, "'names' must be"),
        (SUMS, {"names": [f"a{k}" for k in range(17)], "dims": ["x"]}, "'names' must be up to 16"),
        (SUMS, {"names": ["a"], "dims": ["x"]}, "basis/u/sum_fields is missing"),
        ((*FACTS, "errors_by_index"), {"u": {"dims": ["y"], "errors": [-1]}}, "errors_by_index"),
        ((*FACTS, "errors_by_index"), {"nobody": {}}, "unknown variable"),
        ((*FACTS, "time"), {"dim": "time", "scale": -1.0}, "'scale' must be positive"),
        ((*FACTS, "variables", "u"), 7, "must be a JSON object"),
        ((*FACTS, "variables"), None, "'variables' is missing"),
        ((*FACTS, "arithmetic"), "object", "'arithmetic' must be"),
        ((*FACTS, "latent", "snapshots"), 10**12, "'snapshots' must be"),
        ((*FACTS, "latent", "snapshots"), 21, "latent/corrections has shape"),
        ((*FACTS, "latent", "block_steps"), 0, "'block_steps' must be"),
        ((*FACTS, "latent", "substeps"), 10**9, "'substeps' must be"),
        ((*FACTS, "time", "step"), -1.0, "'step' must be positive"),
        ((*FACTS, "time", "step"), float("nan"), "not JSON: .*NaN is not a number"),
        ((NODE, "basis/u/fields"), None, "basis/u/fields is missing"),
        ((NODE, "basis/u/fields", "shape"), [2**50, 6, 8], "basis/u/fields has shape"),
        ((NODE, "basis/u/fields", "chunk_grid", "configuration", "chunk_shape"),
         [2**20, 2**10, 2**10], "exceed"),
        ((NODE, "basis/u/fields", "chunk_grid", "configuration", "chunk_shape"),
         [0, 6, 8], "at least 1"),
        ((NODE, "basis/u/fields", "data_type"), "int32", "codes float32 and float64"),
        ((NODE, "basis/u/mask", "data_type"), "numpy.void", "must be a JSON object"),
        ((NODE, "basis/u/fields", "codecs"), [{"name": "numcodecs.pickle"}], "codecs must be"),
        ((NODE, "basis/u/fields", "codecs"), [], f"{CODECS}; found"),
        ((NODE, "basis/u/fields", "codecs"), BLOSC, CODECS),
        ((NODE, "latent/samples", "codecs"), BLOSC, CODECS),
        ((NODE, "latent/corrections", "codecs"), BLOSC, "codecs must be romzarr.wavelet"),
        ((NODE, "basis/u/mask", "codecs"), BLOSC[:2], "must be bytes, optionally blosc"),
        ((NODE, "latent/steps", "codecs"), [WAVELET, {"name": "romzarr.crc32c"}], "must be bytes"),
        ((NODE, "latent/block_model", "codecs"),
         [{"name": "bytes"}, {"name": "blosc"}, {"name": "blosc"}, {"name": "romzarr.crc32c"}],
         "codecs must be"),
        ((*STEP, "step"), 0, "'step' must be positive and finite"),
        ((*STEP, "step"), -1.0, "'step' must be positive and finite"),
        ((*STEP, "step"), 10**400, "'step' must be positive and finite"),
        ((*STEP, "step"), "0.1", "'step' must be positive and finite"),
        ((*STEP, "step"), None, "must be 'step' and 'levels'"),
        ((*STEP, "more"), 1, "must be 'step' and 'levels'"),
        ((*STEP, "levels"), [0, 0, 41], "from 0 to 40"),
        ((*STEP, "levels"), [0, 0, -1], "from 0 to 40"),
        ((*STEP, "levels"), [0, 0, True], "from 0 to 40"),
        ((*STEP, "levels"), {"0": 0}, "from 0 to 40"),
        ((*STEP, "levels"), [0, 0, 40], r"must be at most \[0, 0, 1\]"),
        ((*STEP, "levels"), [0, 0], "must be at most"),
        ((*STEP, "differences"), [1], "at most the columns of a table"),
        ((*CORRECTIONS, "differences"), [1, 0, 0, 1], "at most the columns of a table; found 4"),
        ((*CORRECTIONS, "differences"), [8], "from 0 to 7"),
        ((*CORRECTIONS, "differences"), [True], "from 0 to 7"),
        ((*CORRECTIONS, "differences"), "1", "from 0 to 7"),
        ((NODE, "latent/corrections", "chunk_grid", "configuration", "chunk_shape"),
         [1 << 24, 3], "chunks of at most 16777216 values"),
        ((NODE, "basis/u/fields", "chunk_grid", "configuration", "chunk_shape"),
         [3, 6, 8], "must not have chunks"),
        ((NODE, "latent/samples", "chunk_grid", "configuration", "chunk_shape"),
         [9, 2], "must not have chunks"),
        ((NODE, "latent/samples", "chunk_grid", "configuration", "chunk_shape"),
         [1 << 26, 3], "exceed 262144 values"),
        ((NODE, "basis/u/mask", "shape"), [6, 9], "basis/u/mask has shape"),
        ((NODE, "basis/u/mask", "data_type"), "int8", "dims of bool"),
        ((NODE, "latent/corrections", "shape"), [21, 3], "latent/corrections has shape"),
        ((NODE, "latent/samples", "data_type"), "float32", "dims of float64"),
        ((NODE, "latent/samples", "data_type"), "float16", "codes float32 and float64"),
        ((NODE, "latent/samples", "data_type"), "string", "codes float32 and float64"),
        (("arrays",), None, "'metadata' must be a JSON object"),
        ((NODE, "latent/samples"), 17, "latent/samples: expected a JSON object"),
        (FACTS, None, "'romzarr' is missing"),
        (FACTS, {}, "'variables' is missing"),
        ((*FACTS, "arithmetic"), "float32", "dims of float32"),
        ((NODE, "basis/u/fields", "fill_value"), {"a": [1]}, "metadata of an array"),
        ((NODE, "basis/u/fields", "fill_value"), float("inf"), "not JSON"),
        ((NODE, "basis/u/fields", "storage_transformers"), [{"name": "x"}], "transformers"),
        ((*FACTS, "carried", "../../x"), {}, "variable name .* would be a path"),
        ((NODE, "basis/u/fields", "node_type"), 3, "'node_type' must be"),
    ],
)  # fmt: skip
def test_metadata_that_do_not_fit_are_named(small, keys, value, message):
    _, path = small
    write_as_files(next(path.glob("2*")))
    changed(path, keys, value)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_a_missing_generation_is_named(small):
    _, path = small
    root, missing = path / "zarr.json", layout.Part("20200101T000000-00000000", "00000000")
    root.write_bytes(layout.root_document(layout.Root((missing,))))
    with pytest.raises(
        StoreError, match=r"20200101T000000-00000000.*is missing; the store is damaged"
    ):
        open_store(path)


def test_no_store_is_said_so(tmp_path):
    with pytest.raises(StoreError, match="there is no romzarr store"):
        open_store(tmp_path / "nothing")


def test_code_in_the_library_is_not_run(small):
    _, path = small
    expression = "__import__('os').system('false')"
    library = {"kind": "symbolic", "states": 3, "expressions": [expression]}
    changed(path, (*FACTS, "model", "library"), library)
    with pytest.raises((LibraryError, StoreError)):
        _ = open_store(path).last.latent.models


BROKEN_MODELS = [
    (("terms",), {}, "'terms' must be a list for each model"),
    (("spans",), [[], []], "'spans' must be pairs of snapshots"),
    (("spans",), [[[0, 1], [2]]], "'spans' must be pairs of snapshots"),
    (("spans",), [[[0, "1"]]], "'spans' must be pairs of snapshots"),
    (("terms",), [], "'terms' must be a list for each model"),
    (("terms",), [7], "'terms' must be a list for each model"),
    (("terms",), [[[]] * 2], "must have the same 1 to 3 equations"),
    (("terms",), [[[]] * 3] * 2, "must have the same 1 to 3 equations"),
    (("residuals",), [["0"] * 3], "'residuals' must be numbers"),
    (("terms", 0, 1), [10, 1.0], "must be numbers below 10, each before a coefficient"),
    (("terms", 0, 1), [-1, 1.0], "must be numbers below 10"),
    (("terms", 0, 1), [1.0, 1.0], "must be numbers below 10"),
    (("terms", 0, 1), [True, 1.0], "must be numbers below 10"),
    (("terms", 0, 1), [1], "must be numbers below 10"),
    (("terms", 0, 1), [1, 10**400], "must be numbers below 10"),
    (("terms", 0, 1), [1, "1"], "must be numbers below 10"),
    (("terms", 0, 1), {"1": 1}, "must be numbers below 10"),
    (("library",), 7, "'library' must be a JSON object"),
    (("library", "states"), 10**6, "states"),
    (("library", "states"), 2, "must have the same 1 to 2 equations"),
]


@pytest.mark.parametrize(("keys", "value", "message"), BROKEN_MODELS)
def test_facts_of_a_model_that_cannot_be_are_named(small, keys, value, message):
    _, path = small
    changed(path, (*FACTS, "model", *keys), value)
    with pytest.raises(StoreError, match=message):
        xr.open_dataset(path, engine=RomzarrBackendEntrypoint)["u"].load()


def test_models_take_no_more_memory_than_allowed(small):
    """Few bytes of facts may stand for many zeros."""
    _, path = small
    many = {"kind": "polynomial", "states": 3, "degree": 16}
    changed(path, (*FACTS, "model", "library"), many)
    changed(path, (*FACTS, "model", "residuals"), [[0.0] * 3] * 6000)
    changed(path, (*FACTS, "model", "terms"), [[[]] * 3] * 6000)
    with pytest.raises(StoreError, match="6000 models of 969 terms in 3 equations are more than"):
        xr.open_dataset(path, engine=RomzarrBackendEntrypoint)["u"].load()


def chunk_of(path, name):
    return sorted(next(path.glob(f"*/{name}/c")).rglob("*"))[-1]


def test_a_chunk_that_claims_to_be_huge_is_not_decoded(small):
    _, path = small
    chunk = chunk_of(path, "basis/u/mask")
    bomb = bytearray(chunk.read_bytes()[:-4])
    struct.pack_into("<I", bomb, 4, 2**31 - 1)
    write_chunk(chunk, bytes(bomb))
    with pytest.raises(StoreError, match="should decode to 48"):
        open_store(path).decode("u", 0, (0, 0))


@pytest.mark.parametrize(("left", "message"), [(-3, "chunk claims"), (5, "than its header")])
def test_a_chunk_shorter_than_it_claims_is_not_decoded(small, left, message):
    _, path = small
    chunk = chunk_of(path, "basis/u/mask")
    write_chunk(chunk, chunk.read_bytes()[:-4][:left])
    with pytest.raises(StoreError, match=message):
        open_store(path).decode("u", 0, (0, 0))


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff" * 100, bytes(range(256)) * 40])
@pytest.mark.parametrize("name", ["basis/u/fields", "latent/samples", "latent/corrections"])
def test_garbage_with_a_right_checksum_is_an_error_of_ours_or_finite(small, name, content):
    _, path = small
    for chunk in next(path.glob(f"*/{name}/c")).rglob("*"):
        if chunk.is_file():
            write_chunk(chunk, content)
    _opened.cache_clear()
    message = f"array {name} cannot be read"
    try:
        open_store(path).decode("u", slice(None), (slice(None), slice(None)))
    except StoreError as error:
        message = str(error)
    # Not all garbage can be told from what was coded.
    assert f"array {name} cannot be read" in message


def test_decoding_garbage_takes_no_more_memory_than_what_it_stands_for(small):
    _, path = small
    write_chunk(chunk_of(path, "basis/u/fields"), b"\x01" * 2_000_000)
    _opened.cache_clear()
    store = open_store(path)
    tracemalloc.start()
    with contextlib.suppress(StoreError):
        store.decode("u", 0, (0, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def rewritten(path, name, change):
    """Change the values of an array the way a hostile writer would: with plain zarr."""
    import zarr

    write_as_files(next(path.glob("2*")))
    group = zarr.open_group(next(path.glob("2*")), mode="r+")
    array = group[name]
    array[...] = change(array[...])
    sign(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("basis/singular_values", lambda a: a * np.nan, "basis/singular_values contains NaN"),
        ("basis/singular_values", lambda a: a - a[0], "singular_values are not all positive"),
        ("basis/singular_values", lambda a: -a, "singular_values are not all positive"),
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
