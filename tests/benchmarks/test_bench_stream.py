"""The benchmark of streams at its smallest size."""

from tests.benchmarks import bench_stream
from tests.systems_of_odes import LINEAR_OSCILLATOR


def test_streams_are_compared_with_batch_and_watched(tmp_path):
    source = bench_stream.two_systems(points=20, snapshots=200)
    (record,) = bench_stream.beside_batch(source, "time", "two", [50])
    assert record["bound kept"]
    assert record["rank"] >= 2
    assert "two" in bench_stream.page([record])
    found = bench_stream.nights(source, "time", "two", 2)
    assert [each["night"] for each in found if each["bound kept"]] == [1, 2]
    assert found[0]["bytes / batch"] == 1
    grown = bench_stream.grown(bench_stream.travelling(40, 20), "time", "waves", 2)
    assert [each["night"] for each in grown if each["bound kept"]] == [2]
    ranks = [each["rank"] for each in bench_stream.switch(source, "time", "two", 50)]
    assert ranks[1] == 2
    assert ranks[2] == 5
    records = bench_stream.noise(LINEAR_OSCILLATOR, 1, 300, 10)
    assert all(each["bytes / batch, now"] <= 1.15 for each in records)
    assert all(each["rank and terms, batch"].startswith("2, ") for each in records[:2])
    curve = bench_stream.watched(200, 30, 100, str(tmp_path))
    assert [at for at, _ in curve] == [100, 200, 200]
    bench_stream.draw(curve, 1e6, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").exists()
