"""The coded cache in decoders of transformers, end to end, on models made at random."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from romzarr.errors import ConfigError  # noqa: E402
from romzarr.latents import calibrate  # noqa: E402
from romzarr.latents.transformers import (  # noqa: E402
    CodedCache,
    calibrate_model,
    code_hidden_states,
    fingerprint,
)

SIZES = {"sinks": 4, "window": 16, "block": 8}


def decoder(seed=0):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


MODEL = decoder()
TEXTS = torch.randint(0, 64, (4, 200), generator=torch.Generator().manual_seed(1))
FINE = calibrate_model(MODEL, TEXTS, bits=9.0, group=2)


def generated(**options):
    options = {"max_new_tokens": 40, "do_sample": False, **options}
    return MODEL.generate(TEXTS[:2, :60], attention_mask=torch.ones(2, 60).long(), **options)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_goes_as_with_an_exact_cache(beams):
    """At 9 bits a value, and across several blocks; beams are selected at each token."""
    cache = CodedCache(FINE, **SIZES)
    found = generated(cache=cache, num_beams=beams)
    assert (found == generated(num_beams=beams)).float().mean() > 0.98
    assert cache.get_seq_length() == 99
    assert cache.coded.coded_tokens >= 56


def test_coarse_codes_change_logits_and_fine_ones_hardly():
    with torch.no_grad():
        expected = MODEL(TEXTS[:1]).logits[:, 150:]
        errors = []
        for codec in (FINE, calibrate_model(MODEL, TEXTS, bits=1.0, gradients=0)):
            cache = CodedCache(codec, **SIZES)
            MODEL(TEXTS[:1, :150], cache=cache)
            found = MODEL(TEXTS[:1, 150:], cache=cache).logits
            errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[0] < 0.01 < errors[1]


def test_keys_are_turned_back_for_their_positions():
    """The bits of constant keys: turned, they would be waves."""
    assert FINE.rotary is not None
    speeds = MODEL.model.rotary_emb.inv_freq.double().numpy()
    np.testing.assert_allclose(FINE.rotary.frequencies, speeds)


def test_assisted_decoding_crops_the_cache():
    found = MODEL.generate(
        TEXTS[:1, :60],
        attention_mask=torch.ones(1, 60).long(),
        max_new_tokens=40,
        do_sample=False,
        prompt_lookup_num_tokens=3,
        cache=CodedCache(FINE, **SIZES),
    )
    assert found.shape == (1, 100)


def test_importance_leaves_the_model_as_it_was():
    before = [each.requires_grad for each in MODEL.parameters()]
    calibrate_model(MODEL, TEXTS[:2], bits=2.0, gradients=1)
    assert [each.requires_grad for each in MODEL.parameters()] == before
    assert all(each.grad is None for each in MODEL.parameters())


def test_another_models_calibration_is_refused():
    other = decoder(seed=1)
    assert fingerprint(other) != fingerprint(MODEL) == fingerprint(decoder())
    with pytest.raises(ConfigError, match="calibrate with this model"):
        CodedCache(FINE, model=fingerprint(other))


def test_a_cache_is_cropped_repeated_and_reset():
    cache = CodedCache(FINE, **SIZES)
    with torch.no_grad():
        MODEL(TEXTS[:2, :100], cache=cache)
        cache.crop(-50)
        assert cache.get_seq_length() == 50
        logits = MODEL(TEXTS[:2, 50:52], cache=cache).logits
        expected = MODEL(TEXTS[:2, :52]).logits[:, 50:]
    assert float((logits - expected).norm() / expected.norm()) < 0.02
    cache.batch_repeat_interleave(2)
    assert cache.coded.keys(0).shape[0] == 4
    cache.reset()
    assert cache.get_seq_length() == 0
    with pytest.raises(ConfigError, match="tokens_to_remove"):
        cache.crop(3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model = decoder().to(dtype)
    cache = CodedCache(calibrate_model(model, TEXTS, bits=3.0), **SIZES)
    with torch.no_grad():
        model(TEXTS[:1, :100], cache=cache)
        logits = model(TEXTS[:1, 100:101], cache=cache).logits
    assert torch.isfinite(logits).all()
    assert cache.coded.keys(2).dtype == dtype


def test_hidden_states_pass_through_a_codec():
    with torch.no_grad():
        states = MODEL(TEXTS[:4], output_hidden_states=True)
        codec = calibrate(states.hidden_states[2].reshape(-1, 32), bits=8.0)
        handle = code_hidden_states(MODEL.model.layers[1], codec)
        changed = MODEL(TEXTS[:4]).logits
        handle.remove()
        again = MODEL(TEXTS[:4]).logits
    error = float((changed - states.logits).norm() / states.logits.norm())
    assert 1e-6 < error < 0.02
    assert torch.equal(again, states.logits)
