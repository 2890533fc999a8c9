"""Snapshots that are held as they are, and written as a part of their own: those with gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from romzarr.archive.archive import Archive, archive_from
from romzarr.archive.climatology import are_alone, groups_of
from romzarr.archive.memory_source import memory_archive
from romzarr.archive.ordered import ordered
from romzarr.compression.joined_errors import FLUCTUATION, joined_errors, larger_errors
from romzarr.compression.remaining_values import PART_VALUE_BOUNDS, value_bounds
from romzarr.compression.written import write_within_bounds
from romzarr.config import NONE, TOLERANCE, Config, with_values
from romzarr.contracts import Mask
from romzarr.store.reading.facts import ERRORS_BY_INDEX
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.blocks import Frame, Variables, check_follows
from romzarr.streams.series import Series

# A part is full with so many snapshots, or so many bytes of at least so many snapshots: it is
# written anew with every commit until then, and fewer snapshots hardly have a mean.
MOST_HELD, MOST_BYTES, LEAST_HELD = 64, 1 << 26, 16
PER = "compression.per"


class HeldSnapshots:
    """Snapshots from the first with gaps on, until there are enough for a part.

    Parameters
    ----------
    frame : Frame
    earlier : mapping, optional
        Facts of the store before them. Default: there is none.
    after : optional
        The last time before.

    Attributes
    ----------
    snapshots : int
    parts : int
        Parts of the store that hold them: 0 before they are written first, then 1.
    """

    def __init__(self, frame: Frame, earlier: Mapping[str, Any] | None, after: Any) -> None:
        self._frame, self._earlier, self.last_time = frame, earlier, after
        self._series = Series(frame.dim)
        self.parts = 0

    @property
    def snapshots(self) -> int:
        return len(self._series)

    def is_full(self, commit_steps: int) -> bool:
        nbytes = self.snapshots * self._frame.snapshot_bytes
        most = max(commit_steps, MOST_HELD)
        return self.snapshots >= most or (nbytes >= MOST_BYTES and self.snapshots >= LEAST_HELD)

    def take(self, block: Variables) -> int:
        """Take the snapshots of a block, and return how many they are.

        Raises
        ------
        ArchiveError
            If they do not fit those before.
        """
        frame, count = self._frame, self._frame.length(block)
        if count:
            taken = {**frame.changing(block), **frame.values(block)}
            if frame.dim in frame.archive.carried.coords:
                times = taken[frame.dim].values
                check_follows(self.last_time, times, frame.dim)
                self.last_time = times[-1]
            self._series.append(taken, count)
        return count

    @property
    def masked(self) -> Mask:
        """Points (n,) that have a number in none of them."""
        rows = self._frame.rows(self._series.variables())
        return np.asarray(np.isnan(rows).all(axis=0))

    def write(
        self,
        open_writer: Callable[[], StoreWriter],
        config: Config,
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        """Write them as `romzarr.compress` would, and commit. Runs Dask.

        Their error is within the bound relative to their own fluctuation, so that of all snapshots
        is, too. A single one is kept to the bit, since it has no fluctuation of its own, and so are
        those of which most are the only ones of their month, if these are about a climatology.

        Parameters
        ----------
        open_writer : callable
            Opens a new writer of the store.
        config : Config
        completed : callable
            Completes facts of errors with those of the whole store.

        Raises
        ------
        AccuracyError, StoreError
        """
        archive = self._archive(config)
        climatology = config.compression.climatology
        lone = self.snapshots == 1 or (climatology and are_alone(groups_of(archive)))
        with threadpool_limits(1, user_api="blas"):
            write_within_bounds(
                open_writer,
                archive,
                with_values(config, {TOLERANCE: 0.0}) if lone else config,
                lambda result: completed({**result.facts, **self._errors(result.facts)}),
                gaps=True,
            )

    def _errors(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Facts on the errors of all snapshots until the last one here."""
        if self._earlier is not None:
            joined = joined_errors(self._earlier, own) | larger_errors(self._earlier, own)
            return joined | {PART_VALUE_BOUNDS: value_bounds(own)}
        nothing = dict.fromkeys((v.name for v in self._frame.variables), 0.0)
        return {FLUCTUATION: own.get(FLUCTUATION, nothing)}

    def _archive(self, config: Config) -> Archive:
        """An archive of them, described as the stream is."""
        known, found = self._frame.archive, self._series.variables()
        names = [variable.name for variable in known.variables]
        dataset = known.carried.drop_vars([name for name in found if name not in names])
        dataset = dataset.assign(found)
        dataset = dataset.set_coords([name for name in found if name in known.carried.coords])
        archive = archive_from(
            memory_archive(dataset), self._frame.dim, names, config.archive.weights
        )
        described = replace(
            archive,
            name=known.name,
            order=known.order,
            attrs=known.attrs,
            encoding=known.encoding,
            variable_attrs=known.variable_attrs,
            variable_encoding=known.variable_encoding,
        )
        return ordered(described, known.orders)


def needs_holding(config: Config, facts: Mapping[str, Any]) -> bool:
    """Whether bounds are asked for that only whole parts can keep.

    Those on single indices, also of a store that has them by default (`facts`), values and sums,
    about a climatology, and in layers.
    """
    asked = config.compression
    return (
        _bounds_indices(config, facts)
        or bool(asked.sum_weights or asked.climatology or asked.layer_tolerances)
        or asked.max_error != NONE
    )


def held_settings(config: Config, facts: Mapping[str, Any]) -> Config:
    """The settings for snapshots that are held: bounds on single indices only if asked for."""
    return config if _bounds_indices(config, facts) else with_values(config, {PER: NONE})


def _bounds_indices(config: Config, facts: Mapping[str, Any]) -> bool:
    return ERRORS_BY_INDEX in facts or not isinstance(config.compression.per, str)
