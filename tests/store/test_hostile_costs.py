"""Forged stores with right checksums: an error of ours, at most 500 MB and ten seconds of CPU."""

import base64
import json
import os
import resource
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from romzarr.coding.field import encode_field
from romzarr.encoding import attributes_to_json, encoding_from_json
from romzarr.errors import StoreError
from romzarr.store.limits import chunk_of
from tests import forged
from tests.forgery import metadata_of, put_metadata, sign_metadata, write_as_files, write_chunk

READ = """
import sys, resource, xarray as xr
from tests.forged import ACTIONS
from romzarr.errors import StoreError
def peak():
    with open('/proc/self/status') as file:
        return int(next(line for line in file if line.startswith('VmHWM')).split()[1]) >> 10
xr.Dataset({'a': ('x', [1.0])}).load()
before, refused = peak(), 0
for action in ACTIONS:
    try:
        action(sys.argv[1])
    except StoreError as error:
        refused += 1
print(refused, peak() - before)
"""


def read_apart(store: Path) -> tuple[int, int, float]:
    """How many ways to read a store are refused, MB above the start, and seconds of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(store)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    refused, megabytes = map(int, done.stdout.split())
    return refused, megabytes, seconds


@pytest.fixture
def store(tmp_path):
    shutil.copytree(forged.original("pod"), tmp_path / "s")
    return tmp_path / "s"


def facts_of(store):
    (generation,) = store.glob("2*")
    document = metadata_of(generation)
    facts = document["attributes"]["romzarr"]
    return generation, facts, lambda: put_metadata(generation, document)


def wide_texts(store):
    """One long text and many empty ones take the width of the long one for each."""
    _, facts, save = facts_of(store)
    data = ["x" * 50_000] + [""] * 20_000
    value = {"dtype": "str", "shape": [len(data)], "data": data}
    facts["attrs"]["bomb"] = {"romzarr": "array", "value": value}
    save()


def node_of(generation, path, **changes):
    document = metadata_of(generation)
    document["arrays"][str(path)].update(changes)
    put_metadata(generation, document)


def zeros_as_a_coordinate(store):
    """Zeros compress ten thousand times."""
    generation, *_ = facts_of(store)
    write_as_files(generation, "coordinates/x")
    size = 1 << 28
    grid = {"name": "regular", "configuration": {"chunk_shape": [size]}}
    node = metadata_of(generation)["arrays"]["coordinates/x"]
    blosc = BloscCodec(cname="zstd", typesize=8, shuffle="noshuffle").to_dict()
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = [little, blosc, node["codecs"][-1]]
    node_of(generation, "coordinates/x", shape=[size], chunk_grid=grid, codecs=codecs)
    zeros = Blosc("zstd", 5).encode(np.zeros(1 << 20))
    (chunk,) = (f for f in (generation / "coordinates/x/c").rglob("*") if f.is_file())
    write_chunk(chunk, bytes(zeros))


def huge_coordinate(store):
    generation, *_ = facts_of(store)
    write_as_files(generation, "coordinates/x")
    node_of(generation, "coordinates/x", shape=[2**40])


def more_chunks_than_are_ever_counted(store):
    """Found by `make torture`: what a list of all of them would need is beyond memory."""
    generation, *_ = facts_of(store)
    node_of(generation, "coordinates/flag", shape=[48, 2**40])


def huge_tiles(store):
    """Two bytes that stand for 2**27 values."""
    generation, *_ = facts_of(store)
    path = next(generation.glob("basis/*/fields")).relative_to(generation)
    node = metadata_of(generation)["arrays"][str(path)]
    rank = node["shape"][0]
    chunk = [rank, (1 << 27) // rank]
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    node_of(generation, path, chunk_grid=grid)


def zeros_as_facts(store):
    """As many as would fill the memory; they compress a thousand times."""
    generation, *_ = facts_of(store)
    packing = zlib.compressobj(9)
    million = bytes(1 << 20)
    content = b"".join([*(packing.compress(million) for _ in range(1 << 9)), packing.flush()])
    document = json.loads((generation / "zarr.json").read_text())
    document["attributes"]["romzarr"]["facts"] = base64.b85encode(content).decode()
    (generation / "zarr.json").write_text(json.dumps(document))


def deep_facts(store):
    _, facts, save = facts_of(store)
    facts["attrs"]["deep"] = json.loads("[" * 500 + "]" * 500)
    save()


def many_entries(store):
    _, facts, save = facts_of(store)
    facts["attrs"]["many"] = [[]] * 3_000_000
    save()


@pytest.mark.parametrize(
    "bomb",
    [wide_texts, zeros_as_a_coordinate, huge_coordinate, more_chunks_than_are_ever_counted,
     huge_tiles, deep_facts, many_entries, zeros_as_facts],
)  # fmt: skip
def test_bombs_are_refused_at_little_cost(store, bomb):
    bomb(store)
    sign_metadata(store)
    refused, megabytes, seconds = read_apart(store)
    assert refused
    assert megabytes < 500
    assert seconds < 15  # five of them to start Python and xarray


@pytest.mark.slow
def test_the_largest_tile_takes_less_than_allowed(tmp_path):
    # What no limit refuses: all that a tile may hold, none of it zero, beyond 32 bits.
    values = np.random.default_rng(0).standard_normal((1, 1 << 10, 1 << 13)) * 1e9
    content = encode_field(values, 0.1, (0, 8, 11))
    (tmp_path / "tile").write_bytes(content)
    code = """
