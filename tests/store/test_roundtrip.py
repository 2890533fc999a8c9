"""What is written comes back, whole or indexed, and reading touches what it needs."""

import pickle
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.contracts import BlockSpan
from romzarr.errors import StoreError
from romzarr.store.reading import latent, reader
from romzarr.store.reading.checked import CheckedStore
from romzarr.store.reading.engine import RomzarrBackendEntrypoint
from romzarr.store.reading.reader import _opened, open_store
from romzarr.store.reading.tile_cache import TileCache
from tests.oracles import without_loss


def opened(path, **options):
    return xr.open_dataset(path, engine=RomzarrBackendEntrypoint, **options)


@st.composite
def examples(draw, make):
    space = draw(st.permutations(["z", "y", "x"]))[: draw(st.integers(0, 3))]
    dims = {}
    for name in ("u", "V w%")[: draw(st.integers(1, 2))]:
        dims[name] = tuple(draw(st.permutations(["time", *space])))
    sizes = {d: draw(st.integers(1, 12)) for d in ("z", "y", "x")} | {
        "time": draw(st.integers(1, 30))
    }
    cuts = {d: draw(st.integers(1, n)) for d, n in sizes.items()}
    chunk_lengths = {
        d: (c,) * (sizes[d] // c) + ((sizes[d] % c,) if sizes[d] % c else ())
        for d, c in cuts.items()
    }
    return make(
        dims=dims,
        sizes=sizes,
        dtype=draw(st.sampled_from(["<f4", "<f8", ">f4"])),
        rank=draw(st.integers(0, 4)),
        chunk_lengths=chunk_lengths,
        seed=draw(st.integers(0, 99)),
        tile_lengths={d: draw(st.integers(1, n)) for d, n in sizes.items()},
        rows=draw(st.integers(1, 30)),
        corrected=draw(st.booleans()),
        arithmetic=draw(st.sampled_from(["float32", "float64"])),
    )


def indexers(n):
    return st.one_of(
        st.integers(-n, n - 1),
        st.slices(n),
        st.lists(st.integers(-n, n - 1), min_size=1, max_size=5).map(np.array),
    )


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_lazy_indexing_equals_indexing_the_dataset_that_was_written(
    data, make, write, tmp_path_factory
):
    example = data.draw(examples(make))
    path = tmp_path_factory.mktemp("store") / "a.romzarr"
    write(example, path)

    with opened(path) as dataset:
        assert list(dataset.variables) == list(example.dataset.variables)
        assert list(dataset.data_vars) == list(example.dataset.data_vars)
        for name, expected in example.dataset.data_vars.items():
            lazy = dataset[name]
            assert lazy.dims == expected.dims
            assert lazy.dtype == expected.dtype
            key = {d: data.draw(indexers(n)) for d, n in lazy.sizes.items()}
            # Sums of at most 5 terms below 100 round to a few units in the last place.
            coarsest = max(np.finfo(lazy.dtype).eps, np.finfo(example.arithmetic).eps)
            tolerance = {"rtol": 0, "atol": 500 * coarsest}
            np.testing.assert_allclose(
                lazy.isel(key).values, expected.isel(key).values, **tolerance
            )
            np.testing.assert_allclose(lazy.values, expected.values, **tolerance)


def test_vectorized_and_label_indexing_work(small):
    example, path = small
    dataset = opened(path)
    points = {d: xr.DataArray([0, 3, 5], dims="point") for d in ("y", "x")}
    np.testing.assert_allclose(
        dataset["v"].isel(points), example.dataset["v"].isel(points), rtol=1e-6
    )
    np.testing.assert_allclose(
        dataset["u"].sel(time=4.5).isel(x=-1), example.dataset["u"].sel(time=4.5).isel(x=-1),
        rtol=1e-6,
    )  # fmt: skip


def test_attributes_and_chunks_come_back(make, write, tmp_path):
    chunks = {"time": (5, 5, 5, 5), "y": (4, 2), "x": (8,)}
    example = make(chunk_lengths=chunks)
    example.dataset["u"].encoding = {"_FillValue": np.float32("nan"), "chunks": (5, 4, 8)}
    example.dataset.encoding = {"unlimited_dims": {"time"}}
    write(example, tmp_path / "s")

    dataset = opened(tmp_path / "s", chunks={})
    assert without_loss(dataset["u"].attrs) == {"units": "m/s"}
    assert dataset.attrs["title"] == "made up"
    np.testing.assert_array_equal(dataset.attrs["levels"], [1, 2])
    assert dataset.encoding["unlimited_dims"] == {"time"}
    assert dataset["u"].encoding["chunks"] == (5, 4, 8)
    assert dataset["u"].chunks == ((5, 5, 5, 5), (4, 2), (8,))
    np.testing.assert_allclose(
        dataset["v"].compute(scheduler="threads"), example.dataset["v"], rtol=1e-6
    )


def test_task_graphs_are_small_and_hold_no_open_store(small):
    _, path = small
    lazy = opened(path, chunks={})["u"]
    # No values, no group, no file system: only where the store is and what the variable is.
    assert len(pickle.dumps(opened(path)["u"].variable)) < 4000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy)), lazy)


