"""Writes a page atomically."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from romzarr.errors import ConfigError, PipelineError
from romzarr_flows.files import LocalFolder


def write_page(out: str, make: Callable[[], str]) -> int:
    """Write what `make` returns into the file `out`; returns its bytes.

    Raises
    ------
    ConfigError
        If the folder of `out` does not exist; raised before anything is computed.
    PipelineError
        If it cannot be written.
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise ConfigError(f"-o {out}: there is no folder {path.parent}; create it first")
    content = make().encode()
    try:
        LocalFolder(path.parent).write(path.name, content)
    except OSError as error:
        raise PipelineError(f"{out}: cannot be written: {error}") from error
    return len(content)
