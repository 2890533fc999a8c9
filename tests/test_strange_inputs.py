"""What the campaigns of `tests.strange` found, a case of each sort."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import romzarr
from romzarr.archive import open_archive
from romzarr.config import ClusterConfig, CompressionConfig, Config, load_config
from romzarr.errors import ArchiveError, ChunkError, ConfigError, StoreError
from romzarr_flows.cli import main


def waves() -> xr.Dataset:
    t, x = np.arange(16)[:, None], np.linspace(0, 6, 8)
    return xr.Dataset(
        {
            "u": (("time", "x"), np.sin(x - 0.3 * t)),
            "name": ("x", np.array([f"station {i}" for i in range(8)], dtype=object)),
        },
        coords={"time": np.arange(16.0), "x": x, "area": ("x", x + 1)},
    )


def written(folder: Path, zarr_format: int = 3, **encoding) -> Path:
    path = folder / "a.zarr"
    waves().to_zarr(path, zarr_format=zarr_format, consolidated=False, encoding=encoding)
    return path


def change(path: Path, **attributes) -> None:
    document = json.loads(path.read_text())
    document["attributes"] |= attributes
    path.write_text(json.dumps(document))


def refused(capsys, *arguments: str | Path) -> str:
    """The one line that a command says that fails."""
    assert main(list(map(str, arguments))) in (1, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [each for each in said.splitlines() if each.startswith("romzarr: error: ")]
    assert said.splitlines()[-1] == line
    return line


# --- archives -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["area", "name"])
def test_what_is_carried_over_and_cannot_be_read_is_named(tmp_path, name, capsys):
    path = written(tmp_path)
    chunk = path / name / "c" / "0"
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)
    # Old versions of xarray read texts as they open an archive, and have words of their own.
    with pytest.raises(ArchiveError, match=f"variable '{name}'"):
        romzarr.compress(path, tmp_path / "s")
    refused(capsys, "compress", path, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_weights_that_cannot_be_read_are_named(tmp_path):
    path = written(tmp_path)
    (path / "area" / "c" / "0").write_bytes(b"\xff" * 9)
    with pytest.raises(ArchiveError, match="variable 'area' cannot be read"):
        open_archive(path, weights="area")


def test_attributes_that_cannot_be_decoded_are_told(tmp_path):
    path = written(tmp_path)
    change(path / "time" / "zarr.json", units="days since never")
    with pytest.raises(ArchiveError, match="cannot be decoded"):
        open_archive(path)


def test_packing_that_is_no_number_is_told_with_the_chunk(tmp_path):
    path = written(tmp_path)
    change(path / "u" / "zarr.json", scale_factor="u", dtype="i2")
    with pytest.raises((ArchiveError, ChunkError), match="cannot be decoded"):
        romzarr.compress(path, tmp_path / "s")


def test_packing_that_is_no_number_packs_nothing():
    from romzarr.compression.lossless import packing_of

    assert packing_of({"dtype": "int16", "scale_factor": "days", "_FillValue": -1}) is None
    assert packing_of({"dtype": "int16", "scale_factor": 0.1, "_FillValue": "x"}) is None


def test_attributes_that_cannot_be_written_name_the_variable(tmp_path):
    data = waves()
    data["flag"] = ("x", np.arange(8))
    data.flag.encoding["_FillValue"] = "nan"
    with pytest.raises(ArchiveError, match="variable 'flag' cannot be stored"):
        romzarr.compress(data, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_bounds_that_are_no_name_name_nothing(tmp_path):
    path = written(tmp_path)
    change(path / "x" / "zarr.json", bounds=[["u"]])
    assert [v.name for v in open_archive(path).variables] == ["u"]


def test_texts_that_change_in_time_are_copied(tmp_path):
    texts = np.array([f"step {k}" for k in range(16)], dtype=np.dtypes.StringDType())
    romzarr.compress(waves().assign(said=("time", texts)), tmp_path / "s")
    found = xr.open_dataset(tmp_path / "s", engine="romzarr").said
    assert found.values.tolist() == texts.tolist()


@pytest.mark.parametrize("where", ["a.csv", "a.nc", "a.zarr/u/c/0/0", "a.zarr/zarr.json"])
def test_pipes_and_devices_are_refused_before_they_are_opened(tmp_path, where):
    written(tmp_path)
    path = tmp_path / where
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(ArchiveError, match="is not a regular file"):
        romzarr.compress(tmp_path / Path(where).parts[0], tmp_path / "s")
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ArchiveError, match="is not a regular file"):
        romzarr.compress(tmp_path / Path(where).parts[0], tmp_path / "s")


@pytest.mark.parametrize("size", [10**9, 1 << 62])
def test_sizes_that_nobody_has_are_refused(tmp_path, size):
    zarr.create_group(tmp_path / "a.zarr").create_array(
        "u", shape=(size, 8), chunks=(4, 8), dtype="f8", dimension_names=("time", "x")
    )
    with pytest.raises(ArchiveError, match="at most"):
        open_archive(tmp_path / "a.zarr")


def test_links_to_nothing_are_chunks_that_are_missing(tmp_path):
    path = written(tmp_path, u={"chunks": (4, 8)})
    (path / "u" / "c" / "0" / "0").unlink()
    (path / "u" / "c" / "0" / "0").symlink_to("nothing")
    with pytest.raises(ChunkError, match="is missing"):
        romzarr.compress(path, tmp_path / "s")


def test_files_in_the_place_of_folders_are_chunks_that_are_missing(tmp_path):
    path = written(tmp_path)
    for file in sorted((path / "u" / "c").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (path / "u" / "c").rmdir()
    (path / "u" / "c").write_bytes(b"")
    with pytest.raises(ChunkError, match="is missing"):
        romzarr.compress(path, tmp_path / "s")


def test_a_netcdf_file_that_cannot_be_opened_leaves_nothing_to_say(tmp_path, capfd):
    path = tmp_path / "a.nc"
    waves().to_netcdf(path, engine="h5netcdf")
    content = path.read_bytes()
    # The root group, which HDF5 looks at only when it is asked for something in it.
    place = content.index(b"OHDR") + 10
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(ArchiveError, match="cannot be opened as NetCDF"):
        open_archive(path)
    gc.collect()
    assert "Exception ignored" not in capfd.readouterr().err


def test_an_archive_with_several_faults_is_told_in_one_line(tmp_path, capsys):
    path = written(tmp_path)
    for name in ("u", "x", "area", "time"):
        (path / name / "zarr.json").write_text("{")
    refused(capsys, "compress", path, tmp_path / "s")


# --- what is written ----------------------------------------------------------------------


def test_texts_of_a_version_2_archive_come_back(tmp_path):
    path = written(tmp_path, zarr_format=2)
    romzarr.compress(path, tmp_path / "s", tolerance=0)
    romzarr.reconstruct(tmp_path / "s", tmp_path / "out.zarr")
    found, expected = (
        xr.open_zarr(place, consolidated=False, chunks=None)
        for place in (tmp_path / "out.zarr", path)
    )
    xr.testing.assert_identical(found, expected)
    assert zarr.open_group(tmp_path / "out.zarr").metadata.zarr_format == 2


@pytest.mark.parametrize("out", ["out.zarr", "out.nc"])
def test_an_encoding_that_no_archive_can_have_is_told(tmp_path, out, capsys):
    data = waves()
    data.u.encoding["dtype"] = "i2"
    data.u.encoding["_FillValue"] = "x"
    romzarr.compress(data, tmp_path / "s")
    with pytest.raises(StoreError, match="cannot hold this archive"):
        romzarr.reconstruct(tmp_path / "s", tmp_path / out)
    assert "cannot hold" in refused(capsys, "reconstruct", tmp_path / "s", tmp_path / out)
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


# --- settings -----------------------------------------------------------------------------


def test_settings_of_several_faults_are_told_in_one_line(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("archive: {a: [b\n\n - c: d: e")
    assert "config.yaml" in refused(capsys, "compress", "a", "b", "--config", file)


@pytest.mark.parametrize("kind", ["fourier", "symbolic"])
def test_a_model_without_any_term_codes_like_none(tmp_path, kind):
    settings = {"library.kind": kind, "sparse_regression.threshold": 1e300}
    if kind == "symbolic":
        settings["library.expressions"] = ["a1*sin(a2)"]
    romzarr.compress(
        waves().isel(time=slice(16)), tmp_path / "s", config=load_config(None, settings)
    )
    assert romzarr.verify(tmp_path / "s", waves()).ok


@pytest.mark.parametrize("value", [10**400, -(10**400), 1 << 20_000], ids=["", "-", "longest"])
def test_numbers_beyond_any_float_are_refused(value):
    with pytest.raises(ConfigError, match=r"compression\.tolerance: found"):
        CompressionConfig(tolerance=value)
    with pytest.raises(ConfigError, match=r"cluster\.start_minutes: found"):
        ClusterConfig(kind="slurm", start_minutes=value)


# --- arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [5, None, b"s", [5], object()])
def test_a_place_of_a_wrong_type_is_named(place, tmp_path):
    for call, name in (
        (lambda: romzarr.compress(place, tmp_path / "s"), "source"),
        (lambda: romzarr.compress(waves(), place), "store"),
        (lambda: romzarr.info(place), "store"),
        (lambda: romzarr.reconstruct(tmp_path / "s", place), "out"),
        (lambda: romzarr.StreamCompressor(place), "store"),
    ):
        with pytest.raises(TypeError, match=f"^{name}: found .*allowed is a path or a URL"):
            call()


@pytest.mark.parametrize("place", ["a\0b", "\ud800", "http://[::1/x"], ids=["nul", "half", "url"])
def test_text_that_is_no_place_is_refused(place, tmp_path):
    for call in (
        lambda: romzarr.compress(place, tmp_path / "s"),
        lambda: romzarr.compress(waves(), place),
        lambda: romzarr.info(place),
    ):
        with pytest.raises((ConfigError, ArchiveError)):
            call()


def test_a_name_longer_than_any_file_has_is_told(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        romzarr.compress(waves(), tmp_path / ("x" * 5000))


def test_where_data_in_memory_is_from_may_be_said_in_any_way(tmp_path):
    data = waves()
    data.encoding["source"] = 5
    romzarr.compress(data, tmp_path / "s")


@pytest.mark.parametrize("config", [0, ["config.yaml"], {1}, np.arange(3)])
def test_settings_of_a_wrong_type_are_named(config, tmp_path):
    romzarr.compress(waves(), tmp_path / "s")
    for call in (
        lambda: romzarr.compress(waves(), tmp_path / "t", config=config),
        lambda: romzarr.append(tmp_path / "s", waves(), config=config),
        lambda: romzarr.verify(tmp_path / "s", waves(), config=config),
        lambda: romzarr.StreamCompressor(tmp_path / "t", config=config),
    ):
        with pytest.raises(TypeError, match=r"^config: found"):
            call()
    with pytest.raises(ConfigError, match=r"compression: found .* CompressionConfig"):
        Config(compression=config)


def test_other_arguments_of_a_wrong_type_are_named(tmp_path):
    romzarr.compress(waves(), tmp_path / "s")
    some = np.arange(3)
    for call, name in (
        (lambda: romzarr.compress(waves(), tmp_path / "t", overwrite=some), "overwrite"),
        (lambda: romzarr.verify(tmp_path / "s", waves(), sample="no"), "sample"),
        (lambda: romzarr.append(tmp_path / "s", waves(), commit_steps="8"), "commit_steps"),
        (lambda: romzarr.reconstruct(tmp_path / "s", tmp_path / "o", start=some), "start"),
        (lambda: romzarr.StreamCompressor(tmp_path / "t", commit_steps=0.5), "commit_steps"),
        (lambda: romzarr.StreamCompressor(tmp_path / "t", source="here"), "source"),
        (lambda: load_config(None, ["compression.tolerance"]), "overrides"),
    ):
        with pytest.raises(TypeError, match=f"^{name}: found"):
            call()
    for call, name in (
        (lambda: romzarr.append(tmp_path / "s", waves(), commit_steps=0), "commit_steps"),
        (lambda: romzarr.StreamCompressor(tmp_path / "t", forgetting=2), "forgetting"),
        (lambda: romzarr.StreamCompressor(tmp_path / "t", variables=5), "archive.variables"),
        (lambda: romzarr.compress(waves(), tmp_path / "t", variables="u"), "archive.variables"),
    ):
        with pytest.raises(ConfigError, match=f"^{name}: found"):
            call()


@pytest.mark.parametrize(
    "block", [np.array([["a"]]), np.ones((2, 3)) * 1j, [[1], [1, 2]], {"u": 1}, [object()]]
)
def test_blocks_that_are_no_numbers_are_refused(block, tmp_path):
    stream = romzarr.StreamCompressor(tmp_path / "s")
    with pytest.raises(ArchiveError, match=r"^block: found"):
        stream.update(block)
