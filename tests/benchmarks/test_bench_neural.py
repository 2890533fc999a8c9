"""The benchmark of neural SINDy runs, at its smallest size and in full."""

import pytest


@pytest.fixture
def bench():
    for package in ("jax", "optax", "safetensors", "matplotlib"):
        pytest.importorskip(package, reason="romzarr[neural] is not installed")
    from tests.benchmarks import bench_neural

    return bench_neural


@pytest.fixture
def hardly_optimised(bench):
    """Programs that run for so few steps take far longer to optimise than to run."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.slow
def test_smallest_size(bench, hardly_optimised, tmp_path, capsys):
    bench.main(["--smallest", "--directory", str(tmp_path)])
    page = capsys.readouterr().out
    assert page.count("s of CPU.") >= 8
    assert "| best | 0.001 | 2/2 |" in page
    assert len(list(tmp_path.glob("*.png"))) == 1 + 7 + 1 + 1
