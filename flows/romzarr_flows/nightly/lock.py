"""One run at a time, even after a crash of the one before.

On a file system the kernel keeps the lock (flock) and drops it when its holder dies, however.
On an object store a *lease* stands for it: an object that its holder rewrites every few seconds,
each time on condition that nobody else has (If-Match). Whoever finds one that did not change for
a while, by his own count of seconds, takes it over by the same conditional request. No two clocks
are ever compared, so none has to be right.
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
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.nightly.catalogue import FOLDER, now

log = logging.getLogger(__name__)

NAME = "lock"
# A lease that did not change for this long is that of a crashed run.
LEASE_SECONDS = 60.0
RENEWALS = 4
LONGEST = 1000
# How often a run tries to get a lock of the kernel, which `is_held` has for a moment.
LOOKS, LOOK_SECONDS = 4, 0.05
RELEASED = b"released"


@dataclass
class Held:
    """What a holder looks at before each dataset: whether it may have lost the lock."""

    lost: threading.Event = field(default_factory=threading.Event)


def locked(stores: str) -> AbstractContextManager[Held]:
    """Hold the lock of the stores at a path or URL, for as long as the context lasts.

    Raises
    ------
    CannotRunError
        If another run holds it, or it cannot be made.
    """
    place = f"{stores}/{FOLDER}/{NAME}"
    return leased(place) if "://" in stores else flocked(Path(place))


def is_held(stores: str) -> bool | None:
    """Whether a run holds the lock of the stores at a path or URL; None where nobody can know.

    On an object store that takes as long as its holder may take to renew it.
    """
    place = f"{stores}/{FOLDER}/{NAME}"
    if "://" not in stores:
        return _is_flocked(place)
    return Lease(place).is_alive() if is_object_store(place) else None


def signature() -> bytes:
    """Who holds a lock, for whoever finds it held; no two are alike, as ETags are of content."""
    facts = {"host": socket.gethostname(), "pid": os.getpid(), "since": now().isoformat()}
    return json.dumps(facts | {"token": secrets.token_hex(8)}).encode()


def held_by(content: bytes, place: str) -> CannotRunError:
    try:
        facts = json.loads(content)
        who = f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        who = "it has not said which"
    return CannotRunError(
        f"{place}: another run is at work ({who}); let it finish, or end that process. The lock "
        "goes with it: nothing has to be removed"
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
            f"nightly.stores: no lock can be made at {path}: {error.strerror}; {advice(error)}"
        ) from error
    try:
        _take(descriptor, path)
        with contextlib.suppress(OSError):  # a full disk has no room for a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, signature())
        yield Held()
    finally:
        os.close(descriptor)


def advice(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return (
            "mount that disk for writing, or, where systemd starts this, name the folder in "
            "ReadWritePaths= of the unit and create it: all else is read-only there"
        )
    return "check that the disk is mounted, not full, and may be written to"


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
        # Stores are committed in one step anyway: two runs would waste work and break nothing.
        log.warning("%s: this file system has no locks (%s); start one run at a time", path, error)


def _is_flocked(place: str) -> bool | None:
    try:
        descriptor = os.open(place, os.O_RDONLY | locks.CLOSED_IN_CHILDREN)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared and for a moment: two who look do not see each other, and a run tries again.
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
    """Hold the lock that is an object, and go on renewing it."""
    if not is_object_store(url):
        log.warning("%s: nothing there can be locked; start one run at a time", url)
        yield Held()
        return
    lease = Lease(url)
    lease.acquire()
    held, over = Held(), threading.Event()

    def renew() -> None:
        while not over.wait(LEASE_SECONDS / RENEWALS):
            if not lease.renew():
                held.lost.set()
                return

    thread = threading.Thread(target=renew, name="romzarr lease", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()
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
        """Take the lease, waiting for that of a crashed run to lapse.

        Raises
        ------
        CannotRunError
            If its holder is alive, or the object store refuses.
        """
        try:
            while not self._put(None):
                if self._put(self._unheld().version):
                    return
                # Another took it meanwhile, and may have given it back already.
                found = self._get()
                if found.content != RELEASED:
                    raise held_by(found.content, self.url)
        except OSError as error:
            raise CannotRunError(
                f"nightly.stores: no lock can be made at {self.url}: {error}"
            ) from error

    def _unheld(self) -> Stored:
        """The lease that is there, once it is known to be nobody's."""
        found = self._get()
        if found.content == RELEASED:
            return found
        log.info("%s: waiting up to %.0f s for a sign of its holder", self.url, LEASE_SECONDS)
        lapse = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < lapse:
            time.sleep(LEASE_SECONDS / RENEWALS / 2)
            now_there = self._get()
            if now_there.content == RELEASED:
                return now_there
            if now_there.content != found.content:
                raise held_by(now_there.content, self.url)
        log.warning("%s: taken over from a run that gives no sign", self.url)
        return found

    def is_alive(self) -> bool | None:
        """Whether its holder renews it; waits for two renewals, of which one may fail."""
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
        """Write the lease again; False once it is another's, or might be."""
        try:
            return self._get().content == self._written and self._put(self._version)
        except OSError as error:
            late = time.monotonic() - self._renewed
            log.warning("%s: cannot be renewed for %.0f s: %s", self.url, late, error)
            return late < LEASE_SECONDS - LEASE_SECONDS / RENEWALS

    def release(self) -> None:
        """Let the next one have it at once."""
        with contextlib.suppress(OSError):
            if self._get().content == self._written:
                self._folder.replace(self._key, RELEASED, self._version)

    def _put(self, version: Mapping[str, str] | None) -> bool:
        """Sign the lease, if it still is of this version (None: if there is none)."""
        content = signature()
        if not self._folder.replace(self._key, content, version):
            return False
        self._written, self._renewed = content, time.monotonic()
        return True

    def _get(self) -> Stored:
        found = self._folder.read(self._key, LONGEST)
        self._version = found.version
        return found
