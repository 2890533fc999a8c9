"""romzarr: error-bounded compression of simulation output by its dynamics.

The operations are functions: `estimate`, `compress`, `append`, `compact`, `verify`, `reconstruct`,
`info`, `equations`, `field_model`, `forecast`; `groups` are the stores of a tree; `open` asks a
store for statistics with bounds; of states without a store `identify`, `right_hand_side`,
`integrate`. `Codec` and `NumcodecsCodec` code chunks for other writers.
The numerical method is in `numerics` (NumPy arrays) and `chunked` (Dask).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from romzarr.answers.accessor import open
    from romzarr.codecs.v2 import NumcodecsCodec
    from romzarr.codecs.zarr import Codec
    from romzarr.config import Config, load_config
    from romzarr.operations.append import append
    from romzarr.operations.compact_groups import compact
    from romzarr.operations.compress import compress
    from romzarr.operations.describe import equations, info
    from romzarr.operations.estimate import estimate
    from romzarr.operations.field_model import field_model
    from romzarr.operations.forecast import forecast
    from romzarr.operations.group_stores import groups
    from romzarr.operations.identify import identify, integrate, right_hand_side
    from romzarr.operations.reconstruct import reconstruct
    from romzarr.operations.verify import verify
    from romzarr.streams.compressor import StreamCompressor

    __version__: str

_HOMES = {
    "Codec": "romzarr.codecs.zarr",
    "Config": "romzarr.config",
    "NumcodecsCodec": "romzarr.codecs.v2",
    "StreamCompressor": "romzarr.streams.compressor",
    "append": "romzarr.operations.append",
    "compact": "romzarr.operations.compact_groups",
    "compress": "romzarr.operations.compress",
    "equations": "romzarr.operations.describe",
    "estimate": "romzarr.operations.estimate",
    "field_model": "romzarr.operations.field_model",
    "forecast": "romzarr.operations.forecast",
    "groups": "romzarr.operations.group_stores",
    "identify": "romzarr.operations.identify",
    "info": "romzarr.operations.describe",
    "integrate": "romzarr.operations.identify",
    "load_config": "romzarr.config",
    "open": "romzarr.answers.accessor",
    "reconstruct": "romzarr.operations.reconstruct",
    "right_hand_side": "romzarr.operations.identify",
    "verify": "romzarr.operations.verify",
}

__all__ = [
    "Codec",
    "Config",
    "NumcodecsCodec",
    "StreamCompressor",
    "__version__",
    "append",
    "compact",
    "compress",
    "equations",
    "estimate",
    "field_model",
    "forecast",
    "groups",
    "identify",
    "info",
    "integrate",
    "load_config",
    "open",
    "reconstruct",
    "right_hand_side",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import an operation on first use: opening a store does not need Dask."""
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("romzarr")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'romzarr' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
