"""Codecs of activations: what they take, how far they are off, and what they refuse."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from romzarr.coding import coordinates
from romzarr.coding.coordinates import SYMBOLS, Tables, frequencies_of
from romzarr.errors import ConfigError, GapsError, StoreError
from romzarr.latents import Codec, Codes, Rotary, calibrate


def states(tokens, features=48, seed=0, decay=0.15):
    """Correlated Gaussian tokens whose principal deviations fall off, and their deviations."""
    axes = np.linalg.qr(np.random.default_rng(99).standard_normal((features, features)))[0]
    deviations = np.exp(-decay * np.arange(features))
    draws = np.random.default_rng(seed).standard_normal((tokens, features))
    return (3 + (draws * deviations) @ axes.T).astype(np.float32), deviations


def off(x, decoded):
    return np.linalg.norm(decoded - x) / np.linalg.norm(x - x.mean(axis=0))


# --- the coder ----------------------------------------------------------------------------


def table(scale, shift=0):
    chances = np.exp(-np.abs(np.arange(SYMBOLS) - SYMBOLS // 2) / scale)
    return frequencies_of(chances[None]), shift


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    directions=st.integers(1, 9),
    tokens=st.integers(1, 70),
    octave=st.integers(-3, 24),
    shift=st.integers(0, 8),
    finer=st.integers(0, 4),
)
def test_every_coordinate_decodes_to_within_half_a_step(
    seed, directions, tokens, octave, shift, finer
):
    """Whatever the table expects. Values beyond all symbols are coded too."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((directions, tokens)) * 2.0**octave).astype(np.float32)
    frequencies, _ = table(3.0)
    tables = Tables(
        np.ones(directions, np.float32),
        np.full(directions, 0.5, np.float32),
        np.zeros(directions, np.float32),
        np.zeros(directions, np.uint8),
        np.full(directions, shift, np.uint8),
        frequencies,
    )
    payload = coordinates.encode(values, tables, finer)
    decoded = coordinates.decode(payload, tokens, tables, finer)
    # float32 has 24 digits: of large values the last is more than a step.
    room = 0.5 / 2**finer + np.abs(values) * 2.0**-23
    assert (np.abs(decoded - values) <= room).all()


def test_a_payload_is_as_long_as_the_entropy():
    """Within one percent and the 16 bytes of the states, for the distribution of its table."""
    frequencies, _ = table(2.0)
    chances = frequencies[0] / frequencies[0].sum()
    rng = np.random.default_rng(0)
    integers = rng.choice(SYMBOLS - 1, p=chances[:-1] / chances[:-1].sum(), size=(4, 5000)) - 31
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    no_shift = np.zeros(4, np.uint8)
    tables = Tables(ones, ones / 2, zeros, no_shift, no_shift, frequencies)
    payload = coordinates.encode(integers.astype(np.float32), tables)
    expected = -np.log2(chances[integers + 31]).sum() / 8
    assert abs(len(payload) - expected) <= 0.01 * expected + 16
    assert_array_equal(coordinates.decode(payload, 5000, tables), integers)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=200))
def test_damaged_payloads_decode_to_something(data):
    codec = CODEC
    decoded = codec.decode(Codes(np.frombuffer(data, np.uint8).copy(), 16))
    assert decoded.shape == (16, 48)


CODEC = calibrate(states(2000)[0], bits=2.0)

# --- rates and errors ---------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_rates_are_what_was_asked_for_on_other_tokens(bits):
    codec = calibrate(states(3000)[0], bits=bits)
    x, _ = states(2000, seed=1)
    assert_allclose(8 * codec.encode(x).nbytes / x.size, bits, rtol=0.05)


@pytest.mark.parametrize("error", [0.5, 0.1, 0.01])
def test_errors_are_what_was_asked_for_on_other_tokens(error):
    codec = calibrate(states(3000)[0], error=error)
    x, _ = states(2000, seed=1)
    assert_allclose(off(x, codec.decode(codec.encode(x))), error, rtol=0.05)


