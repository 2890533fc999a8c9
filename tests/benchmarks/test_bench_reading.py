"""The benchmark of reading runs, at its smallest size."""

from tests.benchmarks import bench_reading
from tests.benchmarks.archives import Recipe, archive


def test_smallest_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROMZARR_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(bench_reading, "shorter", lambda store: [{"y": 8}])
    path = archive(Recipe(snapshots=60, ny=16, nx=16, chunks=(30, 16, 16)))
    bench_reading.main([str(path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    reading, layers, views, (tiled,) = tables[2], tables[5], tables[8:-3], tables[-1:]
    assert len(reading) == len(bench_reading.READING)
    assert len(layers) == len(bench_reading.LAYERS)
    assert reading[0] == layers[0] == path.stem
    assert all(float(cell.replace(",", "")) > 0 for cell in reading[1:] + layers[1:])
    assert tiled[:2] == [path.stem, "y: 8"]
    assert all(float(cell.replace(",", "")) > 0 for cell in tiled[2:])
    assert [row[1] for row in views] == ["level 0", "level 1", "level 2", "modes 8"]
    assert all(float(cell.replace(",", "")) > 0 for row in views for cell in row[2:])
