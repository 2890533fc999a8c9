"""The commands ``romzarr nightly`` and ``romzarr status``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from romzarr.errors import ConfigError
from romzarr_flows.commands import settings, show_result, working


def nightly(options: Namespace) -> int:
    """Return 0 if all datasets are stored or time ran out, 1 if some failed or the run stopped."""
    # These import Dask and xarray, which `romzarr --help` does without.
    from romzarr_flows.nightly.plan import plan_run, refuse_empty
    from romzarr_flows.nightly.run import run_nightly
    from romzarr_flows.nightly.tables import plan_table, run_table

    config = settings(options)
    if options.dry_run:
        plan = plan_run(config, only=options.only, since=options.since)
        refuse_empty(plan, config, options.only)
        show_result(options, plan_facts(plan), lambda _: plan_table(plan))
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
    show_result(options, record.to_dict(), lambda _: run_table(record))
    return 1 if record.failed or record.state == "stopped" else 0


def plan_facts(plan: Any) -> dict[str, Any]:
    """Convert a plan to JSON values."""
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
    """Return 0 if nothing is wrong, 1 if a dataset is broken or the last run did not complete."""
    from romzarr_flows.nightly.status import dataset_states, is_sound, last_run
    from romzarr_flows.nightly.tables import status_table

    config = settings(options)
    stores = options.stores or config.nightly.stores
    if stores == "none":
        raise ConfigError(
            "romzarr status: found no folder of stores; give STORES, or --config FILE with "
            "nightly.stores"
        )
    last = last_run(stores)
    found = dataset_states(config, stores, last)
    run = {"last_run": last.name, "last_run_state": last.state} if last else {"last_run": ""}
    facts = {"stores": stores, **run, "datasets": [each.to_dict() for each in found]}
    show_result(options, facts, lambda _: status_table(found, last))
    return 0 if is_sound(found, last) else 1
