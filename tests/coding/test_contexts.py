"""Lattices, flags and the order of coding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.coding.contexts import flags_of, lattices, no_flags, traverse
from romzarr.coding.rangecoder import NARROW, Decoder, Encoder
from tests.strategies import seeds

shapes = st.lists(st.integers(1, 13), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
@settings(deadline=None, max_examples=40)
def test_lattices_hold_every_point_once_and_go_by_known_ones(shape):
    known = np.zeros(shape, bool)
    for lattice in lattices(shape):
        points = np.zeros(shape, bool)
        points[lattice.region] = True
        assert not (known & points).any()
        for point in np.argwhere(points):
            for axes in lattice.pairs:
                for signs in np.ndindex(*(2,) * len(axes)):
                    other = point.copy()
                    for axis, sign in zip(axes, signs, strict=True):
                        other[axis] += lattice.stride * (2 * sign - 1)
                    if (other >= 0).all() and (other < shape).all():
                        assert known[tuple(other)]
        known |= points
    assert known.all()


@given(shape=shapes, seed=seeds, share=st.sampled_from([0.0, 0.02, 0.5, 1.0]), data=st.data())
@settings(deadline=None)
def test_a_decoder_walks_as_the_encoder_did(shape, seed, share, data):
    levels = [data.draw(st.integers(0, max(0, n - 1).bit_length())) for n in shape]
    rng = np.random.default_rng(seed)
    sizes = (rng.geometric(0.2, shape) * (rng.random(shape) < share)).astype(np.int32)
    before = sizes.copy()
    encoder = Encoder(NARROW)
    traverse(flags_of(sizes, levels), shape, levels, encoder, sizes.__getitem__)
    assert_array_equal(sizes, before)
    found, asked = np.zeros(shape, np.int32), []

    def part(region):
        asked.append(found[region])
        return asked[-1]

    decoder = Decoder(encoder.finish(), NARROW)
    parts = traverse(no_flags(shape, levels), shape, levels, decoder, part)
    assert_array_equal(found, sizes)
    # Every one is asked for once, and only where there is something.
    assert sum(some.size for some in asked) <= sizes.size
    assert all(some.any() for some in asked)
    again = np.zeros_like(found)
    for some in parts:
        again[some.region] += some.sizes
    assert_array_equal(again, sizes)


def bits_of(sizes, levels):
    encoder, sizes = Encoder(NARROW), sizes.astype(np.int32)
    traverse(flags_of(sizes, levels), sizes.shape, levels, encoder, sizes.__getitem__)
    return 8 * len(encoder.finish())


def test_empty_bands_cost_next_to_nothing():
    sizes = np.zeros((10, 256, 256))
    sizes[:, :8, :8] = np.random.default_rng(0).geometric(0.2, (10, 8, 8))
    alone = bits_of(sizes[:, :8, :8], (0, 1, 1))
    assert bits_of(sizes, (0, 6, 6)) < alone + 0.001 * sizes.size


def test_neighbours_foretell_sizes():
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(*2 * [np.linspace(-3, 3, 128)])
    mean = 8 * np.exp(-(x**2) - y**2)
    sizes = rng.geometric(1 / (1 + mean)) - 1
    p = 1 / (1 + mean)
    ideal = np.sum((-p * np.log2(p) - (1 - p) * np.log2(1 - p)) / p)
    # The ideal knows the mean everywhere; shuffled sizes have no neighbourhood.
    assert bits_of(sizes, (0, 0)) < 1.2 * ideal
    assert bits_of(sizes, (0, 0)) < 0.8 * bits_of(
        rng.permutation(sizes.ravel()).reshape(128, -1), (0, 0)
    )
