"""Threads in which requests to object storage are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

# Requests under way at once in this process, each with a thread that waits for it.
AT_ONCE = 64


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, "romzarr request")


async def in_thread(request: Callable[[], T]) -> T:
    """What `request` returns, waited for in a thread of Python's own.

    What obstore awaits is ended by threads that Python does not know. One that is a little late,
    as on a busy core, asks for the interpreter while that ends, and the process is aborted
    (SIGABRT). Threads of a pool are joined before that, and obstore's own never call Python.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads(), request)
