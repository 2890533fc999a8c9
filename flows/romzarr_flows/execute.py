"""One command: what ends it early, and its exit status."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from romzarr.errors import ConfigError, PipelineError
from romzarr_flows.logs import complain, logging_to_stderr
from romzarr_flows.nightly import CannotRunError
from romzarr_flows.signals import EndingOnSignals

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def execute(options: Namespace, ending: EndingOnSignals) -> int:
    """Run the command that was parsed; a failure becomes a line on standard error.

    What a signal ends is raised: the process has to go.
    """
    try:
        with logging_to_stderr(options.log_format):
            status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone: what is left must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, Exception) as error:
        if ending.number:
            raise
        message, status = explained(error)
        complain(message, options.log_format)
    return status


def explained(error: BaseException) -> tuple[str, int]:
    """What to say about an error that ends a command, and its status; defects are raised."""
    named = f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, ConfigError | CannotRunError):
        return str(error), USAGE
    if isinstance(error, PipelineError):
        return str(error), FAILED
    if isinstance(error, OSError | MemoryError):
        return named, FAILED
    raise error
