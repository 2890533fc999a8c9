"""The commands: each reads settings, starts workers, calls an operation and prints its result."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import romzarr
from romzarr.config import NONE, ClusterConfig, Config, load_config
from romzarr.errors import ConfigError, PipelineError
from romzarr_flows.cluster import connect
from romzarr_flows.clusters import Workers
from romzarr_flows.groups import ALONE, in_json, stores_asked, titled
from romzarr_flows.tables import (
    append_table,
    compact_table,
    compression_table,
    estimate_table,
    info_table,
    size,
    verify_table,
)
from romzarr_flows.terminal import show

# Flags and the settings that they override.
SETTINGS = {
    "tolerance": "compression.tolerance",
    "max_error": "compression.max_error",
    "per": "compression.per",
    "fluctuation": "compression.fluctuation",
    "sums": "compression.sums",
    "derivatives": "compression.derivatives",
    "layers": "compression.layers",
    "max_rank": "compression.max_rank",
    "variables": "archive.variables",
    "exclude": "archive.exclude",
    "columns": "archive.columns",
    "series": "archive.series",
    "engine": "archive.engine",
    "weights": "archive.weights",
    "time": "archive.time",
    "degree": "library.degree",
    "threshold": "sparse_regression.threshold",
    "max_hours": "nightly.max_hours",
}


def settings(options: Namespace) -> Config:
    """Read the settings file of a command and apply its flags."""
    given = {
        key: getattr(options, flag)
        for flag, key in SETTINGS.items()
        if getattr(options, flag, None) is not None
    }
    config = load_config(options.config, given)
    if options.cluster in (None, config.cluster.kind):
        return config
    # The other cluster settings of the file belong to its own kind.
    return replace(config, cluster=ClusterConfig(kind=options.cluster))


@contextmanager
def working(config: Config) -> Iterator[Workers]:
    """Run Dask where the settings say, and show its progress."""
    # Imports Dask, which `romzarr --help` and `romzarr info` do without.
    from romzarr_flows.progress import log_workers, show_progress

    with connect(config.cluster) as workers, show_progress(workers):
        log_workers(workers)
        yield workers


@contextmanager
def extras(command: str) -> Iterator[None]:
    """Name the extra that provides a missing package."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = {"matplotlib": "plot"}.get(package, "neural")
        raise PipelineError(
            f"romzarr {command} needs {package}: pip install 'romzarr[{extra}]'"
        ) from error


def print_json(values: Mapping[str, Any]) -> None:
    json.dump(values, sys.stdout, indent=2, allow_nan=False)
    print()


def show_result(
    options: Namespace, facts: Mapping[str, Any], table: Callable[..., str], *places: str
) -> None:
    """Print a report as JSON or as a table, as the flags say."""
    if options.json:
        print_json(facts)
    else:
        show(table(facts, *places))


def estimate(options: Namespace) -> int:
    config = settings(options)
    with working(config):
        report = romzarr.estimate(options.source, tolerances=options.tolerances, config=config)
    show_result(options, report.to_dict(), estimate_table, options.source)
    return 0


def compress(options: Namespace) -> int:
    config = settings(options)
    if config.compression.max_error != NONE or config.compression.derivative_bounds:
        # Refuse a wrong name before any worker starts. This imports Dask.
        from romzarr.operations.compress import check_early

        check_early(options.source, config)
    with working(config):
        report = romzarr.compress(
            options.source, options.store, config=config, overwrite=options.overwrite
        )
    show_result(options, report.to_dict(), compression_table, options.source, options.store)
    return 0


def append(options: Namespace) -> int:
    config = settings(options)
    with working(config):
        report = romzarr.append(options.store, options.source, config=config)
    show_result(options, report.to_dict(), append_table, options.source, options.store)
    return 0


def compact(options: Namespace) -> int:
    with working(settings(options)):
        report = romzarr.compact(options.store)
    show_result(options, report.to_dict(), compact_table, options.store)
    return 0


def info(options: Namespace) -> int:
    found = {g: romzarr.info(each).to_dict() for g, each in stores_asked(options).items()}
    if options.json:
        print_json(in_json(found))
    else:
        tables = (info_table(facts, titled(options.store, g)) for g, facts in found.items())
        show("\n\n".join(tables))
    return 0


def verify(options: Namespace) -> int:
    config = settings(options)
    with working(config):
        report = romzarr.verify(
            options.store,
            options.source,
            config=config,
            sample=options.sample,
            per=options.shown_per,
            measures=options.measures,
        )
    show_result(options, report.to_dict(), verify_table, options.source, options.store)
    return 0 if report.ok else 1


