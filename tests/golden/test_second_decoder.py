"""The pages of the format say all: a decoder that follows them reads every golden store.

Equal to the bit where the format promises it ("The same bits" in its page), elsewhere within the
rounding of sums over modes.
"""

import ast
import contextlib
import io
import json
import math
import sys
import tokenize
import warnings
import zipfile
from functools import reduce
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import romzarr
from romzarr.coding.exact import Packing, to_integers
from romzarr.coding.field import WHOLE, coded_field, encode_field, encoded_and_decoded
from romzarr.coding.hilbert import curve_order
from romzarr.contracts import Curve
from romzarr.errors import AccuracyError, ArchiveError, ConfigError
from romzarr.numerics.dynamics.library import PolynomialLibrary
from romzarr.store.layout import order_checksum
from tests import second_decoder
from tests.cases import drawn, written
from tests.golden.cases import CASES
from tests.golden.decoded import places
from tests.golden.make import STORES
from tests.strategies import seeds

PAGES = ("coding", "store")
IMPORTS = ast.Import | ast.ImportFrom
MOST_LINES = 400
ALLOWED = {"numpy", "numcodecs", *sys.stdlib_module_names}
# Codings without sums over modes.
EXACT = {"constant", "direct", "lossless"}
# What sums in another order differ by was at most 1.7 eps of the largest value.
ROUNDING = 8
# Reflected polynomial of CRC32C (Castagnoli).
CRC = [reduce(lambda v, _: v >> 1 ^ 0x82F63B78 * (v & 1), range(8), byte) for byte in range(256)]


