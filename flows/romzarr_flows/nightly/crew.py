"""Processes that compress datasets in parallel."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Self

from dask.system import CPU_COUNT

from romzarr.config import Config
from romzarr.progress import working_on
from romzarr.store.staging import remove_all_of_this_process
from romzarr_flows.cluster import connect
from romzarr_flows.logs import Format, logging_to_stderr
from romzarr_flows.nightly.catalogue import Entry
from romzarr_flows.nightly.plan import Job
from romzarr_flows.nightly.work import failed_entry, run_job
from romzarr_flows.signals import EndingOnSignals

# Time for a process to clean up; removing a large unfinished store takes seconds.
PATIENCE_SECONDS = 60.0

_CONTEXT = multiprocessing.get_context("forkserver")

Outcome = tuple[Job, Entry, float]


@dataclass
class Member:
    """A process, its connection, its current job and the time when that began."""

    process: ForkServerProcess
    connection: Connection
    life: Connection
    job: Job | None = None
    began: float = 0.0


class Crew:
    """A pool of processes, each working on one dataset, started on demand.

    Parameters
    ----------
    size : int
        Number of processes; a crew of one takes no jobs, since this process can do them.
    most : int, optional
        Bytes of the largest dataset that it takes.
    config : Config
    log_format : "text" or "json"
    """

    is_usable = True

    def __init__(self, size: int, most: int | None, config: Config, log_format: Format) -> None:
        cores = CPU_COUNT if config.cluster.workers == "auto" else config.cluster.workers
        share = replace(config.cluster, workers=max(1, cores // size))
        self._size, self._most = size, most
        self._config, self._log_format = replace(config, cluster=share), log_format
        self._members: list[Member] = []

    def takes(self, job: Job) -> bool:
        return self._size > 1 and (self._most is None or job.dataset.nbytes <= self._most)

    @property
    def busy(self) -> Sequence[Job]:
        return [member.job for member in self._members if member.job is not None]

    @property
    def has_capacity(self) -> bool:
        return len(self.busy) < self._size

    def begin(self, job: Job) -> None:
        member = next((each for each in self._members if each.job is None), None)
        member = member or self._started()
        member.job, member.began = job, time.perf_counter()
        # `finish` finds out whether the process has died.
        with contextlib.suppress(OSError):
            member.connection.send(job)

    def finish(self) -> Outcome:
        while True:
            at_work = [member for member in self._members if member.job is not None]
            wait([each for m in at_work for each in (m.connection, m.process.sentinel)])
            for member in at_work:
                if member.connection.poll() or not member.process.is_alive():
                    return self._finished(member)

    def _finished(self, member: Member) -> Outcome:
        job, seconds = member.job, time.perf_counter() - member.began
        if job is None:
            raise RuntimeError("a process without a job has finished it")
        member.job = None
        try:
            return job, member.connection.recv(), seconds
        except (EOFError, OSError):
            member.process.join()
            self._members.remove(member)
            return job, failed_entry(job, ended(member.process.exitcode)), seconds

    def _started(self) -> Member:
        ours, theirs = _CONTEXT.Pipe()
        lives, life = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=work,
            args=(theirs, lives, self._config, self._log_format),
            name="romzarr nightly",
        )
        process.start()
        theirs.close()
        lives.close()
        self._members.append(Member(process, ours, life))
        return self._members[-1]

    def __enter__(self) -> Self:
        # The server process imports it once; all others are forked from that.
        _CONTEXT.set_forkserver_preload(["romzarr_flows.nightly.crew"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self._members:
            member.process.terminate()
        for member in self._members:
            member.process.join(PATIENCE_SECONDS)
            member.process.kill()
            member.process.join()
            member.connection.close()
            member.life.close()


def ended(status: int | None) -> str:
    """Explain why a process no longer answers."""
    if status == -9:
        return (
            "its process was killed (signal 9), most often for lack of memory; set "
            "nightly.parallel to 1, or use a machine with more memory"
        )
    return f"its process ended with status {status}; its log may say why"


def work(connection: Connection, lives: Connection, config: Config, log_format: Format) -> None:
    """Do one job after another in a process of a crew, until it is terminated."""
    threading.Thread(target=end_with, args=(lives,), daemon=True).start()
    with (
        contextlib.suppress(KeyboardInterrupt, EOFError),
        EndingOnSignals() as ending,
        logging_to_stderr(log_format),
        connect(config.cluster),
    ):
        while True:
            job: Job = connection.recv()
            with working_on(job.dataset.name):
                entry = run_job(job, config)
            connection.send(entry)
    if ending.number:
        # An ordinary exit would wait for threads that still work, and for ever for one that a pool
        # was just starting when the signal came.
        remove_all_of_this_process()
        os._exit(ending.status)


def end_with(lives: Connection) -> None:
    """End this process when its parent ends, for whatever reason."""
    with contextlib.suppress(EOFError, OSError):
        lives.recv()
    os._exit(1)
