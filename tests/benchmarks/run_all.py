"""All benchmarks at full size, one after the other, as one Markdown page.

``python -m tests.benchmarks.run_all > page.md``; on an idle machine it takes about 20 minutes
and 16 GB of disk, which it frees again but for the small archive in the cache folder.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks import (
    bench_datasets,
    bench_graph,
    bench_identification,
    bench_large,
    bench_model,
    bench_pod,
    bench_store,
)

BENCHMARKS: dict[str, Callable[[list[str]], None]] = {
    "pod": bench_pod.main,
    "large": bench_large.main,
    "store": bench_store.main,
    "graph": bench_graph.main,
    "datasets": bench_datasets.main,
    "identification": bench_identification.main,
    "model": bench_model.main,
}


def main() -> None:
    for benchmark in BENCHMARKS.values():
        benchmark([])
        print(flush=True)


if __name__ == "__main__":
    main()
