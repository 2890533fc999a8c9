"""What a piece of work costs: wall time, CPU time, peak memory; and children to measure in.

Each method runs in a process of its own, so none finds another's caches, threads or heap.
Peak memory is the kernel's high-water mark, reset when the measured part begins: nothing
samples, so the measurement takes no time from what is measured. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")
Record = dict[str, Any]

ROOT = Path(__file__).parents[2]
MB = 1e6


def reset_peak() -> None:
    """Let the high-water mark of this process start again from what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def memory() -> dict[str, int]:
    """Resident bytes of this process: ``now``, and ``peak`` since `reset_peak`."""
    names = {"VmRSS": "now", "VmHWM": "peak"}
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in names:
            found[names[name]] = int(value.split()[0]) * 1024
    return found


@dataclass(frozen=True)
class Cost:
    """Wall seconds, CPU seconds of all threads, and peak bytes beyond those held before."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def record(self) -> Record:
        return asdict(self)


def measured(work: Callable[[], T]) -> tuple[T, Cost]:
    """Result and cost of `work` in this process; imports belong before the call."""
    reset_peak()
    held = memory()["now"]
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, Cost(wall, cpu, memory()["peak"] - held)


def in_child(module: str, arguments: Sequence[str], blas_threads: int = 1) -> Record:
    """Last line of JSON that ``python -m module arguments`` prints.

    A failure is returned as ``{"failed": reason}``: one peer that breaks must not hide what
    the others cost.
    """
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(blas_threads)
    )
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | threads,
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: Record = json.loads(done.stdout.splitlines()[-1])
    return found


def interleaved(runs: Mapping[str, Callable[[], Record]], repetitions: int) -> dict[str, Record]:
    """Each run's record with the median of every number, taken in turns.

    A machine that slows down for a while slows all methods alike.
    """
    found: dict[str, list[Record]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            # What failed or is not installed will not do better the second time.
            if not found[name] or "failed" not in found[name][-1]:
                found[name].append(run())
    return {name: _medians(records) for name, records in found.items()}


def _medians(records: Sequence[Record]) -> Record:
    if "failed" in records[-1]:
        return records[-1]
    return {
        key: median(record[key] for record in records) if _is_number(value) else value
        for key, value in records[-1].items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown table; numbers with three digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def machine() -> str:
    """Where this was measured, for the head of a table."""
    cores = len(os.sched_getaffinity(0))
    with open("/proc/cpuinfo") as lines:
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")
    load = os.getloadavg()[0]
    return f"{cores} cores ({model}), load {load:.1f} at the start, Python {sys.version.split()[0]}"
