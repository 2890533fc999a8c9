"""Log lines, as text for people or as JSON for machines.

Facts are attributes of the log record (`romzarr.progress`). Secrets in the environment of this
process are removed from every line, including those of other packages.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from romzarr.progress import current_dataset
from romzarr_flows.terminal import escaped, show

Format = Literal["text", "json"]

PROGRAM = ("romzarr", "romzarr_flows")
FACTS = ("dataset", "stage", "bytes", "seconds")
HIDDEN = "[hidden]"
# Environment variables whose values are secrets, and user:password in a URL.
_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY")
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_SECRET_IN_URL = re.compile(
    r"([?&][\w.-]*(?:sig|token|credential|key|password|secret)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)
# Shorter values ("true", "1") are no secrets, and replacing them would garble messages.
_LEAST_SECRET = 6


def without_secrets(text: str) -> str:
    """Replace the secrets in `text`.

    >>> without_secrets("s3://me:pass@host/bucket is down")
    's3://[hidden]@host/bucket is down'
    """
    for name, value in os.environ.items():
        if len(value) >= _LEAST_SECRET and value in text and _SECRET_NAMES.search(name.upper()):
            text = text.replace(value, HIDDEN)
    text = _SECRET_IN_URL.sub(rf"\1{HIDDEN}", text)
    return _USER_IN_URL.sub(rf"\1{HIDDEN}@", text)


class TextFormatter(logging.Formatter):
    """Formats time, dataset and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        dataset = getattr(record, "dataset", "")
        # All handlers share the record, so only a copy may be changed.
        shown = logging.makeLogRecord(record.__dict__)
        shown.msg = f"{dataset}: {record.getMessage()}" if dataset else record.getMessage()
        shown.args = ()
        return escaped(without_secrets(super().format(shown)), lines=True)


class JsonFormatter(logging.Formatter):
    """Formats one JSON object per line: time (UTC), level, logger, message and facts."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        given = {name: getattr(record, name, None) for name in FACTS}
        facts |= {name: value for name, value in given.items() if value not in (None, "")}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(facts))


def is_relevant(record: logging.LogRecord) -> bool:
    """Accept everything from this program, and warnings of other packages."""
    return record.levelno >= logging.WARNING or record.name.split(".")[0] in PROGRAM


def is_retrieved(record: logging.LogRecord) -> bool:
    """Reject asyncio's "exception was never retrieved".

    Where concurrent reads fail, the first error is raised and the others are never retrieved.
    """
    return "never retrieved" not in record.getMessage()


def with_dataset(record: logging.LogRecord) -> bool:
    """Add the dataset that the logging thread works on."""
    if not hasattr(record, "dataset"):
        record.dataset = current_dataset()
    return True


@contextmanager
def logging_to_stderr(kind: Format = "text") -> Iterator[None]:
    """Show log records of this program, and warnings of others, while a command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    handler.addFilter(is_relevant)
    handler.addFilter(with_dataset)
    root = logging.getLogger()
    root.addHandler(handler)
    # Never removed: asyncio logs at garbage collection, which may come after the command.
    logging.getLogger("asyncio").addFilter(is_retrieved)
    for name in PROGRAM:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)


def complain(message: str, kind: Format = "text") -> None:
    """Print on standard error why a command ends."""
    if kind == "json":
        record = logging.makeLogRecord(
            {"name": "romzarr", "levelno": logging.ERROR, "levelname": "ERROR", "msg": message}
        )
        print(JsonFormatter().format(record), file=sys.stderr)
    else:
        # Messages of packages may have several lines.
        show(f"romzarr: error: {without_secrets(' '.join(message.split()))}", sys.stderr)


def add_log_format(command: argparse.ArgumentParser) -> None:
    """Add the option of every command; the top parser alone has its default."""
    command.add_argument(
        "--log-format",
        choices=("text", "json"),
        default=argparse.SUPPRESS,
        help="format of the log on standard error: text (default) or one JSON object per line",
    )
