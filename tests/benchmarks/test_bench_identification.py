"""The benchmark runs, at its smallest size."""

import json

from tests.benchmarks import bench_identification


def test_smallest_size(capsys):
    bench_identification.main(["--samples", "1500", "--largest", "20000", "--seeds", "1"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 3 + 3 + 3 * len(bench_identification.NOISE)
    clean = [r for r in records if r["part"].startswith("accuracy") and not r["noise"]]
    assert max(r["romzarr"]["error"] for r in clean) < 1e-8
