"""romzarr beside general error-bounded compressors at the same measured error.

``make bench-compression``, or ``python -m tests.benchmarks.bench_compression``, prints
Markdown tables for every dataset of ``$ROMZARR_BENCH_DATA`` (by default ../shared/data beside
the repository) and for a cylinder wake of 3000 snapshots, and draws
compression_long_record.png. What the peers took is kept in the cache folder: searching their
settings takes an hour. ``--peers-only`` fills that file and no more.

Error is ``||x - xhat|| / ||x - mean_t x||`` of a variable, measured in float64 on what xarray
(romzarr) or the codec (peers) returns; bytes are summed over variables.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tests.benchmarks.archives import cache_folder
from tests.benchmarks.bench_datasets import compare
from tests.benchmarks.compression_tables import (
    LENGTH_TARGETS,
    Results,
    advantage_table,
    draw,
    fixed_table,
    lengths_table,
    results_table,
)
from tests.benchmarks.measure import MB, ROOT, Record, in_child, machine, measured, table
from tests.benchmarks.peers import PEERS, Choice, Field, best

TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)
# Length of the long record, and shorter beginnings of it.
LONG = 3000
LENGTHS = (500, 1000, 2000)
PICTURE = Path(__file__).with_name("compression_long_record.png")
# Part of the key of the cache: to be raised when the search or a codec's use changes.
RULES = 1
# TTHRESH in WebAssembly takes up to a second a megabyte and trial, and cannot hold the long record.
TOO_LONG = {"TTHRESH": 50 * MB}


# --- cases --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A dataset, or the first `snapshots` of it."""

    path: Path
    snapshots: int | None = None

    @property
    def name(self) -> str:
        return self.path.stem + (f", first {self.snapshots}" if self.snapshots else "")

    def open(self) -> xr.Dataset:
        dataset = xr.open_dataset(self.path, engine="zarr", consolidated=False, chunks={})
        return dataset.isel(time=slice(self.snapshots))

    def variables(self) -> dict[str, xr.DataArray]:
        """What is compressed: every floating-point variable in time, time first."""
        return {
            str(name): variable.transpose("time", ...)
            for name, variable in self.open().data_vars.items()
            if "time" in variable.dims and variable.dtype.kind == "f"
        }

    @property
    def raw_bytes(self) -> int:
        return sum(variable.nbytes for variable in self.variables().values())

    def arguments(self) -> list[str]:
        return ["--snapshots", str(self.snapshots or 0), "--", str(self.path)]


def data_folder() -> Path:
    given = os.environ.get("ROMZARR_BENCH_DATA")
    return Path(given) if given else ROOT.parent / "shared" / "data"


def long_record(snapshots: int = LONG) -> Path:
    """The demonstration's cylinder wake, longer; computed once, in some minutes."""
    from romzarr_flows.demo.cylinder import write_archive

    path = cache_folder() / f"cylinder-wake-{snapshots}.zarr"
    if not path.exists():
        write_archive(path, snapshots=snapshots, block=50)
    return path


# --- children -----------------------------------------------------------------------------


def peer_child(name: str, case: Case, target: float, known: dict[str, Any], exact: bool) -> Record:
    """Encode and decode every variable with the best settings.

    They are searched: everywhere, or from `known` ones on; those are taken as they are if `exact`.
    """
    peer = PEERS[name]
    total = dict.fromkeys(("seconds", "cpu_seconds", "decode_seconds", "decode_cpu_seconds"), 0.0)
    stored, largest, choices = 0, 0.0, {}
    if exact:
        # The search has done this otherwise: imports are not measured.
        with suppress(Exception):
            peer.decode(
                peer.encode(np.arange(512, dtype=np.float32).reshape(8, 8, 8), peer.modes[0], 1.0)
            )
    for variable, values in case.variables().items():
        field = Field.of(values.values, target)
        try:
            choice = Choice(**known[variable]) if known else None
            if choice is None or not exact:
                choice = best(peer, field, target, choice)
        except ValueError as error:
            return {"failed": f"{variable}: {error}", "raw": case.raw_bytes}
        data, encoding = measured(partial(choice.encode, peer, field.values))
        decoded, decoding = measured(partial(choice.decode, peer, data))
        for key, cost in (("", encoding), ("decode_", decoding)):
            total[key + "seconds"] += cost.seconds
            total[key + "cpu_seconds"] += cost.cpu_seconds
        stored += len(data)
        largest = max(largest, field.error(decoded))
        choices[variable] = asdict(choice)
    ways = sorted(
        {f"{c['mode']}, {'space' if c['space_first'] else 'time'} first" for c in choices.values()}
    )
    return total | {
        "bytes": stored,
        "error": largest,
        "settings": ways,
        "choices": choices,
        "raw": case.raw_bytes,
    }


