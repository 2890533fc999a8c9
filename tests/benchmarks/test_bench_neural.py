"""The benchmark of neural SINDy runs, at its smallest size and in full."""

import pytest


@pytest.fixture
def bench():
    for package in ("jax", "optax", "safetensors", "matplotlib"):
        pytest.importorskip(package, reason="romzarr[neural] is not installed")
    from tests.benchmarks import bench_neural

    return bench_neural


@pytest.mark.slow
def test_smallest_size(bench, tmp_path, capsys):
    bench.main(["--smallest", "--directory", str(tmp_path)])
    page = capsys.readouterr().out
    assert page.count("s of CPU.") >= 8
    assert "| best | 0.001 | 2/2 |" in page
    assert len(list(tmp_path.glob("*.png"))) == 1 + 7 + 1 + 4
