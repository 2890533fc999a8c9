"""Workers in SLURM jobs; the Dask scheduler runs in this process."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Client
from distributed.security import Security
from distributed.utils import get_ip

from romzarr.config import AUTO, NONE, ClusterConfig
from romzarr_flows.clusters import ClusterError, Workers
from romzarr_flows.clusters.security import security_of
from romzarr_flows.clusters.workers import described, or_cluster_error, ready

# A worker works for this fraction of its job's walltime, and hands over its data in the rest.
LIFETIME = 0.9
# sbatch answers in a second; a busy controller may take far longer.
PATIENCE_SECONDS = 60
# For dashboards, on a free port: another job may use the default one.
LOOPBACK = "127.0.0.1:0"


@contextmanager
def start(settings: ClusterConfig) -> Iterator[Workers]:
    """Submit jobs with one worker each, and replace jobs that end.

    Raises
    ------
    ClusterError
        If SLURM is missing or refuses such jobs, or no job starts in time.
    """
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "cluster.kind: found 'slurm', but this machine has no sbatch; run on a submit node, "
            "or use another kind"
        )
    security = security_of(settings)
    logs = Path(settings.log_directory).expanduser().absolute()
    logs.mkdir(parents=True, exist_ok=True)
    with or_cluster_error(lambda: _cluster(settings, logs, security), "no scheduler") as cluster:
        refuse_what_slurm_refuses(cluster.job_script())
        # Also for a fixed number: otherwise jobs that ended or were cancelled are not replaced.
        fixed = settings.maximum == NONE
        cluster.adapt(
            minimum=settings.workers if fixed else settings.minimum,
            maximum=settings.workers if fixed else settings.maximum,
        )
        advice = (
            "squeue --me shows why jobs wait, and "
            f"{logs} has their output; or raise cluster.start_minutes"
        )
        what = described(settings, f"SLURM jobs of {settings.threads_per_worker} thread(s)")
        with Client(cluster) as client, ready(client, what, settings.start_minutes, advice) as all_:
            yield all_


def _cluster(settings: ClusterConfig, logs: Path, security: Security | None) -> SLURMCluster:
    lifetime = int(LIFETIME * seconds(settings.walltime))
    return SLURMCluster(
        cores=settings.threads_per_worker,
        processes=1,
        memory=settings.memory_limit,
        queue=None if settings.queue == NONE else settings.queue,
        account=None if settings.account == NONE else settings.account,
        walltime=settings.walltime,
        interface=None if settings.interface == AUTO else settings.interface,
        security=security,
        job_name="romzarr",
        job_extra_directives=list(settings.directives),
        job_script_prologue=list(settings.prologue),
        log_directory=str(logs),
        # Staggered, so that not all workers hand over at once.
        worker_extra_args=[
            *("--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{lifetime // 9}s"),
            *("--dashboard-address", LOOPBACK),
        ],
        scheduler_options=scheduler_options(settings),
    )


def scheduler_options(settings: ClusterConfig) -> dict[str, str]:
    """Make the scheduler listen only on the address that the jobs use."""
    where = {"host": get_ip()} if settings.interface == AUTO else {"interface": settings.interface}
    return {**where, "dashboard_address": LOOPBACK}


def seconds(walltime: str) -> int:
    """Convert a walltime that `romzarr.config` has checked to seconds.

    Examples
    --------
    >>> seconds("2-01:30:00")
    178200
    """
    days, hours, minutes, rest = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", walltime).groups()  # type: ignore[union-attr]
    return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(rest)


def refuse_what_slurm_refuses(script: str) -> None:
    """Let SLURM check a job script before any is submitted.

    Raises
    ------
    ClusterError
        With SLURM's message.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            done = subprocess.run(
                ["sbatch", "--test-only", file.name],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                f"sbatch has not answered for {PATIENCE_SECONDS} s; see sinfo whether SLURM runs"
            ) from error
    if done.returncode:
        raise ClusterError(
            f"SLURM refuses such jobs: {' '.join(done.stderr.split())}; correct cluster.queue, "
            "cluster.account, cluster.walltime, cluster.memory_limit or cluster.directives"
        )
