"""Logs the stages of an operation, each with its bytes and seconds.

The facts are attributes of the log record (``dataset``, ``stage``, ``bytes``, ``seconds``), so that
formatters need not parse the message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

log = logging.getLogger(__name__)

_DATASET: ContextVar[str] = ContextVar("dataset", default="")


@dataclass
class Step:
    """The bytes that a stage has processed; the stage sets them."""

    bytes: int | None = None


@contextmanager
def working_on(dataset: str) -> Iterator[None]:
    """Name the dataset that the stages inside belong to, unless one is named already."""
    token = _DATASET.set(_DATASET.get() or dataset)
    try:
        yield
    finally:
        _DATASET.reset(token)


def current_dataset() -> str:
    """Return the dataset that this thread works on; empty if there is none."""
    return _DATASET.get()


@contextmanager
def step(stage: str) -> Iterator[Step]:
    """Log the duration of a stage at its end; a stage that fails is not logged.

    Examples
    --------
    >>> with step("read") as reading:
    ...     reading.bytes = 2_000_000
    """
    made, began = Step(), time.perf_counter()
    yield made
    seconds = time.perf_counter() - began
    shown = "" if made.bytes is None else f"{size(made.bytes)}, "
    facts = {"stage": stage, "bytes": made.bytes, "seconds": round(seconds, 3)}
    log.info("%s: %s%.1f s", stage, shown, seconds, extra=facts)


def size(count: float) -> str:
    """Format a number of bytes.

    >>> size(0), size(1234), size(5.25e9)
    ('0 B', '1.2 kB', '5.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
