"""The settings recorded in a store."""

from __future__ import annotations

from romzarr.config import Config, with_values
from romzarr.errors import ConfigError, StoreError
from romzarr.store.reading.reader import CoefficientStore


def config_of(store: CoefficientStore) -> Config:
    """Return the settings that `store` was made with; those not recorded have their defaults.

    Raises
    ------
    StoreError
        If a setting is unknown or not allowed.
    """
    made = {
        f"{section}.{key}": value
        for section, values in store.facts.get("config", {}).items()
        for key, value in values.items()
    }
    try:
        return with_values(Config(), made)
    except ConfigError as error:
        raise StoreError(f"{store.url}: its recorded settings are invalid: {error}") from error
