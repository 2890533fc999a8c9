"""The command ``romzarr``. `romzarr_flows.arguments` lists its exit statuses.

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
    """Run one command and return its exit status; after a signal, end the process."""
    options, status = None, 0
    with EndingOnSignals() as ending:
        try:
            try:
                # Imported once signals are handled: these modules take a while to load.
                from romzarr_flows.arguments import parser
                from romzarr_flows.execute import execute

                options = parser().parse_args(arguments)
                status = execute(options, ending)
            finally:
                ending.close()
        except BaseException:
            # A signal may surface as another exception.
            if not ending.number:
                raise
        ending.close()
        if ending.number:
            leave(ending, options)
    return status


def leave(ending: EndingOnSignals, options: Namespace | None) -> NoReturn:
    """End this process after a signal, and remove everything unfinished.

    An ordinary exit would wait for threads that still work. What they write during the clean-up is
    removed last.
    """
    message = f"interrupted by {ending.name}"
    if options is None:
        # The signal came before the imports were complete.
        sys.stderr.write(f"romzarr: error: {message}\n")
    else:
        from romzarr_flows.logs import complain

        complain(message, options.log_format)
    sys.stderr.flush()
    # Processes killed during their start, and clusters that cannot close, would print tracebacks.
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
    """Kill remaining workers, which may still write and would outlive this process.

    psutil also sees those that a thread is just starting. The resource tracker, which cleans up
    after the others, ends by itself.
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
