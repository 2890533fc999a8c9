"""The range coder, against the entropy of what it codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.coding.contexts import flags_of, traverse
from romzarr.coding.rangecoder import (
    EDGES,
    EXACT,
    NARROW,
    UNIT,
    WIDE,
    Decoder,
    Encoder,
    Kind,
    buckets_of,
)
from romzarr.errors import StoreError
from tests.strategies import seeds


def integers(rng, exponents, count):
    """Of all magnitudes that a coder of so many exponents takes."""
    sizes = 2.0 ** rng.uniform(0, exponents, count) * rng.integers(0, 2, count)
    return np.minimum(sizes, 2.0**exponents - 512).astype(np.int32 if exponents == NARROW else int)


@given(seed=seeds, exponents=st.sampled_from([NARROW, WIDE]),
       counts=st.lists(st.integers(0, 60), min_size=1, max_size=5))  # fmt: skip
@settings(deadline=None)
def test_a_decoder_gives_back_what_was_encoded(seed, exponents, counts):
    rng = np.random.default_rng(seed)
    values = [integers(rng, exponents, n) for n in counts]
    # Contexts that lie, and some that do not, in arrays of any shape.
    buckets = [rng.integers(0, len(EDGES), n).astype(np.uint8) for n in counts]
    kinds = [Kind(int(k)) for k in rng.integers(0, len(Kind), len(counts))]
    bits = rng.integers(0, 2, 37).astype(np.int32)
    encoder = Encoder(exponents)
    for value, bucket, kind in zip(values, buckets, kinds, strict=True):
        encoder.transfer([value[:7], value[7:]], [bucket[:7], bucket[7:]], kind)
    encoder.transfer_bits(bits)
    content = encoder.finish()
    decoder = Decoder(content, exponents)
    for value, bucket, kind in zip(values, buckets, kinds, strict=True):
        found = np.full_like(value, -1)
        decoder.transfer([found[:7], found[7:]], [bucket[:7], bucket[7:]], kind)
        assert_array_equal(found, value)
    left = np.empty_like(bits)
    decoder.transfer_bits(left)
    assert_array_equal(left, bits)


@pytest.mark.parametrize(
    "size",
    [EXACT - 1, EXACT, EXACT + 1, 2**31 - 1, 2**31, 2**31 + EXACT, 2**53 + 1, 2**60 - 1, 2**60],
)
def test_single_large_integers(size):
    encoder, value = Encoder(WIDE), np.array([size])
    encoder.transfer([value], [np.zeros(1, np.uint8)], Kind.ALONE)
    found = np.zeros(1, np.int64)
    Decoder(encoder.finish(), WIDE).transfer([found], [np.zeros(1, np.uint8)], Kind.ALONE)
    assert found[0] == size


def geometric_entropy(mean):
    p = 1 / (1 + mean)
    return (-p * np.log2(p) - (1 - p) * np.log2(1 - p)) / p


@pytest.mark.parametrize("levels", [(0, 0), (4, 4)])
@pytest.mark.parametrize("mean", [0.02, 0.2, 1.0, 6.0, 60.0])
def test_sizes_without_pattern_cost_their_entropy(mean, levels):
    # What quantised Laplacian noise is, without its signs. Contexts can say nothing about it:
    # all that may be lost is what adapting costs, and the mismatch within powers of two.
    rng = np.random.default_rng(int(100 * mean))
    sizes = (rng.geometric(1 / (1 + mean), (256, 256)) - 1).astype(np.int32)
    encoder = Encoder(NARROW)
    traverse(flags_of(sizes, levels), sizes.shape, levels, encoder, sizes.__getitem__)
    bits = 8 * len(encoder.finish())
    assert 0.98 < bits / (sizes.size * geometric_entropy(mean)) < 1.03


def test_the_shortest_end_is_taken():
    lengths = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        bits = rng.integers(0, 2, 1 + seed % 50).astype(np.int32)
        encoder = Encoder(NARROW)
        encoder.transfer_bits(bits)
        content = encoder.finish()
        lengths.append(len(content) - len(bits) / 8)
        found = np.empty_like(bits)
        Decoder(content, NARROW).transfer_bits(found)
        assert_array_equal(found, bits)
    # Whole words would take two bytes more on average.
    assert max(lengths) <= 1
    assert np.mean(lengths) < 0.6


def test_nothing_takes_no_bytes():
    assert Encoder(NARROW).finish() == b""


@given(seed=seeds)
def test_buckets_are_where_the_edges_say(seed):
    expected = np.floor(2.0 ** np.random.default_rng(seed).uniform(0, 50, 40)).astype(np.int64) - 1
    found = buckets_of(expected)
    assert (EDGES[found] <= expected).all()
    assert (np.append(EDGES, 2**62)[found + 1] > expected).all()


def test_expected_sizes_of_zero_are_apart_from_small_ones():
    assert list(buckets_of(np.array([0, UNIT // 64 - 1, UNIT // 64]))) == [0, 0, 1]


@given(content=st.binary(max_size=200))
def test_hostile_bytes_decode_to_something_or_are_refused(content):
    decoder = Decoder(content, WIDE)
    found = np.zeros(500, np.int64)
    try:
        decoder.transfer([found], [np.full(500, 30, np.uint8)], Kind.AMONG)
    except StoreError:
        return
    assert (found >= 0).all()
    assert (found < 2**60 + EXACT).all()