def carried_dataset():
    times = cftime.num2date(
        np.arange(20) * 30, "days since 2000-01-01", "360_day", has_year_zero=True
    )
    hours = np.arange(20) * np.timedelta64(6, "h")
    carried = xr.Dataset(
        {
            "mask": (("y", "x"), np.arange(48).reshape(6, 8) % 3 == 0),
            "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"}),
            "time_bnds": (("time", "bnds"), np.stack([times, times], axis=1)),
            "count": ("time", np.arange(20, dtype="i2"), {"missing": np.nan, "n": np.int8(3)}),
        },
        coords={
            "time": ("time", times, {"bounds": "time_bnds", "standard_name": "time"}),
            "lat": (("y", "x"), np.random.default_rng(0).random((6, 8))),
            "level": 850.0,
            "station": ("x", np.array(list("abcdefgh"))),
            "label": ("y", np.array(["one", "two", "three", "4", "", "ü"], dtype=object)),
            "valid": ("time", np.datetime64("2000-01-01", "ns") + hours),
            "lag": ("y", np.arange(6) * np.timedelta64(1, "D").astype("m8[ns]")),
        },
    )  # fmt: skip
    carried["time"].encoding = {
        "units": "days since 2000-01-01", "calendar": "360_day", "dtype": np.dtype("int32"),
    }  # fmt: skip
    carried["lat"].encoding = {"scale_factor": 1e-9, "dtype": np.dtype("i4"), "zlib": True,
                               "_FillValue": np.int32(-1), "chunksizes": (6, 8)}  # fmt: skip
    carried["mask"] = carried["mask"].chunk({"y": (1, 3, 2), "x": 5})
    return carried


def test_whatever_is_carried_over_comes_back(make, write, tmp_path):
    carried = carried_dataset()
    example = make(carried=carried)
    write(example, tmp_path / "s")

    dataset = opened(tmp_path / "s")
    assert set(dataset.coords) == set(example.dataset.coords)
    assert list(dataset.variables) == list(example.dataset.variables)
    for name in set(carried.variables) - {"lat"}:
        assert dataset[name].dtype == carried[name].dtype, name
        xr.testing.assert_identical(dataset[name].variable, carried[name].variable)
    np.testing.assert_allclose(dataset["lat"], carried["lat"], atol=1e-9)
    assert dataset["time"].encoding == carried["time"].encoding
    assert dataset["lat"].encoding["chunksizes"] == (6, 8)
    raw = opened(tmp_path / "s", decode_times=False)
    assert raw["time"].dtype == np.int32


def test_an_archive_without_coordinates_comes_back_without(make, write, tmp_path):
    example = make(carried=xr.Dataset())
    write(example, tmp_path / "s")
    assert not opened(tmp_path / "s").coords


def test_dropped_variables_are_not_there(small):
    assert set(opened(small[1], drop_variables="u").variables) == {"v", "time"}


@pytest.fixture
def chunk_reads(monkeypatch):
    """Keys of the chunks that are read."""
    keys = []
    checked = CheckedStore._checked

    def recorded(self, key, chunk):
        if "/c/" in key:
            keys.append(key)
        return checked(self, key, chunk)

    monkeypatch.setattr(CheckedStore, "_checked", recorded)
    return keys


def test_reading_a_corner_reads_one_tile_of_fields(make, write, tmp_path, chunk_reads):
    sizes = {"time": 4, "y": 256, "x": 256}
    example = make(
        {"u": ("y", "time", "x")}, sizes, tile_lengths={"y": 32}, carried=xr.Dataset()
    )  # fmt: skip
    write(example, tmp_path / "s")

    dataset = opened(tmp_path / "s")
    assert not [k for k in chunk_reads if k.startswith("basis/")]
    dataset["u"].isel(time=1, y=slice(200, 202), x=5).load()
    assert [k for k in chunk_reads if "/fields/" in k] == ["basis/u/fields/c/0/6/0"]
    assert [k for k in chunk_reads if "/mask/" in k] == ["basis/u/mask/c/6/0"]
    assert open_store(tmp_path / "s").last.arrays.group["basis/u/fields"].nchunks == 8
    chunk_reads.clear()
    dataset["u"].isel(time=1, y=[255, 0]).load()
    assert len([k for k in chunk_reads if "/fields/" in k]) == 2


