"""Termination by SIGINT, SIGTERM and SIGHUP.

The first signal raises `Ended` in the main thread, so that the same code cleans up as after an
error. The second is ignored, so that the clean-up is not interrupted. The third kills.

The exception may arrive where code swallows all exceptions, as in an optional import or a
destructor. It is then raised again.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
import weakref
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Self

# Windows has no SIGHUP.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if name in signal.Signals.__members__
)
# A terminal and a supervisor may each send a signal, so a second one is no impatience.
_IGNORED = 2
# Long enough to leave the destructor that swallowed the exception, too short to be noticed.
_SOON_SECONDS = 0.02


class Ended(KeyboardInterrupt):
    """A signal terminates this process."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class EndingOnSignals:
    """Context in which a signal interrupts the main thread; it has no effect in other threads.

    Signals that were ignored stay ignored: nohup and background jobs of a shell rely on it.

    Attributes
    ----------
    number : int
        The signal received; 0 if there is none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._received = 0
        self._open = False
        self._before: dict[int, Any] = {}
        self._hooks: tuple[Any, Any] = (sys.unraisablehook, threading.excepthook)
        self._warnings = ExitStack()

    @property
    def name(self) -> str:
        """Name of the signal."""
        return signal.Signals(self.number).name

    @property
    def status(self) -> int:
        """Exit status after the signal, by the convention of shells."""
        return 128 + self.number

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._open = True
            self._warnings.enter_context(warnings.catch_warnings())
            sys.unraisablehook = self._unraisable
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._warnings.close()
        if not self._before:
            return
        for number, before in self._before.items():
            signal.signal(number, before)
        sys.unraisablehook, threading.excepthook = self._hooks
        logging.disable(logging.NOTSET)

    def close(self) -> None:
        """Stop raising: the work is done, or its clean-up has begun."""
        self._open = False
        if self.number:
            # What was interrupted may have put back the filters of warnings that it found.
            _keep_quiet()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self._received == 1 and self._open:
            self.number = number
            _keep_quiet()
            raise self._ended()
        if self._received > _IGNORED:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _ended(self) -> Ended:
        # Created here, so that no traceback frame refers to it and it is finalised when dropped.
        ended = Ended(self.number)
        weakref.finalize(ended, self._vanished).atexit = False
        return ended

    def _vanished(self) -> None:
        if self._open:
            # Finalisers ignore exceptions, so raise it a moment later.
            again = threading.Timer(_SOON_SECONDS, self._again)
            again.daemon = True
            again.start()

    def _again(self) -> None:
        if self._open:
            self._received = 0
            signal.pthread_kill(threading.main_thread().ident or 0, self.number)

    def _unraisable(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Ended):
            self._hooks[0](unraisable)


def _keep_quiet() -> None:
    """Suppress the consequences of abandoned work: the command ends with one line."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    threading.excepthook = lambda args: None
