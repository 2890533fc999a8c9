"""Progress is a bar on a terminal and plain lines in a log; results stay out of both."""

import io
import logging
import re

import dask
import pytest
from distributed import Client

from romzarr_flows import progress
from romzarr_flows.clusters import Workers


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(tasks: int):
    return dask.delayed(sum)([dask.delayed(abs)(-i) for i in range(tasks)])


def test_a_terminal_gets_a_bar_that_fills_and_is_wiped(capsys):
    terminal = Terminal()
    with progress.show_progress(Workers("threads"), terminal):
        work(9).compute(scheduler="sync")
    text = terminal.getvalue()
    assert f"[{'#' * progress.BAR_WIDTH}] 10/10 tasks" in text
    assert text.endswith("\r\x1b[K")
    assert "\n" not in text
    assert capsys.readouterr().out == ""


def test_a_log_gets_plain_lines(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    stream = io.StringIO()
    with caplog.at_level(logging.INFO), progress.show_progress(Workers("threads"), stream):
        work(4).compute(scheduler="sync")
    assert caplog.messages[-1] == "5 of 5 tasks, 0 s"
    assert stream.getvalue() == ""


def test_every_computation_has_its_own_clock(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO), progress.show_progress(Workers("threads"), io.StringIO()):
        clock[0] = 1000.0  # work that is not Dask's
        work(4).compute(scheduler="sync")
    assert caplog.messages == []


def test_short_work_logs_nothing(caplog):
    with caplog.at_level(logging.INFO), progress.show_progress(Workers("threads"), io.StringIO()):
        work(4).compute(scheduler="sync")
    assert caplog.messages == []


def test_a_remote_scheduler_is_asked(monkeypatch):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.0)
    terminal = Terminal()
    with (
        Client(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
        ) as client,
        progress.show_progress(Workers("client", client), terminal),
    ):
        # Tasks long enough to be seen waiting.
        slow = [dask.delayed(lambda i: sum(range(10**6 + i)))(i) for i in range(20)]
        dask.compute(*slow)
    shown = [
        tuple(map(int, pair)) for pair in re.findall(r"(\d+)/(\d+) tasks", terminal.getvalue())
    ]
    # The first question may come when some tasks are done and forgotten already.
    assert {total for _, total in shown} <= set(range(1, 21))
    assert len(shown) > 1
    assert shown == sorted(shown)


def test_what_fails_still_wipes_the_bar():
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), progress.show_progress(Workers("threads"), terminal):
        dask.delayed(lambda: 1 / 0)().compute(scheduler="sync")
    assert terminal.getvalue().endswith("\r\x1b[K")
