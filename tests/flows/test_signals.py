"""SIGINT, SIGTERM and SIGHUP end every command alike, and leave nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

import romzarr
from tests.flows.nightly.processes import wait_for

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A command in a process of its own, with a hook before it; the tests may run under nohup.
SCRIPT = (
    "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    "{before}\nimport sys\nfrom romzarr_flows.cli import main\nsys.exit(main(sys.argv[1:]))"
)
# Reading takes long enough to be interrupted wherever that is asked for.
SLOW = """
import time
from romzarr.archive import zarr_source
real = zarr_source.ZarrReader.read
def read(self, *arguments):
    time.sleep(0.3)
    return real(self, *arguments)
zarr_source.ZarrReader.read = read
"""


class Command:
    """A command that runs in `folder`, as the leader of a group of its own."""

    def __init__(self, folder: Path, *arguments: str, before: str = "") -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(folder / "tmp"),
        }
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(before=before), *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, list[str], str]:
        """Status, complaints, and all of standard error."""
        _, said = self.process.communicate(timeout=200)
        # Lines of the log begin with the time.
        return self.process.returncode, [x for x in said.splitlines() if x[:1] != "2"], said


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def workers_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    t, x = np.arange(400) * 0.1, np.linspace(0, 1, 40)
    source = xr.Dataset({"u": (("time", "x"), np.sin(3 * t[:, None] - 5 * x))}, {"time": t, "x": x})
    source.chunk(time=10).to_zarr(tmp_path / "a.zarr", consolidated=False)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def check(command: Command, number: int, left: list[str]) -> None:
    status, complaints, said = command.end()
    assert status == 128 + number, said
    assert complaints == [f"romzarr: error: interrupted by {signal.Signals(number).name}"], said
    assert sorted(os.listdir(command.folder)) == left
    assert not hidden(command.folder)
    assert not os.listdir(command.folder / "tmp")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_writes_takes_back_what_is_under_way(folder, number):
    command = Command(folder, "compress", "a.zarr", "s", before=SLOW)
    wait_for(lambda: hidden(folder))
    command.process.send_signal(number)
    check(command, number, ["a.zarr", "tmp"])


@pytest.mark.parametrize("kind", ["romzarr.config", "numpy", "romzarr_flows.arguments"])
def test_it_may_come_while_the_program_is_loaded(folder, kind):
    """It is raised within the import of a module, and an import that it breaks is not told of."""
    before = f"""
import sys, os, signal
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {kind!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Finder())
"""
    check(Command(folder, "info", "a.zarr", before=before), signal.SIGTERM, ["a.zarr", "tmp"])


SWALLOWED = {
    "an optional import": "try:\n    {die}\n    time.sleep(5)\nexcept BaseException:\n    pass",
    "a destructor": "class D:\n    def __del__(self):\n        {die}\n        time.sleep(0.1)\nD()",
    "another error": "try:\n    {die}\n    time.sleep(5)\nfinally:\n    raise KeyError('x')",
}


@pytest.mark.parametrize("code", SWALLOWED.values(), ids=SWALLOWED.keys())
def test_it_is_not_lost_where_somebody_catches_everything(folder, code):
    body = code.format(die="os.kill(os.getpid(), signal.SIGTERM)")
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    before = (
        "import os, signal, time\nimport romzarr_flows.execute\n"
        f"def execute(options, ending):\n{indented}\n    time.sleep(60)\n    return 0\n"
        "romzarr_flows.execute.execute = execute"
    )
    began = time.monotonic()
    check(Command(folder, "info", "a.zarr", before=before), signal.SIGTERM, ["a.zarr", "tmp"])
    assert time.monotonic() - began < 60


SECOND = """
from romzarr.store import commit
import os, signal
real = commit._discard
def discard(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    real(*arguments)
commit._discard = discard
"""


def test_a_second_signal_does_not_interrupt_the_cleaning_up(folder):
    command = Command(folder, "compress", "a.zarr", "s", before=SLOW + SECOND)
    wait_for(lambda: hidden(folder))
    command.process.send_signal(signal.SIGINT)
    check(command, signal.SIGINT, ["a.zarr", "tmp"])


def test_a_third_kills(folder):
    before = (
        "import romzarr_flows.execute, time\n"
        "def execute(options, ending):\n"
        "    try:\n        print('here', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('here', flush=True)\n        time.sleep(60)\n"
        "romzarr_flows.execute.execute = execute"
    )
    command = Command(folder, "info", "a.zarr", before=before)
    for _ in range(2):
        assert command.process.stdout.readline() == "here\n"
        command.process.terminate()
    wait_for(lambda: command.process.poll() is not None or command.process.terminate(), 30)
    assert command.end()[0] == -signal.SIGTERM


def test_what_nohup_ignores_stays_ignored(folder):
    ignored = SLOW + "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    command = Command(folder, "compress", "a.zarr", "s", before=ignored)
    wait_for(lambda: hidden(folder))
    command.process.send_signal(signal.SIGHUP)
    status, _, said = command.end()
    assert status == 0, said
    assert romzarr.verify(folder / "s", folder / "a.zarr").ok


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_was_there_stays_as_it_was(folder, overwrite):
    romzarr.compress(folder / "a.zarr", folder / "s")
    romzarr.reconstruct(folder / "s", folder / "again.zarr", stop=5)
    slow = (
        "import time\nfrom romzarr.store.reading.reader import CoefficientStore as S\n"
        "real = S.decode\n"
        "def decode(self, *a):\n    time.sleep(1)\n    return real(self, *a)\nS.decode = decode"
    )
    out = "again.zarr" if overwrite else "new.zarr"
    command = Command(folder, "reconstruct", "s", out, "--overwrite", before=slow)
    wait_for(lambda: hidden(folder))
    command.process.send_signal(signal.SIGTERM)
    check(command, signal.SIGTERM, ["a.zarr", "again.zarr", "s", "tmp"])
    assert xr.open_zarr(folder / "again.zarr", consolidated=False).sizes["time"] == 5


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["itself", "its group"])
@pytest.mark.parametrize("when", ["starting", "working"])
def test_workers_end_with_their_command_and_quietly(folder, number, send, when):
    options = ("--cluster", "local", "--config", "c.yaml")
    (folder / "c.yaml").write_text("cluster: {kind: local, workers: 2}\n")
    command = Command(folder, "compress", "a.zarr", "s", *options)
    started: Callable[[], object] = lambda: len(workers_of(command.process.pid)) >= 2  # noqa: E731
    wait_for(started if when == "starting" else lambda: hidden(folder), 200)
    workers = workers_of(command.process.pid)
    send(command.process.pid, number)
    check(command, number, ["a.zarr", "c.yaml", "tmp"])
    wait_for(lambda: not any(each.is_running() for each in workers), 30)
