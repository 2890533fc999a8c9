"""CPU time of answers from stores, beside decoding everything and computing the same.

``make bench-answers``, or ``python -m tests.benchmarks.bench_answers``, prints Markdown: for the
long wake and every archive of ``$ROMZARR_BENCH_DATA`` (by default ../shared/data beside the
repository), or those that are named, CPU seconds of opening a store, decoding all of it and
computing a statistic in float64; of opening it and asking for that; and of asking once more, when
modes are decoded. Beside it by how much bounds exceed the errors of means and variances.

Every archive and way has a process of its own, which has opened and asked another store before.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import xarray as xr
from scipy.signal import periodogram

import romzarr
from romzarr.answers.accessor import Answers
from tests.benchmarks.archives import cache_folder
from tests.benchmarks.bench_compression import long_record
from tests.benchmarks.measure import ROOT, Record, in_child, machine, table

TOLERANCE = 1e-2
# Of what is asked again.
REPETITIONS = 7
# Numbers of frequencies are half those of snapshots: spectra of longer records are left out.
LONGEST_SPECTRUM = 1000


def _index(snapshots: int) -> xr.DataArray:
    return xr.DataArray(np.sin(0.1 * np.arange(snapshots)), dims="time")


def _spectrum(values: xr.DataArray) -> xr.DataArray:
    return xr.DataArray(periodogram(values.values, axis=0)[1], dims=("frequency", *values.dims[1:]))


# What is asked, and the same of decoded values, with time first.
Ask, Compute = Callable[[Answers], xr.Dataset], Callable[[xr.DataArray], xr.DataArray]
QUESTIONS: Mapping[str, tuple[Ask, Compute]] = {
    "mean": (lambda a: a.mean(), lambda v: v.mean("time")),
    "variance": (lambda a: a.var(), lambda v: v.var("time")),
    "correlation": (
        lambda a: a.correlation(_index(a.dataset.sizes["time"])),
        lambda v: xr.corr(v, _index(v.sizes["time"]), "time"),
    ),
    "average": (lambda a: a.average(), lambda v: v.mean(set(v.dims) - {"time"})),
    "spectrum": (lambda a: a.spectrum(), _spectrum),
}


def store_of(path: Path) -> Path:
    """The store of an archive, made once."""
    store = cache_folder() / f"{path.stem}-{TOLERANCE:g}.romzarr"
    if not store.exists():
        romzarr.compress(path, store, tolerance=TOLERANCE)
    return store


def _opened(store: str | Path) -> xr.Dataset:
    """What xarray opens, with steps of 1."""
    dataset = xr.open_dataset(store, engine="romzarr", cache=False)
    return dataset.assign_coords(time=np.arange(dataset.sizes["time"]))


def _warm_up() -> None:
    """Import and compile all that any store needs."""
    with tempfile.TemporaryDirectory() as folder:
        waves = np.sin(np.arange(40.0)[:, None] * [0.1, 0.2] + [0.0, 1.0])
        archive = xr.Dataset({"u": (("time", "x"), waves)}, {"time": np.arange(40.0)})
        romzarr.compress(archive, f"{folder}/s", tolerance=TOLERANCE)
        for ask, compute in QUESTIONS.values():
            ask(_opened(f"{folder}/s").romzarr)
            compute(_opened(f"{folder}/s").load().u)


def child_answers(store: str, question: str) -> Record:
    """Ask for one thing in this process, twice and more."""
    ask, _ = QUESTIONS[question]
    start = time.process_time()
    answers = _opened(store).romzarr
    ask(answers)
    first, again = time.process_time() - start, []
    for _ in range(REPETITIONS):
        start = time.process_time()
        ask(answers)
        again.append(time.process_time() - start)
    return {"first": first, "again": median(again)}


def child_decoded(store: str, question: str) -> Record:
    """Decode everything in this process and compute the same."""
    _, compute = QUESTIONS[question]
    names = _names(store)
    start = time.process_time()
    decoded = _opened(store)[names].load()
    for name in names:
        compute(decoded[name].astype(np.float64))
    return {"decoded": time.process_time() - start}


CHILDREN = {"answers": child_answers, "decoded": child_decoded}


def _names(store: str | Path) -> list[str]:
    return list(romzarr.info(store).variables)


def bound_by_error(path: Path, store: Path, question: str) -> float:
    """By how much the bound exceeds the true error: the median over variables."""
    ask, compute = QUESTIONS[question]
    found, archive, ratios = ask(_opened(store).romzarr), xr.open_zarr(path, consolidated=False), []
    for name in _names(store):
        error = abs(found[name] - compute(archive[name].astype(np.float64).load())).values
        power = 1 if question == "variance" else 2
        size = float(np.nansum(error**power)) ** (1 / power)
        # What is constant in time has no error.
        if size:
            ratios.append(float(found[f"{name}_bound"]) / size)
    return median(ratios)


def rows(paths: Sequence[Path]) -> Iterator[tuple[object, ...]]:
    for path in paths:
        store = store_of(path)
        codings = {each["coding"] for each in romzarr.info(store).variables.values()}
        snapshots = romzarr.info(store).snapshots
        for question in QUESTIONS:
            if question == "spectrum" and snapshots > LONGEST_SPECTRUM:
                continue
            found: Record = {}
            for way in CHILDREN:
                found |= in_child(
                    "tests.benchmarks.bench_answers", ["--child", way, str(store), question]
                )
            if "failed" in found:
                raise RuntimeError(f"{path}, {question}: {found['failed']}")
            bounded = question in ("mean", "variance")
            yield (
                path.stem, ", ".join(sorted(codings)), question, found["decoded"], found["first"],
                1e3 * found["again"], found["decoded"] / found["first"],
                found["decoded"] / found["again"],
                bound_by_error(path, store, question) if bounded else None,
            )  # fmt: skip


def archives() -> list[Path]:
    data = Path(os.environ.get("ROMZARR_BENCH_DATA", ROOT.parent / "shared" / "data"))
    return [long_record(), *sorted(data.glob("*.zarr"))]


HEADER = ("archive", "coding", "question", "decoded, CPU s", "first answer, CPU s",
          "next, CPU ms", "decoded by first", "decoded by next", "bound by error")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("archives", type=Path, nargs="*", help="those to ask about")
    given = parser.parse_args(arguments)
    if given.child:
        way, store, question = given.child
        _warm_up()
        print(json.dumps(CHILDREN[way](store, question)))
        return
    print(f"{machine()}.\n")
    print(table(HEADER, rows(given.archives or archives())))


if __name__ == "__main__":
    main()
