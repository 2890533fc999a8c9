"""Requests to object storage: limits of time, number of tries, and what is said in the end."""

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
CONNECT_SECONDS = 5.0
# Without a byte: a request that hangs is given up and sent again.
SILENT_SECONDS = 20.0
# For a whole request, however steadily it goes on.
REQUEST_SECONDS = 900.0
TRIES = 5
FIRST_PAUSE_SECONDS = 0.2


def is_object_store(url: str) -> bool:
    return urlsplit(url).scheme in SCHEMES


def options(retries: int) -> dict[str, Any]:
    """What a connection is made with; obstore itself sends requests again so many times."""
    return {
        "client_options": {
            # Endpoints of one's own (MinIO, Ceph) are often http.
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
        If obstore is not installed, or the environment holds settings that it refuses.
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
    # Open files are read in many small pieces, each its own request: obstore repeats those.
    return import_module("romzarr.objects.files").Files(scheme, **options(retries=TRIES - 1))


def file_system_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of `url`, a path too, and where `url` is in it.

    Raises
    ------
    StorageError
        If nothing installed knows this kind of URL.
    """
    if is_object_store(url):
        return _file_system(urlsplit(url).scheme), url.partition("://")[2]
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{url}: no access to this kind of URL: {error}") from error
    return found


# --- failures -----------------------------------------------------------------------------

_NO_ANSWER = (
    "object storage does not answer as it should, however often it is asked; see that the network "
    "and the endpoint (AWS_ENDPOINT_URL) are up and that there are credentials, then run again"
)
_REFUSED = (
    "access is refused; see that the credentials in the environment of this process "
    "(AWS_ACCESS_KEY_ID, ...) may do this, or set AWS_SKIP_SIGNATURE=true for public data"
)
_NO_KEY = (
    "no key was found: there are no credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) in the "
    "environment of this process, and this machine has no role to ask as; set them, or "
    "AWS_SKIP_SIGNATURE=true for public data"
)
# Without a key a machine asks where those of a cloud are told their role.
_KEYLESS = (
    *("/latest/api/token", "/latest/meta-data", "/computeMetadata/", "/metadata/identity/"),
    *("Missing AccessKeyId", "Missing SecretAccessKey"),
)
# What services say of a bucket that is not there.
_NO_BUCKET = ("<Code>NoSuchBucket<", "The specified bucket does not exist", "ContainerNotFound")
# What the server takes for our fault will be no other the next time, but for these.
_LASTING = re.compile(r"status code: 4(?!08|09|25|29)\d\d")
_ADVICE = {
    "PermissionDeniedError": _REFUSED,
    "UnauthenticatedError": _REFUSED,
    "UnknownConfigurationKeyError": "a setting of object storage is not understood; correct it",
}
# Answers to a write with a condition, and no failures.
_CONFLICTS = ("AlreadyExistsError", "PreconditionError")
# What may go well the next time.
_PASSING = ("GenericError", "JoinError")


def is_passing(error: Exception) -> bool:
    """Whether the same request may be answered the next time."""
    if not type(error).__module__.startswith("obstore") or type(error).__name__ not in _PASSING:
        return False
    said = str(error)
    # Where nobody knows a role nothing answers, however often it is asked.
    keyless = _about(said, _KEYLESS) and "status code: 5" not in said
    return not (keyless or _LASTING.search(said))


def _about(said: str, words: tuple[str, ...]) -> bool:
    return any(each in said for each in words)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Failures of object storage as a `StorageError` that says what to do.

    That a file is not there, or is there, is no failure: both pass.
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
        # What follows the first line is for who debugs obstore.
        raise StorageError(f"{url}: {advice} ({whole.partition(chr(10))[0].strip()})") from None


def bucket_of(url: str) -> str:
    """The bucket that a URL is in.

    >>> bucket_of("s3://bucket/deep/er")
    's3://bucket'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def with_retries(url: str, request: Callable[[], T]) -> T:
    """What `request` returns, sent up to `TRIES` times; it must be one that may be repeated.

    Raises
    ------
    StorageError
        Naming `url`, if storage refuses, or the last try fails as well.
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
    """Wait longer after each failure, and not as long as others who wait."""
    await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**failures * random.uniform(0.5, 1.5))
