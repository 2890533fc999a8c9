"""The levels of a store as the multiscales convention of Zarr lists them.

References
----------
.. [1] https://github.com/zarr-conventions/multiscales, version 1.
"""

from __future__ import annotations

from typing import Any

from romzarr.store.reading.coarse import halvings_of
from romzarr.store.reading.reader import CoefficientStore
from romzarr.store.reading.views import deepest

_HOME = "zarr-conventions/multiscales"
_CONVENTION = {
    "schema_url": f"https://raw.githubusercontent.com/{_HOME}/refs/tags/v1/schema.json",
    "spec_url": f"https://github.com/{_HOME}/blob/v1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}
_METHOD = "CDF 9/7 low-pass"


def multiscales(store: CoefficientStore) -> dict[str, Any]:
    """Attributes of the group that has the levels of a store, "0", "1" and so on.

    Scales are those of ``dims``, relative to the whole grid. Points of a coarser grid are points of
    the whole one, so nothing is translated.
    """
    levels = [halvings_of(store, level) for level in range(deepest(store) + 1)]
    dims = list(levels[-1])
    listed = [
        {
            "asset": str(number),
            **({"derived_from": "0"} if number else {}),
            "transform": {
                "scale": [float(1 << level.get(dim, 0)) for dim in dims],
                "translation": [0.0] * len(dims),
            },
        }
        for number, level in enumerate(levels)
    ]
    layout = {"layout": listed, "resampling_method": _METHOD, "dims": dims}
    return {"zarr_conventions": [_CONVENTION], "multiscales": layout}
