"""The pages about a store, or about all groups of a tree and what they have in common."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import romzarr
from romzarr.archive import Source
from romzarr.archive.location import redacted
from romzarr.config import Config
from romzarr_flows.groups import ALONE, source_of_group, stores_asked, titled
from romzarr_flows.report.page import rendered
from romzarr_flows.report.run import write_page
from romzarr_flows.report.store_page import store_page


def write_pages(options: Namespace, config: Config) -> dict[str, int]:
    """Write the page of a store; of a tree one for each group, and one that lists them.

    Returns the bytes of each file. With a source this runs Dask.
    """
    stores, counts = stores_asked(options), dict[str, int]()
    pages = {group: _page_of(options.output, group) for group in stores}
    for group, store in stores.items():

        def make(group: str = group, store: str = store) -> str:
            source = _source(options, group, config)
            name = titled(Path(redacted(options.store)).name, group or options.group or "")
            return store_page(store, source, config, options.measures, name)

        counts[pages[group]] = write_page(pages[group], make)
    if ALONE not in stores:
        made = write_page(options.output, lambda: _tree_page(options.store, stores, pages))
        counts[options.output] = made
    return counts


def _source(options: Namespace, group: str, config: Config) -> Source | None:
    name = group or options.group
    if not options.source or not name:
        return options.source or None
    return source_of_group(options.source, options.store, name, config)


def _page_of(out: str, group: str) -> str:
    """Name the page of a group.

    >>> _page_of("run.html", "/ocean/deep"), _page_of("run.html", "/"), _page_of("run.html", "")
    ('run.ocean.deep.html', 'run.root.html', 'run.html')
    """
    if group == ALONE:
        return out
    name = group.strip("/").replace("/", ".") or "root"
    return str(Path(out).with_suffix(f".{name}.html"))


def _tree_page(store: str, stores: dict[str, str], pages: dict[str, str]) -> str:
    found = {group: romzarr.info(each) for group, each in stores.items()}
    raw = sum(each.raw_bytes for each in found.values())
    stored = sum(each.stored_bytes for each in found.values())
    rows: list[dict[str, Any]] = [
        {"group": group, "page": quote(Path(pages[group]).name), "info": each}
        for group, each in found.items()
    ]
    return rendered(
        "tree.html",
        title=f"Groups of {Path(redacted(store)).name}",
        place=redacted(store),
        rows=rows,
        raw=raw,
        stored=stored,
    )
