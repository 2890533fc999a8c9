"""The command ``romzarr``: arguments in, exit status out.

Status 0: done. 1: a bound is broken, or the job failed. 2: wrong usage or settings.
Results go to standard output, messages and progress to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flows.arguments import parser
from pipeline.errors import ConfigError, PipelineError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        with logging_to_stderr():
            status: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone: what is left must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ConfigError as error:
        return complain(str(error), USAGE)
    except PipelineError as error:
        return complain(str(error), FAILED)
    except (OSError, MemoryError) as error:
        return complain(f"{type(error).__name__}: {error}", FAILED)
    return status


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show what this program logs, and warnings of others, while a command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    for name in ("flows", "pipeline"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)


def complain(message: str, status: int) -> int:
    print(f"romzarr: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
