"""romzarr: error-bounded compression of simulation output by its dynamics.

The operations, each a function: `compress`, `append`, `verify`, `reconstruct`, `info`, `equations`.
The method behind them lies in `numerics` (arrays in, arrays out) and `chunked` (Dask).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.append import append
    from pipeline.compress import compress
    from pipeline.config import Config, load_config
    from pipeline.describe import equations, info
    from pipeline.reconstruct import reconstruct
    from pipeline.stream_compressor import StreamCompressor
    from pipeline.verify import verify

_HOMES = {
    "Config": "pipeline.config",
    "StreamCompressor": "pipeline.stream_compressor",
    "append": "pipeline.append",
    "compress": "pipeline.compress",
    "equations": "pipeline.describe",
    "info": "pipeline.describe",
    "load_config": "pipeline.config",
    "reconstruct": "pipeline.reconstruct",
    "verify": "pipeline.verify",
}

__all__ = [
    "Config",
    "StreamCompressor",
    "append",
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


class _Package(ModuleType):
    """A package whose operations keep their names when modules of the same name are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds every submodule in its package: `pipeline.compress` would be
        # the module for whoever imports it before asking for the function.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
