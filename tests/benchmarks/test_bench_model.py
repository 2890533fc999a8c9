"""The benchmark runs, at its smallest size, and its records are what they are called."""

import numpy as np

from tests.benchmarks import bench_model


def test_smallest_size(capsys):
    bench_model.main(list(bench_model.SMALLEST))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == list(bench_model.RECORDS)


def test_records_are_the_same_again_and_decay_with_the_mode():
    for make in bench_model.RECORDS.values():
        a = make(700, 4)
        assert a.shape == (700, 4)
        assert np.array_equal(a, make(700, 4))
        sizes = a.std(axis=0)
        assert sizes[2:].max() < sizes[:2].max()
