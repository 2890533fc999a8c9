"""Campaigns one after the other, in several processes side by side, within a budget of time."""

from __future__ import annotations

import base64
import json
import os
import platform
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from tests.torture.campaign import Campaign, Case, Counts, Outcome
from tests.torture.registry import CAMPAIGNS

# Seconds between lines that say how far it is.
PROGRESS = 5.0
# Who is killed loses nothing that he has written: memory serves as well as a disk, and faster.
MEMORY = "/dev/shm"
# Bytes of files that a saved case may bring along.
MOST_SAVED = 1 << 20
PACKAGES = ("romzarr", "numpy", "scipy", "xarray", "zarr", "dask")


@dataclass(frozen=True)
class Plan:
    """What one process does of a run.

    Attributes
    ----------
    campaigns : sequence of str
    seed : int
    seconds : float
        For all campaigns.
    scale : float
        Instead of a time: multiples of the cases that the ordinary suite runs.
    jobs, number : int
        Processes side by side, and which of them this is.
    out, shared : str
        Where cases are saved that went wrong; what all processes use.
    before : dict
        Reports of the same process of an earlier run that this one goes on with.
    """

    campaigns: Sequence[str]
    seed: int
    seconds: float
    scale: float
    jobs: int
    number: int
    out: str
    shared: str
    before: dict[str, Any] = field(default_factory=dict)

    def seconds_of(self, name: str) -> float:
        shares = {each: CAMPAIGNS[each].share for each in self.campaigns}
        return self.seconds * shares[name] / sum(shares.values())


@dataclass
class Report:
    """What came of a campaign.

    Attributes
    ----------
    counts : Counts
    cpu_seconds : float
    totals : dict
        How many cases of some kinds there are at all.
    saved : list of str
        Files of cases that went wrong.
    reached : int
        Number of the case that a process would have come to next.
    """

    counts: Counts = field(default_factory=Counts)
    cpu_seconds: float = 0.0
    totals: dict[str, int] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)
    reached: int = 0

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"counts": self.counts.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Report:
        return cls(**document | {"counts": Counts.from_json(document["counts"])})

    def __add__(self, other: Report) -> Report:
        return Report(
            self.counts + other.counts,
            self.cpu_seconds + other.cpu_seconds,
            self.totals | other.totals,
            self.saved + other.saved,
        )


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


# --- one process --------------------------------------------------------------------------


def work(plan: Plan, told: TextIO) -> None:
    """Run the part of one process, and say what came of it: a line of JSON now and then."""
    # Forged values overflow, and that is all there is to say about them.
    warnings.simplefilter("ignore")
    if os.access(MEMORY, os.W_OK):
        tempfile.tempdir = MEMORY
    for name in plan.campaigns:
        with tempfile.TemporaryDirectory(prefix="romzarr-torture-") as folder:
            campaign = CAMPAIGNS[name](Path(folder), Path(plan.shared), plan.seed)
            for report in reports_of(campaign, plan):
                print(json.dumps({"campaign": name, **report.to_json()}), file=told, flush=True)


def reports_of(campaign: Campaign, plan: Plan) -> Iterator[Report]:
    """What came of a campaign so far, every few seconds and at its end."""
    report = Report.from_json(plan.before[campaign.name]) if plan.before else Report()
    cpu, said = cpu_seconds() - report.cpu_seconds, time.monotonic()
    campaign.prepare()
    report.totals = campaign.totals()
    for number, case in _cases_of(campaign, plan, report.reached):
        outcome = outcome_of(campaign, case)
        report.counts.add(outcome)
        if outcome.wrong:
            report.saved.append(save(campaign, case, outcome, Path(plan.out)))
        report.cpu_seconds, report.reached = round(cpu_seconds() - cpu, 1), number + 1
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            yield report
    yield report


def _cases_of(campaign: Campaign, plan: Plan, first: int) -> Iterator[tuple[int, Case]]:
    """Those of this process from a number on, as long as there is time."""
    ends = time.monotonic() + plan.seconds_of(campaign.name)
    most = round(campaign.slice * plan.scale)
    for number, case in enumerate(campaign.cases()):
        if (plan.scale and number >= most) or (not plan.scale and time.monotonic() > ends):
            return
        if number >= first and number % plan.jobs == plan.number:
            yield number, case


