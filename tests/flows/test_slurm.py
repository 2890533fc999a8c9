"""A real SLURM on loopback: jobs come, one is cancelled in mid-run, and the store is right."""

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from threadpoolctl import threadpool_info

import romzarr
from romzarr.config import ClusterConfig
from romzarr_flows.cli import main
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import ClusterError
from tests.flows.slurm import reason_to_skip, running, said_by, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip()),
]


CHUNKS = 80


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = tuple(each.getsockname()[1] for each in free)
    for each in free:
        each.close()
    with running(tmp_path_factory.mktemp("slurm"), ports):
        yield


def settings(folder: Path, **others: object) -> dict:
    return {
        "kind": "slurm",
        "workers": 2,
        "memory_limit": "1 GiB",
        "walltime": "00:10:00",
        "interface": "lo",
        "start_minutes": 0.5,
        "log_directory": str(folder / "logs"),
    } | others


def slowly(block: np.ndarray, notes: str) -> np.ndarray:
    """Pass a chunk on after a while, and leave a note of the job that was asked for it."""
    Path(notes, f"{os.environ['SLURM_JOB_ID']}-{time.monotonic_ns()}").touch()
    time.sleep(0.15)
    return block


def waves() -> xr.Dataset:
    t, x = np.linspace(0, 6, 160)[:, None], np.linspace(0, 1, 400)[None, :]
    u = sum(np.sin(k * (3 * t - 5 * x)) / k**2 for k in (1, 2, 3))
    return xr.Dataset({"u": (("time", "x"), u)}, {"time": t[:, 0], "x": x[0]})


def cancel_one(notes: Path, cancelled: list[str]) -> None:
    """Cancel one of two jobs that have both read."""

    def readers() -> list[str]:
        return sorted({name.split("-")[0] for name in os.listdir(notes)})

    wait_for(lambda: len(readers()) == 2)
    assert len(os.listdir(notes)) < CHUNKS / 2
    cancelled.append(readers()[0])
    said_by("scancel", *cancelled)


def jobs(state: str) -> list[str]:
    return said_by("squeue", "--noheader", "--format=%i", f"--states={state}").split()


def test_a_job_that_is_cancelled_costs_its_tasks_and_is_replaced(slurm, tmp_path):
    source, cancelled, notes = waves(), [], tmp_path / "notes"
    notes.mkdir()
    lazy = source.chunk(time=4, x=200)
    assert lazy.u.data.npartitions == CHUNKS
    blocks = lazy.u.data.map_blocks(slowly, str(notes), meta=np.empty((0, 0)))
    lazy["u"] = lazy["u"].copy(data=blocks)
    with connect(ClusterConfig(**settings(tmp_path))) as workers:
        assert workers.description == "2 SLURM jobs of 1 thread(s)"
        found = [each for info in workers.client.run(threadpool_info).values() for each in info]
        assert {each["num_threads"] for each in found if each["user_api"] == "blas"} == {1}
        cancel = threading.Thread(target=cancel_one, args=(notes, cancelled))
        cancel.start()
        romzarr.compress(lazy, tmp_path / "store", tolerance=1e-3)
        cancel.join()
        # In the place of a job comes another.
        wait_for(lambda: len(set(jobs("RUNNING")) - set(cancelled)) == 2)
    assert len(cancelled) == 1
    # What it had read and not passed on was read again.
    assert len(os.listdir(notes)) > CHUNKS
    wait_for(lambda: not jobs("RUNNING,PENDING"))
    assert romzarr.verify(tmp_path / "store", source).ok
    assert sorted(os.listdir(tmp_path)) == ["logs", "notes", "store"]


def test_the_command_compresses_with_jobs_of_slurm(slurm, tmp_path, capsys):
    waves().to_zarr(tmp_path / "a.zarr", consolidated=False)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"cluster": settings(tmp_path, workers=1, queue="main")}))
    paths = [str(tmp_path / name) for name in ("store", "a.zarr")]
    assert main(["compress", paths[1], paths[0], "--config", str(config)]) == 0
    assert main(["verify", *paths]) == 0


def test_what_slurm_refuses_is_said_before_a_job_is_submitted(slurm, tmp_path):
    with (
        pytest.raises(ClusterError, match=r"SLURM refuses such jobs: .*partition.*cluster\.queue"),
        connect(ClusterConfig(**settings(tmp_path, queue="absent"))),
    ):
        pass
    assert not jobs("PENDING,RUNNING")


def test_jobs_that_do_not_start_are_not_waited_for_forever(slurm, tmp_path):
    held = settings(tmp_path, directives=["--hold"], start_minutes=0.02)
    with (
        pytest.raises(ClusterError, match=r"no worker started within 0\.02 .* squeue --me"),
        connect(ClusterConfig(**held)),
    ):
        pass
    wait_for(lambda: not jobs("PENDING,RUNNING"))


def test_slurm_accepts_the_script_of_the_nightly_job(slurm):
    script = Path(__file__).parents[2] / "deploy" / "slurm" / "nightly.sbatch"
    done = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
