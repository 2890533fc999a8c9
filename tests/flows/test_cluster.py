"""Every kind of cluster runs Dask's work where it says, and is gone afterwards."""

import os
from importlib.metadata import PackageNotFoundError

import dask
import pytest
from dask.system import CPU_COUNT
from distributed import LocalCluster
from threadpoolctl import threadpool_info

from flows.cluster import connect
from flows.clusters import ClusterError, address
from pipeline.config import ClusterConfig


@dask.delayed
def who() -> tuple[int, int, str | None]:
    import threading

    return os.getpid(), threading.get_ident(), os.environ.get("OPENBLAS_NUM_THREADS")


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


@pytest.mark.parametrize("workers", [1, 2, 3 * CPU_COUNT])
def test_blas_threads_times_workers_stay_within_the_cores(workers):
    before = blas_threads()
    with connect(ClusterConfig(kind="threads", workers=workers)):
        assert blas_threads()
        assert all(each == 1 or each * workers <= CPU_COUNT for each in blas_threads())
        assert {pid for pid, _, _ in dask.compute(*[who() for _ in range(8)])} == {os.getpid()}
    assert blas_threads() == before


def test_threads_do_not_inherit_a_scheduler_from_elsewhere():
    with dask.config.set(scheduler="processes"), connect(ClusterConfig()):
        assert dask.config.get("scheduler") == "threads"


@pytest.mark.cluster
def test_local_workers_are_processes_on_loopback_with_one_blas_thread_each():
    settings = ClusterConfig(kind="local", workers=2, memory_limit="1 GB")
    with connect(settings) as workers:
        facts = workers.client.scheduler_info(n_workers=-1)
        assert facts["address"].startswith("tcp://127.0.0.1:")
        assert {each["memory_limit"] for each in facts["workers"].values()} == {10**9}
        found = dask.compute(*[who() for _ in range(8)])
        assert os.getpid() not in {pid for pid, _, _ in found}
        assert {blas for _, _, blas in found} == {"1"}
    assert workers.client.status == "closed"


def test_a_scheduler_that_runs_is_used_and_left_running():
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        with connect(ClusterConfig(kind=cluster.scheduler_address)) as workers:
            assert dask.compute(dask.delayed(sum)([1, 2])) == (3,)
            assert "1 workers of tcp://" in workers.description
        assert cluster.status.name == "running"


def test_a_scheduler_without_workers_is_refused_instead_of_waited_for(monkeypatch):
    monkeypatch.setattr(address, "PATIENCE_SECONDS", 0.5)
    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", dashboard_address=None
        ) as cluster,
        pytest.raises(
            ClusterError, match=r"has had no worker for .* s; start some: dask worker tcp"
        ),
        connect(ClusterConfig(kind=cluster.scheduler_address)),
    ):
        pass


def test_an_address_where_nobody_answers_is_refused(monkeypatch):
    monkeypatch.setattr(address, "PATIENCE_SECONDS", 0.5)
    with (
        pytest.raises(
            ClusterError, match=r"no Dask scheduler answered at tcp://127.0.0.1:9 within"
        ),
        connect(ClusterConfig(kind="tcp://127.0.0.1:9")),
    ):
        pass


class Answers:
    """A client whose workers answer as told."""

    def __init__(self, found):
        self.found = found

    def wait_for_workers(self, number, timeout):
        pass

    def run(self, function, *arguments, on_error):
        return {"tcp://10.0.0.2:1": self.found}


@pytest.mark.parametrize(
    ("found", "problem"),
    [("0.0.0", r"has romzarr 0\.0\.0"), (PackageNotFoundError("romzarr"), "has no romzarr")],
)
def test_workers_that_cannot_run_the_job_are_refused_before_it_starts(found, problem):
    with pytest.raises(ClusterError, match=rf"worker tcp://10\.0\.0\.2:1 {problem}, this process"):
        address.check_workers(Answers(found), "tcp://10.0.0.1:1")
