"""A chunk keeps its bounds, or its bits, whatever it holds; hostile bytes are refused or decoded.

Errors are computed in long double, from the values alone.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romzarr.coding.chunks.bounds import Bounds
from romzarr.coding.chunks.chunk import decode_chunk, encode_chunk
from romzarr.errors import CodecError
from tests.strategies import seeds

FLOATS = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")
OTHERS = ("|b1", "|i1", "<u2", ">i4", "<i8", ">u8", "<c8", ">c16", "<M8[ns]", "<m8[s]")
MOST_VALUES = 4000
GOLDEN = Path(__file__).with_name("chunks.json")

shapes = (
    st.lists(st.integers(1, 20) | st.just(1), max_size=6)
    .map(tuple)
    .filter(lambda shape: np.prod(shape, dtype=int) <= MOST_VALUES)
)
bounds = st.builds(
    Bounds,
    st.none() | st.sampled_from([1e-9, 1e-4, 1e-2, 0.5, 3.0]),
    st.none() | st.sampled_from([1e-300, 1e-6, 1e-3, 1.0, 1e5, 1e38]),
    st.none() | st.sampled_from([1e-12, 1e-6, 1e-3, 1e-1, 2.0]),
)


@st.composite
def fields(draw):
    """Floats of any kind: smooth along some axes, far from zero, tiny, huge, with odd values."""
    shape, dtype = draw(shapes), np.dtype(draw(st.sampled_from(FLOATS)))
    rng = np.random.default_rng(draw(seeds))
    values = rng.standard_normal(shape) * draw(st.sampled_from([0.0, 1.0]))
    for axis in draw(st.sets(st.sampled_from(range(len(shape))))) if shape else ():
        values = np.cumsum(values, axis=axis)
    values = values + draw(st.sampled_from([0.0, 1.0, 1e4]))
    with np.errstate(over="ignore", under="ignore"):
        values = values * 10.0 ** draw(st.sampled_from([0, 0, 0, -3, 30, -30, -42, 37, 300, -310]))
        values = np.array(values.astype(dtype))
    odd = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 9.96921e36, 999.0]
    with np.errstate(over="ignore"):
        for special in draw(st.lists(st.sampled_from(odd), max_size=3)):
            values[rng.random(shape) < draw(st.sampled_from([0.01, 0.5, 1.0]))] = special
    return values


def check_bounds(values, decoded, kept):
    """Whether all bounds hold where values are finite, and bits where they are not."""
    finite = np.isfinite(values)
    assert values[~finite].tobytes() == decoded[~finite].tobytes()
    x, y = values[finite].astype(np.longdouble), decoded[finite].astype(np.longdouble)
    if not x.size:
        return
    worst = np.abs(x - y).max()
    if kept.max_error is not None:
        assert worst <= kept.max_error
    if kept.range_error is not None:
        assert worst <= kept.range_error * (x.max() - x.min())
    if kept.tolerance is not None:
        square, whole = np.sum((x - y) ** 2), np.sum((x - x.mean()) ** 2)
        assert square <= (kept.tolerance * (1 + 1e-12)) ** 2 * whole
    if not kept.given():
        assert values.tobytes() == decoded.tobytes()


@given(values=fields(), kept=bounds)
@settings(max_examples=250, deadline=None)
def test_every_chunk_keeps_every_bound(values, kept):
    content = encode_chunk(values, kept)
    decoded = decode_chunk(content, values.shape, values.dtype)
    assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)
    check_bounds(values, decoded, kept)
    assert len(content) <= values.nbytes + 1
    assert encode_chunk(values, kept) == content


@given(shape=shapes, dtype=st.sampled_from(OTHERS), seed=seeds, kept=bounds)
@settings(max_examples=100, deadline=None)
def test_all_but_floats_keep_their_bits(shape, dtype, seed, kept):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=int))
    raw = np.random.default_rng(seed).bytes(size * dtype.itemsize)
    values = np.frombuffer(raw, dtype).reshape(shape)
    if dtype.kind == "b":
        values = np.frombuffer(raw, np.uint8).reshape(shape) % 2 == 1
    content = encode_chunk(values, kept)
    assert decode_chunk(content, shape, dtype).tobytes() == values.tobytes()
    assert len(content) <= values.nbytes + 1


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
@pytest.mark.parametrize("dtype", ["f4", "i8"])
def test_chunks_of_nothing_and_of_one_value(shape, dtype):
    values = np.full(shape, 7, dtype)
    content = encode_chunk(values, Bounds(max_error=0.1))
    decoded = decode_chunk(content, shape, values.dtype)
    assert decoded.shape == shape
    assert np.abs(decoded - values).max(initial=0) <= 0.1


def test_nan_keep_their_payload():
    values = np.linspace(0, 1, 200, dtype="f4")
    values[7:9] = np.array([0x7FC00001, 0xFFC12345], "u4").view("f4")
    content = encode_chunk(values, Bounds(max_error=0.1))
    decoded = decode_chunk(content, values.shape, values.dtype)
    assert decoded[7:9].tobytes() == values[7:9].tobytes()
    assert len(content) < values.nbytes / 4


def test_fill_values_that_stand_out_do_not_count():
    """They would be the range, and all the fluctuation."""
    rng = np.random.default_rng(0)
    values = np.cumsum(np.cumsum(rng.standard_normal((40, 50)), 0), 1).astype("f4")
    land = rng.random((40, 50)) < 0.2
    values[land] = 9.96921e36
    for kept in (Bounds(range_error=1e-2), Bounds(tolerance=1e-2)):
        decoded = decode_chunk(encode_chunk(values, kept), values.shape, values.dtype)
        assert (decoded[land] == values[land]).all()
        check_bounds(values[~land], decoded[~land], kept)


def smooth(shape, dtype="f4"):
    rng = np.random.default_rng(3)
    values = rng.standard_normal(shape)
    for axis in range(len(shape)):
        values = np.cumsum(values, axis=axis)
    return values.astype(dtype)


@pytest.mark.parametrize("kept", [Bounds(tolerance=1e-3), Bounds(range_error=1e-3)])
def test_bounds_are_used_up(kept):
    """Errors far below a bound would be bytes for nothing."""
    values = smooth((30, 40, 20))
    decoded = decode_chunk(encode_chunk(values, kept), values.shape, values.dtype)
    error = decoded.astype(float) - values
    if kept.tolerance:
        used = np.linalg.norm(error) / np.linalg.norm(values - values.mean(dtype=float))
    else:
        used = np.abs(error).max() / np.ptp(values)
    assert 0.97e-3 < used <= 1e-3


def test_axes_of_strangers_are_not_transformed():
    """Fields in any order along an axis take about as many bytes as those in order of nothing."""
    rng = np.random.default_rng(0)
    members = np.stack([smooth((64, 64)) * rng.choice([-1, 1]) for _ in range(16)])
    members += 300 * rng.standard_normal((16, 1, 1)).astype("f4") * smooth((64, 64)).std()
    kept = Bounds(max_error=float(members.std()) / 100)
    together = len(encode_chunk(members, kept))
    apart = sum(len(encode_chunk(each, kept)) for each in members)
    assert together < 1.1 * apart


@dataclass
class Damage:
    content: bytes
    values: np.ndarray


@st.composite
def damaged(draw):
    values = smooth((12, 9, 7))
    if draw(st.booleans()):
        values[2:5] = np.nan
    kept = draw(st.sampled_from([Bounds(range_error=1e-3), Bounds(tolerance=1e-2), Bounds()]))
    content = bytearray(encode_chunk(values, kept))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, min(len(content) - 1, draw(st.sampled_from([30, 10**6])))))
        content[place] = draw(st.integers(0, 255))
    del content[draw(st.integers(0, len(content))) :]
    return Damage(bytes(content), values)


@given(damage=damaged() | st.builds(Damage, st.binary(max_size=80), st.just(smooth((12, 9, 7)))))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_refused_or_decoded_to_the_shape(damage):
    values = damage.values
    try:
        decoded = decode_chunk(damage.content, values.shape, values.dtype)
    except CodecError:
        return
    assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no version"),
        (b"\x20", "no version"),
        (b"\x1f" + bytes(40), "unknown kind 15"),
        (b"\x10" + bytes(3), "3 bytes of 16"),
        # A head of Blosc that promises 4 GB.
        (b"\x11\x00" + b"\x02\x01\x01\x04" + b"\xff\xff\xff\xff" * 3, "says 4294967295 bytes"),
        (b"\x12\x00\x00" + bytes(8), "has steps 0.0"),
        (b"\x13\xff\xff\xff\xff", "not which"),
    ],
)
def test_messages_about_damage(content, message):
    with pytest.raises(CodecError, match=message):
        decode_chunk(content, (4,), np.dtype("f4"))


@pytest.mark.parametrize("bound", [-1, np.nan, np.inf, "0.1", True])
def test_bounds_that_are_none_are_refused(bound):
    with pytest.raises(CodecError, match="'max_error' must be a number from 0 on"):
        Bounds(max_error=bound)


@pytest.mark.parametrize("dtype", ["O", "U3", "S2", [("a", "f4")], np.longdouble])
def test_dtypes_that_cannot_be_coded_are_refused(dtype):
    with pytest.raises(CodecError, match="another codec"):
        encode_chunk(np.zeros(3, dtype), Bounds(max_error=0.1))


def golden_cases():
    """One chunk of each kind, and of each flag of numbers."""
    gaps = smooth((12, 20))
    gaps[3:6, 4:9], gaps[0, 0] = np.nan, np.inf
    wide = smooth((9, 16), ">f8") + 1e9
    return {
        "raw": (np.frombuffer(b"a few bytes of no order!", "<u8"), Bounds()),
        "exact": (np.arange(400, dtype="i4").reshape(20, 20), Bounds()),
        "mean": (smooth((12, 20)), Bounds(tolerance=1e-2)),
        "single": (smooth((3, 5, 7, 4, 2)), Bounds(range_error=1e-3)),
        "wide": (wide, Bounds(max_error=1e-5)),
        "gaps": (gaps, Bounds(max_error=0.05)),
        "nothing": (np.full((5, 6), np.nan, "f4"), Bounds(max_error=0.05)),
    }


@pytest.mark.parametrize("name", golden_cases())
def test_chunks_that_were_written_once_decode_to_the_same_bits(name):
    """A failure is a change of the format, or arithmetic that differs on this machine."""
    values, _ = golden_cases()[name]
    stored = json.loads(GOLDEN.read_text())[name]
    decoded = decode_chunk(bytes.fromhex(stored["content"]), values.shape, values.dtype)
    assert sha256(decoded.tobytes()).hexdigest() == stored["decoded"]
