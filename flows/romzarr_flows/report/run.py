"""Write a page where it was asked for, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from romzarr.errors import ConfigError, PipelineError


def write_page(out: str, make: Callable[[], str]) -> int:
    """Write what `make` returns into the file `out`; returns its bytes.

    Raises
    ------
    ConfigError
        If the folder of `out` does not exist: this is told before anything is computed.
    PipelineError
        If it cannot be written.
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise ConfigError(f"-o {out}: found no folder {path.parent}; create it, or write elsewhere")
    content = make().encode()
    staged = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        staged.write_bytes(content)
        staged.replace(path)
    except OSError as error:
        raise PipelineError(f"{out}: cannot be written: {error}") from error
    finally:
        staged.unlink(missing_ok=True)
    return len(content)
