"""What each command does: settings, workers, one operation of `romzarr`, a table or JSON."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import romzarr
from romzarr.config import ClusterConfig, Config, load_config
from romzarr.errors import ConfigError, PipelineError
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import Workers
from romzarr_flows.tables import append_table, compression_table, info_table, size, verify_table
from romzarr_flows.terminal import show

# Flags that win over the file, and the settings they stand for.
SETTINGS = {
    "tolerance": "compression.tolerance",
    "max_error": "compression.max_error",
    "max_rank": "compression.max_rank",
    "variables": "archive.variables",
    "weights": "archive.weights",
    "time": "archive.time",
    "max_hours": "nightly.max_hours",
}


def settings(options: Namespace) -> Config:
    """The settings of a command: its file, with the flags that were given laid over it."""
    given = {
        key: getattr(options, flag)
        for flag, key in SETTINGS.items()
        if getattr(options, flag, None) is not None
    }
    config = load_config(options.config, given)
    if options.cluster in (None, config.cluster.kind):
        return config
    # The file's other settings of a cluster are of its own kind.
    return replace(config, cluster=ClusterConfig(kind=options.cluster))


@contextmanager
def working(config: Config) -> Iterator[Workers]:
    """Have Dask work where the settings say, and show how far it is."""
    # Dask comes only now: `romzarr --help` and `romzarr info` do without it.
    from romzarr_flows.progress import announced, shown

    with connect(config.cluster) as workers, shown(workers):
        announced(workers)
        yield workers


def print_json(values: Mapping[str, Any]) -> None:
    json.dump(values, sys.stdout, indent=2, allow_nan=False)
    print()


def compress(options: Namespace) -> int:
    config = settings(options)
    if config.compression.bounds:
        # A wrong name is told before any worker starts. Dask comes only now, as below.
        from romzarr.operations.compress import open_checked

        open_checked(options.source, config)
    with working(config):
        report = romzarr.compress(
            options.source, options.store, config=config, overwrite=options.overwrite
        ).to_dict()
    if options.json:
        print_json(report)
    else:
        show(compression_table(report, options.source, options.store))
    return 0


def append(options: Namespace) -> int:
    config = settings(options)
    with working(config):
        report = romzarr.append(options.store, options.source, config=config).to_dict()
    if options.json:
        print_json(report)
    else:
        show(append_table(report, options.source, options.store))
    return 0


def info(options: Namespace) -> int:
    facts = romzarr.info(options.store).to_dict()
    if options.json:
        print_json(facts)
    else:
        show(info_table(facts, options.store))
    return 0


def verify(options: Namespace) -> int:
    config = settings(options)
    with working(config):
        report = romzarr.verify(options.store, options.source, config=config, sample=options.sample)
    if options.json:
        print_json(report.to_dict())
    else:
        show(verify_table(report.to_dict(), options.source, options.store))
    return 0 if report.ok else 1


def reconstruct(options: Namespace) -> int:
    with working(settings(options)):
        romzarr.reconstruct(
            options.store,
            options.out,
            start=options.start,
            stop=options.stop,
            overwrite=options.overwrite,
        )
    show(f"{options.store} decoded into {options.out}", sys.stderr)
    return 0


def equations(options: Namespace) -> int:
    found = romzarr.equations(options.store)
    show(found.latex() if options.latex else found.text())
    return 0


def report(options: Namespace) -> int:
    # The folder of --catalogue stands in the place of a store.
    if options.catalogue and (options.source or options.store):
        raise ConfigError(
            "report --catalogue STORES: found a STORE or --source too; give either one store or "
            "the folder of all"
        )
    if not (options.catalogue or options.store):
        raise ConfigError("report: found neither STORE nor --catalogue STORES; give one of them")
    from romzarr_flows.report.run import write_page

    if options.catalogue:
        from romzarr_flows.report.catalogue import catalogue_page

        config = settings(options)
        count = write_page(
            options.output, lambda: catalogue_page(options.catalogue, options.output, config)
        )
    else:
        count = write_page(options.output, lambda: _store_page(options))
    print(f"{options.output}: {size(count)}", file=sys.stderr)
    return 0


def _store_page(options: Namespace) -> str:
    try:
        from romzarr_flows.report.store_page import store_page
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"a report has figures and needs {error.name}: pip install 'romzarr[plot]'"
        ) from error
    config = settings(options)
    if not options.source:
        return store_page(options.store, None, config)
    with working(config):
        return store_page(options.store, options.source, config)


def demo(options: Namespace) -> int:
    try:
        # It brings a solver and matplotlib, which no other command needs.
        from romzarr_flows.demo.run import run
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"the demo draws a picture and needs {error.name}: pip install 'romzarr[plot]'"
        ) from error
    config = settings(options)
    with working(config):
        return run(Path(options.directory), config)
