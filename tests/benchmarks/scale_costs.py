"""What reading and factoring cost on workers, and what tasks cost their scheduler."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.contracts import ArchivedVariable, ReadBlock, Region
from tests.benchmarks.archives import Recipe, archive, recipe_arguments, recipe_from
from tests.benchmarks.bench_large import spent
from tests.benchmarks.measure import Record, in_child
from tests.benchmarks.scale_model import Costs

# 8 and 16 chunks of 105 MB.
RECIPES = {
    "one space block": Recipe(800, 512, 512, (100, 512, 512)),
    "time and space": Recipe(400, 1024, 1024, (100, 512, 512)),
}
SMALLEST = {"time and space": Recipe(100, 32, 32, (25, 16, 16))}
# Leaves of a graph whose tasks do next to nothing, and bytes sent from worker to worker.
LEAVES, SENT = 4000, 128 * 2**20
SMALLEST_LEAVES = 60
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Tiny:
    """Blocks of a few numbers: what is left is the cost of tasks."""

    def graph(self) -> Mapping[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_tiny, region)


def _tiny(region: Region) -> ReadBlock:
    t = np.arange(region[0].start, region[0].stop, dtype=np.float32)
    return ReadBlock(np.outer(np.sin(t), np.ones(4, np.float32)), 1, 1)


def tiny(leaves: int) -> list[ArchivedVariable]:
    """An archive of so many chunks in ten space blocks."""
    chunks = ((3,) * (leaves // 10), (4,) * 10)
    shape = (sum(chunks[0]), sum(chunks[1]))
    return [ArchivedVariable("u", ("time", "x"), shape, np.dtype("f4"), chunks, 0, Tiny())]


def child(recipe: Recipe, leaves: int) -> Record:
    """Costs on two worker processes of one thread each; the scheduler is in this process."""
    from distributed import Client, LocalCluster

    from romzarr.archive import open_archive
    from romzarr.chunked.plan import plan_pod
    from romzarr.chunked.pod import run_pod

    path = archive(recipe)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(variables: Any, **how: Any) -> Any:
            return run_pod(variables, tolerance=TOLERANCE, refused=_refused, **how)

        run(tiny(20), plan=plan_pod(tiny(20), 1))  # imports and connections
        before, wall = client.run(spent), time.perf_counter()
        moved = sum(client.run(_sent).values())
        pod = run(open_archive(path).variables)
        wall, after = time.perf_counter() - wall, client.run(spent)
        found = {
            "seconds": wall,
            "cpu": sum(after[w]["cpu"] - before[w]["cpu"] for w in after),
            "moved": sum(client.run(_sent).values()) - moved,
            "read": pod.factor.cost.bytes_read,
            "raw": recipe.raw_bytes,
            "rank": pod.factor.columns,
        }
        del pod
        variables = tiny(leaves)
        plan = plan_pod(variables, 1)
        cpu, wall = time.process_time(), time.perf_counter()
        run(variables, plan=plan)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        tasks = plan.tasks(*plan.tree.root)
        found |= {"scheduler": cpu / tasks, "task_wall": wall / tasks, "tasks": tasks}
        return found | {"bandwidth": _bandwidth(client)}


def _refused(plan: object, defect: object) -> Exception:
    raise AssertionError(defect)


def _sent(dask_worker: Any) -> int:
    return int(dask_worker.transfer_outgoing_bytes_total)


def _bandwidth(client: Any) -> float:
    """Bytes a second of one array from one worker to the other."""
    first, second = client.scheduler_info()["workers"]
    made = client.submit(np.ones, SENT // 8, workers=first, pure=False)
    client.submit(len, made, workers=first, pure=False).result()
    began = time.perf_counter()
    client.submit(len, made, workers=second, pure=False).result()
    return SENT / (time.perf_counter() - began)


def measure(recipe: Recipe, leaves: int) -> Record:
    arguments = ["--child", "--leaves", str(leaves), *recipe_arguments(recipe)]
    return in_child(__spec__.name, arguments)


def costs(found: Record, snapshots: int, arity: int, tail: float) -> Costs:
    """Costs as measured, but for what moves between workers: among many, more does.

    At most the rows of every block, `rank` of so many `snapshots` each, move to every merge.
    """
    return Costs(
        cpu_per_byte=found["cpu"] / found["raw"],
        stored=found["read"] / found["raw"],
        moved=found["rank"] / snapshots * arity / (arity - 1),
        scheduler=found["scheduler"],
        bandwidth=found["bandwidth"],
        tail=tail,
    )


def merge_seconds(points: int, rank: int, arity: int) -> float:
    """CPU seconds to merge `arity` time blocks of one space block, each with `rank` rows."""
    from romzarr.inner_product import InnerProduct
    from romzarr.numerics.pod.factors import Place, RowBlock, TimeFactor
    from romzarr.numerics.pod.gram import Gram
    from romzarr.numerics.pod.inner_products import choose_precision
    from romzarr.numerics.pod.merge import merge_in_time
    from romzarr.numerics.pod.truncation import tree_cuts

    rng = np.random.default_rng(0)
    pairs = []
    for k in range(arity):
        rows = rng.standard_normal((rank, points), np.float32)
        right = np.linalg.qr(rng.standard_normal((4 * rank, rank)))[0]
        gram = np.asarray(rows @ rows.T, np.float64)
        factor = TimeFactor(4 * rank * k, right - right.mean(axis=0), {0: Gram(gram)}, {0: 0.0})
        pairs.append((RowBlock(np.zeros(points), rows), factor))
    precision = choose_precision([np.dtype("f4")], TOLERANCE)
    *_, cut = tree_cuts(TOLERANCE, None, 6)
    began = time.process_time()
    merge_in_time(pairs, InnerProduct(), cut, precision, Place(0, 0, 0))
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", action="store_true", required=True)
    parser.add_argument("--leaves", type=int, required=True)
    parser.add_argument("--recipe", type=recipe_from, required=True)
    given = parser.parse_args()
    print(json.dumps(child(given.recipe, given.leaves)))


if __name__ == "__main__":
    main()
