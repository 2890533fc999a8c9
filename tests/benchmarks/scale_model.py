"""How long an archive takes, by what may be short: a model of few measured numbers."""

from __future__ import annotations

from dataclasses import dataclass

# Of a worker machine: cores that share a network card of so many bytes a second.
NODE_CORES, NODE_NETWORK = 32, 25e9 / 8
MOST_CORES = 1 << 20


@dataclass(frozen=True)
class Costs:
    """Measured: CPU seconds a byte (reading, decoding, factoring, merging); bytes fetched and
    bytes moved between workers, by those of the archive; seconds of the scheduler for each task;
    bytes a second from worker to worker; seconds of the last merges, which nothing runs beside."""

    cpu_per_byte: float
    stored: float
    moved: float
    scheduler: float
    bandwidth: float
    tail: float


@dataclass(frozen=True)
class Job:
    """What is to be done: bytes of the archive, uncompressed, and tasks of the whole graph."""

    raw_bytes: float
    tasks: int


def hours(job: Job, costs: Costs, cores: int, storage: float) -> dict[str, float]:
    """Hours that each resource takes; they run side by side, so the largest is that of the job.

    Parameters
    ----------
    job, costs
    cores : int
        Of all workers together.
    storage : float
        Bytes a second that the storage gives to all readers together.
    """
    nodes = -(-cores // NODE_CORES)
    fetched = costs.stored * job.raw_bytes
    link = min(NODE_NETWORK, costs.bandwidth * NODE_CORES)
    return {
        "storage": fetched / storage / 3600,
        "compute": job.raw_bytes * costs.cpu_per_byte / cores / 3600,
        "network": (fetched + costs.moved * job.raw_bytes) / (nodes * link) / 3600,
        "scheduler": job.tasks * costs.scheduler / 3600,
        "tree tail": costs.tail / 3600,
    }


def cores_for(job: Job, costs: Costs, storage: float, night: float) -> int | None:
    """Fewest cores with which all is done in so many hours; None where no number is enough."""

    def enough(cores: int) -> bool:
        return max(hours(job, costs, cores, storage).values()) <= night

    if not enough(MOST_CORES):
        return None
    low, high = 0, MOST_CORES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
