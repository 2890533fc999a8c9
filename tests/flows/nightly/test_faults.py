"""What befalls a run at three in the morning: nothing is lost, nothing half-written is seen, the
next run goes on, and what is said can be acted on."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

import romzarr
from romzarr.archive import zarr_source
from romzarr_flows.cli import main
from tests.flows.nightly.processes import wait_for

# --- ends of processes --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_loses_and_repeats_nothing(place, seed):
    """kill -9 again and again, until a run comes to its end by itself."""
    chance, names = random.Random(seed), "abcdef"
    for number, name in enumerate(names):
        place.add(f"{name}.zarr", number)
    generations: dict[str, str] = {}
    for attempt in range(6):
        before, run = len(finished(place)), place.start()
        wait_for(lambda run=run, before=before: run.over or len(finished(place)) > before)
        time.sleep(chance.uniform(0, 0.2))
        if attempt < 5:
            run.process.kill()
        status, said = run.end()
        for name in finished(place):
            # What counted once is right, and never made again.
            assert decodes(place, name, names.index(name))
            assert generations.setdefault(name, place.generation(name)) == place.generation(name)
        if status == 0:
            break
    assert status == 0, said
    assert sorted(finished(place)) == list(names)
    assert all(place.holds(name, number) for number, name in enumerate(names))


def finished(place) -> list[str]:
    return sorted(path.parent.stem for path in place.stores.glob("*.romzarr/zarr.json"))


def decodes(place, name, seed) -> bool:
    return romzarr.verify(place.stores / f"{name}.romzarr", place.archive / f"{name}.zarr").ok


@contextmanager
def slow_reading(monkeypatch, seconds):
    """Every block takes a while to read; counts them."""
    real, begun = zarr_source.ZarrReader.read, threading.Event()

    def read(self, *arguments):
        begun.set()
        time.sleep(seconds)
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(zarr_source.ZarrReader, "read", read)
        yield begun


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_told_to_end_takes_back_what_is_under_way(place, capsys, number):
    for name in ("a.zarr", "b.zarr"):
        place.add(name, snapshots=1200)
    run = place.start()
    wait_for(lambda: list(place.stores.glob(".a.romzarr.partial-*")))
    run.signal(number)
    status, said = run.end()
    assert status == 128 + number
    assert f"romzarr: error: interrupted by {signal.Signals(number).name}\n" in said
    assert not place.unfinished()
    assert place.records()[-1]["state"] == "interrupted"
    assert place.entry("a.zarr")["state"] == "new"
    assert place.nightly() == 0
    assert place.holds("a", snapshots=1200)
    assert place.holds("b", snapshots=1200)


def test_two_runs_at_once_are_one(place, capsys):
    place.add("a.zarr", snapshots=1200)
    first = place.start()
    wait_for(lambda: (place.catalogue / "a.zarr.json").exists())
    assert place.nightly() == 2
    err = capsys.readouterr().err
    assert f"another run is in progress (process {first.pid} on " in err
    first.process.kill()
    first.end()
    # The lock went with its holder; nothing has to be removed.
    assert place.nightly() == 0
    assert place.holds("a", snapshots=1200)


def test_many_runs_started_at_once_do_the_work_once(place):
    for number in range(3):
        place.add(f"{number}.zarr", number)
    runs = [place.start() for _ in range(3)]
    ends = [run.end()[0] for run in runs]
    assert ends.count(0) >= 1
    assert set(ends) <= {0, 2}
    worked = [each["dataset"] for record in place.records() for each in record["datasets"]]
    assert sorted(worked) == ["0.zarr", "1.zarr", "2.zarr"]


# --- disks --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(place):
    """The stores are on a file system of 240 kB, which is really full when it is full."""
    place.stores.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", str(place.stores)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place.stores)], check=True)


def test_a_full_disk_fails_the_datasets_it_has_no_room_for(small_disk, capsys):
    place = small_disk
    place.add("a.zarr", 1)
    place.add("b.zarr", 2, snapshots=5000)
    place.add("c.zarr", 3)
    assert place.nightly() == 1
    out = capsys.readouterr().out
    assert "b.zarr: StoreError" in out
    assert "No space left on device" in out
    assert place.holds("a", 1)
    assert place.holds("c", 3)
    shutil.rmtree(place.archive / "b.zarr")
    place.add("b.zarr", 2)
    assert place.nightly() == 0
    assert place.holds("b", 2)


def test_a_disk_too_full_for_the_catalogue_costs_no_store(small_disk, capsys):
    """Room for nothing at all; then the same stores are entered without a new compression."""
    place = small_disk
    place.add("a.zarr", 1)
    place.nightly()
    first = place.generation("a")
    shutil.rmtree(place.catalogue)
    place.catalogue.mkdir()
    ballast = place.stores / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(10**6))
    assert place.nightly() == 1
    assert "the catalogue beside the stores cannot be written" in capsys.readouterr().err
    ballast.unlink()
    assert place.nightly() == 0
    assert place.generation("a") == first
    assert place.entry("a.zarr")["state"] == "stored"


# --- archives and stores that change ------------------------------------------------------


def test_a_dataset_written_to_while_it_is_read_is_left_for_the_next_run(place, monkeypatch, capsys):
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    with slow_reading(monkeypatch, 0.3) as begun:

        def write():
            begun.wait(30)
            place.add("a.zarr", 5)

        writer = threading.Thread(target=write)
        writer.start()
        assert place.nightly() == 1
        writer.join()
    assert "changed while it was read" in capsys.readouterr().out
    assert not (place.stores / "a.romzarr").exists()
    assert place.holds("b", 2)
    assert place.nightly() == 0
    assert place.holds("a", 5)


HALVES = {
    "no root": lambda store: (store / "zarr.json").unlink(),
    "torn root": lambda store: (store / "zarr.json").write_text('{"zarr'),
    "no metadata": lambda store: next(store.glob("*/zarr.json")).unlink(),
    "no chunks": lambda store: [shutil.rmtree(path) for path in store.glob("*/basis/u/exact/c")],
    "cut chunk": lambda store: cut(max(store.rglob("c/**/*"), key=size_of)),
    "root alone": lambda store: [shutil.rmtree(p) for p in store.iterdir() if p.is_dir()],
}


def size_of(path):
    return path.stat().st_size if path.is_file() else 0


def cut(path):
    path.write_bytes(path.read_bytes()[: size_of(path) // 2])


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("catalogue", ["with catalogue", "without"])
def test_a_store_half_copied_is_told_and_made_again(place, capsys, half, catalogue):
    path = place.add("a.zarr", 1)
    place.nightly()
    capsys.readouterr()
    HALVES[half](place.stores / "a.romzarr")
    if catalogue == "without":
        shutil.rmtree(place.catalogue)
    assert main(["verify", str(place.stores / "a.romzarr"), str(path)]) == 1
    assert "a.romzarr" in capsys.readouterr().err
    status = main(place.arguments("status"))
    found = capsys.readouterr().out.splitlines()[1].split()[1]
    assert status == (found == "damaged")
    # Without the catalogue nothing tells how many bytes there should be, until it is verified.
    assert found == "damaged" or (catalogue == "without" and found == "unverified")
    assert place.nightly() == 0
    assert place.holds("a", 1)


def test_what_a_killed_writer_left_beside_a_finished_store_goes(place):
    """Killed between the commit and the end of cleaning up: nobody writes that store again."""
    place.add("a.zarr", 1)
    place.nightly()
    left = place.stores / ".a.romzarr.partial-20310701T000000-00000000"
    (left / "store").mkdir(parents=True)
    (left / "lock").touch()
    (place.catalogue / "a.zarr.json").unlink()
    assert place.nightly() == 0
    assert place.holds("a", 1)


def test_what_is_no_store_is_never_replaced(place, capsys):
    place.add("a.zarr", 1)
    thesis = place.stores / "a.romzarr" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    assert place.nightly() == 1
    assert "is not a romzarr store" in capsys.readouterr().out
    assert thesis.read_text() == "years of work"


def test_a_store_that_is_gone_is_made_again_and_a_dataset_that_is_gone_is_no_loss(place, capsys):
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    place.nightly()
    capsys.readouterr()
    shutil.rmtree(place.stores / "a.romzarr")
    shutil.rmtree(place.archive / "b.zarr")
    main(place.arguments("status"))
    states = {
        line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[1:3]
    }
    assert states == {"a.zarr": "missing", "b.zarr": "gone"}
    assert place.nightly() == 0
    assert place.holds("a", 1)
    assert place.holds("b", 2)


def test_a_store_with_a_flipped_bit_is_found_when_it_is_not_the_one_verified(place):
    """A copy has other times than the store that was verified: it is verified again."""
    place.add("a.zarr", 1)
    place.nightly()
    chunk = max((place.stores / "a.romzarr").rglob("c/*/*"), key=size_of)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    assert place.nightly() == 0
    assert place.holds("a", 1)


def test_a_defect_of_a_package_fails_one_dataset(place, monkeypatch, capsys):
    place.add("a.zarr", 1)
    place.add("b.zarr", 2)
    real = romzarr.compress

    def compress(source, *arguments, **keywords):
        if str(source).endswith("a.zarr"):
            raise ZeroDivisionError("in somebody's code")
        return real(source, *arguments, **keywords)

    monkeypatch.setattr(romzarr, "compress", compress)
    assert place.nightly() == 1
    out, err = capsys.readouterr()
    assert "a.zarr: ZeroDivisionError: in somebody's code" in out
    assert "Traceback" in err  # for whoever mends it
    assert place.holds("b", 2)


def test_errors_of_the_disk_under_the_archive_are_told(place, monkeypatch, capsys):
    place.add("a.zarr", 1)

    def torn(self, *arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(zarr_source.ZarrReader, "read", torn)
    assert place.nightly() == 1
    assert "Input/output error" in capsys.readouterr().out
