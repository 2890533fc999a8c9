"""Locks of the kernel on open files: they go with the process that holds them, however it ends.

No library is used: filelock can neither lock a folder nor look at a lock without taking it.
"""

from __future__ import annotations

import errno
import os

try:
    import fcntl
except ImportError:  # Windows has no such locks; whoever asks is told as where a disk has none.
    fcntl = None  # type: ignore[assignment]

# Children do not inherit what is opened so, nor the locks on it. Windows never lets them.
CLOSED_IN_CHILDREN: int = getattr(os, "O_CLOEXEC", 0)


def take(descriptor: int, *, wait: bool = False, shared: bool = False) -> None:
    """Lock an open file or folder until it is closed, alone or beside others who share it.

    Raises
    ------
    BlockingIOError
        If another has the lock, and this is not to wait.
    OSError
        If this system, or this file system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
