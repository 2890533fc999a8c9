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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from tests.benchmarks.archives import cache_folder
from tests.benchmarks.bench_datasets import compare
from tests.benchmarks.measure import MB, ROOT, Record, in_child, machine, measured, table
from tests.benchmarks.peers import PEERS, Choice, Field, best

TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)
# Length of the long record, and shorter beginnings of it; their targets in the plot.
LONG = 3000
LENGTHS = (500, 1000, 2000)
LENGTH_TARGETS = (1e-2, 1e-3)
PICTURE = Path(__file__).with_name("compression_long_record.png")
# A store below this size is also counted without what does not grow with the record.
SMALL = 5 * MB
FIXED_LIMIT = 16_000
# Setting that turns the model off, where the configuration has one.
MODEL_SWITCH = "compression.model"
# Part of the key of the cache: to be raised when the search or a codec's use changes.
RULES = 1
# TTHRESH in WebAssembly takes a second a megabyte and more memory than it has for this.
TOO_LONG = {"TTHRESH": 100 * MB}


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
    from flows.demo.cylinder import write_archive

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


def romzarr_child(case: Case, target: float, model: bool) -> Record:
    """Compress into a temporary store, decode all of it through xarray, and compare."""
    from pipeline.compress import compress
    from pipeline.config import KNOWN_KEYS, Config, with_values

    config = Config()
    if not model:
        if MODEL_SWITCH not in KNOWN_KEYS:
            return {"failed": f"skipped: no setting {MODEL_SWITCH!r}"}
        config = with_values(config, {MODEL_SWITCH: False})
    source: Any = str(case.path) if case.snapshots is None else case.open()
    original = case.open()
    folder = Path(tempfile.mkdtemp(prefix="romzarr-bench-"))
    store = folder / "store.romzarr"
    try:
        report, cost = measured(lambda: compress(source, store, tolerance=target, config=config))
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
        return {"failed": "skipped: too slow, and more memory than WebAssembly has"}
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


def romzarr_record(case: Case, target: float, model: bool = True) -> Record:
    arguments = ["--child", "romzarr", "--targets", str(target), *case.arguments()]
    return in_child(__spec__.name, arguments if model else ["--no-model", *arguments])


Results = dict[tuple[str, float, str], Record]


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
                record = romzarr_record(case, target)
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


# --- tables -------------------------------------------------------------------------------


def results_table(found: Results) -> str:
    header = (
        "dataset", "target", "method", "bytes", "ratio", "error", "encode MB/s", "decode MB/s",
        "encode CPU s", "decode CPU s", "bytes without fixed part", "settings",
    )  # fmt: skip
    return table(header, [_row(*key, record) for key, record in found.items()])


def _row(case: str, target: float, name: str, record: Record) -> tuple[Any, ...]:
    head = (case, f"{target:g}", name)
    if "failed" in record:
        return (*head, record["failed"], *[None] * 8)
    raw = record["raw"]
    bare = record["bytes"] - record["fixed"] if "fixed" in record and raw < SMALL else None
    return (
        *head, record["bytes"], raw / record["bytes"], f"{record['error']:.3e}",
        raw / MB / record["seconds"], raw / MB / record["decode_seconds"],
        record["cpu_seconds"], record["decode_cpu_seconds"], bare, "; ".join(record["settings"]),
    )  # fmt: skip


def best_peer(found: Results, case: str, target: float) -> tuple[str, int] | None:
    """The peer with the fewest bytes."""
    sizes = [
        (record["bytes"], name)
        for (c, t, name), record in found.items()
        if (c, t) == (case, target) and name != "romzarr" and "failed" not in record
    ]
    return (min(sizes)[1], min(sizes)[0]) if sizes else None


def advantage(found: Results, case: str, target: float, *, fixed: bool = True) -> float | None:
    """Bytes of the best peer over those of romzarr, with or without its fixed part."""
    ours, peer = found.get((case, target, "romzarr"), {}), best_peer(found, case, target)
    if peer is None or "bytes" not in ours:
        return None
    return peer[1] / (ours["bytes"] - (0 if fixed else ours["fixed"]))


def advantage_table(found: Results, targets: Sequence[float]) -> str:
    """romzarr beside the best peer, a line a dataset; then the geometric mean."""
    rows: list[Sequence[Any]] = []
    cases = list(dict.fromkeys(case for case, _, _ in found))
    for case in cases:
        cells = []
        for target in targets:
            value, peer = advantage(found, case, target), best_peer(found, case, target)
            if value is None or peer is None:
                cells.append("")
                continue
            cell = f"{value:.2f} ({peer[0]})"
            if found[case, target, "romzarr"]["raw"] < SMALL:
                cell += f", {advantage(found, case, target, fixed=False):.2f} without fixed part"
            cells.append(cell)
        rows.append((case, *cells))
    small = {case for (case, _, _), record in found.items() if record.get("raw", SMALL) < SMALL}
    for title, fixed in (("geometric mean", set()), ("without fixed part of small ones", small)):
        means = []
        for target in targets:
            values = [advantage(found, case, target, fixed=case not in fixed) for case in cases]
            logs = [math.log(value) for value in values if value is not None]
            means.append(f"{math.exp(sum(logs) / len(logs)):.3f}" if logs else "")
        rows.append((title, *means))
    return table(("dataset", *(f"{target:g}" for target in targets)), rows)


