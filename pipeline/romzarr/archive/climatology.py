"""The mean cycle that the anomalies of an archive are about: which snapshots belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from romzarr.archive.archive import Archive
from romzarr.archive.time_axis import SECONDS, coordinate_along, is_calendar
from romzarr.errors import ConfigError

# Hours of the day are told apart where snapshots are closer than so many seconds.
DAY = 23 * 3600.0


def groups_asked(archive: Archive, climatology: bool) -> NDArray[np.int64]:
    """The group of each snapshot (m,) about whose mean fluctuations are: those of a `climatology`,
    or one of all.

    Raises
    ------
    ConfigError
        If times are none of a calendar, or the record is too short for a climatology.
    """
    if not climatology:
        return np.zeros(len(archive.time.values), np.int64)
    groups = groups_of(archive)
    _check_cycle(archive, groups)
    return groups


def groups_of(archive: Archive) -> NDArray[np.int64]:
    """Numbers of the groups (m,) of snapshots whose mean is that of the season.

    Those of a calendar month belong together; where there are several snapshots a day, those of an
    hour in a calendar month.

    Raises
    ------
    ConfigError
        If times are not those of a calendar.
    """
    name = coordinate_along(archive.carried, archive.time.dim)
    if name is None or not is_calendar(archive.carried[name].variable):
        raise ConfigError(
            f"compression.fluctuation: found climatology, but the times of {archive.name} are not "
            "those of a calendar; allowed is mean, or give times as dates"
        )
    times, elapsed = archive.carried[name], archive.time.values * SECONDS[archive.time.units]
    labels = times.dt.month.values * 24
    if len(elapsed) > 1 and float(np.median(np.diff(elapsed))) < DAY:
        labels = labels + times.dt.hour.values
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def are_alone(groups: NDArray[np.int64]) -> bool:
    """Whether so many snapshots are alone in their group that they are its mean."""
    return len(groups) < 2 * len(np.unique(groups))


def _check_cycle(archive: Archive, groups: NDArray[np.int64]) -> None:
    """Refuse a record so short that most snapshots are alone in their group, which is their mean.

    Raises
    ------
    ConfigError
    """
    if are_alone(groups):
        count = len(np.unique(groups))
        raise ConfigError(
            f"compression.fluctuation: found climatology for {len(groups)} snapshots of "
            f"{archive.name} in {count} months, or hours of months; allowed are records with at "
            "least twice as many snapshots, or mean"
        )
