"""Streams of activations; the benchmarks of these, and of peers on streams, at their smallest."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from romzarr import StreamCompressor
from tests.benchmarks import bench_activations, bench_latency, bench_stream_peers
from tests.benchmarks.activations.decoder import Cache
from tests.benchmarks.activations.quantisation import quantised
from tests.oracles import relative_error


@pytest.fixture(scope="module")
def reading():
    decoder, tokens, context, _ = bench_activations.tiny()
    return bench_activations.Reading.of(decoder, tokens, context)


def dtypes():
    """float16, and bfloat16 where a package has it."""
    found = [np.dtype(np.float16)]
    try:
        import ml_dtypes
    except ImportError:
        return found
    return [*found, np.dtype(ml_dtypes.bfloat16)]


@pytest.mark.parametrize("dtype", dtypes(), ids=str)
@pytest.mark.parametrize("block", [1, 50])
def test_layers_stream_by_token_within_the_bound(reading, dtype, block, tmp_path):
    """All layers at once (token, layer, feature); the bound is on what was given."""
    states = np.stack(reading.hidden, axis=1).astype(dtype)
    with StreamCompressor(
        tmp_path / "s", tolerance=0.2, config=bench_activations.CONFIG, commit_steps=60
    ) as stream:
        for start in range(0, len(states), block):
            stream.update(states[start : start + block])
        assert 0 < stream.rank < min(len(states), states[0].size)
        assert stream.committed >= 60
    decoded = xr.open_dataset(tmp_path / "s", engine="romzarr").x
    assert decoded.shape == states.shape
    assert relative_error(states.astype(np.float64), decoded.values) <= 0.2
    # A range by itself is what it is within the whole.
    assert_allclose(decoded[70:75].values, decoded.values[70:75], rtol=1e-6, atol=1e-5)


def test_the_decoder_goes_on_from_its_cache(reading):
    """Tokens after the context, from the cache and by reading all at once."""
    whole, cache = reading.decoder.layers(reading.decoder.start(reading.tokens), 0)
    expected = reading.decoder.logits(whole[-1])[reading.context : -1]
    assert_allclose(reading.after_cache(reading.cache), expected, atol=1e-4)
    assert_allclose(cache.first(reading.context).keys, reading.cache.keys, atol=1e-5)
    last = reading.after_hidden(0, reading.hidden[0])
    assert_allclose(last, reading.decoder.logits(reading.hidden[-1]), atol=1e-4)


def test_order_of_tokens_matters(reading):
    """Without positions, a cache in another order would give the same output."""
    turned = Cache(reading.cache.keys[:, ::-1], reading.cache.values[:, ::-1])
    assert np.abs(reading.after_cache(turned) - reading.after_cache(reading.cache)).max() > 1e-2


@pytest.mark.parametrize("along", ["tokens", "features"])
def test_integers_are_off_by_half_a_step_of_their_group(along):
    x = np.random.default_rng(0).standard_normal((128, 192), np.float32)
    decoded, nbytes = quantised(x, 4, along)
    assert nbytes == x.size // 2 + x.size // 64 * 4
    rows, found = (x, decoded) if along == "features" else (x.T, decoded.T)
    steps = np.ptp(rows.reshape(-1, 64), axis=1) / 15
    off = np.abs(rows - found).reshape(-1, 64).max(axis=1)
    assert (off <= 0.5 * steps * 1.01 + 4e-3).all()


def test_activations(capsys):
    bench_activations.main(["--smallest"])
    page = capsys.readouterr().out
    assert page.count("| romzarr |") == 1
    assert page.count(": romzarr |") == 1


def test_latency(capsys):
    bench_latency.main(["--smallest"])
    assert capsys.readouterr().out.count("IncrementalPOD") == len(bench_latency.CASES)


@pytest.mark.parametrize("method", bench_stream_peers.METHODS)
def test_peers_find_the_directions(method):
    found = bench_stream_peers.child("synthetic switch", method, 50, smallest=True)
    if "failed" in found:
        pytest.skip(found["failed"])
    assert found["rank"] == found["best_rank"] == 16
    assert found["error"] <= bench_stream_peers.TOLERANCE
    assert found["angles"] < 1e-8


def test_latents(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.benchmarks import bench_latents

    bench_latents.main(["--smallest"])
    page = capsys.readouterr().out
    assert page.count("| romzarr, 2 layers a group |") == 1
    assert page.count(": romzarr |") == 2
