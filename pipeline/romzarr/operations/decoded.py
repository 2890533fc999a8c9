"""What a store decodes to, as an archive."""

from __future__ import annotations

import math
from dataclasses import replace

import xarray as xr

from romzarr.archive import Archive
from romzarr.archive.later import later_part
from romzarr.chunked.plan import LEAF_BYTES
from romzarr.comparison.blocks import as_stored
from romzarr.compression.order_points import in_order_of
from romzarr.config import Config
from romzarr.store.reading.reader import CoefficientStore
from romzarr.store.reading.variables import StoredVariable


def decoded_archive(opened: CoefficientStore, first: int = 0) -> Archive:
    """Open what a store decodes to, with all that it says of the archive that it was made from.

    From snapshot `first` on.

    Nothing is decoded before blocks are read: those have the chunks of the archive in space, and as
    many snapshots as a task may hold. Points are in the order in which the store has them.

    Parameters
    ----------
    opened : CoefficientStore
        It is read as it was when it was opened.
    """
    archive = as_stored(opened, chunked_dataset(opened), Config())
    orders = [order.complete(opened.last.arrays) for order in opened.last.orders.values()]
    described = replace(
        archive,
        order=tuple(opened.facts["order"]),
        attrs=opened.facts["attrs"],
        encoding=opened.facts["encoding"],
        variable_attrs={name: v.attrs for name, v in opened.variables.items()},
        variable_encoding={name: v.encoding for name, v in opened.variables.items()},
    )
    return in_order_of(later_part(described, first) if first else described, orders)


def chunked_dataset(opened: CoefficientStore) -> xr.Dataset:
    """Open what a store decodes to, lazily, in chunks that suit a task."""
    dim, dataset = opened.facts["time"]["dim"], xr.open_dataset(opened.url, engine="romzarr")
    return dataset.assign(
        {
            name: dataset[name].chunk(_chunks(variable, dim))
            for name, variable in opened.variables.items()
        }
    )


def _chunks(variable: StoredVariable, dim: str) -> dict[str, int]:
    """Lengths of chunks by dim."""
    lengths = variable.chunks or variable.shape
    sizes = {
        each: max(length) if isinstance(length, tuple) else min(length, n)
        for each, length, n in zip(variable.dims, lengths, variable.shape, strict=True)
    }
    snapshot = variable.dtype.itemsize * math.prod(n for d, n in sizes.items() if d != dim)
    return sizes | {dim: max(1, LEAF_BYTES // snapshot)}
