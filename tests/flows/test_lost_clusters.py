"""Workers and schedulers that are killed: the right store, or a clear message and no store."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import romzarr
from romzarr.config import ClusterConfig
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import ClusterError
from tests.oracles import decoded_errors

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-2
CHUNKS = 60


def waves() -> xr.Dataset:
    t, x = np.linspace(0, 6, 120)[:, None], np.linspace(0, 1, 400)[None, :]
    u = sum(np.sin(k * (3 * t - 5 * x)) / k**2 for k in (1, 2, 3))
    return xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0], "x": x[0]})


def slowly(block: np.ndarray, notes: str) -> np.ndarray:
    """Pass a chunk on after a while, and leave a note of the process that was asked for it."""
    Path(notes, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.05)
    return block


def read_slowly(source: xr.Dataset, notes: Path) -> xr.Dataset:
    notes.mkdir()
    lazy = source.chunk(time=4, x=200)
    assert lazy.u.data.npartitions == CHUNKS
    blocks = lazy.u.data.map_blocks(slowly, str(notes), meta=np.empty((0, 0)))
    return lazy.assign(u=lazy.u.copy(data=blocks))


def once_begun(notes: Path, do: Callable[[], None]) -> threading.Thread:
    """Call `do` when a fifth of the chunks is read."""

    def wait() -> None:
        while len(os.listdir(notes)) < CHUNKS // 5:
            time.sleep(0.005)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_all(pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_all_workers_are_killed_and_replaced(tmp_path):
    source, notes = waves(), tmp_path / "notes"
    lazy = read_slowly(source, notes)
    with connect(ClusterConfig(kind="local", workers=2, memory_limit="1 GB")) as workers:
        before = set(workers.client.run(os.getpid).values())
        killer = once_begun(notes, lambda: kill_all(before))
        romzarr.compress(lazy, tmp_path / "store", tolerance=TOLERANCE)
        killer.join()
        workers.client.wait_for_workers(2, timeout=20)
        assert not before & set(workers.client.run(os.getpid).values())
    assert len(os.listdir(notes)) > CHUNKS
    decoded = xr.open_dataset(tmp_path / "store", engine="romzarr")
    assert max(decoded_errors(source, decoded).values()) <= TOLERANCE


def dask_process(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def processes():
    """A scheduler, its address and a worker, each in a process of its own."""
    # Ports of their own: the usual ones may belong to another job.
    options = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    scheduler = dask_process("scheduler", *options)
    address = next(
        line.rpartition(" ")[2].strip() for line in scheduler.stderr if "Scheduler at" in line
    )
    drain = threading.Thread(target=scheduler.stderr.read)
    drain.start()
    worker = dask_process(
        "worker", address, "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"
    )
    others = threading.Thread(target=worker.stderr.read)
    others.start()
    yield scheduler, address
    for process, thread in ((scheduler, drain), (worker, others)):
        process.kill()
        process.wait()
        thread.join()
        process.stderr.close()


def test_a_scheduler_that_is_killed_is_said_to_be_lost_and_a_new_run_starts_cleanly(
    tmp_path, processes
):
    scheduler, address = processes
    source, notes = waves(), tmp_path / "notes"
    lazy = read_slowly(source, notes)
    killer = once_begun(notes, scheduler.kill)
    with (
        pytest.raises(ClusterError, match=r"the Dask scheduler was lost; no store was changed"),
        connect(ClusterConfig(kind=address)),
    ):
        romzarr.compress(lazy, tmp_path / "store", tolerance=TOLERANCE)
    killer.join()
    assert os.listdir(tmp_path) == ["notes"]
    romzarr.compress(source, tmp_path / "store", tolerance=TOLERANCE)
    assert romzarr.verify(tmp_path / "store", source).ok
