"""Every kind of cluster runs Dask's work where it says, and is gone afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from dask.system import CPU_COUNT
from distributed import LocalCluster
from threadpoolctl import threadpool_info

from romzarr.config import ClusterConfig
from romzarr.errors import ConfigError
from romzarr_flows import cluster
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import ClusterError, address


@dask.delayed
def who() -> tuple[int, int, str | None]:
    import threading

    return os.getpid(), threading.get_ident(), os.environ.get("OPENBLAS_NUM_THREADS")


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def blas_of_workers(client) -> list[int]:
    found = client.run(threadpool_info).values()
    return [each["num_threads"] for info in found for each in info if each["user_api"] == "blas"]


# And a port of its own: the usual one may belong to another job.
NO_DASHBOARD = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
NEEDED = {
    "slurm": {"memory_limit": "1 GB"},
    "kubernetes": {"memory_limit": "1 GB", "image": "romzarr"},
    "gateway": {"gateway": "http://127.0.0.1:9"},
}


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
        assert os.getpid() not in {pid for pid, _, _ in dask.compute(*[who() for _ in range(8)])}
        assert set(blas_of_workers(workers.client)) == {1}
    assert workers.client.status == "closed"


@pytest.mark.cluster
def test_the_number_of_workers_follows_the_work():
    settings = ClusterConfig(kind="local", minimum=1, maximum=2, memory_limit="1 GB")
    with connect(settings) as workers:
        assert workers.description == "1 to 2 processes of 1 thread(s)"
        assert len(workers.client.nthreads()) == 1
        work = workers.client.map(lambda i: (time.sleep(0.2), os.getpid())[1], range(40))
        workers.client.wait_for_workers(2, timeout=20)
        assert set(blas_of_workers(workers.client)) == {1}
        workers.client.cancel(work)


@pytest.fixture
def scheduler():
    """A scheduler without workers, and a way to start one in a process of its own."""
    started = []

    def start_worker(before: str = "", **environment: str) -> None:
        script = f"{before}\nfrom distributed.cli.dask_worker import main\nmain()"
        options = ("--nthreads", "2", "--no-nanny", "--no-dashboard")
        unset = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script, cluster.scheduler_address, *options],
            env=unset | environment,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)

    with LocalCluster(n_workers=0, processes=False, protocol="tcp", **NO_DASHBOARD) as cluster:
        yield cluster, start_worker
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.cluster
def test_a_scheduler_that_runs_is_used_and_left_running(scheduler):
    cluster, start_worker = scheduler
    start_worker()
    with connect(ClusterConfig(kind=cluster.scheduler_address)) as workers:
        assert dask.compute(dask.delayed(sum)([1, 2])) == (3,)
        assert "the workers of tcp://" in workers.description
        # It has no nanny, which would have limited it by its environment.
        assert set(blas_of_workers(workers.client)) == {1}
    assert cluster.status.name == "running"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("before", "problem"),
    [
        ("", r"has romzarr 0\.0\.0, this process has"),
        (
            "import importlib.metadata as m; real = m.version\n"
            "def version(name):\n"
            "    if name == 'romzarr': raise m.PackageNotFoundError(name)\n"
            "    return real(name)\n"
            "m.version = version",
            "has no romzarr, this process has",
        ),
        (
            "import platform; platform.python_version_tuple = lambda: ('3', '8', '1')",
            r"has Python 3\.8, this process has 3\.",
        ),
        ("import sys; sys.modules['scipy.linalg'] = None", "cannot load romzarr .*scipy"),
    ],
    ids=["older", "none", "python", "broken"],
)
def test_workers_that_cannot_run_the_job_are_refused_before_it_starts(
    scheduler, tmp_path, before, problem
):
    cluster, start_worker = scheduler
    path = str(Path(__file__).parents[2])
    if not before:
        (tmp_path / "romzarr-0.0.0.dist-info").mkdir()
        (tmp_path / "romzarr-0.0.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: romzarr\nVersion: 0.0.0\n"
        )
        path = f"{tmp_path}{os.pathsep}{path}"
    start_worker(before, PYTHONPATH=path)
    with (
        pytest.raises(ClusterError, match=problem),
        connect(ClusterConfig(kind=cluster.scheduler_address)),
    ):
        pass


def test_a_scheduler_without_workers_is_refused_instead_of_waited_for(monkeypatch):
    monkeypatch.setattr(address, "PATIENCE_SECONDS", 0.5)
    with (
        LocalCluster(n_workers=0, processes=False, protocol="tcp", **NO_DASHBOARD) as empty,
        pytest.raises(
            ClusterError, match=r"no worker started within .* minutes; start some: dask worker tcp"
        ),
        connect(ClusterConfig(kind=empty.scheduler_address)),
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


@pytest.mark.parametrize("kind", ["slurm", "kubernetes", "gateway"])
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, kind):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    settings = ClusterConfig(kind=kind, workers=1, **NEEDED[kind])
    with (
        pytest.raises(ConfigError, match=rf"'{kind}' needs dask_\w+, .* 'romzarr\[{kind}\]'"),
        connect(settings),
    ):
        pass


def test_a_cluster_that_is_lost_is_said_to_be_and_a_defect_is_not_hidden():
    class KilledWorker(Exception):
        """Has the name that distributed's has."""

    with (
        pytest.raises(ClusterError, match=r"raise cluster\.memory_limit; no store .* \(task 1\)"),
        connect(ClusterConfig()),
    ):
        raise KilledWorker("task 1")
    with pytest.raises(ZeroDivisionError), connect(ClusterConfig()):
        raise ZeroDivisionError
