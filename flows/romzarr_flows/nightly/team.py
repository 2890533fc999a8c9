"""Who works on datasets: this process on one after another, or several processes side by side.

A small dataset keeps one core busy and no more, so as many are worked on at a time as there are
cores, and more of those that mostly wait for a network. A process that the kernel kills costs the
dataset it worked on, and no other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from dask.system import CPU_COUNT

from romzarr.config import Config
from romzarr.progress import working_on
from romzarr_flows.clusters import Workers
from romzarr_flows.logs import Format
from romzarr_flows.nightly.crew import Crew, Outcome
from romzarr_flows.nightly.plan import Job
from romzarr_flows.nightly.work import run_job

# A dataset whose files take more is worth all cores; fewer small ones are not worth processes,
# each of which takes a second to start.
SMALL_BYTES, FEWEST = 64 * 2**20, 16
# Where storage is asked over a network a dataset waits four fifths of its time: two are worth it,
# and two more for each core.
FEWEST_REMOTE, REMOTE_PER_CORE = 2, 2


class Team(Protocol):
    """Takes jobs, and gives back each with its entry and the seconds that it took."""

    @property
    def busy(self) -> Sequence[Job]: ...

    @property
    def has_capacity(self) -> bool: ...

    @property
    def is_usable(self) -> bool:
        """Whether it can do anything at all."""
        ...

    def begin(self, job: Job) -> None: ...

    def finish(self) -> Outcome:
        """Wait until one of the jobs is done."""
        ...


class Alone:
    """This process, with all workers on one dataset at a time."""

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
    """The processes that work side by side on those of `jobs` that they take."""
    parallel, threads = config.nightly.parallel, config.cluster.workers
    if parallel != "auto":
        return Crew(parallel, None, config, log_format)
    cores = CPU_COUNT if threads == "auto" else threads
    remote = any("://" in place for place in (config.nightly.archive, config.nightly.stores))
    fewest, size = (FEWEST_REMOTE, REMOTE_PER_CORE * cores) if remote else (FEWEST, cores)
    small = [job for job in jobs if job.dataset.nbytes <= SMALL_BYTES]
    many = config.cluster.kind == "threads" and len(small) >= fewest
    return Crew(size if many else 1, SMALL_BYTES, config, log_format)
