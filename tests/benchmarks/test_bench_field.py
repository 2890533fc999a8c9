"""The benchmark runs, on a system that is written here."""

import json

from tests.benchmarks import bench_field
from tests.systems_of_odes import LORENZ


def test_smallest_size(capsys, tmp_path, monkeypatch):
    equations = [
        [[[0], -10.0], [[1], 10.0]],
        [[[0], 28.0], [[0, 2], -1.0], [[1], -1.0]],
        [[[0, 1], 1.0], [[2], -8 / 3]],
    ]
    facts = {"n": 3, "degree": 2, "dt": 0.01, "start": LORENZ.start, "equations": equations}
    path = tmp_path / "systems.json"
    path.write_text(json.dumps({"Lorenz": facts}))
    monkeypatch.setattr(bench_field, "CASES", (("smooth", True, 0.02),))
    bench_field.main([str(path)])
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["fitted"] == line["runs"] == 1
    assert line["sparse"] <= bench_field.ASKED < line["modes"]
