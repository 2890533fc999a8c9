"""The codec in arrays of Zarr and in xarray, for writers and for readers who know nothing of it."""

import json
import subprocess
import sys
import tomllib
import warnings
from importlib import import_module
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

import romzarr
from romzarr.errors import CodecError

ROOT = Path(__file__).parents[2]


def waves():
    t, y, x = np.meshgrid(np.arange(30.0), np.arange(24.0), np.arange(20.0), indexing="ij")
    values = (np.sin(0.3 * x + 0.1 * t) * np.cos(0.2 * y)).astype("f4")
    values[:, 3:6, 4] = np.nan
    return xr.Dataset({"u": (("time", "y", "x"), values), "count": ("time", np.arange(30))})


def written(path, encoding, zarr_format=3):
    waves().to_zarr(path, encoding={"u": encoding}, zarr_format=zarr_format, consolidated=False)
    return xr.open_zarr(path, consolidated=False, chunks=None).load()


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"compressors": None},
        {"chunks": (7, 10, 20)},
        {"chunks": (5, 12, 10), "shards": (10, 24, 20), "compressors": None},
    ],
    ids=["default", "alone", "chunks", "shards"],
)
def test_xarray_writes_and_reads_it(tmp_path, layout):
    encoding = {"serializer": romzarr.Codec(max_error=0.01), **layout}
    decoded, source = written(tmp_path / "a.zarr", encoding), waves()
    assert (np.isnan(decoded.u) == np.isnan(source.u)).all()
    assert 0 < abs(decoded.u.astype(float) - source.u).max() <= 0.01
    assert decoded["count"].identical(source["count"])
    stored = sum(f.stat().st_size for f in (tmp_path / "a.zarr" / "u").rglob("*") if f.is_file())
    assert stored < source.u.nbytes / 5


def test_each_chunk_keeps_a_bound_of_its_own(tmp_path):
    """The first chunk is a thousand times smaller than the second."""
    values = np.concatenate([waves().u.values[:15] / 1000, waves().u.values[15:]])
    values = np.nan_to_num(values)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=values,
        chunks=(15, 24, 20),
        serializer=romzarr.Codec(tolerance=1e-2),
    )
    for part in (slice(0, 15), slice(15, 30)):
        x, y = values[part].astype(float), array[part]
        assert np.linalg.norm(x - y) <= 1e-2 * np.linalg.norm(x - x.mean())


def test_integers_and_big_endian_floats(tmp_path):
    for number, dtype in enumerate(("i2", "bool", ">f8", "f2", "complex64", "M8[ns]")):
        values = np.arange(60).reshape(6, 10).astype("i8").astype(dtype)
        array = zarr.create_array(
            tmp_path / f"{number}.zarr", data=values, serializer=romzarr.Codec()
        )
        assert (array[...] == values).all()


def test_a_reader_needs_no_import_of_romzarr(tmp_path):
    written(tmp_path / "a.zarr", {"serializer": romzarr.Codec(max_error=0.01)})
    # The entry points of an installation, which this one may be older than.
    folder = tmp_path / "site" / "codecs-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: codecs\nVersion: 1\n")
    entry = project()["entry-points"]["zarr.codecs"]["romzarr"]
    (folder / "entry_points.txt").write_text(f"[zarr.codecs]\nromzarr = {entry}\n")
    script = (
        f"import sys; sys.path.insert(0, {str(folder.parent)!r})\n"
        "import xarray\n"
        f"ds = xarray.open_zarr({str(tmp_path / 'a.zarr')!r}, consolidated=False, chunks=None)\n"
        "print(float(ds.u[0, 0, 0]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout)) <= 0.01


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("group", ["zarr.codecs", "numcodecs.codecs"])
def test_entry_points_lead_to_the_codecs(group):
    module, _, name = project()["entry-points"][group]["romzarr"].partition(":")
    assert getattr(import_module(module), name) is getattr(romzarr, name)


def test_metadata_say_the_bounds_and_make_the_same_codec(tmp_path):
    codec = romzarr.Codec(max_error=np.float32(0.5), tolerance=1)
    written(tmp_path / "a.zarr", {"serializer": codec, "compressors": None})
    (stored,) = json.loads((tmp_path / "a.zarr" / "u" / "zarr.json").read_text())["codecs"]
    assert stored == {"name": "romzarr", "configuration": {"tolerance": 1.0, "max_error": 0.5}}
    assert romzarr.Codec.from_dict(stored) == codec


def test_strange_configurations_are_refused():
    for configuration in ({"max_eror": 1.0}, [1], {"max_error": -1.0}, {"tolerance": "x"}):
        with pytest.raises(CodecError):
            romzarr.Codec.from_dict({"name": "romzarr", "configuration": configuration})


def test_damaged_chunks_are_errors_of_values(tmp_path):
    encoding = {"serializer": romzarr.Codec(max_error=0.01), "compressors": None}
    written(tmp_path / "a.zarr", encoding)
    for chunk in (tmp_path / "a.zarr" / "u" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"\x12" + chunk.read_bytes()[1:9])
    with pytest.raises(ValueError, match="damaged"):
        zarr.open_array(tmp_path / "a.zarr" / "u", mode="r")[...]


# --- numcodecs ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["compressors", "filters"])
def test_arrays_of_zarr_v2(tmp_path, place):
    codec = romzarr.NumcodecsCodec(max_error=0.01)
    with warnings.catch_warnings():
        # Of zarr, about codecs that no v3 array has.
        warnings.simplefilter("ignore")
        decoded = written(tmp_path / "a.zarr", {place: [codec]}, zarr_format=2)
    assert 0 < abs(decoded.u.astype(float) - waves().u).max() <= 0.01


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
def test_arrays_keep_dtype_order_and_shape(order, dtype):
    values = np.asarray(100 * np.nan_to_num(waves().u.values), dtype, order=order)
    codec = numcodecs.get_codec({"id": "romzarr", "max_error": 0.5})
    decoded = codec.decode(codec.encode(values))
    assert (decoded.dtype, decoded.shape, decoded.strides) == (
        values.dtype,
        values.shape,
        values.strides,
    )
    assert np.abs(decoded.astype(float) - values).max() <= 0.5
    out = np.empty_like(values)
    codec.decode(codec.encode(values), out=out)
    assert (out == decoded).all()


def test_the_configuration_makes_the_same_codec():
    codec = romzarr.NumcodecsCodec(tolerance=1e-3, range_error=0.1)
    assert numcodecs.get_codec(codec.get_config()).get_config() == codec.get_config()
    with pytest.raises(CodecError, match="max_error"):
        romzarr.NumcodecsCodec(max_error=-1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RX" + bytes(20),
        b"RZf\x04\x00\xff" + bytes(300),
        b"RZf\x07\x00\x01" + bytes(20),
        b"RZ\xff\x04\x00\x01" + bytes(20),
        b"RZO\x08\x00\x01\x01\x00\x00\x00\x10",
        # Four billion times four billion values.
        b"RZf\x04\x00\x02" + b"\xff" * 8 + b"\x12" + bytes(40),
    ],
)
def test_bytes_that_no_encoder_wrote_are_refused(content):
    with pytest.raises(CodecError):
        romzarr.NumcodecsCodec().decode(content)


def test_an_output_of_another_size_is_refused():
    codec = romzarr.NumcodecsCodec()
    with pytest.raises(CodecError, match="does not fit"):
        codec.decode(codec.encode(np.arange(4.0)), out=np.empty(3))