def reverse_water_filling(deviations, bits):
    """Relative error of a Gaussian source at its rate-distortion bound."""
    levels = np.geomspace(1e-8, 1, 4000) * deviations.max() ** 2
    capped = np.minimum(levels[:, None], deviations**2)
    rates = 0.5 * np.log2(deviations**2 / capped).mean(axis=1)
    errors = np.sqrt(capped.sum(axis=1) / (deviations**2).sum())
    return np.interp(bits, rates[::-1], errors[::-1])


@pytest.mark.parametrize("bits", [1.0, 2.0, 3.0])
def test_errors_are_within_a_quarter_of_a_bit_of_the_bound(bits):
    """A uniform quantiser with entropy coding loses 0.25 bits a Gaussian value, fewer at low
    rates. Bits that were spread evenly, or directions that are off, would lose more."""
    codec = calibrate(states(6000)[0], bits=bits)
    x, deviations = states(4000, seed=1)
    taken = 8 * codec.encode(x).nbytes / x.size
    reached = off(x, codec.decode(codec.encode(x)))
    assert reached <= reverse_water_filling(deviations, taken - 0.27)
    assert reached > reverse_water_filling(deviations, taken)


def test_importance_moves_errors_to_where_they_matter_least():
    x, _ = states(4000)
    importance = np.ones(48, np.float32)
    importance[:8] = 100
    weighted, plain = calibrate(x, bits=2.0, importance=importance), calibrate(x, bits=2.0)
    errors = [((c.decode(c.encode(x)) - x) ** 2).mean(axis=0) for c in (weighted, plain)]
    assert errors[0] @ importance < 0.5 * errors[1] @ importance


@settings(deadline=None, max_examples=25)
@given(
    bound=st.sampled_from([0.3, 0.03, 0.003, 1e-5]),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1.0, 1e3, 1e6]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_a_bound_is_kept_for_tokens_unlike_the_samples(bound, seed, scale, dtype):
    rng = np.random.default_rng(seed)
    x = 3 + scale * rng.standard_t(2, (40, 48))
    x = np.clip(x, -6e4, 6e4).astype(dtype)
    codes = CODEC.encode(x, bound=bound)
    decoded = CODEC.decode(codes, like=x).astype(np.float64)
    exact = x.astype(np.float64)
    assert np.linalg.norm(decoded - exact) <= bound * np.linalg.norm(exact - CODEC.mean) * 1.000001
    assert codes.nbytes <= 4 * x.size + 2


@pytest.mark.parametrize(
    ("scale", "middle"),
    # The smallest float16, which are few steps apart, and the largest, next to infinity.
    [(3e-7, 0.0), (1e-6, 0.0), (12000.0, 30000.0)],
)
@pytest.mark.parametrize("bound", [0.4, 0.1, 0.01])
def test_a_bound_is_kept_where_float16_ends(scale, middle, bound):
    x = np.random.default_rng(0).standard_normal((2000, 48)).astype(np.float32)
    codec = calibrate(np.float32(scale) * x + np.float32(middle), bits=2.0)
    for some in np.split(scale * np.random.default_rng(1).standard_normal((800, 48)) + middle, 20):
        given = some.clip(-65504, 65504).astype(np.float16)
        decoded = codec.decode(codec.encode(given, bound=bound), like=given).astype(np.float64)
        exact = given.astype(np.float64)
        assert np.linalg.norm(decoded - exact) <= bound * np.linalg.norm(exact - codec.mean)


def test_a_bound_is_kept_where_squares_are_beyond_float32():
    x = np.float32(1e25) * states(100)[0]
    decoded = CODEC.decode(CODEC.encode(x, bound=0.01)).astype(np.float64)
    assert np.linalg.norm(decoded - x) <= 0.01 * np.linalg.norm(x.astype(np.float64) - CODEC.mean)