def test_what_was_decoded_once_is_remembered(small, chunk_reads):
    _, path = small
    field = opened(path)["u"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: field[number].values, range(20)))
    assert chunk_reads.count("basis/u/fields/c/0/0/0") == 1
    assert chunk_reads.count("basis/u/mask/c/0/0") == 1
    assert chunk_reads.count("latent/corrections/c/1/0") == 1


def test_snapshots_are_the_same_one_by_one_and_together(small):
    example, path = small
    field, count = opened(path)["u"], example.dataset.sizes["time"]
    single = np.stack([field.isel(time=number).values for number in range(count)])
    _opened.cache_clear()
    whole = opened(path)["u"].transpose("time", ...).values
    assert_array_equal(single, whole)


def test_the_memory_of_tiles_is_bounded():
    memory, made = TileCache(limit=80), []

    def decode(key):
        made.append(key)
        return np.zeros(20 if key == "large" else 5)

    for key in ["a", "a", "b", "a", "large", "large", "b", "a"]:
        assert memory.get(key, lambda key=key: decode(key)) is not None
    # Two of 40 bytes are kept; what is larger than the limit drives nothing out.
    assert made == ["a", "b", "large", "large"]
    memory.get("c", lambda: decode("c"))
    memory.get("b", lambda: decode("b"))
    memory.get("a", lambda: decode("a"))
    assert made[4:] == ["c", "a"]


def test_only_latent_rows_around_the_wanted_snapshots_are_rebuilt(
    make, write, tmp_path, chunk_reads, monkeypatch
):
    sizes = {"time": 200_000, "x": 2}
    example = make(
        {"u": ("time", "x")}, sizes, rank=4, carried=xr.Dataset(), block_steps=100, rows=4096
    )  # fmt: skip
    write(example, tmp_path / "s")
    spans = []
    rebuild = latent.rebuild

    def recorded(code, models, times, span):
        spans.append((len(span), code.kept))
        return rebuild(code, models, times, span)

    monkeypatch.setattr(latent, "rebuild", recorded)
    values = opened(tmp_path / "s")["u"].isel(time=[199_000, 7, 5]).values
    np.testing.assert_allclose(values, example.dataset["u"].isel(time=[199_000, 7, 5]), rtol=1e-6)
    assert spans == [(3, 3), (1, 1)]
    # Of 100 001 samples in chunks of 4096 rows, and 200 000 corrections in chunks of 4097.
    assert sorted(k for k in chunk_reads if "latent/samples" in k or "corrections" in k) == [
        "latent/corrections/c/0/0",
        "latent/corrections/c/48/0",
        "latent/samples/c/0/0",
        "latent/samples/c/24/0",
    ]


def test_a_span_of_latent_coefficients_is_what_was_coded(small):
    example, path = small
    latent = open_store(path).last.latent
    np.testing.assert_allclose(latent.span(BlockSpan(5, 12)), example.latent[5:12], atol=1e-14)
    assert latent.span(BlockSpan(5, 5)).shape == (0, 3)
    with pytest.raises(IndexError):
        latent.span(BlockSpan(5, 21))


def read_everything(path):
    """All that a reader can get out of a store."""
    reader._opened.cache_clear()
    store, dataset = open_store(path), opened(path).load()
    names = ["latent/steps", "latent/block_model", "basis/singular_values"]
    arrays = [store.last.arrays.read(name) for name in names] + [store.mean("u"), store.modes("v")]
    return dataset, store.facts, arrays


def assert_same(found, expected):
    xr.testing.assert_identical(found[0], expected[0])
    assert found[1] == expected[1]
    for a, b in zip(found[2], expected[2], strict=True):
        np.testing.assert_array_equal(a, b)


PIECES = ["fields", "mask", "samples", "corrections", "steps", "block_model", "singular_values"]


@pytest.mark.parametrize("piece", PIECES)
def test_missing_chunks_are_errors_and_never_zeros(small, piece):
    _, path = small
    chunk = next(p for p in path.rglob("c/**/*") if p.is_file() and f"/{piece}/" in p.as_posix())
    chunk.unlink()
    with pytest.raises(StoreError, match=f"{piece}/c.*missing"):
        read_everything(path)


