"""Takes the further measures that `romzarr.verify` is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from romzarr.archive import Archive
from romzarr.comparison.fold import Block, fold
from romzarr.comparison.further import (
    OF_MAPS,
    OF_MOMENTS,
    Distribution,
    bins_of,
    extremes,
    nothing,
)
from romzarr.comparison.joint import GroupMoments
from romzarr.comparison.maps import Maps, maps_of, over_maps
from romzarr.contracts import FurtherMeasure
from romzarr.errors import ConfigError
from romzarr.store.reading.reader import CoefficientStore

# All measures.
ALL = "all"


def as_measures(names: str | Iterable[str]) -> tuple[FurtherMeasure, ...]:
    """Return the measures of these names, in the order of `FurtherMeasure`; "all" for all.

    Raises
    ------
    ConfigError
        If there is none of a name.
    """
    given = [names] if isinstance(names, str) else [str(each) for each in names]
    if ALL in given:
        return tuple(FurtherMeasure)
    for name in given:
        if name not in list(FurtherMeasure):
            near = get_close_matches(name, list(FurtherMeasure), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"measures: found {name!r}, allowed are {', '.join(FurtherMeasure)} and all{hint}"
            )
    return tuple(each for each in FurtherMeasure if each in given)


def further_measures(
    archive: Archive,
    opened: CoefficientStore,
    moments: Mapping[str, GroupMoments],
    blocks: Sequence[Block],
    asked: Sequence[FurtherMeasure],
) -> dict[str, dict[str, Any]]:
    """Take measures of each variable. Runs Dask.

    Parameters
    ----------
    moments : mapping of str to GroupMoments
        Of each variable, all of its values together.
    blocks : sequence
        Those that extremes are taken of, which are read again: their bins have to be known.

    Returns
    -------
    dict
        Facts by variable and measure, in JSON values.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in moments}
    for name, each in moments.items():
        for measure, taken in OF_MOMENTS.items():
            if measure in asked:
                found[name][measure.value] = taken(each)
    if FurtherMeasure.EXTREMES in asked:
        for name, facts in _extremes(archive, opened, moments, blocks).items():
            found[name][FurtherMeasure.EXTREMES.value] = facts
    for name, of_maps in _of_maps(archive, opened, asked).items():
        found[name] |= of_maps
    return found


def _extremes(
    archive: Archive,
    opened: CoefficientStore,
    moments: Mapping[str, GroupMoments],
    blocks: Sequence[Block],
) -> dict[str, dict[str, Any]]:
    found = {name: nothing("there are no finite numbers") for name in moments}
    bins = {name: usable for name, each in moments.items() if (usable := bins_of(each))}
    measures = [(Distribution(bins[v.name]),) if v.name in bins else () for v in archive.variables]
    mine = [block for block in blocks if measures[block[0].variable]]
    sums = fold(archive, opened, mine, measures, "time", "extremes")
    for name, variable in zip((v.name for v in archive.variables), sums, strict=True):
        if variable:
            counts = np.sum(variable[0], axis=0)
            found[name] = extremes(moments[name], bins[name], counts)
    return found


def _of_maps(
    archive: Archive, opened: CoefficientStore, asked: Sequence[FurtherMeasure]
) -> dict[str, dict[str, Any]]:
    """Take the measures of maps, of the variables that have such maps."""
    wanted = {measure: taken for measure, taken in OF_MAPS.items() if measure in asked}
    if not wanted:
        return {}
    coordinates = {name: archive.carried.variables[name] for name in archive.carried.coords}
    maps = {
        v.name: maps_of(v, coordinates, opened.snapshots, opened.last.name)
        for v in archive.variables
    }
    why = {
        name: {measure: taken.problem(each) for measure, taken in wanted.items()}
        for name, each in maps.items()
    }
    apply = {
        name: {measure.value: wanted[measure] for measure, words in each.items() if not words}
        for name, each in why.items()
    }
    some = tuple(v for v in archive.variables if apply[v.name])
    sums = over_maps(replace(archive, variables=some), opened, maps, apply) if some else {}
    found: dict[str, dict[str, Any]] = {name: {} for name in maps}
    for name, measures in why.items():
        for measure, words in measures.items():
            facts = nothing(words)
            if not words:
                facts = wanted[measure].finding(sums[name][measure.value], maps[name])
                facts |= _looked_at(maps[name])
            found[name][measure.value] = facts
    return found


def _looked_at(maps: Maps) -> dict[str, Any]:
    """Tell which maps were looked at."""
    part = {} if maps.whole else {"part": dict(zip(maps.dims, maps.shape, strict=True))}
    return {"maps": len(maps.chosen), "of": maps.total, "dims": list(maps.dims), **part}