import sys, time, numpy as np
from pathlib import Path
from romzarr.coding.field import decode_field
def peak():
    with open('/proc/self/status') as file:
        return int(next(line for line in file if line.startswith('VmHWM')).split()[1]) >> 10
content, before = Path(sys.argv[1]).read_bytes(), peak()
decode_field(content, (1, 1 << 10, 1 << 13), 0.1, (0, 8, 11), np.dtype('f8'))
print(peak() - before, time.process_time())
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tile")],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 500
    assert seconds < 12


@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "link to a folder out"])
def test_only_files_of_the_store_are_read(store, tmp_path, kind):
    generation, *_ = facts_of(store)
    folder = next(generation.glob("basis/*/fields"))
    chunk = next(f for f in (folder / "c").rglob("*") if f.is_file())
    if kind == "link to a folder out":
        shutil.move(folder, tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        content = chunk.read_bytes()
        chunk.unlink()
        if kind == "pipe":
            os.mkfifo(chunk)
        elif kind == "device":
            chunk.symlink_to("/dev/zero")
        else:
            (tmp_path / "elsewhere").write_bytes(content)
            chunk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"regular file|outside of the store"):
        forged.read_all(store)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_forged_stores_are_refused_or_read(first):
    outcomes = {forged.run_case(seed) for seed in range(first, first + 20)}
    assert outcomes == {"refused", "ok"}


def test_texts_of_any_lengths_come_back():
    for texts in (["a", "bb"], ["x" * 20_000] + [""] * 99, [], [["a"], ["b" * 5000]]):
        values = np.array(texts)
        found = encoding_from_json(attributes_to_json({"texts": values}))["texts"]
        np.testing.assert_array_equal(found.astype(str) if found.size else found, values)


@pytest.mark.parametrize("shape", [(5, 4, 1000), (1, 1), (3,), (), (2, 1 << 22)])
def test_chunks_keep_to_their_size(shape):
    chunk = chunk_of(shape, 8, 16_000)
    assert len(chunk) == len(shape)
    assert all(1 <= c <= n for c, n in zip(chunk, shape, strict=True))
    assert np.prod(chunk, dtype=int) * 8 <= 16_000


def test_a_bad_compressed_coordinate_is_an_error_of_ours(store):
    generation, *_ = facts_of(store)
    chunks = [f for f in (generation / "coordinates").rglob("*") if f.is_file() and "c" in f.parts]
    for chunk in chunks:
        content = bytearray(chunk.read_bytes()[:-4])
        content[16:] = b"\xff" * len(content[16:])
        write_chunk(chunk, bytes(content))
    with pytest.raises(StoreError):
        xr.open_dataset(store, engine="romzarr").load()
