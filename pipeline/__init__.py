"""romzarr: error-bounded compression of simulation output by its dynamics.

The operations, each a function: `compress`, `verify`, `reconstruct`, `info`, `equations`.
The method behind them lies in `numerics` (arrays in, arrays out) and `chunked` (Dask).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.compress import compress
    from pipeline.config import Config, load_config
    from pipeline.describe import equations, info
    from pipeline.reconstruct import reconstruct
    from pipeline.verify import verify

_HOMES = {
    "Config": "pipeline.config",
    "compress": "pipeline.compress",
    "equations": "pipeline.describe",
    "info": "pipeline.describe",
    "load_config": "pipeline.config",
    "reconstruct": "pipeline.reconstruct",
    "verify": "pipeline.verify",
}

__all__ = [
    "Config",
    "compress",
    "equations",
    "info",
    "load_config",
    "reconstruct",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import an operation when it is first used: opening a store needs none of Dask."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
