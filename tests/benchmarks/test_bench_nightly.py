"""The benchmark of nightly runs, at its smallest size."""

from tests.benchmarks import bench_nightly


def test_smallest_size(capsys):
    bench_nightly.main(["--datasets", "2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    walls = [float(line.split("|")[2]) for line in lines[2:]]
    assert min(walls) > 0
