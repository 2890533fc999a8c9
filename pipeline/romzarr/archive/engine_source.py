"""Reads whatever an engine of xarray opens, such as GRIB through cfgrib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import xarray as xr

from romzarr.archive.file_source import digest_of_file
from romzarr.archive.guard import guarded, unreadable
from romzarr.archive.location import is_url, redacted
from romzarr.archive.memory_source import MemoryArchive
from romzarr.archive.provider import Piece, digest_of
from romzarr.archive.stamp import stamp_of
from romzarr.errors import ConfigError

AUTO = "auto"
# Suffixes of GRIB files, which need no `--engine`.
GRIB = frozenset({".grib", ".grb", ".grib1", ".grb1", ".gb1", ".grib2", ".grb2", ".gb2"})
CFGRIB = "cfgrib"
# Options without which an engine would change the archive, or lose some of it in silence: cfgrib
# writes an index beside each file, and leaves out messages that fit no common grid.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {CFGRIB: {"indexpath": "", "errors": "raise"}}


@dataclass(frozen=True)
class EngineArchive:
    """What ``xarray.open_dataset(location, engine=engine)`` opens (a `Provider`).

    Workers get the lazy arrays of the engine, which open the file themselves; blocks are those
    that the engine prefers, else single snapshots, or several small ones.
    """

    location: str
    engine: str

    @property
    def name(self) -> str:
        return redacted(self.location)

    @cached_property
    def dataset(self) -> xr.Dataset:
        _refuse_unknown(self.engine)
        what = f"archive {self.name!r} cannot be opened by the engine {self.engine!r} of xarray"
        advice = (
            "check archive.engine; or open it in Python with the options that it needs, and give "
            "romzarr.compress the dataset"
        )
        with unreadable(what, advice):
            opened = xr.open_dataset(
                self.location,
                engine=self.engine,
                chunks=None,
                cache=False,
                backend_kwargs=dict(_OPTIONS.get(self.engine, {})),
            )
            return guarded(opened, self.name)

    def piece(self, name: str, time_axis: int) -> Piece:
        blocks = MemoryArchive(self.name, self.dataset).piece(name, time_axis)
        return replace(blocks, digest=self._digest)

    @cached_property
    def _digest(self) -> str:
        # Names of lazy arrays differ from one opening to the next.
        if os.path.isfile(self.location):
            return digest_of_file(self.location)
        return digest_of([self.name if is_url(self.location) else stamp_of(self.location)])


def _refuse_unknown(engine: str) -> None:
    """Refuse an engine that is not installed.

    Raises
    ------
    ConfigError
    """
    known = xr.backends.list_engines()
    if engine in known:
        return
    how = "pip install 'romzarr[grib]'" if engine == CFGRIB else "install the package that has it"
    raise ConfigError(
        f"archive.engine: found {engine!r}, which xarray does not know here; allowed are "
        f"{', '.join(map(repr, known))}; {how}"
    )