def outcome_of(campaign: Campaign, case: Case) -> Outcome:
    """What came of a case; whatever it raises is wrong."""
    try:
        return campaign.run(case)
    except Exception:
        return Outcome(wrong=traceback.format_exc())


# --- cases that replay --------------------------------------------------------------------


def save(campaign: Campaign, case: Case, outcome: Outcome, out: Path) -> str:
    """Write a case to a file from which it replays; the path of it."""
    out.mkdir(parents=True, exist_ok=True)
    number = len(list(out.glob(f"{campaign.name}-*.json")))
    path = out / f"{campaign.name}-{campaign.seed}-{time.time_ns()}-{number}.json"
    document = {
        "campaign": campaign.name,
        "seed": campaign.seed,
        "case": case,
        "wrong": outcome.wrong,
        "versions": versions(),
        "files": _saved_files(campaign.shared, campaign.brings(case)),
    }
    path.write_text(json.dumps(document, indent=1))
    return str(path)


def _saved_files(shared: Path, folders: Sequence[str]) -> dict[str, str]:
    """Files below folders of `shared`; none if they are too many bytes."""
    paths = [path for each in folders for path in (shared / each).rglob("*") if path.is_file()]
    if sum(path.stat().st_size for path in paths) > MOST_SAVED:
        return {}
    return {str(p.relative_to(shared)): base64.b64encode(p.read_bytes()).decode() for p in paths}


def replay(path: Path) -> Outcome:
    """What comes of a saved case now."""
    document = json.loads(path.read_text())
    with tempfile.TemporaryDirectory(prefix="romzarr-torture-") as folder:
        own, shared = Path(folder, "own"), Path(folder, "shared")
        own.mkdir()
        shared.mkdir()
        for name, content in document["files"].items():
            file = shared / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(base64.b64decode(content))
        campaign = CAMPAIGNS[document["campaign"]](own, shared, document["seed"])
        return outcome_of(campaign, document["case"])


# --- several processes --------------------------------------------------------------------


def run(plans: Sequence[Plan], said: TextIO) -> dict[str, list[Report]]:
    """Run the parts of all processes; what came of every campaign in each.

    Raises
    ------
    RuntimeError
        If one of them ends before it is done.
    """
    command = [sys.executable, "-m", "tests.torture", "work"]
    processes = [
        subprocess.Popen([*command, json.dumps(vars(plan))], stdout=subprocess.PIPE, text=True)
        for plan in plans
    ]
    found: dict[str, dict[int, Report]] = {name: {} for name in plans[0].campaigns}
    for number, line in _lines_of(processes):
        document = json.loads(line)
        name = document.pop("campaign")
        found[name][number] = Report.from_json(document)
        print(progress_line(name, found[name].values()), file=said, flush=True)
    statuses = [process.wait() for process in processes]
    if any(statuses):
        raise RuntimeError(f"processes of the run ended with {statuses}")
    return {name: [parts[k] for k in range(len(plans))] for name, parts in found.items()}


def whole(parts: Iterable[Report]) -> Report:
    """What came of a campaign in all processes."""
    return sum(parts, Report())


def _lines_of(processes: Sequence[subprocess.Popen[str]]) -> Iterator[tuple[int, str]]:
    """Lines of several processes as they come."""
    with selectors.DefaultSelector() as selector:
        for number, process in enumerate(processes):
            selector.register(process.stdout, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                if line := key.fileobj.readline():
                    yield key.data, line
                else:
                    selector.unregister(key.fileobj)


def progress_line(name: str, parts: Iterable[Report]) -> str:
    total = whole(parts)
    kinds = ", ".join(f"{count} {kind}" for kind, count in total.counts.kinds.most_common(6))
    return f"{name}: {total.counts.tried} tried, {total.counts.wrong} wrong; {kinds}"