def romzarr_child(case: Case, target: float) -> Record:
    """Compress into a temporary store, decode all of it through xarray, and compare."""
    from romzarr.operations.compress import compress

    source: Any = str(case.path) if case.snapshots is None else case.open()
    original = case.open()
    folder = Path(tempfile.mkdtemp(prefix="romzarr-bench-"))
    store = folder / "store.romzarr"
    try:
        report, cost = measured(lambda: compress(source, store, tolerance=target))
        decoded, decoding = measured(lambda: xr.open_dataset(store, engine="romzarr").load())
        error, raw = compare(original, decoded)
        return cost.record() | parts(store) | {
            "decode_seconds": decoding.seconds,
            "decode_cpu_seconds": decoding.cpu_seconds,
            "error": error,
            "settings": [f"{report.rank} modes"],
            "raw": raw,
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def dynamics_child(case: Case, target: float) -> Record:
    from romzarr.archive import open_archive
    from tests.benchmarks.dynamics import dynamics_record

    return dynamics_record(open_archive(str(case.path)), target)


def parts(store: Path) -> dict[str, int]:
    """Bytes of all files of a store; of modes and of coefficients; and all else as fixed."""
    found = {"bytes": 0, "basis": 0, "latent": 0}
    for file in store.rglob("*"):
        if file.is_file():
            size = file.stat().st_size
            found["bytes"] += size
            for part in ("basis", "latent"):
                # Metadata of arrays does not grow with them.
                if part in file.relative_to(store).parts and file.name != "zarr.json":
                    found[part] += size
    return found | {"fixed": found["bytes"] - found["basis"] - found["latent"]}


# --- measuring ----------------------------------------------------------------------------


def peer_record(
    name: str, case: Case, target: float, again: bool = False, shorter: Record | None = None
) -> Record:
    """From the cache, else measured now and kept there with what a codec refused.

    With `again` the settings are those of the cache and the costs are measured now. Where a
    `shorter` beginning of the same record is known, its modes and layouts are taken.
    """
    peer = PEERS[name]
    if peer.missing:
        return {"failed": peer.missing}
    if case.raw_bytes > TOO_LONG.get(name, math.inf):
        return {"failed": "skipped: too slow in WebAssembly for a record this large"}
    cache = _cached()
    key = f"{case.name} ({case.raw_bytes} bytes), {name} {peer.version}, {target:g}, rules {RULES}"
    kept = cache.get(key)
    if kept is None or (again and "failed" not in kept):
        known = json.dumps((kept or shorter or {}).get("choices", {}))
        arguments = ["--child", name, "--targets", str(target), "--known", known]
        arguments += ["--again"] if kept else []
        found = in_child(__spec__.name, [*arguments, *case.arguments()])
        # What ended the process may not do so again.
        if "raw" not in found:
            return found
        # Read again: another run may have added to it meanwhile.
        cache = _cached() | {key: found}
        unfinished = _cache_file().with_suffix(".unfinished")
        unfinished.write_text(json.dumps(cache, indent=1))
        unfinished.replace(_cache_file())
    return cache[key]


def _cached() -> dict[str, Record]:
    path = _cache_file()
    return json.loads(path.read_text()) if path.exists() else {}


def _cache_file() -> Path:
    return cache_folder() / "compression-peers.json"


def our_record(child: str, case: Case, target: float) -> Record:
    arguments = ["--child", child, "--targets", str(target), *case.arguments()]
    return in_child(__spec__.name, arguments)


def measure(
    work: Iterable[tuple[Case, float]],
    names: Sequence[str],
    *,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Results:
    """Every method on every case at its target, by case, target and method."""
    found: Results = {}
    # By path: beginnings of a record come before all of it.
    shorter: dict[tuple[Path, float, str], Record] = {}
    for case, target in work:
        for name in names:
            if name == "romzarr":
                record = our_record("romzarr", case, target)
            else:
                place = (case.path, target, name)
                record = peer_record(name, case, target, again, shorter.get(place))
                shorter[place] = record
            found[case.name, target, name] = record
            say(f"{case.name} {target:g} {name}: {_brief(record)}")
    return found


def _brief(record: Record) -> str:
    if "failed" in record:
        return str(record["failed"])
    return f"{record['raw'] / record['bytes']:.4g} times smaller, error {record['error']:.3e}"


def dynamics_table(cases: Sequence[Case], targets: Sequence[float]) -> str:
    """Bytes of a(t) with the model, without it, and with each of what foretells it then alone."""
    rows: list[Sequence[Any]] = []
    for case in cases:
        for target in targets:
            found = our_record("dynamics", case, target)
            if "failed" in found:
                rows.append((case.name, f"{target:g}", found["failed"], *[None] * 8))
                continue
            model, polynomial = found["model"], found["polynomial"]
            rows.append((
                case.name, f"{target:g}", model, found["terms"], f"{found['modelled']:.0%}",
                found["extrapolated"], found["without"], found["wavelets"],
                f"{polynomial} (degree {found['degree']})", model / polynomial,
                model / found["without"],
            ))  # fmt: skip
    heads = ("dataset", "target", "a(t) with the model", "of it terms", "blocks modelled",
             "modes extrapolated", "without the model", "wavelets alone", "polynomials alone",
             "model / polynomials alone", "model / without")  # fmt: skip
    return table(heads, rows)


# --- the page -----------------------------------------------------------------------------


def report(sources: Sequence[Path], long: Path | None, given: argparse.Namespace) -> str:
    """Everything, as Markdown; `long` is the long record."""
    names = [*([] if given.peers_only else ["romzarr"]), *given.peers]
    cases, record = [Case(path) for path in sources], []
    work = [(case, target) for case in cases for target in given.targets]
    if long:
        record = [*(Case(long, length) for length in LENGTHS), Case(long)]
        cases.append(record[-1])
        # The shortest at all targets: what its search found is where the longest begins.
        work += [
            (case, target)
            for case in record
            for target in given.targets
            if target in LENGTH_TARGETS or case in (record[0], record[-1])
        ]
    everything = measure(work, names, again=given.again, say=given.say)
    full = {case.name for case in cases}
    found = {key: value for key, value in everything.items() if key[0] in full}
    page = [
        "## Compression at the same measured error",
        f"{machine()}; {HOW}",
        results_table(found),
    ]
    if not given.peers_only:
        page += ["### romzarr over the best peer", advantage_table(found, given.targets)]
        page += ["### Fixed part of a store", fixed_table(found)]
        page += ["### What the model saves", dynamics_table(cases, given.targets)]
    if record:
        title = "### Against the length of the record"
        by_length = {case.snapshots or LONG: case.name for case in record}
        page += [title, lengths_table(everything, by_length, names)]
        if not given.peers_only:
            draw(everything, by_length, names, given.picture)
            page.append(f"![Ratio against the number of snapshots]({given.picture.name})")
    return "\n\n".join(page)


HOW = """one run each. Bytes are all files of a store, or the streams of a codec; MB are those
of the archive as it is (float64 where it is float64). Peers get float32 wherever its rounding is
no tenth of the error, NaN replaced by the variable's mean (their place is not counted), both
orders of the axes and all modes, and values in memory, where romzarr reads its archive; the
settings with the fewest bytes are shown. For the long record modes and layouts are those found
best for its first 500 snapshots, with scales searched anew."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", help="folder of archives")
    children = ("romzarr", "dynamics", *PEERS)
    parser.add_argument("--child", choices=children, help="measure one, here")
    parser.add_argument("--snapshots", type=int, default=0, help="of the child; 0: all")
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=tuple(PEERS))
    parser.add_argument("--peers-only", action="store_true", help="fill the cache of the peers")
    parser.add_argument("--no-long", action="store_true", help="leave out the long record")
    parser.add_argument(
        "--again", action="store_true", help="measure times again, with the settings of the cache"
    )
    parser.add_argument("--known", type=json.loads, default={}, help="of the child: its settings")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the plot goes")
    parser.add_argument("--verbose", action="store_true", help="say each result when it is there")
    given = parser.parse_args(arguments)
    if given.child:
        case, target = Case(given.source, given.snapshots or None), given.targets[0]
        if given.child == "romzarr":
            print(json.dumps(romzarr_child(case, target)))
        elif given.child == "dynamics":
            print(json.dumps(dynamics_child(case, target)))
        else:
            print(
                "\n" + json.dumps(peer_child(given.child, case, target, given.known, given.again))
            )
        return
    given.say = _say if given.verbose else lambda line: None
    folder = given.source or data_folder()
    sources = sorted(folder.glob("*.zarr"))
    if not sources:
        print(f"skipped: no *.zarr in {folder} (set ROMZARR_BENCH_DATA)\n")
    long = None if given.no_long else long_record()
    if sources or long:
        print(report(sources, long, given))


def _say(line: str) -> None:
    import sys

    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
