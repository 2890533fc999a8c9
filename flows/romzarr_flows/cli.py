"""The command ``romzarr``: arguments in, exit status out.

Status 0: done. 1: a bound is broken, the job failed, or `status` found something broken. 2: wrong
usage or settings, or a nightly run that could do nothing for any dataset. 128 + n: signal n has
ended it.
Results go to standard output, messages and progress to standard error.
"""

from __future__ import annotations

import atexit
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from romzarr_flows.signals import EndingOnSignals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; where a signal ends it, end the process."""
    options, status = None, 0
    with EndingOnSignals() as ending:
        try:
            try:
                # Only now, when signals are looked after: the rest takes a while to load.
                from romzarr_flows.arguments import parser
                from romzarr_flows.execute import execute

                options = parser().parse_args(arguments)
                status = execute(options, ending)
            finally:
                ending.close()
        except BaseException:
            # Whatever a signal has become on its way up.
            if not ending.number:
                raise
        ending.close()
        if ending.number:
            leave(ending, options)
    return status


def leave(ending: EndingOnSignals, options: Namespace | None) -> NoReturn:
    """End this process, which a signal has asked for, with nothing left of its work.

    Threads of it may be at work still, and would be waited for at an ordinary end. What they
    write after all was taken back is removed last.
    """
    message = f"interrupted by {ending.name}"
    if options is None:
        # Nothing is sure to be imported.
        sys.stderr.write(f"romzarr: error: {message}\n")
    else:
        from romzarr_flows.logs import complain

        complain(message, options.log_format)
    sys.stderr.flush()
    # What is killed while it starts would complain, and clusters that cannot be closed in order.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    kill_children()
    # Temporary folders and semaphores of packages; clusters that were just being started.
    atexit._run_exitfuncs()
    kill_children()
    staging = sys.modules.get("romzarr.store.staging")
    if staging is not None:
        staging.remove_all_of_this_process()
    os._exit(ending.status)


def kill_children() -> None:
    """Kill workers that are still there: they may write, and would outlive this process.

    The system knows also those that a thread is just starting. The tracker of resources, which
    removes what others leave, ends by itself.
    """
    psutil, tracker = sys.modules.get("psutil"), sys.modules.get("multiprocessing.resource_tracker")
    if psutil is None:
        return
    kept = tracker._resource_tracker._pid if tracker else None
    children = [each for each in psutil.Process().children() if each.pid != kept]
    for child in children:
        child.kill()
    psutil.wait_procs(children)


if __name__ == "__main__":
    sys.exit(main())
