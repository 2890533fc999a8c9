"""The benchmark runs, on a system that is written here."""

import json

from tests.benchmarks import bench_equations
from tests.systems_of_odes import LORENZ


def test_smallest_size(capsys, tmp_path):
    equations = [
        [[[0], -10.0], [[1], 10.0]],
        [[[0], 28.0], [[0, 2], -1.0], [[1], -1.0]],
        [[[0, 1], 1.0], [[2], -8 / 3]],
    ]
    facts = {"n": 3, "degree": 2, "dt": 0.01, "start": LORENZ.start, "equations": equations}
    path = tmp_path / "systems.json"
    path.write_text(json.dumps({"Lorenz": facts}))
    bench_equations.main([str(path), "--seeds", "1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 * len(bench_equations.NOISE) + len(bench_equations.NOISE) - 1
    assert all(line["exact"] == 1 for line in lines if "exact" in line)
    assert all(line["likelihood"] < 2.5 for line in lines if "likelihood" in line)
