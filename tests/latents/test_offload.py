"""Caches on disk: what is read back is what was written, to the bit."""

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from romzarr.errors import ConfigError, StoreError, StoreExistsError
from romzarr.latents import KVCache, Rotary, calibrate_cache
from romzarr.latents.offload import load_cache, save_cache

SHAPE = (4, 2, 2, 120, 8)  # layers, batch, heads, tokens, dim
ARRAYS = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float16)
CODEC = calibrate_cache(*ARRAYS, 2.0, group=2, rotary=Rotary.of_base(8), model="tiny")


def filled(tokens, **options):
    cache = KVCache(CODEC, sinks=4, window=16, **options)
    for layer in range(4):
        cache.append(layer, *ARRAYS[:, layer, :, :, :tokens])
    return cache


@pytest.mark.parametrize("tokens", [2, 40, 120])
@pytest.mark.parametrize("bound", [None, 0.001])
def test_a_cache_comes_back_and_goes_on(tokens, bound, tmp_path):
    cache = filled(tokens, bound=bound)
    save_cache(cache, tmp_path / "prefix")
    loaded = load_cache(tmp_path / "prefix", CODEC)
    assert loaded.nbytes == cache.nbytes
    for each in (cache, loaded):
        for layer in range(4):
            each.append(layer, *ARRAYS[:, layer, :, :, :30])
    for layer in range(4):
        assert loaded.keys(layer).dtype == np.float16
        assert_array_equal(loaded.keys(layer), cache.keys(layer))
        assert_array_equal(loaded.values(layer), cache.values(layer))


def test_what_is_no_cache_is_refused(tmp_path):
    with pytest.raises(StoreError, match="found no cache"):
        load_cache(tmp_path / "nothing", CODEC)
    zarr.open_group(str(tmp_path / "other"), mode="w")
    with pytest.raises(StoreError, match="found no cache"):
        load_cache(tmp_path / "other", CODEC)


def test_another_models_calibration_and_existing_places_are_refused(tmp_path):
    save_cache(filled(120), tmp_path / "prefix")
    other = calibrate_cache(*ARRAYS, 2.0, group=2, model="large")
    with pytest.raises(ConfigError, match="of the model 'large', allowed is that of 'tiny'"):
        load_cache(tmp_path / "prefix", other)
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        save_cache(filled(120), tmp_path / "prefix")
    save_cache(filled(40), tmp_path / "prefix", overwrite=True)
    assert load_cache(tmp_path / "prefix", CODEC).tokens == 40


def test_layers_with_different_tokens_are_refused(tmp_path):
    cache = filled(40)
    cache.append(0, *ARRAYS[:, 0, :, :, :1])
    with pytest.raises(ConfigError, match="append to all layers"):
        save_cache(cache, tmp_path / "prefix")
