"""An archive of 10^6 chunks is planned in time, in memory, and in slices."""

import math

import pytest

from romzarr.chunked.plan import plan_pod
from tests.benchmarks import bench_scale, scale_latent, scale_model
from tests.benchmarks.bench_graph import ChunkGrid
from tests.benchmarks.scale_plans import GRIDS, SMALLEST, planned


@pytest.mark.slow
@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[3]], ids=lambda grid: grid.name)
def test_a_million_chunks_are_planned_in_a_minute_and_2_gib(grid):
    """Very many times, and very many space blocks: the scheduler never holds more than 10^5."""
    assert grid.chunk_count == 10**6
    found = planned(grid.archived(), 1e-2)
    assert found.cost.cpu_seconds < 60
    assert found.cost.peak_bytes < 2 * 2**30
    assert found.tasks <= 4 * grid.chunk_count
    assert found.most <= 100_000
    assert found.plan.scheduled <= 100_000


@pytest.mark.parametrize("spaces", [30, 200])
def test_space_blocks_are_as_large_as_the_scheduler_needs(spaces):
    """Whatever there are, every point belongs to one, and no chunk to two."""
    grid = ChunkGrid("a few times", (200, 64 * spaces, 64 * 777), (100, 64, 64))
    plan = plan_pod(grid.archived(), leaf_bytes=1)
    assert plan.scheduled <= 100_000
    assert 5000 < len(plan.rows) <= 777 * spaces
    assert sum(math.prod(row.shape) for row in plan.rows) == math.prod(grid.shape[1:])
    ends = {end for row in plan.rows for part in row.region for end in (part.start, part.stop)}
    assert all(end % 64 == 0 for end in ends)


def test_what_is_here_of_coefficients_hardly_grows_with_the_record():
    """48 bytes a snapshot are a(t) of six modes; numbers of samples are 8 for each sixteenth."""
    # The first finds a small heap.
    _, few, many = (scale_latent.planned(n, 6) for n in (1_500_000, 1_500_000, 6_000_000))
    assert few.model.latent.format.modelled
    assert many.blocks > 3 * few.blocks
    assert many.model.latent.format.kept > 6_000_000 // scale_latent.APART
    assert many.cost.peak_bytes - few.cost.peak_bytes < 4_500_000 * 48 / 6


def test_small_archives_are_one_graph():
    (grid,) = SMALLEST
    found = planned(grid.archived(), 1e-2)
    assert found.slices == 1
    assert found.tasks <= 4 * grid.chunk_count


def test_what_runs_out_first_is_what_takes_longest():
    costs = scale_model.Costs(
        cpu_per_byte=2e-8, stored=0.9, moved=0.3, scheduler=1e-3, bandwidth=1e9, tail=60.0
    )
    job = scale_model.Job(raw_bytes=1e14, tasks=2_700_000)
    few, many = (scale_model.hours(job, costs, cores, storage=20e9) for cores in (64, 1 << 20))
    assert max(few, key=few.get) == "compute"
    assert few["compute"] == pytest.approx(1e14 * 2e-8 / 64 / 3600)
    assert max(many, key=many.get) == "storage"
    needed = scale_model.cores_for(job, costs, storage=20e9, night=8.0)
    assert needed is not None
    assert max(scale_model.hours(job, costs, needed, 20e9).values()) <= 8
    assert max(scale_model.hours(job, costs, needed - 1, 20e9).values()) > 8
    assert scale_model.cores_for(job, costs, storage=1e9, night=8.0) is None


def test_the_benchmark_runs_at_its_smallest(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ROMZARR_BENCH_CACHE", str(tmp_path))
    bench_scale.main(["--smallest"])
    printed = capsys.readouterr().out
    for title in ("Plans", "Opening", "Costs", "One night"):
        assert f"## {title}" in printed
    assert "Hours by resource" in printed
