"""Arrays in layers, and stores of which only the first layers are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from romzarr.errors import StoreError
from romzarr.store import layout
from romzarr.store.layout import ArrayLayout
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.tile_cache import TileCache
from romzarr.store.reading.variables import StoredVariable

Layers = Mapping[str, Sequence[str]]


def layers_of(layouts: Mapping[str, ArrayLayout], where: str) -> dict[str, tuple[str, ...]]:
    """List the layers of every array that has some.

    Raises
    ------
    StoreError
        If there is one layer alone, or they differ in shape, chunks or dtype.
    """
    found = {}
    firsts = [each.removesuffix("_1") for each in layouts if each.endswith("_1")]
    # Names of coordinates may end like that, too.
    for path in filter(layout.is_coded, firsts):
        numbers = range(1, layout.MAX_LAYERS + 1)
        layers = tuple(takewhile(layouts.__contains__, (layout.layer(path, k) for k in numbers)))
        forms = {(layouts[k].shape, layouts[k].chunk, layouts[k].dtype) for k in layers}
        if len(layers) < 2 or len(forms) > 1:
            raise StoreError(f"{where}: array {path} has layers that do not fit one another")
        found[path] = layers
    return found


def check_layers(variables: Mapping[str, StoredVariable], layers: Layers, where: str) -> None:
    """Refuse variables whose arrays have other layers than their facts say."""
    for name, variable in variables.items():
        expected = len(variable.layers) + 1 if variable.layers else 0
        for array in layout.LAYERED:
            found = len(layers.get(f"basis/{variable.group}/{array}", ()))
            if found not in (0, expected):
                raise StoreError(
                    f"{where}: {array} of {name!r} has {found} layers, but {expected} are described"
                )


def needed(variable: StoredVariable, tolerance: float) -> int:
    """Number of layers of a variable for a tolerance; all of them if none is enough before."""
    enough = (k for k, error in enumerate(variable.layers, start=1) if error <= tolerance)
    return next(enough, len(variable.layers) + 1)


def coarser(
    part: Generation, layers_for: Callable[[StoredVariable], int], tiles: TileCache
) -> Generation:
    """Return a generation of which only so many layers are read of each variable."""
    layers = dict(part.arrays.layers)
    for variable in part.variables.values():
        for array in layout.LAYERED:
            path = f"basis/{variable.group}/{array}"
            if path in layers:
                layers[path] = layers[path][: layers_for(variable)]
    return replace(part, arrays=replace(part.arrays, layers=layers, tiles=tiles))
