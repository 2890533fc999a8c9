"""Distributes datasets over this process or several parallel processes.

A small dataset keeps only one core busy, so one is processed per core, and more where they mostly
wait for a network. If the kernel kills a process, only its dataset fails.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from dask.system import CPU_COUNT

from romzarr.config import Config
from romzarr.objects.cache import CACHE_BYTES
from romzarr.progress import working_on
from romzarr_flows.clusters import Workers
from romzarr_flows.logs import Format
from romzarr_flows.nightly.crew import Crew, Outcome
from romzarr_flows.nightly.plan import Job
from romzarr_flows.nightly.work import run_job

# Larger datasets keep all cores busy. A process takes a second to start, which fewer small datasets
# do not repay (tests/benchmarks/NIGHTLY.md).
SMALL_BYTES, FEWEST = CACHE_BYTES, 16
# With storage over a network a dataset waits for four fifths of its time, so processes pay from two
# datasets on, two for each core.
FEWEST_REMOTE, REMOTE_PER_CORE = 2, 2


class Team(Protocol):
    """Takes jobs and returns each with its entry and its seconds."""

    @property
    def busy(self) -> Sequence[Job]: ...

    @property
    def has_capacity(self) -> bool: ...

    @property
    def is_usable(self) -> bool:
        """Whether it can still work."""
        ...

    def begin(self, job: Job) -> None: ...

    def finish(self) -> Outcome:
        """Wait until one of the jobs is done."""
        ...


class Alone:
    """This process, which uses all workers for one dataset at a time."""

    def __init__(self, config: Config, workers: Workers) -> None:
        self._config, self._workers = config, workers
        self.busy: tuple[Job, ...] = ()

    @property
    def has_capacity(self) -> bool:
        return not self.busy

    @property
    def is_usable(self) -> bool:
        client = self._workers.client
        return client is None or client.status == "running"

    def begin(self, job: Job) -> None:
        self.busy = (job,)

    def finish(self) -> Outcome:
        (job,), began = self.busy, time.perf_counter()
        with working_on(job.dataset.name):
            entry = run_job(job, self._config)
        self.busy = ()
        return job, entry, time.perf_counter() - began


def crew_for(jobs: Sequence[Job], config: Config, log_format: Format) -> Crew:
    """Make the pool of processes for those of `jobs` that it takes."""
    parallel, threads = config.nightly.parallel, config.cluster.workers
    if parallel != "auto":
        return Crew(parallel, None, config, log_format)
    cores = CPU_COUNT if threads == "auto" else threads
    remote = any("://" in place for place in (config.nightly.archive, config.nightly.stores))
    fewest, size = (FEWEST_REMOTE, REMOTE_PER_CORE * cores) if remote else (FEWEST, cores)
    small = [job for job in jobs if job.dataset.nbytes <= SMALL_BYTES]
    many = config.cluster.kind == "threads" and len(small) >= fewest
    return Crew(size if many else 1, SMALL_BYTES, config, log_format)
