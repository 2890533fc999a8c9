"""What an archive of 10^6 chunks asks for, and how many workers keep 100 TB to one night.

``python -m tests.benchmarks.bench_scale > tests/benchmarks/SCALE.md`` (``make bench-scale``).
Plans are made of archives that nobody reads; costs are measured on small ones; the rest is
arithmetic (`scale_model`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from romzarr.chunked.plan import PODPlan
from tests.benchmarks.bench_graph import ChunkGrid
from tests.benchmarks.measure import MB, Record, machine, table
from tests.benchmarks.scale_costs import (
    LEAVES,
    RECIPES,
    SMALLEST_LEAVES,
    costs,
    measure,
    merge_seconds,
)
from tests.benchmarks.scale_costs import SMALLEST as SMALLEST_RECIPES
from tests.benchmarks.scale_latent import APART
from tests.benchmarks.scale_latent import planned as planned_coding
from tests.benchmarks.scale_model import (
    NODE_CORES,
    NODE_NETWORK,
    Costs,
    Job,
    cores_for,
    hours,
)
from tests.benchmarks.scale_opening import LATENCY, PAGE, Many, credentials, on_disk, opened, served
from tests.benchmarks.scale_plans import GRIDS, SMALLEST, Planned, planned

TOLERANCE, NIGHT, ARCHIVE = 1e-2, 8.0, 1e14
# Bytes a second of a storage for all its readers, and cores that are looked at.
STORAGE = (2e9, 5e9, 20e9, 100e9)
CORES = (32, 64, 128, 256, 512, 1024, 4096, 16_384)
# Snapshots and modes of records whose coefficients are coded.
LATENT = ((1_000_000, 60), (10_000_000, 60), (100_000_000, 60))
# Points of a space block, rows of each time block and how many merge: those of the root.
MERGE = (512 * 512, 64, 3)

PLANS = """\
The POD of each archive is planned, built and handed slice by slice to a scheduler that counts
tasks and runs none. Chunks of 100 x 512 x 512 float32 take 105 MB: the first four have 105 TB.
"Most on the scheduler" are the tasks of the slices submitted and the results that wait for their
merge. It stays below 10^5 whatever the shape: where there are thousands of space blocks, leaves
take several chunks side by side, and as much more memory ("MB a leaf", decoded)."""

OPENING = """\
Opening lists all files twice: once for the stamp, which tells whether the archive is written to
meanwhile, and once for the fingerprint and to find chunks that are missing. The object store is one
that runs here and takes {latency:.0f} ms for each request of {page} keys; it answers in Python, in
the same process, which is counted. Its keys are listed in spans side by side: one
request after the other would wait {alone:.0f} s each time."""

COSTS = """\
On two worker processes of one thread each, tolerance {tolerance:g}: reading from files in memory,
decoding, factoring, merging. Tasks were measured apart, on {leaves} leaves that do next to nothing:
CPU of the process that builds graphs and schedules. The merge of {arity} time blocks of {rank} rows
on {points} points takes {seconds:.2f} s of CPU: that of the root, which nothing runs beside."""

MODEL = """\
t = max(storage, compute, network, scheduler, tree tail), for these run side by side. Storage: bytes
fetched by what the storage gives to all readers together. Compute: CPU seconds a byte by the number
of cores. Network: bytes fetched, and moved between workers, by the cards of machines of {cores}
cores and {network:.0f} Gbit/s; with two workers next to nothing moved (above), among many all rows
may move to every merge, which is what is counted. Scheduler: tasks, one after the other. Tree tail:
the merges on the way to the root that nothing runs beside. Not in it: what comes after the POD."""

CODING = """\
The model search and the coding of a(t) of {modes} modes, every task answered with a made-up result
of the size of a real one. A task has a block of time; the client has plans, triangles, sums, the
numbers of the samples (here each {apart}th snapshot), and 131072 snapshots that tell the time
scales."""


def plans_part(grids: Sequence[ChunkGrid]) -> tuple[str, dict[str, Planned]]:
    found = {grid.name: planned(grid.archived(), TOLERANCE) for grid in grids}
    header = (
        "archive", "chunks", "space blocks", "time blocks", "tasks", "tasks / chunk", "slices",
        "MB a leaf", "most on the scheduler", "CPU s", "peak MB",
    )  # fmt: skip
    rows: list[tuple[Any, ...]] = []
    for grid in grids:
        each = found[grid.name]
        rows.append(
            (
                f"{grid.name}, {'x'.join(map(str, grid.chunks))}", grid.chunk_count,
                len(each.plan.rows), len(each.plan.time_blocks), each.tasks,
                each.tasks / grid.chunk_count, each.slices, _leaf_megabytes(each.plan), each.most,
                each.cost.cpu_seconds, round(each.cost.peak_bytes / MB),
            )
        )  # fmt: skip
    text = PLANS
    return f"## Plans\n\n{text}\n\n{table(header, rows)}", found


def _leaf_megabytes(plan: PODPlan) -> int:
    """What the largest leaf reads, of float32."""
    leaves = zip(plan.rows, plan.leaves, strict=True)
    most = max(
        4 * math.prod(row.shape) * max(len(span) for spans in blocks for span in spans)
        for row, blocks in leaves
    )
    return round(most / MB)


def coding_part(records: Sequence[tuple[int, int]]) -> str:
    header = ("snapshots", "modes", "blocks of time", "tasks", "samples", "CPU s", "peak MB")
    rows = [
        (
            snapshots, modes, each.blocks, each.tasks, each.model.latent.format.kept,
            each.cost.cpu_seconds, round(each.cost.peak_bytes / MB),
        )
        for snapshots, modes in records
        for each in [planned_coding(snapshots, modes)]
    ]  # fmt: skip
    text = CODING.format(modes=records[0][1], apart=APART)
    return f"## Coefficients\n\n{text}\n\n{table(header, rows)}"


def opening_part(times: int) -> str:
    header = ("archive", "chunks", "objects listed", "wall s", "CPU s", "peak MB")
    rows: list[tuple[Any, ...]] = []
    for many in (Many(times), Many(times, sharded=True)):
        how, objects = ", in shards" if many.sharded else "", sum(1 for _ in many.objects())
        _, cost = opened(str(on_disk(many)))
        rows.append((f"disk{how}", many.chunks, objects, *_told(cost)))
        with served(many) as endpoint, credentials(endpoint):
            _, cost = opened(f"s3://{many.name}")
        rows.append((f"object store{how}", many.chunks, objects, *_told(cost)))
    text = OPENING.format(latency=1e3 * LATENCY, page=PAGE, alone=times * 100 / PAGE * LATENCY)
    return f"## Opening\n\n{text}\n\n{table(header, rows)}"


def _told(cost: Any) -> tuple[float, float, int]:
    return cost.seconds, cost.cpu_seconds, round(cost.peak_bytes / MB)


def costs_part(
    recipes: dict[str, Any], leaves: int, merge: tuple[int, int, int]
) -> tuple[str, dict[str, Record], float]:
    found = {name: measure(recipe, leaves) for name, recipe in recipes.items()}
    seconds = merge_seconds(*merge)
    header = (
        "archive", "GB", "wall s", "worker CPU s / GB", "fetched / byte", "moved / byte", "rank",
        "scheduler CPU ms / task", "wall ms / task", "MB/s between workers",
    )  # fmt: skip
    rows = [
        (
            recipes[name].name, each["raw"] / 1e9, each["seconds"], each["cpu"] / each["raw"] * 1e9,
            each["read"] / each["raw"], each["moved"] / each["raw"], each["rank"],
            1e3 * each["scheduler"], 1e3 * each["task_wall"], each["bandwidth"] / MB,
        )
        for name, each in found.items()
        if "failed" not in each
    ]  # fmt: skip
    failed = [f"{name}: {each['failed']}" for name, each in found.items() if "failed" in each]
    points, rank, arity = merge
    text = COSTS.format(
        tolerance=TOLERANCE, leaves=leaves, arity=arity, rank=rank, points=points, seconds=seconds
    )
    return "\n\n".join([f"## Costs\n\n{text}", table(header, rows), *failed]), found, seconds


def night_part(job: Job, measured: Costs, name: str) -> str:
    header = ("storage GB/s", f"cores for {NIGHT:.0f} h", "what runs out as cores are added")
    rows = [
        (f"{storage / 1e9:.0f}", needed(job, measured, storage), shortages(job, measured, storage))
        for storage in STORAGE
    ]
    resources = list(hours(job, measured, 1, 1e9))
    lines = []
    for cores in CORES:
        each = hours(job, measured, cores, STORAGE[2])
        lines.append((cores, *each.values(), max(each.values()), largest(each)))
    return "\n\n".join(
        [
            f"### {name}: {job.raw_bytes / 1e12:.0f} TB, {job.tasks} tasks",
            table(header, rows),
            f"Hours by resource, with a storage of {STORAGE[2] / 1e9:.0f} GB/s:",
            table(("cores", *resources, "night", "runs out"), lines),
        ]
    )


def needed(job: Job, measured: Costs, storage: float) -> str:
    cores = cores_for(job, measured, storage, NIGHT)
    if cores is not None:
        return f"{cores} ({-(-cores // NODE_CORES)} machines)"
    each = hours(job, measured, CORES[-1], storage)
    return f"no number: {largest(each)} takes {max(each.values()):.1f} h"


def shortages(job: Job, measured: Costs, storage: float) -> str:
    """What takes longest, from few cores to many."""
    words: list[str] = []
    before = ""
    for cores in (2**k for k in range(3, 16)):
        now = largest(hours(job, measured, cores, storage))
        if now != before:
            words.append(f"from {cores} on {now}" if before else now)
        before = now
    return ", ".join(words)


def largest(each: Mapping[str, float]) -> str:
    return max(each, key=lambda resource: each[resource])


def report(smallest: bool) -> str:
    plans, found = plans_part(SMALLEST if smallest else GRIDS)
    coding = coding_part([(20_000, 5)] if smallest else LATENT)
    opening = opening_part(30 if smallest else 10_000)
    leaves, merge = (SMALLEST_LEAVES, (500, 5, 2)) if smallest else (LEAVES, MERGE)
    measured_text, records, seconds = costs_part(
        SMALLEST_RECIPES if smallest else RECIPES, leaves, merge
    )
    nights = []
    for name, record in records.items():
        if name in found and "failed" not in record:
            plan = found[name]
            tail = seconds * len(plan.plan.tree.edges)
            tasks = round(plan.tasks * ARCHIVE / (_bytes(plan)))
            snapshots, arity = len(plan.plan.time_blocks[0]), plan.plan.arity
            cost = costs(record, snapshots, arity, tail)
            nights.append(night_part(Job(ARCHIVE, tasks), cost, name))
    model = MODEL.format(cores=NODE_CORES, network=8 * NODE_NETWORK / 1e9)
    return "\n\n".join(
        [
            "# Archives of 10^6 chunks",
            f"`make bench-scale`. {machine()}.",
            plans, coding, opening, measured_text, f"## One night\n\n{model}", *nights,
        ]
    )  # fmt: skip


def _bytes(plan: Planned) -> float:
    """Bytes of the archive that was planned, all of float32."""
    points = sum(math.prod(row.shape) for row in plan.plan.rows)
    return 4.0 * points * plan.plan.time_blocks[-1].stop


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true")
    print(report(parser.parse_args(arguments).smallest))


if __name__ == "__main__":
    main()
