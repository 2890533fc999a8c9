"""A SLURM cluster of one node, on loopback, for as long as a test module lasts."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIGURATION = """\
ClusterName=sandbox
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,defer_batch
ReturnToService=2
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
KillWait=5
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def reason_to_skip() -> str:
    """Why no SLURM can be started here; empty where it can."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed: apt-get install slurmctld slurmd slurm-client"
    return "" if os.geteuid() == 0 else "the daemons of SLURM need root"


@contextmanager
def running(folder: Path, ports: tuple[int, int]) -> Iterator[None]:
    """Run both daemons, their state below `folder`, with ``SLURM_CONF`` set."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, port=ports[0], node_port=ports[1], cores=max(2, os.cpu_count() or 2)
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        daemons = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "localhost"])
        ]
        try:
            wait_for(lambda: said_by("sinfo", "--noheader", "--format=%T").strip() == "idle")
            yield
        finally:
            said_by("scancel", "--user=root")
            # Only then: jobs that the node's daemon no longer watches would go on.
            wait_for(lambda: not said_by("squeue", "--noheader").strip())
            for daemon in daemons:
                daemon.terminate()
                daemon.wait(10)


def said_by(*command: str) -> str:
    """What a command prints; empty where it fails, as before the daemons are up."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout


def wait_for(met: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.1)
