"""Kernel locks on open files, which are released when their process ends, however it ends.

filelock cannot lock folders, nor inspect a lock without taking it.
"""

from __future__ import annotations

import errno
import os

try:
    import fcntl
except ImportError:  # Windows: treated like a file system without locks
    fcntl = None  # type: ignore[assignment]

# Children inherit neither such descriptors nor their locks. On Windows they never do.
CLOSED_IN_CHILDREN: int = getattr(os, "O_CLOEXEC", 0)


def take(descriptor: int, *, wait: bool = False, shared: bool = False) -> None:
    """Lock an open file or folder until it is closed, exclusively or shared.

    Raises
    ------
    BlockingIOError
        If another process has the lock and `wait` is False.
    OSError
        If the system or the file system does not support locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
