"""What ``romzarr nightly`` and ``romzarr status`` do."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from flows.commands import print_json, settings, working
from flows.terminal import show
from pipeline.errors import ConfigError


def nightly(options: Namespace) -> int:
    """Status 0: all is stored, or left because time was up. 1: some failed, or were not reached."""
    # They bring Dask and xarray, which `romzarr --help` does without.
    from flows.nightly.plan import plan_run
    from flows.nightly.run import run_nightly
    from flows.nightly.tables import plan_table, run_table

    config = settings(options)
    if options.dry_run:
        plan = plan_run(config, only=options.only, since=options.since)
        print_json(plan_facts(plan)) if options.json else show(plan_table(plan))
        return 0
    record = run_nightly(
        config, working, only=options.only, since=options.since, log_format=options.log_format
    )
    print_json(record.to_dict()) if options.json else show(run_table(record))
    return 1 if record.failed or record.state == "stopped" else 0


def plan_facts(plan: Any) -> dict[str, Any]:
    """A plan as JSON values."""
    return {
        "to_do": [
            {
                **asdict(job.dataset),
                "store": job.store,
                "found": job.state,
                "reason": job.reason,
            }
            for job in plan.jobs
        ],
        "bytes": plan.nbytes,
        "kept": [job.dataset.name for job in plan.kept],
    }


def status(options: Namespace) -> int:
    from flows.nightly.catalogue import catalogue_of
    from flows.nightly.status import last_record, standings
    from flows.nightly.tables import status_table

    config = settings(options)
    stores = options.stores or config.nightly.stores
    if stores == "none":
        raise ConfigError(
            "romzarr status: found no folder of stores; give it as STORES, or a file with "
            "nightly.stores as --config"
        )
    found, last = standings(config, stores), last_record(catalogue_of(stores))
    if options.json:
        print_json({"stores": stores, "last_run": last, "datasets": [f.to_dict() for f in found]})
    else:
        show(status_table(found, last or "none yet"))
    return 0
