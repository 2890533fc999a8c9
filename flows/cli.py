"""The command ``romzarr``: arguments in, exit status out.

Status 0: done. 1: a bound is broken, or the job failed. 2: wrong usage or settings, or a nightly
run that could do nothing for any dataset.
Results go to standard output, messages and progress to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from flows.arguments import parser
from flows.logs import complain, logging_to_stderr
from flows.nightly import CannotRunError
from pipeline.errors import ConfigError, PipelineError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        with logging_to_stderr(options.log_format):
            status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone: what is left must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, Exception) as error:
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


if __name__ == "__main__":
    sys.exit(main())