def test_a_generation_has_one_file_of_metadata(small):
    _, path = small
    assert len(list(path.rglob("zarr.json"))) == 1 + len(open_store(path).parts)


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(small):
    _, path = small
    expected = read_everything(path)
    rng = np.random.default_rng(0)
    files = [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        whole = file.read_bytes()
        for place in {0, len(whole) - 1, *rng.integers(0, len(whole), 12).tolist()}:
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            # A flip in the root may name another generation.
            name = file.name if file.parent == path else f"{file.relative_to(path)}"
            with pytest.raises(StoreError, match=f"{path}.*({name}|store|missing|gener|form)"):
                read_everything(path)
        file.write_bytes(whole)
    assert_same(read_everything(path), expected)


def test_pickled_variables_are_read_in_another_process(small, tmp_path):
    example, path = small
    (tmp_path / "lazy").write_bytes(pickle.dumps(opened(path)["v"].variable))
    script = (
        "import pickle, sys\n"
        "lazy = pickle.load(open(sys.argv[1], 'rb'))\n"
        "lazy[2:4].values.astype('f8').tofile(sys.argv[2])"
    )
    files = [tmp_path / "lazy", tmp_path / "values"]
    subprocess.run([sys.executable, "-c", script, *files], check=True)
    values = np.fromfile(files[1]).reshape(2, 20, 8)
    np.testing.assert_allclose(values, example.dataset["v"][2:4], rtol=1e-6)


def test_opening_guesses_the_engine(small, tmp_path):
    entrypoint = RomzarrBackendEntrypoint()
    assert entrypoint.guess_can_open(small[1])
    assert not entrypoint.guess_can_open(tmp_path)
    assert not entrypoint.guess_can_open(b"CDF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.Dataset({"a": 1}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    assert not entrypoint.guess_can_open(tmp_path / "other.zarr")


def test_the_fixed_part_is_small(make, write, tmp_path):
    sizes = {"time": 300, "y": 160, "x": 72}
    carried = xr.Dataset(coords={d: np.arange(n) * 0.1 for d, n in sizes.items()})
    dims = {"u": ("time", "y", "x"), "v": ("time", "y", "x")}
    example = make(dims, sizes, rank=9, carried=carried, block_steps=100)
    write(example, tmp_path / "s")
    files = [p for p in (tmp_path / "s").rglob("*") if p.is_file()]
    fixed = sum(p.stat().st_size for p in files if p.name == "zarr.json")
    assert fixed < 9_000  # leaves 7 kB for configuration, provenance and a larger model
    assert open_store(tmp_path / "s").stored_bytes() == sum(p.stat().st_size for p in files)


def test_opening_and_reading_one_snapshot_takes_a_fraction_of_a_second(make, write, tmp_path):
    sizes = {"time": 300, "y": 160, "x": 72}
    example = make({"u": ("time", "y", "x"), "v": ("time", "y", "x")}, sizes, rank=9)
    write(example, tmp_path / "s")
    seconds = []
    for number in range(5):
        reader._opened.cache_clear()
        start = time.process_time()
        opened(tmp_path / "s")["u"].isel(time=number).load()
        seconds.append(time.process_time() - start)
    # Decoding 115 200 values of noise is most of it; fields that are smooth take less.
    assert min(seconds) < 0.2


def test_xarray_finds_the_engine_by_itself(small):
    example, path = small
    np.testing.assert_allclose(xr.open_dataset(path)["u"], example.dataset["u"], rtol=1e-6)


def test_the_mean_is_read_like_the_variable(small):
    example, path = small
    store = open_store(path)
    expected = example.mean("v")
    np.testing.assert_allclose(store.mean("v"), expected, rtol=1e-15)
    places = (slice(4, None, -2), np.array([7, 0, 7]))
    np.testing.assert_allclose(
        store.mean("v", places), expected[4::-2][:, [7, 0, 7]], rtol=1e-15
    )  # fmt: skip
    assert store.mean("v", (3, slice(0, 0))).shape == (0,)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
@pytest.mark.parametrize("space", [(), (6,), (700, 800)])
def test_constant_variables_come_back_to_the_bit(make, write, tmp_path, dtype, space):
    mean = np.asarray(np.random.default_rng(0).standard_normal(space)).astype(dtype)
    mean[tuple(n // 2 for n in space)] = np.nan
    constant = xr.Variable(tuple("ab"[: len(space)]), mean)
    example = make(carried=xr.Dataset())
    write(example, tmp_path / "s", constants={"c": constant})

    dataset, store = opened(tmp_path / "s"), open_store(tmp_path / "s")
    assert dataset["c"].dtype == dtype
    np.testing.assert_array_equal(dataset["c"], np.repeat(mean[..., None], 20, axis=-1))
    np.testing.assert_array_equal(dataset["c"].isel(time=[3, 1])[..., 1], mean)
    np.testing.assert_array_equal(store.mean("c"), mean)
    assert store.mean("c").dtype == dtype
    np.testing.assert_array_equal(store.modes("c"), np.zeros((3, *space)))
    np.testing.assert_allclose(dataset["u"], example.dataset["u"], rtol=1e-6)


def test_modes_are_the_fields_in_units_of_their_singular_values(small):
    example, path = small
    variable = example.variables["u"]
    expected = np.where(variable.mask, 0, variable.fields[1:] / example.sigma[:, None, None])
    np.testing.assert_allclose(open_store(path).modes("u"), expected, rtol=1e-15)
