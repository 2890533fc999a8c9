"""The settings that a store was made with, as it says."""

from __future__ import annotations

from romzarr.config import Config, with_values
from romzarr.errors import ConfigError, StoreError
from romzarr.store.reading.reader import CoefficientStore


def config_of(store: CoefficientStore) -> Config:
    """The settings that `store` was made with, defaults where it says nothing.

    Raises
    ------
    StoreError
        If one of them is unknown or not allowed.
    """
    made = {
        f"{section}.{key}": value
        for section, values in store.facts.get("config", {}).items()
        for key, value in values.items()
    }
    try:
        return with_values(Config(), made)
    except ConfigError as error:
        raise StoreError(f"{store.url}: its settings cannot be used: {error}") from error
