"""Encodings and attributes as JSON: they come back as they were, and cannot do harm."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs import BitRound, Blosc

from romzarr.archive import open_archive
from romzarr.encoding import (
    attributes_to_json,
    encoding_from_json,
    encoding_to_json,
    share_encodings,
    with_shared,
)
from romzarr.errors import StoreError


def through_json(encoding):
    return encoding_from_json(json.loads(json.dumps(encoding_to_json(encoding), allow_nan=False)))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([np.dtype("f4"), np.dtype(">i2"), np.dtype("M8[ns]"), str])
    | hnp.arrays(
        st.sampled_from(["f4", ">f8", "i1", "u8", "?", "c8", "M8[ns]", "m8[s]", "f2", "U3"]),
        st.sampled_from([(), (0,), (3,), (2, 2)]),
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.just("romzarr"), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(a, b):
    if isinstance(a, np.ndarray | np.generic):
        if a.dtype.kind == "U":  # the width of text is no part of it
            return type(a) is type(b) and bool(np.all(a == b))
        # Bytes, because NaN must keep its payload and zero its sign.
        return type(a) is type(b) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b


def test_only_an_encoding_loses_where_it_was_opened_from():
    assert encoding_to_json({"source": "/home/me/a.zarr", "dtype": "f4"}) == {"dtype": "f4"}
    assert attributes_to_json({"source": "model X"}) == {"source": "model X"}


@given(encoding=st.dictionaries(st.text(max_size=5).filter(lambda k: k != "source"), VALUES))
@settings(deadline=None)
def test_every_value_comes_back_with_its_type(encoding):
    assert same(through_json(encoding), encoding)


@pytest.mark.parametrize(
    ("zarr_format", "encoding"),
    [
        (2, {"chunks": (3, 2), "compressors": Blosc("zstd", 3), "filters": [BitRound(10)]}),
        (2, {"dtype": "i2", "scale_factor": 0.1, "add_offset": 2.0, "_FillValue": -1}),
        (3, {"chunks": (3, 2), "shards": (6, 4), "fill_value": np.float32(5)}),
        (3, {"dtype": "i2", "scale_factor": np.float32(0.1), "_FillValue": np.int16(-1)}),
    ],
)
def test_a_variable_can_be_written_as_it_was(tmp_path, zarr_format, encoding):
    values = np.random.default_rng(0).uniform(0, 9, (6, 4)).astype("f4")
    dataset = xr.Dataset({"u": (("time", "x"), values)}, coords={"time": np.arange(6.0)})
    options = {"zarr_format": zarr_format, "consolidated": False}
    dataset.to_zarr(tmp_path / "a.zarr", encoding={"u": encoding}, **options)
    document = json.dumps(dict(open_archive(tmp_path / "a.zarr").variable_encoding["u"]))
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as source:
        expected = source.u.encoding
        restored = source.load().copy()
    restored.u.encoding = encoding_from_json(json.loads(document))
    kept = {"fill_value"} if zarr_format == 3 else set()  # xarray before 2026.7 leaves it out
    assert restored.u.encoding.keys() == (expected.keys() | kept) - {"preferred_chunks"}
    restored.to_zarr(tmp_path / "b.zarr", **options)
    for file in (tmp_path / "a.zarr" / "u").rglob("*"):
        if file.is_file():
            other = tmp_path / "b.zarr" / file.relative_to(tmp_path / "a.zarr")
            assert other.read_bytes() == file.read_bytes(), file.name


def test_unlimited_dims_and_open_files(caplog):
    encoding = {"unlimited_dims": {"time"}, "source": "/home/somebody/a.nc", "file": object()}
    assert through_json(encoding) == {"unlimited_dims": {"time"}}
    assert "'file' is not kept: a object has no JSON form" in caplog.text


def tagged(kind, value):
    return {"k": {"romzarr": kind, "value": value}}


def codec(zarr_format, **config):
    return tagged("codec", {"zarr_format": zarr_format, "codec": config})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (codec(2, id="pickle"), "codec 'pickle' is not allowed"),
        (codec(3, name="numcodecs.pickle"), "codec 'numcodecs.pickle' is not allowed"),
        (codec(3, name="os.system"), "codec"),
        (codec(2, id="os.system"), "codec"),
        (codec(3, name=["zstd"]), "is not allowed"),
        (codec(3, name="zstd", configuration={"level": "x"}), "invalid codec"),
        (codec(4, name="zstd"), "is not"),
        (tagged("codec", []), "invalid codec"),
        (tagged("dtype", "O"), "dtype 'O' is not allowed"),
        (tagged("dtype", "f4,O"), "is not allowed"),
        (tagged("dtype", "nonsense"), "invalid dtype"),
        (tagged("array", {"dtype": "O", "shape": [1], "data": "00" * 8}), "is not allowed"),
        (tagged("array", {"dtype": "f8", "shape": [10**12], "data": "00"}), "invalid array"),
        (tagged("array", {"dtype": "f8", "shape": [10**12], "data": [1.0]}), "invalid array"),
        (tagged("scalar", {"dtype": "f8", "shape": [1], "data": [1.0]}), "a scalar of shape"),
        (tagged("float", "__import__('os')"), "is not one of nan, inf, -inf"),
        (tagged("eval", "1"), "unknown kind of value 'eval'"),
        (tagged(["dict"], {}), "unknown kind of value"),
        ({"k": {"romzarr": "dict"}}, "unknown kind of value"),
        (tagged("tuple", 5), "invalid tuple"),
        (tagged("set", [{}]), "invalid set"),
    ],
)
def test_hostile_documents_are_refused(document, message):
    with pytest.raises(StoreError, match=message):
        encoding_from_json(document)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), max_size=4))
def test_what_encodings_share_is_told_once_and_each_comes_back(encodings):
    documents = dict(enumerate(map(encoding_to_json, encodings)))
    shared, own = share_encodings(documents)
    for name, document in documents.items():
        assert with_shared(own[name], shared) == document
    assert share_encodings({"u": {"a": 1}, "v": {"a": 1}}) == ({"a": 1}, {"u": {}, "v": {}})
