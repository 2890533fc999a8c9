"""Lengths of tiles that the settings ask for."""

from __future__ import annotations

from dataclasses import replace

from romzarr.archive import Archive
from romzarr.config import LayoutConfig
from romzarr.errors import ConfigError


def tiled(archive: Archive, layout: LayoutConfig) -> Archive:
    """The archive with variables that know what lengths their tiles have at most."""
    variables = tuple(replace(each, tile=layout.lengths) for each in archive.variables)
    return replace(archive, variables=variables)


def check_tiles(archive: Archive, layout: LayoutConfig) -> None:
    """Refuse lengths along dims that no variable has.

    Raises
    ------
    ConfigError
    """
    known = {dim for variable in archive.variables for dim in variable.dims}
    if unknown := layout.lengths.keys() - known:
        raise ConfigError(
            f"layout.tile: found dim {min(unknown)!r}; allowed are dims of the variables that are "
            f"compressed: {', '.join(map(repr, sorted(known))) or 'there are none'}"
        )