# It is written for its shortness, and decodes about 20,000 integers a second.
SLOW = {"few_modes_and_values_of_the_rest"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def golden(request, tmp_path) -> Path:
    with zipfile.ZipFile(STORES / f"{request.param}.zip") as file:
        file.extractall(tmp_path)
    return tmp_path


def assert_agrees(found: np.ndarray, right: np.ndarray, coding: str, arithmetic: str) -> None:
    """To the bit, or, with sums over modes, within their rounding."""
    assert found.dtype == right.dtype
    if coding in EXACT:
        assert found.tobytes() == right.tobytes()
        return
    eps = max(np.finfo(arithmetic).eps, np.finfo(right.dtype).eps)
    scale = np.abs(right[np.isfinite(right)]).max().astype(float)
    found, right = found.astype(float), right.astype(float)
    assert_allclose(found, right, rtol=0, atol=ROUNDING * eps * scale)


def test_it_reads_every_golden_store(golden):
    found = second_decoder.decoded(golden / "store")
    facts = second_decoder.parts_of(golden / "store")[-1].facts
    assert found.keys() == facts["variables"].keys()
    with np.load(golden / "expected.npz") as expected:
        for name, values in found.items():
            sample, coding = (
                values.reshape(-1)[places(values.size)],
                facts["variables"][name]["coding"],
            )
            assert_agrees(sample, expected[name], coding, facts["arithmetic"])


def test_it_reads_what_was_carried_over(golden):
    """But for CF conventions and texts, which are matters of xarray."""
    *others, part = second_decoder.parts_of(golden / "store")
    with np.load(golden / "expected.npz") as expected:
        for name in part.facts["carried"]:
            path = f"coordinates/{name}"
            if part.arrays[path]["data_type"] == expected[name].dtype.name and not others:
                values = part.array(path)
                assert_array_equal(values.reshape(-1)[places(values.size)], expected[name])


def test_models_that_golden_stores_are_decoded_with_are_polynomials(golden):
    """The decoder knows no other library."""
    for part in second_decoder.parts_of(golden / "store"):
        model = part.facts.get("model", {})
        assert not model.get("decodes") or model["library"]["kind"] == "polynomial"


def crc32c(content: bytes) -> str:
    found = reduce(lambda v, byte: CRC[(v ^ byte) & 255] ^ v >> 8, content, 2**32 - 1)
    return f"{found ^ 2**32 - 1:08x}"


def test_checksums_are_those_of_the_page(golden):
    store = golden / "store"
    raw = (store / "zarr.json").read_text()
    checksum = json.loads(raw)["attributes"]["romzarr"]["checksum"]
    assert crc32c(b"zarr.json" + raw.replace(f',"checksum":"{checksum}"', "").encode()) == checksum
    parts = dict(json.loads(raw)["attributes"]["romzarr"]["parts"])
    for file in (each for each in store.rglob("*") if each.is_file() and each.parent != store):
        place, content = str(file.relative_to(store)).encode(), file.read_bytes()
        if file.name == "zarr.json":
            assert crc32c(place + content) == parts[file.parent.name]
        else:
            assert crc32c(place + content[:-4]) == content[:-5:-1].hex()


def lines_of_code(text: str) -> int:
    """Lines but for blank ones, comments and docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = [token for token in tokens if token.string.strip() and token.type != tokenize.COMMENT]
    lines = {line for token in code for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_it_is_short_and_shares_nothing_with_the_package():
    text = Path(second_decoder.__file__).read_text(encoding="utf-8")
    assert lines_of_code(text) <= MOST_LINES
    found = [each for each in ast.walk(ast.parse(text)) if isinstance(each, IMPORTS)]
    names = {getattr(each, "module", None) or each.names[0].name for each in found}
    assert names <= ALLOWED


def test_its_constants_are_on_the_pages():
    text = Path(second_decoder.__file__).read_text(encoding="utf-8")
    package = Path(romzarr.__file__).parent
    pages = [(package / part / "FORMAT.md").read_text(encoding="utf-8") for part in PAGES]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    numbers = {each.string.removesuffix(".0") for each in tokens if each.type == tokenize.NUMBER}
    # Shorter ones are found anywhere.
    assert not {each for each in numbers if len(each) > 3 and each not in "".join(pages)}


# --- what golden stores have none or little of --------------------------------------------


def archives() -> dict[str, tuple[xr.Dataset, dict]]:
    """Small archives, and how they are compressed, for what no golden store has."""
    t, x = 0.1 * np.arange(40)[:, None, None], np.linspace(0, 3, 20)
    y = np.linspace(-1, 1, 6)[:, None]
    u = (np.sin(t - 2 * x) * np.cos(y) + 0.3 * np.cos(2 * t + x)).astype("f4")
    dims, coords = ("time", "y", "x"), {"time": t[:, 0, 0]}
    gappy, levels = u.copy(), u * np.array([1, 0.1, 1e-3, 10, 5, 2], "f4")[:, None]
    gappy[5, 2, 3], gappy[7:9, 1], gappy[:, 0, :3], levels[:, 4] = np.nan, np.inf, -9999.0, 3.25
    area = {"area": (("y", "x"), np.ones((6, 1)) * np.linspace(1, 2, 20))}
    places = np.random.default_rng(3).uniform(0, 1, (2, 150))
    mesh = {"x": ("cell", places[0]), "y": ("cell", places[1])}
    waves = np.sin(t[:, 0] + 7 * places[0]) * np.cos(5 * places[1])
    loose = {"tolerance": 1e-2}
    return {
        "gaps in runs, and a code of the mask": (xr.Dataset({"u": (dims, gappy)}, coords), loose),
        "modes of scaled levels": (
            xr.Dataset({"u": (("time", "lev", "x"), levels)}, coords),
            loose | {"config": {"compression.per": ["lev"]}},
        ),
        "sums of modes": (
            xr.Dataset({"u": (dims, u.astype("f8"))}, coords | area),
            loose | {"config": {"compression.sums": ["area"]}},
        ),
        "packed floats": (
            xr.Dataset({"u": (dims, np.round(100 * u).astype("i2") * np.float32(0.01))}, coords),
            {"tolerance": 0},
        ),
        "points on a plane": (xr.Dataset({"u": (("time", "cell"), waves)}, coords | mesh), loose),
    }


def assert_reads(store: Path) -> None:
    """The second decoder reads a store as romzarr does."""
    facts = [part.facts for part in second_decoder.parts_of(store)]
    expected = xr.open_dataset(store, engine="romzarr")
    for name, values in second_decoder.decoded(store).items():
        # Of the parts, those with sums over modes say how close all are.
        codings = sorted(
            {each["variables"][name]["coding"] for each in facts}, key=EXACT.__contains__
        )
        # "float32" comes before "float64".
        arithmetic = min(each["arithmetic"] for each in facts)
        assert_agrees(values, expected[name].values, codings[0], arithmetic)


@pytest.mark.parametrize("name", archives())
def test_it_reads_what_is_written_today(name, tmp_path):
    source, options = archives()[name]
    romzarr.compress(source, tmp_path / "store", **options)
    assert_reads(tmp_path / "store")


# The last ones are streams: of the first modes after a mean, and of a mask in the first part alone.
@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(8), 21, 163])
def test_it_reads_what_random_writers_write(seed, tmp_path):
    case = drawn(seed)
    with (
        warnings.catch_warnings(),
        dask.config.set(scheduler="synchronous"),
        contextlib.suppress(AccuracyError, ArchiveError, ConfigError),
    ):
        warnings.simplefilter("ignore", UserWarning)
        for _ in written(case, tmp_path / "store"):
            assert_reads(tmp_path / "store")


shapes = (
    st.lists(st.integers(1, 20), min_size=1, max_size=4)
    .map(tuple)
    .filter(lambda shape: math.prod(shape) <= 800)
)


@given(shape=shapes, seed=seeds, dtype=st.sampled_from([np.float32, np.float64]), data=st.data(),
       share=st.integers(0, 255) | st.just(WHOLE), sizes=st.integers(-3, 45))  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_payloads_of_every_shape(shape, seed, dtype, data, share, sizes):
    levels = [data.draw(st.integers(0, max(0, n - 1).bit_length())) for n in shape]
    values = np.random.default_rng(seed).laplace(size=shape, scale=2.0**sizes).astype(dtype)
    content, right = encoded_and_decoded(values, 1.5, levels, values.dtype, share)
    found = second_decoder.values_of([content], shape, values.dtype, [1.5], levels)
    assert found.tobytes() == right.tobytes()


@given(rows=st.integers(1, 70), seed=seeds, smooth=st.booleans(),
       orders=st.lists(st.integers(0, 7), min_size=1, max_size=4))  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_tables_with_differences(rows, seed, smooth, orders):
    values = np.random.default_rng(seed).standard_normal((rows, 5)).cumsum(axis=0)
    levels = [(rows - 1).bit_length() if smooth else 0, 0]
    content = encode_field(values, 0.01, levels, orders)
    right = coded_field(values, 0.01, levels, values.dtype, orders)
    found = second_decoder.values_of([content], values.shape, values.dtype, [0.01], levels, orders)
    assert found.tobytes() == right.tobytes()


PACKINGS = (Packing("int16", 0.25, 3.0, -5), Packing("uint8", 1.0, 0.0, None))


@pytest.mark.parametrize("axes", [(), (0,), (2, 0), (0, 1, 2)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "u8"])
def test_exact_chunks(axes, dtype):
    values = np.random.default_rng(0).integers(0, 200, (4, 3, 5)).astype(dtype)
    values[1] = values[1] - values.dtype.type(90)
    content = to_integers(values, axes)
    found = second_decoder.exact([content.tobytes()], values.shape, values.dtype, axes)
    assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize("axes", [(), (2, 0)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_exact_chunks_of_packed_floats(axes, dtype, packing):
    integers = np.random.default_rng(0).integers(0, 200, (4, 3, 5))
    values = (integers * packing.scale + packing.offset).astype(dtype)
    values[0, 0] = values[0, 0] if packing.missing is None else np.nan
    content, options = to_integers(values, axes, packing), vars(packing)
    found = second_decoder.exact([content.tobytes()], values.shape, values.dtype, axes, options)
    assert_array_equal(found, values)


@given(curve=st.sampled_from(Curve), seed=seeds, size=st.integers(1, 60), pieces=st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_orders_of_points_along_every_curve(curve, seed, size, pieces):
    rng = np.random.default_rng(seed)
    # Few decimals, so that there are points on edges of cells and of faces, and equal ones.
    points = np.round(
        rng.uniform(-180, 180, (3 if curve == Curve.SPACE else 2, size)), rng.integers(3)
    )
    for given_pieces in (pieces, [size // 3, size - size // 3]):
        right = curve_order(curve, points, given_pieces)
        found = second_decoder.curve_order(curve, points, given_pieces)
        assert order_checksum(found) == order_checksum(right)


@pytest.mark.parametrize("interactions", [True, False])
def test_polynomials(interactions):
    library, rng = PolynomialLibrary(3, 3, interactions), np.random.default_rng(0)
    a, xi = rng.standard_normal(4), rng.standard_normal((library.size, 3))
    equations = [[each for k, x in enumerate(column) for each in (k, x)] for column in xi.T]
    found = second_decoder.rates(library.spec(), equations, a)
    assert_allclose(found, [*library.evaluate(a[None, :3])[0] @ xi, 0.0], rtol=1e-13)