def fixed_table(found: Results) -> str:
    """What every store has, whatever the length of its record."""
    rows = []
    for case in dict.fromkeys(case for case, _, _ in found):
        sizes = [
            record["fixed"]
            for (c, _, _), record in found.items()
            if c == case and "fixed" in record
        ]
        if sizes:
            rows.append((case, max(sizes), "yes" if max(sizes) <= FIXED_LIMIT else "no"))
    return table(("dataset", "fixed bytes", f"at most {FIXED_LIMIT}"), rows)


def model_table(cases: Sequence[Case], targets: Sequence[float], found: Results) -> str:
    """Bytes of the coefficients with the model beside those without."""
    rows: list[Sequence[Any]] = []
    for case in cases:
        for target in targets:
            ours = found[case.name, target, "romzarr"]
            if "failed" in ours:
                continue
            without = romzarr_record(case, target, model=False)
            if "failed" in without:
                # Without the switch no case has it.
                if without["failed"].startswith("skipped"):
                    return str(without["failed"])
                rows.append((case.name, f"{target:g}", ours["latent"], without["failed"], None))
                continue
            share = ours["latent"] / without["latent"] if without["latent"] else None
            rows.append((case.name, f"{target:g}", ours["latent"], without["latent"], share))
    return table(("dataset", "target", "latent bytes", "without the model", "quotient"), rows)


# --- long record --------------------------------------------------------------------------


def lengths_table(found: Results, cases: Sequence[Case], names: Sequence[str]) -> str:
    rows = [
        (f"{target:g}", name, *(_ratio(found, case, target, name) for case in cases))
        for target in LENGTH_TARGETS
        for name in names
    ]
    return table(("target", "method", *(str(c.snapshots or LONG) for c in cases)), rows)


def _ratio(found: Results, case: Case, target: float, name: str) -> float | None:
    record = found.get((case.name, target, name), {})
    return record["raw"] / record["bytes"] if "bytes" in record else None


def draw(found: Results, cases: Sequence[Case], names: Sequence[str], path: Path) -> None:
    """Ratio against the length of the record, a panel for each target."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(10.5, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(LENGTH_TARGETS), sharey=True)
    lengths = [case.snapshots or LONG for case in cases]
    ends: list[list[tuple[float, int, str]]] = [[] for _ in panels]
    for ax, target, last in zip(panels, LENGTH_TARGETS, ends, strict=True):
        for name in names:
            ratios = [_ratio(found, case, target, name) for case in cases]
            values = [(n, r) for n, r in zip(lengths, ratios, strict=True) if r is not None]
            if not values:
                continue
            width = 2.4 if name == "romzarr" else 1.4
            ax.plot(*zip(*values, strict=True), "o-", ms=4, lw=width, color=COLOURS[name])
            last.append((values[-1][1], values[-1][0], name))
        ax.set(title=f"error {target:g} of the fluctuation", xlabel="snapshots", yscale="log")
        ax.set(xticks=lengths, xlim=(min(lengths) - 150, max(lengths) * 1.33))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.25)
    panels[0].set_ylabel("raw bytes / stored bytes")
    figure.suptitle("Cylinder wake: compression against the length of the record", fontsize=12)
    # The places of the panels are known only once they are drawn.
    figure.draw_without_rendering()
    for ax, last in zip(panels, ends, strict=True):
        _name_curves(ax, last)
    figure.savefig(path)


def _name_curves(ax: Any, ends: Sequence[tuple[float, int, str]]) -> None:
    """Each curve's name and last ratio beside its end, apart where curves end together."""
    below = -math.inf
    for ratio, length, name in sorted(ends):
        height = ax.transData.transform((length, ratio))[1] * 72 / ax.figure.dpi
        shift = max(0.0, below + 13 - height)
        ax.annotate(
            f"{name} {ratio:,.0f}", (length, ratio), (7, shift), textcoords="offset points",
            va="center", color=COLOURS[name], weight="bold" if name == "romzarr" else None,
        )  # fmt: skip
        below = height + shift


COLOURS = {
    "romzarr": "#c0392b",
    "ZFP": "#888888",
    "SZ3": "#3c8d5a",
    "SPERR": "#1f5a99",
    "TTHRESH": "#7d5ba6",
    "Tucker": "#d1812c",
}


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
        page += ["### What the model saves", model_table(cases, given.targets, found)]
    if record:
        title = "### Against the length of the record"
        page += [title, lengths_table(everything, record, names)]
        if not given.peers_only:
            draw(everything, record, names, given.picture)
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
    parser.add_argument("--child", choices=("romzarr", *PEERS), help="measure one, here")
    parser.add_argument("--snapshots", type=int, default=0, help="of the child; 0: all")
    parser.add_argument("--no-model", action="store_true", help="of the child romzarr")
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
            print(json.dumps(romzarr_child(case, target, not given.no_model)))
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
