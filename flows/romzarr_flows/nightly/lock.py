"""The lock that allows one run at a time, and survives crashes.

On a file system the kernel holds the lock (flock) and releases it when its holder dies. On an
object store the lock is a *lease*: an object that its holder rewrites every few seconds by a
conditional request (If-Match). A lease that has not changed for a while, measured by the monotonic
clock of the observer, is taken over by the same conditional request. Clocks of different machines
are never compared.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from romzarr.objects import Stored, folder, locks
from romzarr.objects.requests import is_object_store
from romzarr_flows.background import repeating
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.nightly.catalogue import FOLDER, now

log = logging.getLogger(__name__)

NAME = "lock"
# A lease that has not changed for this long belongs to a crashed run. It is renewed so many times
# in between: single requests may fail or take long.
LEASE_SECONDS = 60.0
RENEWALS = 4
# Bytes read of a signature, which has some 150.
LONGEST = 1000
# `is_held` holds a kernel lock for a moment, so a run tries several times to get it.
LOOKS, LOOK_SECONDS = 4, 0.05
RELEASED = b"released"


@dataclass
class Held:
    """Whether the holder may have lost the lock, to be checked before each dataset."""

    lost: threading.Event = field(default_factory=threading.Event)


def locked(stores: str) -> AbstractContextManager[Held]:
    """Hold the lock of the stores at a path or URL, for as long as the context lasts.

    Raises
    ------
    CannotRunError
        If another run holds it, or it cannot be created.
    """
    place = f"{stores}/{FOLDER}/{NAME}"
    return leased(place) if "://" in stores else flocked(Path(place))


def is_held(stores: str) -> bool | None:
    """Tell whether a run holds the lock of the stores at a path or URL; None if unknown.

    On an object store this waits for as long as the holder may take to renew it.
    """
    place = f"{stores}/{FOLDER}/{NAME}"
    if "://" not in stores:
        return _is_flocked(place)
    return Lease(place).is_alive() if is_object_store(place) else None


def signature() -> bytes:
    """Identify the holder of a lock; each signature is unique, since ETags depend on content."""
    facts = {"host": socket.gethostname(), "pid": os.getpid(), "since": now().isoformat()}
    return json.dumps(facts | {"token": secrets.token_hex(8)}).encode()


def held_by(content: bytes, place: str) -> CannotRunError:
    try:
        facts = json.loads(content)
        who = f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        who = "unknown process"
    return CannotRunError(
        f"{place}: another run is in progress ({who}); wait for it, or end that process. This "
        "releases the lock: nothing has to be removed"
    )


# --- file systems -------------------------------------------------------------------------


@contextlib.contextmanager
def flocked(path: Path) -> Iterator[Held]:
    """Hold the lock that is a local file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | locks.CLOSED_IN_CHILDREN, 0o644)
    except OSError as error:
        raise CannotRunError(
            f"nightly.stores: cannot create the lock {path}: {error.strerror}; {advice(error)}"
        ) from error
    try:
        _take(descriptor, path)
        with contextlib.suppress(OSError):  # the disk may be full
            os.ftruncate(descriptor, 0)
            os.write(descriptor, signature())
        yield Held()
    finally:
        os.close(descriptor)