def reconstruct(options: Namespace) -> int:
    # A tree is decoded as a whole, unless one group is asked for.
    store = options.store if options.group is None else stores_asked(options)[ALONE]
    with working(settings(options)):
        romzarr.reconstruct(
            store,
            options.out,
            start=options.start,
            stop=options.stop,
            level=options.level,
            modes=options.modes,
            overwrite=options.overwrite,
        )
    show(f"{options.store} decoded into {options.out}", sys.stderr)
    return 0


def equations(options: Namespace) -> int:
    found = {g: _equations_of(each, options) for g, each in stores_asked(options).items()}
    if options.json:
        print_json(in_json({group: facts for group, (facts, _) in found.items()}))
        return 0
    for number, (group, (_, text)) in enumerate(found.items()):
        heading = f"{titled(options.store, group)}\n\n" if group else ""
        show(("\n\n" if number else "") + heading + text)
    return 0


def _equations_of(store: str, options: Namespace) -> tuple[dict[str, Any], str]:
    """Find the equations of a store, as JSON values and as text."""
    # Imports xarray, which `romzarr --help` does without.
    from romzarr.operations.field_model import field_model
    from romzarr.operations.identified import (
        coordinates_facts,
        equations_text,
        field_text,
        model_facts,
    )

    asked = _fit(options)
    found = romzarr.equations(store)
    facts = {"modes": found.to_dict()}
    if options.latex or (options.modes and not asked):
        return facts, found.latex() if options.latex else found.text()
    series = None
    if not asked:
        # Imports what reads archives, which equations of a field do without.
        from romzarr.operations.series_model import series_model

        series = series_model(store)
    if series is not None:
        text = f"Equations of the series in the store\n\n{equations_text(series)}"
        return facts | {"series": model_facts(series)}, text
    field = field_model(store, sparse=not options.modes, **asked)
    if field is not None:
        return facts | {"field": model_facts(field) | coordinates_facts(field)}, field_text(field)
    return facts, found.text()


def _fit(options: Namespace) -> dict[str, Any]:
    """Collect what is asked of a fit to what a store holds."""
    names = ("degree", "states", "threshold")
    return {name: each for name in names if (each := getattr(options, name)) is not None}


def forecast(options: Namespace) -> int:
    # Imports xarray, which `romzarr --help` does without.
    from romzarr_flows.forecast import check_out, forecast_facts, forecast_text, write_forecast

    if options.out:
        check_out(options.out)
    stores = stores_asked(options)
    if ALONE not in stores:
        raise ConfigError(
            f"{options.store}: is a tree of groups; choose one with --group: {', '.join(stores)}"
        )
    bounded = not options.unbounded
    found = romzarr.forecast(stores[ALONE], options.until, bounded=bounded, **_fit(options))
    if options.out:
        write_forecast(found, options.out)
    if options.json:
        print_json(forecast_facts(found))
    else:
        show(forecast_text(found, options.until))
    return 0


def identify(options: Namespace) -> int:
    # Imports xarray, which `romzarr --help` does without.
    from romzarr.archive.series import read_series
    from romzarr.operations.identified import equations_text, model_facts

    config = settings(options)
    series = read_series(
        options.source, options.columns, config.archive.time, config.archive.engine
    )
    times = series.times if options.dt is None else options.dt * series.times
    names = series.names if options.names is None else options.names
    model = romzarr.identify(series.states, times, names=names, config=config)
    model.attrs["units"] = series.units
    if options.json:
        print_json(model_facts(model))
    else:
        show(equations_text(model))
    return 0


def report(options: Namespace) -> int:
    if options.catalogue and (options.source or options.store):
        raise ConfigError(
            "report --catalogue STORES: found STORE or --source as well; give either one store or "
            "the folder of all stores"
        )
    if options.measures and not options.source:
        raise ConfigError("report --measures: found no --source SOURCE to measure against; give it")
    if not (options.catalogue or options.store):
        raise ConfigError("report: found neither STORE nor --catalogue STORES; give one of them")
    from romzarr_flows.report.run import write_page

    if options.catalogue:
        from romzarr_flows.report.catalogue import catalogue_page

        config = settings(options)
        count = write_page(
            options.output, lambda: catalogue_page(options.catalogue, options.output, config)
        )
        print(f"{options.output}: {size(count)}", file=sys.stderr)
        return 0
    with extras("report"):
        from romzarr_flows.report.tree_page import write_pages
    config = settings(options)
    with working(config) if options.source else nullcontext():
        pages = write_pages(options, config)
    for page, count in pages.items():
        print(f"{page}: {size(count)}", file=sys.stderr)
    return 0


def demo(options: Namespace) -> int:
    with extras("demo"):
        # Imports matplotlib, which few commands need.
        from romzarr_flows.demo.run import run
    config = settings(options)
    with working(config):
        return run(Path(options.directory), config)
