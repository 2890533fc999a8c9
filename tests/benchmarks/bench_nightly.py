"""What a nightly run costs beside the compressions it makes, and what one costs that has none.

``python -m tests.benchmarks.bench_nightly`` prints a Markdown table. Each row is a process of its
own, with those it starts; by hand means one compression after the other in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import xarray as xr

import romzarr
from romzarr.config import load_config
from romzarr_flows import cli
from romzarr_flows.cluster import connect
from tests.benchmarks.measure import (
    MB,
    ROOT,
    Record,
    in_child,
    interleaved,
    machine,
    measured,
    table,
)

POINTS = 64


def make_archive(folder: Path, count: int, snapshots: int) -> Path:
    """`count` datasets: a few waves of their own on a grid of 64 x 64, and noise."""
    t, y, x = np.ogrid[
        0 : snapshots / 10 : snapshots * 1j, 0 : 1 : POINTS * 1j, 0 : 1 : POINTS * 1j
    ]
    for number in range(count):
        rng = np.random.default_rng(number)
        u = 1e-4 * rng.standard_normal((snapshots, POINTS, POINTS))
        for k in range(1, 9):
            p, q, phase = rng.uniform(0, 2 * np.pi, 3)
            u += np.cos(k * t + phase) * np.sin(k * x + p) * np.sin(k * y + q) / k**2
        dataset = xr.Dataset(
            {"u": (("time", "y", "x"), u.astype(np.float32))}, {"time": t[:, 0, 0]}
        )
        path = folder / "archive" / f"{number % 10}" / f"run-{number:03d}.zarr"
        encoding = {"u": {"chunks": (40, POINTS, POINTS)}}
        dataset.to_zarr(path, encoding=encoding, consolidated=False)
    return folder


def configured(folder: Path, stores: str, parallel: int | str) -> Path:
    """The settings of a run."""
    settings = {
        "archive": str(folder / "archive"),
        "pattern": "**/*.zarr",
        "stores": str(folder / stores),
        "parallel": parallel,
    }
    path = folder / f"{stores}.yaml"
    path.write_text(json.dumps({"nightly": settings}))
    return path


def single(folder: Path) -> None:
    """The same compressions by hand."""
    config = load_config()
    with connect(config.cluster):
        for number, path in enumerate(sorted((folder / "archive").glob("*/*.zarr"))):
            romzarr.compress(path, folder / "single" / f"{number}.romzarr", config=config)


def nightly(folder: Path, stores: str = "nightly", parallel: int | str = "auto") -> None:
    path = configured(folder, stores, parallel)
    status = cli.main(["nightly", "--config", str(path), "--log-format", "json"])
    if status:
        raise RuntimeError(f"romzarr nightly ended with status {status}")


def one_by_one(folder: Path) -> None:
    nightly(folder, "one_by_one", 1)


METHODS: dict[str, Callable[[Path], None]] = {
    "single": single,
    "one_by_one": one_by_one,
    "nightly": nightly,
}


def of_method(method: str, folder: Path) -> Record:
    """Cost of one method, by a process that has imported all."""
    shutil.rmtree(folder / method, ignore_errors=True)
    arguments = ["--method", method, "--folder", str(folder)]
    return in_child("tests.benchmarks.bench_nightly", arguments)


def nothing_to_do(folder: Path) -> Record:
    """Wall and CPU seconds of the whole command, the start of Python included."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    path = configured(folder, "nightly", "auto")
    command = [sys.executable, "-m", "romzarr_flows.cli", "nightly", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if " stored" in done.stdout:
        raise RuntimeError(f"there was something to do:\n{done.stdout}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu, "verifying": None}


def report(folder: Path, count: int, nbytes: int, repetitions: int) -> str:
    runs: dict[str, Callable[[], Record]] = {
        "compressions by hand": lambda: of_method("single", folder),
        "nightly, one dataset at a time": lambda: of_method("one_by_one", folder),
        "nightly": lambda: of_method("nightly", folder),
        "nightly again, nothing to do (whole command)": lambda: nothing_to_do(folder),
    }
    found = interleaved(runs, repetitions)
    failed = [record["failed"] for record in found.values() if "failed" in record]
    if failed:
        raise RuntimeError(failed[0])
    by_hand = found["compressions by hand"]
    rows = [
        (
            name,
            *(record[key] for key in ("seconds", "cpu_seconds")),
            *(100 * (record[key] / by_hand[key] - 1) for key in ("seconds", "cpu_seconds")),
            record["verifying"],
        )
        for name, record in found.items()
    ]
    header = ("what", "wall s", "CPU s", "wall, % more than by hand", "CPU, % more")
    head = (
        f"{count} datasets of {nbytes / MB:.1f} MB, medians of {repetitions} in turns. {machine()}."
    )
    return "\n\n".join([head, table((*header, "of that verifying %"), rows)])


def verifying(folder: Path) -> float:
    """Per cent of the time of its datasets that a run spent on verifying, by its own log."""
    spent = dict.fromkeys(("verify", "done"), 0.0)
    for line in (folder / "log").read_text().splitlines():
        step = json.loads(line) if line.startswith("{") else {}
        if step.get("stage") in spent:
            spent[step["stage"]] += step["seconds"]
    return 100 * spent["verify"] / spent["done"]


@contextmanager
def output_into(path: Path) -> Iterator[None]:
    """Both streams go into a file, as those of a service do."""
    file, kept = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), [os.dup(1), os.dup(2)]
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)


class Descendants:
    """CPU seconds of all processes below this one, looked at until they end."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for each in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    times = each.cpu_times()
                    self._seconds[each.pid] = times.user + times.system

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return sum(self._seconds.values())


def child(method: str, folder: Path) -> None:
    """Measure one method, here and in the processes that it starts."""
    with output_into(folder / "log"), Descendants() as others:
        _, cost = measured(lambda: METHODS[method](folder))
    share = None if method == "single" else verifying(folder)
    cpu = cost.cpu_seconds + others.seconds
    print(json.dumps(cost.record() | {"cpu_seconds": cpu, "verifying": share}))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--snapshots", type=int, default=160, help="of each: 160 are 2.6 MB")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--method", choices=METHODS, help="measure one, here")
    parser.add_argument("--folder", type=Path, help="of --method")
    given = parser.parse_args(arguments)
    if given.method:
        child(given.method, given.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make_archive(Path(folder), given.datasets, given.snapshots)
        nbytes = 4 * given.snapshots * POINTS**2
        print(report(made, given.datasets, nbytes, given.repetitions))


if __name__ == "__main__":
    main()
