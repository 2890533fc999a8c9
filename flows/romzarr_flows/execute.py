"""Runs one command and turns errors into messages and an exit status."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace

from romzarr.errors import ConfigError, PipelineError
from romzarr_flows.logs import complain, logging_to_stderr
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.signals import EndingOnSignals

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def execute(options: Namespace, ending: EndingOnSignals) -> int:
    """Run the parsed command; a failure becomes a line on standard error.

    After a signal the exception is raised, so that the process ends.
    """
    try:
        with logging_to_stderr(options.log_format):
            status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe: flushing at exit must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, Exception) as error:
        if ending.number:
            raise
        message, status = explain(error)
        complain(message, options.log_format)
    return status


def in_flags(message: str) -> str:
    """Translate Python arguments in a message into flags of the command line.

    >>> in_flags("b: already exists; pass overwrite=True to replace it")
    'b: already exists; pass --overwrite to replace it'
    >>> in_flags("start=7, stop=3: found no snapshot")
    '--start 7, --stop 3: found no snapshot'
    """
    message = re.sub(r"\b(start|stop)=(-?\d+)", r"--\1 \2", message)
    return re.sub(r"\boverwrite=True\b", "--overwrite", message)


def explain(error: BaseException) -> tuple[str, int]:
    """Return the message and exit status for an error; raise errors that are bugs."""
    named = f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, ConfigError | CannotRunError):
        return in_flags(str(error)), USAGE
    if isinstance(error, PipelineError):
        return in_flags(str(error)), FAILED
    if isinstance(error, OSError | MemoryError):
        return named, FAILED
    raise error
