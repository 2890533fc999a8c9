"""``python -m tests.torture``: look for what is wrong, for minutes or for a night."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.torture.generated import Generated
from tests.torture.page import page
from tests.torture.registry import CAMPAIGNS
from tests.torture.runner import Plan, replay, run, whole, work

SECONDS = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if anything is wrong."""
    options = _parser().parse_args(arguments)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.set_defaults(command=_run)
    _add_options(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    again = commands.add_parser("replay", help="try a saved case again")
    again.add_argument("file", type=Path)
    again.set_defaults(command=_replay)
    # What `run` starts; nobody else has to.
    part = commands.add_parser("work")
    part.add_argument("plan", type=json.loads)
    part.set_defaults(command=_work)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=float, help="how long it runs in all (default: minutes)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the same")
    parser.add_argument("--scale", type=float, default=0.0, help="multiples of the suite's slice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", nargs="*", choices=list(CAMPAIGNS), help="these campaigns")
    parser.add_argument("--go-on", action="store_true", help="with the last run into --out")
    parser.add_argument("--out", type=Path, default=Path("torture"), help="page and cases")


def available() -> list[str]:
    """Campaigns whose generators are there."""
    return [
        name
        for name, campaign in CAMPAIGNS.items()
        if not issubclass(campaign, Generated) or campaign.is_there()
    ]


def _run(options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.json"
    before = json.loads(kept.read_text()) if options.go_on else {}
    shared = options.out / "stores"
    if not before:
        shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(exist_ok=True)
    parts = run(_plans(options, before, str(shared)), sys.stdout)
    found = {name: [each.to_json() for each in reports] for name, reports in parts.items()}
    kept.write_text(json.dumps(found, indent=1))
    reports = {name: whole(each) for name, each in parts.items()}
    (options.out / "RESULTS.md").write_text(text := page(reports, options.seed))
    print(text)
    saved = [path for report in reports.values() for path in report.saved]
    print("\n".join(f"wrong: {path}" for path in saved) or "nothing is wrong")
    return int(bool(saved))


def _plans(options: argparse.Namespace, before: dict[str, Any], shared: str) -> list[Plan]:
    """What each process does; of a run that is gone on with, what it did there."""
    names = list(before) or options.only or available()
    jobs = len(before[names[0]]) if before else options.jobs
    seconds = options.seconds if options.hours is None else 3600 * options.hours
    return [
        Plan(
            names, options.seed, seconds, options.scale, jobs, number, str(options.out), shared,
            {name: parts[number] for name, parts in before.items()},
        )
        for number in range(jobs)
    ]  # fmt: skip


def _work(options: argparse.Namespace) -> int:
    work(Plan(**options.plan), sys.stdout)
    return 0


def _replay(options: argparse.Namespace) -> int:
    outcome = replay(options.file)
    print(outcome.wrong or f"nothing is wrong: {', '.join(outcome.kinds)}")
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())
