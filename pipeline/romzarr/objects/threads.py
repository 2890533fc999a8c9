"""Threads for blocking requests to object storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

# Concurrent requests of this process: they hide latency, and services limit connections.
AT_ONCE = 64


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, "romzarr request")


async def in_thread(request: Callable[[], T]) -> T:
    """Run a blocking `request` of obstore in a Python thread.

    obstore's awaitables are completed by foreign threads. If one of them is late, it requests the
    interpreter while that shuts down, and the process aborts (SIGABRT). Threads of a pool are
    joined before the shutdown, and blocking requests never call Python from other threads.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads(), request)