def advice(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return (
            "mount the disk for writing. A systemd unit needs the folder in ReadWritePaths=, and "
            "the folder has to exist"
        )
    return "check that the disk is mounted, writable and not full"


def _take(descriptor: int, path: Path) -> None:
    try:
        for tries in range(1, LOOKS + 1):
            try:
                locks.take(descriptor)
                return
            except BlockingIOError as error:
                if tries == LOOKS:
                    raise held_by(os.read(descriptor, LONGEST), str(path)) from error
                time.sleep(LOOK_SECONDS)
    except OSError as error:
        # Commits are atomic anyway: two runs would waste work but damage nothing.
        log.warning(
            "%s: this file system does not support locks (%s); start one run at a time", path, error
        )


def _is_flocked(place: str) -> bool | None:
    try:
        descriptor = os.open(place, os.O_RDONLY | locks.CLOSED_IN_CHILDREN)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared and brief: two observers do not see each other, and a run tries again.
        locks.take(descriptor, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)


# --- object stores ------------------------------------------------------------------------


@contextlib.contextmanager
def leased(url: str) -> Iterator[Held]:
    """Hold the lock that is an object, and keep renewing it."""
    if not is_object_store(url):
        log.warning("%s: this storage does not support locks; start one run at a time", url)
        yield Held()
        return
    lease, held = Lease(url), Held()
    lease.acquire()

    def renew() -> bool:
        if not lease.renew():
            held.lost.set()
        return not held.lost.is_set()

    try:
        with repeating("romzarr lease", LEASE_SECONDS / RENEWALS, renew):
            yield held
    finally:
        if not held.lost.is_set():
            lease.release()


class Lease:
    """An object that only its holder rewrites, by conditional requests."""

    def __init__(self, url: str) -> None:
        place, _, self._key = url.rpartition("/")
        self.url, self._folder = url, folder(place)
        self._written = b""
        self._version: Mapping[str, str] | None = None
        self._renewed = time.monotonic()

    def acquire(self) -> None:
        """Take the lease; wait for that of a crashed run to expire.

        Raises
        ------
        CannotRunError
            If its holder is alive, or the object store refuses the request.
        """
        try:
            while not self._put(None):
                if self._put(self._unheld().version):
                    return
                # Another run took it meanwhile, and may already have released it.
                found = self._get()
                if found.content != RELEASED:
                    raise held_by(found.content, self.url)
        except OSError as error:
            raise CannotRunError(
                f"nightly.stores: cannot create the lock {self.url}: {error}"
            ) from error

    def _unheld(self) -> Stored:
        """Return the existing lease once nobody holds it."""
        found = self._get()
        if found.content == RELEASED:
            return found
        log.info("%s: waiting up to %.0f s to see whether it is in use", self.url, LEASE_SECONDS)
        expiry = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < expiry:
            time.sleep(LEASE_SECONDS / RENEWALS / 2)
            now_there = self._get()
            if now_there.content == RELEASED:
                return now_there
            if now_there.content != found.content:
                raise held_by(now_there.content, self.url)
        log.warning("%s: taken over from a run that no longer renews it", self.url)
        return found

    def is_alive(self) -> bool | None:
        """Tell whether its holder renews it; waits for two renewals, since one may fail."""
        try:
            found = self._get().content
            end = time.monotonic() + 2 * LEASE_SECONDS / RENEWALS
            while found != RELEASED and time.monotonic() < end:
                time.sleep(LEASE_SECONDS / RENEWALS / 8)
                now_there = self._get().content
                if now_there != found:
                    return now_there != RELEASED
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return False

    def renew(self) -> bool:
        """Rewrite the lease; return False once another run holds it or may hold it."""
        try:
            return self._get().content == self._written and self._put(self._version)
        except OSError as error:
            late = time.monotonic() - self._renewed
            log.warning("%s: not renewed for %.0f s: %s", self.url, late, error)
            return late < LEASE_SECONDS - LEASE_SECONDS / RENEWALS

    def release(self) -> None:
        """Make the lease available at once."""
        with contextlib.suppress(OSError):
            if self._get().content == self._written:
                self._folder.replace(self._key, RELEASED, self._version)

    def _put(self, version: Mapping[str, str] | None) -> bool:
        """Sign the lease if it still has this version (None: if it does not exist)."""
        content = signature()
        if not self._folder.replace(self._key, content, version):
            return False
        self._written, self._renewed = content, time.monotonic()
        return True

    def _get(self) -> Stored:
        found = self._folder.read(self._key, LONGEST)
        self._version = found.version
        return found
