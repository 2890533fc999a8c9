"""Something that a thread does again and again beside the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(name: str, seconds: float, action: Callable[[], bool | None]) -> Iterator[None]:
    """Call `action` every `seconds`, in a thread, until the context ends or it returns False."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds) and action() is not False:
            pass

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
