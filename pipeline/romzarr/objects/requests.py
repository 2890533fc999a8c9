"""Requests to object storage: timeouts, retries and error messages."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from romzarr.errors import StorageError
from romzarr.objects.threads import in_thread

T = TypeVar("T")

SCHEMES = frozenset({"s3", "s3a", "gs", "az", "adl", "abfs", "abfss"})
# Far more than a connection needs, little enough for retries.
CONNECT_SECONDS = 5.0
# A request without any data for so long is sent again.
SILENT_SECONDS = 20.0
# A whole request: 64 MiB at 75 kB/s.
REQUEST_SECONDS = 900.0
# The pauses double: with five tries a service has some 3 s to recover.
TRIES = 5
FIRST_PAUSE_SECONDS = 0.2


def is_object_store(url: str) -> bool:
    return urlsplit(url).scheme in SCHEMES


def options(retries: int) -> dict[str, Any]:
    """Make the options of a connection; obstore itself retries requests `retries` times."""
    return {
        "client_options": {
            # Private endpoints (MinIO, Ceph) often use http.
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=SILENT_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=REQUEST_SECONDS),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_PAUSE_SECONDS),
                "max_backoff": timedelta(seconds=FIRST_PAUSE_SECONDS * 2**TRIES),
                "base": 2,
            },
        },
    }


@lru_cache(maxsize=256)
def connection(url: str) -> Any:
    """Return the obstore store at `url`, with the credentials in the environment.

    obstore does not retry: `with_retries` does, also for writes and for truncated responses.

    Raises
    ------
    StorageError
        If obstore is not installed, or refuses settings in the environment.
    """
    if find_spec("obstore") is None:
        raise StorageError(
            f"{url}: {urlsplit(url).scheme}:// URLs need obstore, which is not installed; "
            "pip install 'romzarr[s3]'"
        )
    with storage_errors(url):
        return import_module("obstore.store").from_url(url, **options(retries=0))


@lru_cache(maxsize=16)
def _file_system(scheme: str) -> Any:
    connection(f"{scheme}://any")
    # Open files make many small requests, which obstore retries itself.
    return import_module("romzarr.objects.files").Files(scheme, **options(retries=TRIES - 1))


def file_system_of(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL or path, and the path in it.

    Raises
    ------
    StorageError
        If no installed package supports this kind of URL.
    """
    if is_object_store(url):
        return _file_system(urlsplit(url).scheme), url.partition("://")[2]
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{url}: this kind of URL is not supported: {error}") from error
    return found


# --- failures -----------------------------------------------------------------------------

_NO_ANSWER = (
    "object storage does not answer; check the network, the endpoint (AWS_ENDPOINT_URL) and the "
    "credentials, then run again"
)
_REFUSED = (
    "access is refused; check the permissions of the credentials in the environment "
    "(AWS_ACCESS_KEY_ID, ...), or set AWS_SKIP_SIGNATURE=true for public data"
)
_NO_KEY = (
    "found no credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment "
    "nor a role of this machine; set them, or AWS_SKIP_SIGNATURE=true for public data"
)
# Without a key, the client requests the role of a cloud machine at these addresses.
_KEYLESS = (
    *("/latest/api/token", "/latest/meta-data", "/computeMetadata/", "/metadata/identity/"),
    *("Missing AccessKeyId", "Missing SecretAccessKey"),
)
# Messages of services for a missing bucket.
_NO_BUCKET = ("<Code>NoSuchBucket<", "The specified bucket does not exist", "ContainerNotFound")
# Client errors persist, except timeouts, conflicts and rate limits.
_LASTING = re.compile(r"status code: 4(?!08|09|25|29)\d\d")
_ADVICE = {
    "PermissionDeniedError": _REFUSED,
    "UnauthenticatedError": _REFUSED,
    "UnknownConfigurationKeyError": "a setting of object storage is unknown; correct it",
}
# Responses to conditional writes, which are no failures.
_CONFLICTS = ("AlreadyExistsError", "PreconditionError")
# Errors that may be temporary.
_PASSING = ("GenericError", "JoinError")


def is_passing(error: Exception) -> bool:
    """Tell whether a retry may succeed."""
    if not type(error).__module__.startswith("obstore") or type(error).__name__ not in _PASSING:
        return False
    said = str(error)
    # Without a role, retries cannot succeed.
    keyless = _about(said, _KEYLESS) and "status code: 5" not in said
    return not (keyless or _LASTING.search(said))


def _about(said: str, words: tuple[str, ...]) -> bool:
    return any(each in said for each in words)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn failures of object storage into a `StorageError` with advice.

    Errors about missing or existing files pass unchanged.
    """
    try:
        yield
    except Exception as error:
        name, whole = type(error).__name__, str(error)
        foreign = type(error).__module__.startswith("obstore")
        if (foreign or isinstance(error, FileNotFoundError)) and _about(whole, _NO_BUCKET):
            raise StorageError(
                f"{bucket_of(url)}: there is no such bucket; check its name, or create it"
            ) from None
        if not foreign or name in _CONFLICTS:
            raise
        advice = _NO_KEY if _about(whole, _KEYLESS) else _ADVICE.get(name, _NO_ANSWER)
        # The other lines help only to debug obstore.
        raise StorageError(f"{url}: {advice} ({whole.partition(chr(10))[0].strip()})") from None


def bucket_of(url: str) -> str:
    """Return the bucket of a URL.

    >>> bucket_of("s3://bucket/deep/er")
    's3://bucket'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def with_retries(url: str, request: Callable[[], T]) -> T:
    """Send an idempotent request up to `TRIES` times.

    Raises
    ------
    StorageError
        If storage refuses the request, or the last try fails; names `url`.
    """
    with storage_errors(url):
        for failures in range(TRIES - 1):
            try:
                return await in_thread(request)
            except Exception as error:
                if not is_passing(error):
                    raise
            await pause(failures)
        return await in_thread(request)


async def pause(failures: int) -> None:
    """Wait with exponential backoff and jitter."""
    await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**failures * random.uniform(0.5, 1.5))
