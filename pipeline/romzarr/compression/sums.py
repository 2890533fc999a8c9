"""Weighted sums over space, such as a global mean or a transport, that a store has exactly.

Decoded values get a multiple of a coarse field for each sum and snapshot, so that their sums are
those of the archive. What that adds to their error is measured with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.chunked.blocks import Lengths, aligned_tile, lazy_tiles
from romzarr.chunked.slices import gathered
from romzarr.chunked.sums import FoundSums, MeasureSums, joined_sums
from romzarr.coding.tiles import region_of
from romzarr.compression.index_norms import LEAST, MOST
from romzarr.config import CompressionConfig
from romzarr.contracts import ArchivedVariable, Floats, Mask, Matrix, ReadCost
from romzarr.errors import ConfigError
from romzarr.numerics.gaps import special_values
from romzarr.store.limits import MAX_SUM_VALUES, MAX_SUMS
from romzarr.store.reading.draft import Draft
from romzarr.store.writing.writer import StoreWriter

# Fields need not be exact: they are what weights are, in so many steps.
STEPS = 127
# Products of weights and fields that are so nearly dependent cannot be told apart.
DEPENDENT = 1e-9


@dataclass(frozen=True)
class Sums:
    """Weights (J, *space) of sums of a variable, and the fields that are added, of one byte.

    They broadcast over the variable without time; ``over`` are the dims that are summed over,
    ``rest`` the others in space.
    """

    names: tuple[str, ...]
    weights: Matrix
    fields: Matrix
    over: tuple[str, ...]
    rest: tuple[str, ...]


def sums_asked(archive: Archive, config: CompressionConfig) -> dict[str, Sums]:
    """Sums of each variable that has the dims of the weights.

    Raises
    ------
    ConfigError
        If weights are no variables of the archive over dims in space, not finite, of several
        dims, or if single values are bounded too.
    """
    if not config.sum_weights or config.tolerance == 0:
        return {}
    if len(config.sum_weights) > MAX_SUMS:
        raise ConfigError(
            f"compression.sums: found {len(config.sum_weights)} weights, allowed are {MAX_SUMS}"
        )
    dims = {name: _dims(archive, name) for name in config.sum_weights}
    if len({frozenset(each) for each in dims.values()}) > 1:
        raise ConfigError(
            f"compression.sums: found weights over {', '.join(map(str, dims.values()))}; allowed "
            "are weights that all have the same dims"
        )
    over = next(iter(dims.values()))
    found = {
        variable.name: _sums(archive, variable, config.sum_weights)
        for variable in archive.variables
        if set(over) <= set(variable.space_dims)
    }
    if not found:
        raise ConfigError(
            f"compression.sums: no variable of {archive.name} has the dims {over} of the weights"
        )
    if both := sorted(found.keys() & config.bounds.keys()):
        raise ConfigError(
            f"compression.sums: variable {both[0]!r} has a bound on single values "
            "(compression.max_error); allowed is one of the two"
        )
    return found


def sum_facts(facts: Mapping[str, Any], asked: Mapping[str, Sums]) -> dict[str, Any]:
    """The facts of a store with the sums that it has."""
    variables = {
        name: {**each, "sums": {"names": list(asked[name].names), "dims": list(asked[name].over)}}
        if name in asked
        else each
        for name, each in facts["variables"].items()
    }
    return {**facts, "variables": variables}


def _dims(archive: Archive, name: str) -> tuple[str, ...]:
    if name not in archive.carried.variables:
        known = sorted(str(each) for each in archive.carried.variables)
        raise ConfigError(
            f"compression.sums: found {name!r}, allowed are coordinates and variables without time "
            f"of {archive.name}: {', '.join(map(repr, known)) or 'there are none'}"
        )
    weights = archive.carried.variables[name]
    dims = tuple(str(dim) for dim in weights.dims)
    if archive.time.dim in dims or not dims or weights.dtype.kind not in "iuf":
        raise ConfigError(
            f"compression.sums: {name!r} has dims {dims} and dtype {weights.dtype}; allowed are "
            "numbers over dims in space"
        )
    values = np.asarray(weights.values, np.float64)
    if not np.isfinite(values).all() or not values.any():
        raise ConfigError(
            f"compression.sums: {name!r} has values that are not finite, or none but zeros; "
            "allowed are finite weights, 0 for points that do not count"
        )
    return dims


def _sums(archive: Archive, variable: ArchivedVariable, names: Sequence[str]) -> Sums:
    weights = []
    for name in names:
        found = archive.carried.variables[name]
        wanted = [dim for dim in variable.space_dims if dim in found.dims]
        values = np.asarray(found.transpose(*wanted).values, np.float64)
        for order in archive.orders:
            if order.dim in wanted:
                values = values.take(order.positions, wanted.index(order.dim))
        sizes = iter(values.shape)
        shape = [next(sizes) if dim in wanted else 1 for dim in variable.space_dims]
        weights.append(values.reshape(shape))
    both = np.array(weights)
    largest = np.abs(both).reshape(len(both), -1).max(axis=1)
    fields = np.rint(both / largest.reshape(-1, *(1 for _ in both.shape[1:])) * STEPS)
    known = archive.carried.variables[names[0]].dims
    over = tuple(dim for dim in variable.space_dims if dim in known)
    rest = tuple(dim for dim in variable.space_dims if dim not in known)
    _refuse_long(variable, len(names), over, rest)
    return Sums(tuple(names), both, fields, over, rest)


def _refuse_long(
    variable: ArchivedVariable, count: int, over: Sequence[str], rest: Sequence[str]
) -> None:
    sizes = dict(zip(variable.dims, variable.shape, strict=True))
    snapshots = variable.shape[variable.time_axis]
    values = count * math.prod(sizes[dim] for dim in over)
    values += count * snapshots * math.prod(sizes[dim] for dim in rest)
    if values > MAX_SUM_VALUES:
        raise ConfigError(
            f"compression.sums: variable {variable.name!r} would have {values} weights and sums, "
            f"allowed are {MAX_SUM_VALUES}"
        )


def write_sums(
    writer: StoreWriter,
    archive: Archive,
    facts: Mapping[str, Any],
    asked: Mapping[str, Sums],
    constant: Mapping[str, Mask],
) -> ReadCost:
    """Put what sums of decoded values lack into a store that is complete but for that. Runs Dask.

    Nothing is added where indices are ``constant``, which broadcasts over the variable, nor in its
    gaps. Reads these variables once. The numbers of all snapshots of one variable are held here.

    Raises
    ------
    ConfigError
        If some of the sums follow from others.
    """
    cost, draft = ReadCost(), Draft(*writer.draft(facts))
    for variable in archive.variables:
        if (name := variable.name) not in asked:
            continue
        sums, special = asked[name], special_values(variable.dtype)
        if "gaps" not in facts["variables"][name]:
            # Not a number, and infinities.
            special = special[:3]
        left_out = constant.get(name, np.zeros((1,) * len(variable.dims), bool))
        found, tile = _measured(draft, variable, sums, special, left_out)
        cost += found.cost
        multiples = _multiples(variable, sums, found, tile)
        writer.write_sums(variable.name, sums.fields.astype(np.int8), multiples)
    return cost


def _measured(
    draft: Draft, variable: ArchivedVariable, sums: Sums, special: Floats, left_out: Mask
) -> tuple[FoundSums, Lengths]:
    tile = aligned_tile(variable, LEAST, MOST)
    task = MeasureSums(
        draft,
        variable.name,
        variable.time_axis,
        sums.weights,
        sums.fields,
        tuple(variable.dims.index(dim) for dim in sums.rest),
        special,
        left_out,
    )
    found: FoundSums = gathered(lazy_tiles(variable, tile, task, joined_sums), joined_sums)
    return found, tile


def _multiples(variable: ArchivedVariable, sums: Sums, found: FoundSums, tile: Lengths) -> Matrix:
    """Multiples (J, m, *rest) of the fields that make up for what is missing."""
    axes = (variable.time_axis, *(variable.dims.index(dim) for dim in sums.rest))
    shape, lengths = [variable.shape[a] for a in axes], [tile[a] for a in axes]
    values = np.zeros((len(sums.names), *shape))
    for place, missing in found.missing.items():
        products = np.moveaxis(found.products[place], (0, 1), (-2, -1))
        if len(sums.names) > 1:
            _refuse_dependent(products, sums)
        inverse = np.linalg.pinv(products, rcond=DEPENDENT)
        solved = (inverse @ np.moveaxis(missing, 0, -1)[..., None])[..., 0]
        region = region_of(place, shape, lengths)
        values[(slice(None), *region)] = np.moveaxis(solved, -1, 0)
    # As accurate as the values themselves.
    narrow = variable.dtype.itemsize <= 4 and np.abs(values).max(initial=0.0) < 1e30
    return values.astype(np.float32) if narrow else values


def _refuse_dependent(products: Matrix, sums: Sums) -> None:
    flat = products.reshape(-1, *products.shape[-2:])
    sizes = np.sqrt(np.abs(np.einsum("kii->ki", flat)))
    scaled = flat / np.maximum(sizes[:, :, None] * sizes[:, None], 1e-300)
    known = (sizes > 0).all(axis=1)
    if known.any() and np.linalg.cond(scaled[known]).max() > 1 / DEPENDENT:
        raise ConfigError(
            f"compression.sums: some of {', '.join(sums.names)} follow from others; leave these out"
        )
