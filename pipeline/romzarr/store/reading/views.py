"""Views of a store: coarser, of fewer modes, or less accurate than what it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from romzarr.arguments import as_whole
from romzarr.coding.bands import depth
from romzarr.errors import ConfigError
from romzarr.store.layout import Root
from romzarr.store.reading.coarse import CoarseStore, halvings_of
from romzarr.store.reading.leading import with_leading
from romzarr.store.reading.reader import CoefficientStore, open_store
from romzarr.store.reading.variables import StoredVariable


@dataclass(frozen=True)
class View:
    """How much of a store is read.

    No more layers than a ``tolerance`` needs (0: all), so many leading ``modes`` (None: all), on
    the grid of a ``level`` (0: the whole one).
    """

    tolerance: float = 0.0
    modes: int | None = None
    level: int = 0

    @classmethod
    def asked(cls, tolerance: Any, modes: Any, level: Any) -> View:
        """The view that a caller asks for.

        Raises
        ------
        ConfigError, TypeError
        """
        if tolerance != 0 and not (isinstance(tolerance, float) and 0 < tolerance < 1):
            raise ConfigError(
                f"tolerance: found {tolerance!r}, allowed are numbers from 0 to below 1"
            )
        number = None if modes is None else as_whole(modes, "modes", 0)
        return cls(float(tolerance), number, as_whole(level, "level", 0))

    def of(self, stored: StoredVariable) -> View:
        """The part of it that concerns a variable: modes of logarithms are read all."""
        if stored.coding.has_modes and stored.unit is None:
            return self
        return replace(self, modes=None)


def open_view(url: str, root: Root, view: View) -> CoefficientStore | CoarseStore:
    """Open a version of a store as far as a view goes; views of a process are shared."""
    return _opened(url, root.parts, view) if view != View() else open_store(url, root)


@lru_cache(maxsize=16)
def _opened(url: str, named: tuple[Any, ...], view: View) -> CoefficientStore | CoarseStore:
    store = on_whole_grid(open_store(url, Root(named)), view)
    return CoarseStore.of(store, view.level) if view.level else store


def on_whole_grid(store: CoefficientStore, view: View) -> CoefficientStore:
    """A store as far as a view goes, but for its level."""
    if view.tolerance:
        store = store.within(view.tolerance)
    return store if view.modes is None else with_leading(store, view.modes)


def check_level(store: CoefficientStore, level: int) -> None:
    """Refuse levels at which nothing more would be halved.

    Raises
    ------
    ConfigError
    """
    if level > (most := deepest(store)):
        why = "no dim of space is halved" if not most else "dims keep fewer than 8 points"
        raise ConfigError(
            f"level: found {level}, allowed are integers from 0 to {most} for {store.url}: "
            f"beyond, {why}"
        )


def deepest(store: CoefficientStore) -> int:
    """The last level of a store, at which something more is halved than before."""
    longest = max((n for each in store.variables.values() for n in each.space_shape), default=0)
    return max(halvings_of(store, depth(longest)).values(), default=0)
