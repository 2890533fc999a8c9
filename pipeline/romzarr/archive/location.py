"""Locations of archives: local paths and URLs without secrets, and Zarr stores there.

Credentials never enter a task graph. Tasks carry only the path or URL, and every process opens its
own store with the credentials in its environment (``AWS_ACCESS_KEY_ID``, configuration of obstore
and fsspec). URLs with secrets are therefore refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import LocalStore, ZipStore

from romzarr import objects
from romzarr.arguments import as_place
from romzarr.errors import ArchiveError

_SECRET_PARAMETERS = ("sig", "signature", "token", "credential", "key", "password", "secret")


def is_url(location: str) -> bool:
    return "://" in location


def normalised(source: str | os.PathLike[str]) -> str:
    """Return the absolute path or URL of `source`.

    Raises
    ------
    ArchiveError
        If a local path does not exist, or a URL contains a password or signature.
    """
    location = as_place(source, "source")
    if location.startswith("file://"):
        location = location.removeprefix("file://")
    if is_url(location):
        _refuse_secrets(location)
        return location.rstrip("/")
    path = os.path.abspath(os.path.expanduser(location))
    if not os.path.exists(path):
        raise ArchiveError(f"archive {location!r}: there is no such file or folder; check the path")
    return path


def redacted(location: str) -> str:
    """Remove user, password, query and fragment from `location`.

    >>> redacted("simplecache::https://me:pass@host/a.nc?sig=abc")
    'simplecache::https://host/a.nc'
    """
    return "::".join(map(_redacted_link, _links(location))) if is_url(location) else location


def _links(url: str) -> list[str]:
    """Split a chained URL of fsspec, but not an IPv6 address in brackets."""
    return re.split(r"::(?![^\[\]]*\])", url)


def _redacted_link(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://..."
    # Other links are names of protocols, or paths within an archive.
    if not parts.scheme or "://" not in url:
        return url.partition("?")[0]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _refuse_secrets(url: str) -> None:
    try:
        links = [urlsplit(link) for link in _links(url)]
    except ValueError as error:
        raise ArchiveError(f"archive {redacted(url)!r}: invalid URL: {error}") from error
    found = [secret for parts in links for secret in _secrets_in(parts)]
    if found:
        raise ArchiveError(
            f"archive {redacted(url)!r}: the URL contains {found[0]}, which would appear in tasks "
            "and logs; remove it, and put credentials into the environment of the workers "
            "(AWS_ACCESS_KEY_ID ..., ~/.netrc, fsspec or obstore configuration)"
        )


def _secrets_in(parts: SplitResult) -> Iterator[str]:
    if ":" in parts.netloc.rpartition("@")[0]:
        yield "user:password"
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if any(word in name.casefold() for word in _SECRET_PARAMETERS):
            yield name.casefold()


def open_store(location: str) -> Store:
    """Open a read-only Zarr store with the credentials of this process."""
    if not is_url(location):
        if os.path.isfile(location):
            # Opened here: zarr 3.1 does not open a store inside a wrapper.
            opened: Store = sync(ZipStore.open(location, mode="r"))
            return opened
        return LocalStore(location, read_only=True)
    return objects.zarr_store(location, read_only=True)


@lru_cache(maxsize=32)
def process_store(location: str) -> Store:
    """Return the store at `location`, opened once per process."""
    return open_store(location)


def suffix(location: str) -> str:
    return Path(urlsplit(location).path if is_url(location) else location).suffix.casefold()
