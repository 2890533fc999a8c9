"""What ``romzarr nightly`` and ``romzarr status`` do."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from romzarr.errors import ConfigError
from romzarr_flows.commands import print_json, settings, working
from romzarr_flows.terminal import show


def nightly(options: Namespace) -> int:
    """Status 0: all is stored, or left because time was up. 1: some failed, or were not reached."""
    # They bring Dask and xarray, which `romzarr --help` does without.
    from romzarr_flows.nightly.plan import plan_run, refuse_empty
    from romzarr_flows.nightly.run import run_nightly
    from romzarr_flows.nightly.tables import plan_table, run_table

    config = settings(options)
    if options.dry_run:
        plan = plan_run(config, only=options.only, since=options.since)
        refuse_empty(plan, config, options.only)
        print_json(plan_facts(plan)) if options.json else show(plan_table(plan))
        return 0
    record = run_nightly(
        config,
        working,
        only=options.only,
        since=options.since,
        log_format=options.log_format,
        quiet=options.quiet,
    )
    if options.quiet and record.is_idle:
        return 0
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
        "vanished": [entry.dataset for entry in plan.vanished],
    }


def status(options: Namespace) -> int:
    """Status 0: nothing is broken. 1: a dataset is, or the last run did not end as it should."""
    from romzarr_flows.nightly.status import dataset_states, is_sound, last_run
    from romzarr_flows.nightly.tables import status_table

    config = settings(options)
    stores = options.stores or config.nightly.stores
    if stores == "none":
        raise ConfigError(
            "romzarr status: found no folder of stores; give it as STORES, or a file with "
            "nightly.stores as --config"
        )
    last = last_run(stores)
    found = dataset_states(config, stores, last)
    if options.json:
        run = {"last_run": last.name, "last_run_state": last.state} if last else {"last_run": ""}
        print_json({"stores": stores, **run, "datasets": [f.to_dict() for f in found]})
    else:
        show(status_table(found, last))
    return 0 if is_sound(found, last) else 1
