"""Every benchmark runs at its smallest size, and all of them in full for ``make bench``."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from tests.benchmarks import (
    archives,
    bench_datasets,
    bench_graph,
    bench_large,
    bench_pod,
    bench_store,
    run_all,
)
from tests.benchmarks.measure import measured

RECIPE = bench_pod.SMALLEST


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """Archives of the smallest size go with the test; children find them by the variable."""
    if request.node.get_closest_marker("benchmark") is None:
        monkeypatch.setenv("ROMZARR_BENCH_CACHE", str(tmp_path / "cache"))


def lines(capsys):
    """Cells of the table lines that were printed."""
    printed = capsys.readouterr().out
    assert "Error" not in printed
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("|")
    ]


def smallest(module):
    return archives.recipe_arguments(module.SMALLEST)


def test_peak_is_that_of_the_measured_part():
    before = np.ones(2**25)  # held already: not counted
    _, nothing = measured(lambda: None)
    _, some = measured(lambda: np.ones(2**23).sum())
    # The kernel's counts lag by some pages a thread.
    assert nothing.peak_bytes < 2**22
    assert some.peak_bytes == pytest.approx(2**26, abs=2**22)
    assert before.size


def test_archive_is_the_same_again():
    path = archives.archive(RECIPE)
    first = zarr.open_group(path, mode="r")["u"][:]
    shutil.rmtree(path)
    assert np.array_equal(first, zarr.open_group(archives.archive(RECIPE), mode="r")["u"][:])


def test_oracle_and_errors_agree_with_an_svd():
    values = zarr.open_group(archives.archive(RECIPE), mode="r")["u"][:].astype(float)
    x = values.reshape(len(values), -1)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    rank_five = (u[:, :5] * s[:5]) @ v[:5]
    of_archive, _ = archives.errors(archives.archive(RECIPE), lambda steps: rank_five[steps])
    assert of_archive == pytest.approx(archives.oracle(RECIPE).optimum(5, centred=False), rel=1e-6)


@pytest.mark.parametrize("method", [m for m, (_, needs) in bench_pod.METHODS.items() if not needs])
@pytest.mark.parametrize("rank", [0, 6])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pod_methods_find_what_they_are_asked_for(method, rank, capsys):
    if method in (bench_pod.NOT_OF_A_RANK if rank else bench_pod.NOT_OF_A_TOLERANCE):
        pytest.skip("takes only a tolerance, or only a rank")
    bench_pod.main(["--method", method, "--rank", str(rank), *smallest(bench_pod)])
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0
    if method == "read only":
        return
    # The store spends what the cuts leave of the tolerance on samples; the POD does not.
    if rank == 0:
        assert found["error"] <= 1e-2 * 1.001
    elif method.startswith("romzarr"):
        assert found["rank"] == rank
        assert found["over_optimum"] < 1e-3


@pytest.mark.slow
def test_pod_table(capsys):
    bench_pod.main(["--repetitions", "1", "--rank", "6", *smallest(bench_pod)])
    found = lines(capsys)
    assert [line[0] for line in found].count("romzarr POD") == 2


@pytest.mark.cluster
def test_large(capsys):
    bench_large.main(smallest(bench_large))
    assert len(lines(capsys)) == 3


def test_store(capsys):
    arguments = ["--repetitions", "1", "--tolerances", "1e-2", "--block", "50"]
    bench_store.main([*arguments, *smallest(bench_store)])
    assert len(lines(capsys)) == 2 + 1 + 2 + 4


def test_graph(capsys):
    bench_graph.main(["--smallest"])
    assert len(lines(capsys)) == 3


def test_graph_never_exceeds_its_bounds():
    for grid in bench_graph.GRIDS[:4]:
        tasks_per_chunk = bench_graph.row(grid, 1e-2)[8]
        assert tasks_per_chunk <= 4, grid


def test_datasets(tmp_path, capsys):
    t, x = np.arange(60) * 0.1, np.linspace(0, 3, 40)
    wave = np.outer(np.sin(t), np.sin(x)) + np.outer(np.cos(2 * t), np.cos(x))
    dataset = xr.Dataset({"u": (("time", "x"), wave.astype("f4"))}, {"time": t, "x": x})
    dataset.to_zarr(tmp_path / "data" / "wave.zarr", consolidated=False)
    bench_datasets.main([str(tmp_path / "data"), "--tolerances", "1e-2"])
    assert float(lines(capsys)[2][7]) <= 1e-2


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", run_all.BENCHMARKS)
def test_full_size(name):
    run_all.BENCHMARKS[name]([])
