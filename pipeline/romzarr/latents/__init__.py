"""Activations and KV caches of decoders in memory, coded as those who serve models keep them.

`calibrate` makes a `Codec` of hidden states, `calibrate_cache` a `CacheCodec` of keys and values,
once a model; `KVCache` keeps the cache of a running decoder with it. Nothing here searches, writes
or commits while a model runs. `romzarr.latents.transformers` has the cache for Hugging Face's
transformers, `romzarr.latents.offload` moves a cache to a store and back.
"""

from __future__ import annotations

from romzarr.latents.cache_codec import CacheCodec, calibrate_cache
from romzarr.latents.calibration import calibrate
from romzarr.latents.codec import Codec, Codes
from romzarr.latents.kv_cache import KVCache
from romzarr.latents.positions import Rotary

__all__ = ["CacheCodec", "Codec", "Codes", "KVCache", "Rotary", "calibrate", "calibrate_cache"]
