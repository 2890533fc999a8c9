"""Who writes an open store, as far as it can tell: two streams into one lose work.

Every commit of a stream notes when it was, how long after the one before, and by which stream: a
random number, since host and user are nobody's business who reads the store.
"""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# Streams of this process by the marks they leave: None once a stream has ended. A stream that was
# dropped without an end leaves a reference that is dead.
_here: dict[str, weakref.ref[Signature] | None] = {}

# A stream is taken for alive until it is late by as much as it takes from commit to commit, and
# for some seconds where it commits all the time.
LEAST_SECONDS = 60.0


class Signature:
    """The mark that one stream leaves in its commits."""

    def __init__(self) -> None:
        self._id = secrets.token_hex(8)
        self._last = time.monotonic()
        _here[self._id] = weakref.ref(self)

    def retire(self) -> None:
        """Note that the stream writes no more."""
        _here[self._id] = None

    def signed(self) -> dict[str, Any]:
        """The mark of a commit now."""
        last, self._last = self._last, time.monotonic()
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return {"id": self._id, "committed": when, "seconds": round(self._last - last, 1)}

    def is_other(self, facts: Mapping[str, Any]) -> bool:
        """Whether the newest part of a store is one of another stream that goes on."""
        mark = _mark(facts)
        return bool(mark) and mark.get("id") != self._id


def last_sign(facts: Mapping[str, Any]) -> float | None:
    """Seconds since the stream that has the store open committed, if it seems to be alive."""
    mark = _mark(facts)
    if _has_ended_here(mark.get("id")):
        return None
    try:
        when = datetime.fromisoformat(mark["committed"])
        age = max(0.0, (datetime.now(UTC) - when).total_seconds())
        pace = float(mark["seconds"])
    # Stores from strangers may say anything here.
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return age if age < max(2 * pace, LEAST_SECONDS) else None


def _has_ended_here(mark: Any) -> bool:
    """Whether the mark is of a stream of this process that has ended, or that nobody holds."""
    if not isinstance(mark, str) or mark not in _here:
        return False
    stream = _here[mark]
    return stream is None or stream() is None


def _mark(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    stream = facts.get("stream")
    mark = stream.get("writer") if isinstance(stream, Mapping) else None
    return mark if isinstance(mark, Mapping) else {}
