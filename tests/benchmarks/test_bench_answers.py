"""The benchmark of answers runs, at its smallest size, and all answers are those of values."""

import numpy as np
import pytest
import xarray as xr

import romzarr
from tests.benchmarks import bench_answers
from tests.benchmarks.archives import Recipe, archive


@pytest.fixture
def waves(tmp_path, monkeypatch):
    monkeypatch.setenv("ROMZARR_BENCH_CACHE", str(tmp_path))
    return archive(Recipe(snapshots=60, ny=16, nx=16, chunks=(30, 16, 16)))


def test_smallest_size(waves, capsys, monkeypatch):
    monkeypatch.setattr(
        bench_answers, "QUESTIONS", {"variance": bench_answers.QUESTIONS["variance"]}
    )
    bench_answers.main([str(waves)])
    (row,) = capsys.readouterr().out.splitlines()[4:]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert len(cells) == len(bench_answers.HEADER)
    assert cells[:3] == [waves.stem, "pod", "variance"]
    assert 1 <= float(cells[-1]) <= 30


def test_both_ways_lead_to_the_same(waves):
    store = bench_answers.store_of(waves)
    decoded = xr.open_dataset(store, engine="romzarr").load().u.astype("f8")
    answers = romzarr.open(store).dataset.assign_coords(time=np.arange(60)).romzarr
    for name, (ask, compute) in bench_answers.QUESTIONS.items():
        found, same = ask(answers).u.values, compute(decoded).values
        np.testing.assert_allclose(found, same, rtol=0, atol=1e-5 * abs(same).max(), err_msg=name)
