"""Size of the graph for several chunk grids, and the time to build it for very many chunks.

``python -m tests.benchmarks.bench_graph`` prints a Markdown table; nothing is read.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from romzarr.chunked.pod import decompose
from romzarr.contracts import ArchivedVariable, Region
from tests.benchmarks.measure import MB, machine, measured, table


@dataclass(frozen=True)
class NoSource:
    """A source that plans like any other and cannot be read."""

    def graph(self) -> Mapping[Any, Any]:
        return {}

    def task(self, region: Region) -> tuple[Any, ...]:
        return (_read, region)


def _read(region: Region) -> Any:
    raise NotImplementedError("these graphs are counted, not run")


@dataclass(frozen=True)
class ChunkGrid:
    """Shape and chunk lengths of each variable, time first."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    variables: int = field(default=1)

    def archived(self) -> list[ArchivedVariable]:
        lengths = tuple(
            tuple(min(c, size - i) for i in range(0, size, c))
            for size, c in zip(self.shape, self.chunks, strict=True)
        )
        dims = ("time", "z", "y", "x")[: 1 + len(self.shape[1:])]
        return [
            ArchivedVariable(
                f"v{i}", dims, self.shape, np.dtype(np.float32), lengths, 0, NoSource()
            )
            for i in range(self.variables)
        ]

    @property
    def chunk_count(self) -> int:
        per_dim = (-(-s // c) for s, c in zip(self.shape, self.chunks, strict=True))
        return self.variables * int(np.prod([*per_dim]))

    @property
    def chunk_bytes(self) -> int:
        return 4 * int(np.prod(self.chunks))


SMALLEST = (ChunkGrid("time only", (200, 24, 24), (50, 24, 24)),)
GRIDS = (
    ChunkGrid("time only", (2000, 256, 256), (50, 256, 256)),
    ChunkGrid("time only, ten times as long", (20_000, 256, 256), (50, 256, 256)),
    ChunkGrid("time and space", (2000, 810, 810), (50, 270, 270)),
    ChunkGrid("time and space, three variables", (2000, 810, 810), (50, 270, 270), 3),
    ChunkGrid("space only", (1000, 1024, 1024), (1000, 64, 64)),
    ChunkGrid("one snapshot a chunk", (20_000, 512, 512), (1, 512, 512)),
    ChunkGrid("small chunks", (8760, 721, 1440), (24, 91, 180)),
    ChunkGrid("one chunk", (200, 100, 100), (200, 100, 100)),
    ChunkGrid("large chunks, few", (1024, 4096, 4096), (32, 1024, 1024)),
    ChunkGrid("10^5 chunks in time", (5_000_000, 256, 256), (50, 256, 256)),
    ChunkGrid("10^5 chunks in time and space", (50_000, 2560, 2560), (50, 256, 256)),
)


def row(grid: ChunkGrid, tolerance: float) -> tuple[Any, ...]:
    """Graph size beside the number of chunks, and what building and sending it costs."""
    lazy, cost = measured(lambda: decompose(grid.archived(), tolerance=tolerance))
    graph = dict(lazy.factor.__dask_graph__())
    leaves = sum(len(spans) for block in lazy.plan.leaves for spans in block)
    return (
        grid.name, "x".join(map(str, grid.shape)), "x".join(map(str, grid.chunks)),
        grid.chunk_bytes / MB, grid.chunk_count, leaves, len(lazy.plan.rows), len(graph),
        len(graph) / grid.chunk_count, len(graph) / leaves, cost.cpu_seconds,
        round(cost.peak_bytes / MB), len(pickle.dumps(graph)) / len(graph) / 1e3,
    )  # fmt: skip


def report(grids: tuple[ChunkGrid, ...], tolerance: float) -> str:
    header = (
        "grid", "shape", "chunks", "MB a chunk", "chunks", "leaves", "space blocks", "tasks",
        "tasks / chunk", "tasks / leaf", "CPU s to build", "peak MB", "kB a task",
    )  # fmt: skip
    return "\n\n".join(
        [
            "## Graphs of the POD",
            f"{machine()}.",
            table(header, [row(grid, tolerance) for grid in grids]),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--tolerance", type=float, default=1e-2)
    given = parser.parse_args(arguments)
    print(report(SMALLEST if given.smallest else GRIDS, given.tolerance))


if __name__ == "__main__":
    main()