# --- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, np.arange(1, 49, dtype=np.float32)])
def test_a_saved_calibration_gives_the_same_bytes(weights, tmp_path):
    x, _ = states(500)
    codec = calibrate(x, bits=1.5, importance=weights, model="tiny 1")
    codec.save(tmp_path / "codec.safetensors")
    loaded = Codec.load(tmp_path / "codec.safetensors", model="tiny 1")
    assert_array_equal(loaded.encode(x).payload, codec.encode(x).payload)
    assert_array_equal(loaded.decode(codec.encode(x)), codec.decode(codec.encode(x)))
    assert loaded.nbytes == codec.nbytes


def test_the_file_is_one_of_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    CODEC.save(tmp_path / "codec.safetensors")
    assert_array_equal(numpy.load_file(tmp_path / "codec.safetensors")["mean"], CODEC.mean)


def test_another_models_calibration_is_refused(tmp_path):
    calibrate(states(100)[0], model="tiny 1").save(tmp_path / "codec.safetensors")
    with pytest.raises(ConfigError, match=r"found a calibration of the model 'tiny 1'.*calibrate"):
        Codec.load(tmp_path / "codec.safetensors", model="tiny 2")


def damaged(data, how):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if how == "cut":
        return data[: len(data) // 2]
    if how == "lacking":
        del header["steps"]
    if how == "classes beyond the tables":
        first, last = header["classes"]["data_offsets"]
        start = 8 + length
        return data[: start + first] + b"\xff" * (last - first) + data[start + last :]
    if how == "another kind":
        header["__metadata__"]["facts"] = json.dumps({"kind": "cache", "model": ""})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize("how", ["cut", "lacking", "classes beyond the tables", "another kind"])
def test_damaged_files_are_refused(how, tmp_path):
    path = tmp_path / "codec.safetensors"
    CODEC.save(path)
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(StoreError, match="calibrate anew"):
        Codec.load(path)


# --- refusals, positions ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": np.zeros((10, 4), np.float32)}, "samples: found 10 tokens"),
        ({"samples": np.zeros((100, 4, 2), np.float32)}, "samples: found the shape"),
        ({"samples": np.zeros((100, 4), np.int32)}, "samples: found the type int32"),
        ({"samples": [[1.0]]}, "allowed is an array"),
        ({"bits": 0}, "bits: found 0"),
        ({"bits": 1.0, "error": 0.1}, "found both"),
        ({"error": -1.0}, "error: found -1.0"),
        ({"importance": np.ones(3, np.float32)}, "importance: found the shape"),
        ({"importance": -np.ones(48, np.float32)}, "importance: found a least weight"),
        ({"bits": True}, "bits: found True"),
        ({"bits": "2"}, "bits: found '2'"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, message):
    samples = arguments.pop("samples", states(100)[0])
    with pytest.raises(ConfigError, match=message):
        calibrate(samples, **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_where_they_are(value):
    x, _ = states(100)
    x[7, 3] = value
    with pytest.raises(GapsError, match=r"at \[7, 3\], 1 values"):
        CODEC.encode(x)
    with pytest.raises(GapsError):
        calibrate(x)


def test_numbers_of_numpy_are_numbers():
    x, _ = states(100)
    codec = calibrate(x, bits=np.float32(2))
    assert_array_equal(codec.encode(x).payload, calibrate(x, bits=2).encode(x).payload)
    codec.encode(x, bound=np.float64(0.1))


def test_numbers_beyond_float32_are_refused():
    with pytest.raises(GapsError, match=r"found inf at \[0, 0\].*allowed are numbers of float32"):
        CODEC.encode(np.full((1, 48), 1e300))


def test_what_is_neither_codes_nor_an_array_is_refused():
    codes = CODEC.encode(states(10)[0])
    with pytest.raises(TypeError, match=r"codes: found b'abc'.*what encode\(\) returned"):
        CODEC.decode(b"abc")
    with pytest.raises(ConfigError, match=r"like: found \[1.0\], allowed is an array"):
        CODEC.decode(codes, like=[1.0])
    with pytest.raises(ConfigError, match="like: found the type int32"):
        CODEC.decode(codes, like=np.zeros(1, np.int32))


def test_no_tokens_are_coded_as_nothing():
    for bound in (None, 0.1):
        codes = CODEC.encode(np.zeros((0, 48), np.float16), bound=bound)
        assert CODEC.decode(codes).shape == (0, 48)


@pytest.mark.parametrize("bound", [0, -0.1, 1, "0.1", True])
def test_bounds_that_cannot_be_kept_are_refused(bound):
    with pytest.raises(ConfigError, match="bound: found"):
        CODEC.encode(states(10)[0], bound=bound)


def test_constants_cost_next_to_nothing():
    x = np.full((100, 48), 2.5, np.float32)
    codec = calibrate(x, bits=2.0)
    assert_allclose(codec.decode(codec.encode(x)), x)
    assert codec.encode(x).nbytes < 100


@pytest.mark.parametrize("interleaved", [False, True])
def test_positions_are_turned_as_complex_numbers_are(interleaved):
    rotary = Rotary.of_base(6, base=100.0, interleaved=interleaved)
    keys = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    pairs = [(2 * k, 2 * k + 1) if interleaved else (k, 3 + k) for k in range(3)]
    turned = rotary.turn(keys, 40)
    for (a, b), speed in zip(pairs, 100.0 ** (-np.arange(3) / 3), strict=True):
        waves = np.exp(1j * speed * (40 + np.arange(5)))
        expected = (keys[..., a] + 1j * keys[..., b]) * waves
        assert_allclose(turned[..., a] + 1j * turned[..., b], expected, atol=1e-5)
    assert_array_equal(turned[..., 6:], keys[..., 6:])
    assert_allclose(rotary.undo(turned, 40), keys, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary.of_base(7), "dim: found 7, allowed are even"),
        (lambda: Rotary.of_base(0), "dim: found 0, allowed are numbers of 2 or more"),
        (lambda: Rotary.of_base(8, 0), "base: found 0, allowed is a positive"),
        (lambda: Rotary.of_base(8, np.nan), "base: found nan"),
        (lambda: Rotary(np.ones((2, 2))), "frequencies: found .*allowed is a row"),
        (lambda: Rotary([1.0, np.inf]), "frequencies: found .*finite"),
        (lambda: Rotary([]), "frequencies: found"),
    ],
)
def test_frequencies_are_finite_and_of_pairs(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("interleaved", [False, True])
def test_heads_with_fewer_features_than_pairs_are_refused(interleaved):
    """The kernel would turn what is behind them."""
    rotary = Rotary.of_base(16, interleaved=interleaved)
    for turn in (rotary.turn, rotary.undo):
        with pytest.raises(ConfigError, match="found 8 pairs of features, allowed are up to 4"):
            turn(np.ones((1, 3, 8), np.float32), 0)


def test_positions_beyond_those_of_a_table_go_on():
    """Keys of many positions are keys of each, turned by itself."""
    rotary = Rotary.of_base(8)
    keys = np.random.default_rng(0).standard_normal((2, 600, 8)).astype(np.float32)
    turned = rotary.turn(keys, 10**6)
    for k in (0, 255, 256, 599):
        assert_allclose(turned[:, k], rotary.turn(keys[:, k : k + 1], 10**6 + k)[:, 0], atol=1e-5)


def test_nothing_of_torch_or_jax_is_imported():
    script = (
        "import sys, numpy as np, romzarr.latents as latents\n"
        "x = np.random.default_rng(0).standard_normal((100, 8)).astype('float32')\n"
        "codec = latents.calibrate(x); codec.decode(codec.encode(x), like=x)\n"
        "found = {'torch', 'jax', 'transformers', 'xarray', 'zarr', 'dask'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
