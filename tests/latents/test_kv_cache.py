"""Caches of keys and values: what goes in comes out, in whatever pieces and however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from romzarr.errors import ConfigError, GapsError, StoreError
from romzarr.latents import CacheCodec, KVCache, Rotary, calibrate_cache, files
from romzarr.latents.groups import Group

LAYERS, BATCH, HEADS, DIM = 3, 2, 2, 8
ROTARY = Rotary.of_base(DIM)


def tensors(tokens, seed=0, batch=BATCH):
    """Keys, turned, and values (layers, batch, heads, tokens, dim) that layers have in common."""
    rng = np.random.default_rng(seed)
    shape = (LAYERS, batch, HEADS, tokens, DIM)
    common = np.exp(-0.5 * np.arange(DIM)) * rng.standard_normal(shape[1:])
    keys, values = (common + 0.1 * rng.standard_normal(shape) for _ in range(2))
    return ROTARY.turn(keys.astype(np.float32) + 2, 0), values.astype(np.float32)


def made(bits=3.0, group=2):
    return calibrate_cache(*tensors(600), bits, group=group, rotary=ROTARY, model="tiny")


CODEC = made()
SIZES = {"sinks": 2, "window": 10, "block": 8}


def filled(keys, values, sizes=SIZES, pieces=(), codec=CODEC, **options):
    cache = KVCache(codec, **sizes, **options)
    ends = [*np.cumsum(pieces), keys.shape[3]]
    for start, stop in zip([0, *ends], ends, strict=False):
        for layer in range(LAYERS):
            cache.append(layer, keys[layer][:, :, start:stop], values[layer][:, :, start:stop])
    return cache


def off(x, decoded):
    return np.linalg.norm(decoded - x) / np.linalg.norm(x)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_first_and_last_tokens_stay_and_others_come_back_about(group):
    keys, values = tensors(100, seed=1)
    cache = filled(keys, values, codec=made(group=group))
    assert cache.tokens == 100
    assert 100 - 2 - 10 - 2 * 8 <= cache.coded_tokens <= 100 - 2 - 10
    for layer in range(LAYERS):
        for x, decoded in ((keys, cache.keys(layer)), (values, cache.values(layer))):
            assert decoded.shape == x[layer].shape
            assert_array_equal(decoded[:, :, :2], x[layer][:, :, :2])
            assert_array_equal(decoded[:, :, -10:], x[layer][:, :, -10:])
            # At 3 bits a value of what varies. Keys with wrong positions would be off by 1.
            assert 0.001 < off(x[layer], decoded) < 0.15


@settings(deadline=None, max_examples=25)
@given(pieces=st.lists(st.integers(1, 30), max_size=6))
def test_pieces_in_which_tokens_come_do_not_matter(pieces):
    tokens = sum(pieces) + 1
    keys, values = tensors(tokens, seed=2)
    once, often = filled(keys, values), filled(keys, values, pieces=pieces)
    assert once.coded_tokens == often.coded_tokens
    for layer in range(LAYERS):
        assert_array_equal(once.keys(layer), often.keys(layer))
        assert_array_equal(once.values(layer), often.values(layer))
    assert once.nbytes == often.nbytes


@settings(deadline=None, max_examples=40)
@given(start=st.integers(-70, 70), stop=st.integers(-70, 70))
def test_a_slice_is_a_part_of_the_whole(start, stop):
    keys, values = tensors(60, seed=3)
    cache = filled(keys, values)
    for layer in (0, 2):
        whole = cache.keys(layer)
        assert_array_equal(cache.keys(layer, slice(start, stop)), whole[:, :, start:stop])


@settings(deadline=None, max_examples=40)
@given(tokens=st.integers(0, 60), more=st.integers(0, 40))
def test_a_truncated_cache_goes_on(tokens, more):
    keys, values = tensors(60, seed=4)
    cache = filled(keys, values)
    before = [cache.values(layer) for layer in range(LAYERS)]
    cache.truncate(tokens)
    assert [cache.tokens_of(layer) for layer in range(LAYERS)] == [tokens] * LAYERS
    other = tensors(more, seed=5)
    for layer in range(LAYERS):
        cache.append(layer, other[0][layer], other[1][layer])
    for layer in range(LAYERS):
        found = cache.values(layer) if tokens + more else np.zeros((BATCH, HEADS, 0, DIM))
        assert found.shape[2] == tokens + more
        # Coded once more at most, and its last tokens not at all.
        assert not tokens or off(before[layer][:, :, :tokens], found[:, :, :tokens]) < 0.2
        assert_array_equal(found[:, :, tokens:][:, :, -10:], other[1][layer][:, :, -10:])


def test_only_blocks_that_are_asked_for_are_decoded(monkeypatch):
    keys, values = tensors(120, seed=14)
    cache, decoded, decode = filled(keys, values), [], Group.decode

    def recorded(group, blocks, *where):
        decoded.append(len(blocks))
        return decode(group, blocks, *where)

    monkeypatch.setattr(Group, "decode", recorded)
    whole = cache.keys(0)
    assert decoded == [cache.coded_tokens // cache.block]
    start = cache.sinks + 3 * cache.block
    for stop, blocks in ((start + 1, 1), (start + cache.block, 1), (start + cache.block + 1, 2)):
        decoded.clear()
        assert_array_equal(cache.keys(0, slice(start, stop)), whole[:, :, start:stop])
        assert decoded == [blocks]


def test_copies_and_selections_are_independent():
    keys, values = tensors(60, seed=6)
    cache = filled(keys, values)
    beams, copy = cache.select([1, 1, 0]), cache.copy()
    whole = cache.keys(1)
    cache.truncate(5)
    assert_array_equal(copy.keys(1), whole)
    assert_array_equal(beams.keys(1), whole[[1, 1, 0]])
    beams.append(0, np.concatenate([keys[0], keys[0][:1]]), np.concatenate([values[0]] * 2)[:3])
    assert copy.tokens_of(0) == 60
    assert beams.tokens_of(0) == 120


def test_bytes_are_those_of_codes_and_of_what_stays():
    keys, values = tensors(500, seed=7)
    cache = filled(keys, values)
    kept = (500 - cache.coded_tokens) * keys[..., 0, :].nbytes * 2
    # Groups take turns: one may have a block more.
    assert abs(cache.nbytes - cache.coded_nbytes - kept) <= 8 * keys[..., 0, :].nbytes * 2
    bits = 8 * cache.coded_nbytes / (cache.coded_tokens * 2 * keys[..., 0, :].size)
    # Three, and the 18 bytes of each payload of 8 tokens, which are short here.
    assert 2.8 < bits < 3.3 + 8 * 18 / (8 * 16)


@settings(deadline=None, max_examples=20)
@given(
    bound=st.sampled_from([0.3, 0.05, 0.002]),
    seed=st.integers(0, 100),
    scale=st.sampled_from([0.1, 30.0]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_the_bound_of_every_block_is_kept(bound, seed, scale, dtype):
    keys, values = tensors(60, seed)
    values = (values * scale).astype(dtype)
    cache = filled(keys.astype(dtype), values, bound=bound, codec=made(1.0, 1))
    for layer in range(LAYERS):
        mean = cache.codec.values[layer].mean.reshape(HEADS, DIM)[None, :, None]
        decoded, x = cache.values(layer).astype(np.float64), values[layer].astype(np.float64)
        for start in range(2, 2 + cache.coded_tokens, 8):
            block = np.s_[:, :, start : start + 8]
            for row in range(BATCH):
                error = np.linalg.norm((decoded - x)[block][row])
                assert error <= bound * np.linalg.norm((x - mean)[block][row]) * 1.000001


def test_the_bound_of_keys_is_kept_where_positions_are_turned_back():
    keys, values = tensors(60, seed=8)
    cache = filled(keys, values, bound=0.01, codec=made(1.0, 1))
    for layer in range(LAYERS):
        assert off(keys[layer], cache.keys(layer)) < 0.01


@pytest.mark.parametrize("bound", [0.3, 0.1])
def test_a_bound_is_kept_where_float16_ends(bound):
    """Keys of which a pair of features has all of its size in one, next to infinity."""
    keys, values = tensors(600)
    scale, turned = 8000, ROTARY.undo(keys, 0)
    turned[..., : DIM // 2] += 4
    turned[..., DIM // 2 :] += 4
    keys = ROTARY.turn(scale * turned, 0).clip(-65504, 65504)
    codec = calibrate_cache(keys, scale * values, 1.0, group=1, rotary=ROTARY)
    half = [each.astype(np.float16) for each in (keys, scale * values)]
    cache = filled(*half, bound=bound, codec=codec)
    for layer in range(LAYERS):
        mean = codec.keys[layer].mean.reshape(HEADS, DIM)[None, :, None]
        exact = ROTARY.undo(half[0][layer].astype(np.float32), 0)
        for start in range(2, 2 + cache.coded_tokens, 8):
            block = np.s_[:, :, start : start + 8]
            decoded = cache.keys(layer, block[2]).astype(np.float64)
            for row in range(BATCH):
                error = np.linalg.norm(decoded[row] - half[0][layer][block][row])
                assert error <= bound * np.linalg.norm((exact - mean)[block][row])


def test_a_saved_calibration_codes_alike(tmp_path):
    CODEC.save(tmp_path / "cache.safetensors")
    loaded = CacheCodec.load(tmp_path / "cache.safetensors", model="tiny")
    keys, values = tensors(60, seed=9)
    mine, other = filled(keys, values), filled(keys, values, codec=loaded)
    assert_array_equal(mine.keys(2), other.keys(2))
    with pytest.raises(ConfigError, match="of the model 'tiny'"):
        CacheCodec.load(tmp_path / "cache.safetensors", model="large")
    with pytest.raises(StoreError, match="kind 'cache'"):
        type(loaded.keys[0]).load(tmp_path / "cache.safetensors")


def test_importance_is_where_errors_are_small():
    keys, values = tensors(600)
    weights = np.ones((LAYERS, HEADS * DIM), np.float32)
    heavy = weights.copy()
    heavy[0] = 1000
    codec = calibrate_cache(keys, values, 2.0, group=1, importance=(weights, heavy))
    cache = filled(keys, values, codec=codec)
    assert off(values[0], cache.values(0)) < 0.3 * off(values[1], cache.values(1))


# --- frameworks ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("framework", ["torch", "jax.numpy"])
def test_tensors_come_back_as_they_came(framework, dtype):
    module = pytest.importorskip(framework)
    kind = getattr(module, dtype)
    keys, values = tensors(60, seed=10)
    make = module.tensor if framework == "torch" else module.asarray
    given = [
        make(each).to(kind) if framework == "torch" else make(each, kind) for each in (keys, values)
    ]
    cache = filled(*given)
    found, expected = cache.keys(1), filled(keys, values).keys(1)
    assert type(found) is type(given[0])
    assert found.dtype == kind
    as_numpy = found.float().numpy() if framework == "torch" else np.asarray(found, np.float32)
    # bfloat16 has 8 digits; one that rounds to the next integer is a step further.
    assert off(expected, as_numpy) < 0.05
    assert cache.select([1]).keys(0).shape == (1, HEADS, 60, DIM)
    assert cache.nbytes < sum(each.nbytes for each in given)


def test_the_window_is_not_copied():
    keys, values = tensors(9, seed=11)
    cache = filled(keys, values)
    assert np.shares_memory(cache._layers[0].recent[0][0], keys)


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda k, v: (5, k, v), ConfigError, "layer: found 5, allowed are 0 to 2"),
        (lambda k, v: (0, k[..., :4], v), ConfigError, r"keys: found the shape .*8\)"),
        (lambda k, v: (0, k, v[:, :, :1]), ConfigError, "values: found the shape"),
        (lambda k, v: (0, k[:1], v[:1]), ConfigError, r"keys: found the shape .*\(2, 2"),
        (lambda k, v: (0, k.astype(np.int8), v), ConfigError, "keys: found the type int8"),
        (lambda k, v: (0, k * np.nan, v), GapsError, "keys: found nan at"),
        (lambda k, v: (0, k, v * np.inf), GapsError, "values: found"),
    ],
)
def test_what_cannot_be_appended_is_refused_and_changes_nothing(spoil, error, message):
    keys, values = tensors(30, seed=12)
    cache = filled(keys, values)
    before = cache.keys(0)
    with pytest.raises(error, match=message):
        cache.append(*spoil(keys[0], values[0]))
    assert_array_equal(cache.keys(0), before)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: KVCache(CODEC, model="large"), "of the model 'tiny', allowed is one of 'large'"),
        (lambda: KVCache(CODEC, block=0), "block: found 0"),
        (lambda: KVCache(CODEC, bound=2), "bound: found 2"),
        (lambda: KVCache(CODEC).keys(0), "no token was appended"),
        (lambda: KVCache(CODEC).truncate(3), "tokens: found 3, allowed are up to 0"),
        (lambda: filled(*tensors(30)).keys(0, slice(0, 9, 2)), "slices without a step"),
        (lambda: calibrate_cache(np.zeros((2, 1, 2, 4, 8), np.float32), None), "values: found"),
        (lambda: filled(*tensors(30)).keys(0, 5), "tokens: found 5, allowed are slices"),
        (lambda: filled(*tensors(30)).select([]), r"rows: found \[\], allowed are .* 0 to 1"),
        (lambda: filled(*tensors(30)).select([0, 2]), r"rows: found \[0, 2\], allowed are"),
        (lambda: filled(*tensors(30)).select([-1]), r"rows: found \[-1\], allowed are"),
        (
            lambda: calibrate_cache(*tensors(600), rotary=Rotary.of_base(2 * DIM)),
            "rotary: found 8 pairs of features, allowed are up to 4",
        ),
    ],
)
def test_wrong_use_says_what_is_allowed(use, message):
    with pytest.raises(ConfigError, match=message):
        use()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: KVCache(CODEC.keys[0]), r"codec: found Codec.*as calibrate_cache\(\) makes it"),
        (lambda: calibrate_cache(*tensors(90), rotary=1e4), "rotary: found 10000.0 .*a Rotary"),
        (lambda: filled(*tensors(30)).select(np.array([True, False])), "rows: found .*True"),
        (lambda: filled(*tensors(30)).select(["0"]), "rows: found '0'"),
    ],
)
def test_wrong_types_say_what_is_allowed(use, message):
    with pytest.raises(TypeError, match=message):
        use()


def changed(path, facts, arrays):
    """A file of another calibration, which disagrees with itself."""
    kept, known = files.read(path, files.Kind.CACHE)
    files.write(path, kept | arrays, known | facts)


@pytest.mark.parametrize(
    ("facts", "arrays"),
    [
        ({"dim": 4}, {}),
        ({"heads": 4}, {}),
        ({"layers": 2, "group": 1}, {}),
        ({}, {"rotary.frequencies": np.ones(DIM)}),
        ({}, {"rotary.frequencies": np.full(2, np.nan)}),
    ],
)
def test_calibrations_that_disagree_with_themselves_are_refused(facts, arrays, tmp_path):
    """Kernels would read what is behind their arrays."""
    path = tmp_path / "cache.safetensors"
    CODEC.save(path)
    changed(path, facts, arrays)
    with pytest.raises(StoreError, match="calibrate anew"):
        CacheCodec.load(path)


# --- what users do ------------------------------------------------------------------------


def test_a_prompt_of_no_tokens_is_one():
    keys, values = tensors(60)
    cache = filled(keys[..., :0, :], values[..., :0, :])
    assert cache.tokens == 0
    assert cache.keys(0).shape == (BATCH, HEADS, 0, DIM)
    for layer in range(LAYERS):
        cache.append(layer, keys[layer], values[layer])
        cache.append(layer, keys[layer][:, :, :0], values[layer][:, :, :0])
    assert_array_equal(cache.keys(1), filled(keys, values).keys(1))


def test_a_cache_that_forgot_its_sinks_goes_on():
    keys, values = tensors(60)
    for tokens in (0, 1):
        cache = filled(keys, values)
        cache.truncate(tokens)
        assert cache.keys(0).shape[2] == tokens
        for layer in range(LAYERS):
            cache.append(layer, keys[layer][:, :, tokens:], values[layer][:, :, tokens:])
        assert_array_equal(cache.keys(2), filled(keys, values).keys(2))


def test_arrays_in_any_order_of_memory_are_alike():
    keys, values = tensors(60)
    turned = [np.asfortranarray(each)[..., ::1] for each in (keys, values)]
    assert not turned[0][0].flags.c_contiguous
    assert_array_equal(filled(*turned).keys(1), filled(keys, values).keys(1))


def test_beams_of_a_batch_are_those_of_its_rows():
    keys, values = tensors(60)
    beams = filled(keys, values).select([0, 0, 1, 1]).select([3, 0])
    assert beams.batch == 2
    expected = filled(keys, values).keys(1)
    assert_array_equal(beams.keys(1), expected[[1, 0]])


def test_a_token_waits_for_one_group_of_layers_only():
    """Else every 8th token would wait for all of them."""
    keys, values = tensors(90, seed=13)
    cache = KVCache(made(group=1), **SIZES)
    changes = []
    for t in range(90):
        before = [len(blocks) for blocks in cache._blocks]
        for layer in range(LAYERS):
            cache.append(layer, keys[layer][:, :, t : t + 1], values[layer][:, :, t : t + 1])
        changes.append(sum(len(b) - n for b, n in zip(cache._blocks, before, strict=True)))
    assert max(changes) == 1
    assert sum(changes) > 20
