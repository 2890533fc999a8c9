"""What the log looks like: a line an event, for people or, as JSON, for machines.

Whoever logs gives facts as attributes of the record (`romzarr.progress`); secrets that this process
knows are taken out of every line, whoever wrote it.
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
# Variables of the environment whose values are secrets, and user:password in a URL.
_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY")
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_SECRET_IN_URL = re.compile(
    r"([?&][\w.-]*(?:sig|token|credential|key|password|secret)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)
_LEAST_SECRET = 6


def without_secrets(text: str) -> str:
    """`text` with what must not be in a log replaced.

    >>> without_secrets("s3://me:pass@host/bucket is down")
    's3://[hidden]@host/bucket is down'
    """
    for name, value in os.environ.items():
        if len(value) >= _LEAST_SECRET and value in text and _SECRET_NAMES.search(name.upper()):
            text = text.replace(value, HIDDEN)
    text = _SECRET_IN_URL.sub(rf"\1{HIDDEN}", text)
    return _USER_IN_URL.sub(rf"\1{HIDDEN}@", text)


class TextFormatter(logging.Formatter):
    """Time, dataset and message; errors of a package with where they came from."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        dataset = getattr(record, "dataset", "")
        # The record is shared by all handlers: only a copy may be changed.
        shown = logging.makeLogRecord(record.__dict__)
        shown.msg = f"{dataset}: {record.getMessage()}" if dataset else record.getMessage()
        shown.args = ()
        return escaped(without_secrets(super().format(shown)), lines=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the facts given."""

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


def of_interest(record: logging.LogRecord) -> bool:
    """Whether to show it: all of this program, and of others what they warn of."""
    return record.levelno >= logging.WARNING or record.name.split(".")[0] in PROGRAM


def is_news(record: logging.LogRecord) -> bool:
    """Whether asyncio tells what nobody knows: of reads side by side that fail, the first is told
    by who asked for them, and "never retrieved" are the others."""
    return "never retrieved" not in record.getMessage()


def with_dataset(record: logging.LogRecord) -> bool:
    """Note which dataset the thread that logs works on."""
    if not hasattr(record, "dataset"):
        record.dataset = current_dataset()
    return True


@contextmanager
def logging_to_stderr(kind: Format = "text") -> Iterator[None]:
    """Show what this program logs, and warnings of others, while a command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    handler.addFilter(of_interest)
    handler.addFilter(with_dataset)
    root = logging.getLogger()
    root.addHandler(handler)
    # Stays: what is never retrieved is told whenever memory is swept, after the command even.
    logging.getLogger("asyncio").addFilter(is_news)
    for name in PROGRAM:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)


def complain(message: str, kind: Format = "text") -> None:
    """Say on standard error why a command ends."""
    if kind == "json":
        record = logging.makeLogRecord(
            {"name": "romzarr", "levelno": logging.ERROR, "levelname": "ERROR", "msg": message}
        )
        print(JsonFormatter().format(record), file=sys.stderr)
    else:
        # Parsers and packages say much, on several lines.
        lines = (line.strip() for line in message.splitlines())
        told = " ".join(line for line in lines if line)
        show(f"romzarr: error: {without_secrets(told)}", sys.stderr)


def add_log_format(command: argparse.ArgumentParser) -> None:
    """The option of every command; its default is the top parser's, lest one below resets it."""
    command.add_argument(
        "--log-format",
        choices=("text", "json"),
        default=argparse.SUPPRESS,
        help="lines on standard error: for people (default), or one JSON object each",
    )
