"""Commands that write, in a form in which they can be killed, and looked at afterwards."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

import romzarr
from romzarr import StreamCompressor
from romzarr.store.reading.reader import open_store
from romzarr_flows.cli import main
from tests.oracles import decoded_errors
from tests.torture import data
from tests.torture.processes import Tell

# What stands there: which of the sources, or how many snapshots; None is nothing.
State = Any


class Command(ABC):
    """A command that writes below a folder, again and again: round after round something else."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "out" / "store"

    def set_up(self) -> None:
        """What is there before the first round."""
        self.store.parent.mkdir(parents=True)

    def make_ready(self, number: int) -> None:  # noqa: B027 - most need nothing
        """Make what the command of a round reads; is not killed."""

    @abstractmethod
    def run(self, number: int, tell: Tell) -> None:
        """The command of a round; may tell what it has promised to keep."""

    @abstractmethod
    def state(self, number: int) -> State:
        """What is there by then; fails if that is not whole."""

    def allows(self, number: int, before: State, told: list[Any], after: State) -> bool:
        """Whether a round may leave this: as a rule what was, or what is new."""
        return after in (before, number)

    def is_done(self, number: int, after: State) -> bool:
        """Whether this is what a round leaves that is not killed."""
        return bool(after == number)

    def litter(self) -> list[str]:
        """What is there that belongs to nothing."""
        hidden = [str(p) for p in self.folder.rglob(".*") if not p.name.endswith(".lock")]
        for store in self.stores():
            named = open_store(store).root.named
            hidden += [str(p) for p in store.glob("2*") if p.name not in named]
        return hidden

    def stores(self) -> list[Path]:
        return [self.store]


def source_in(store: Path, last: int) -> State:
    """Number of the source that a store holds to the bit; None if there is no store."""
    if not store.exists():
        return None
    open_store(store).check_files()
    found = data.load(store)
    for number in range(last, -2, -1):
        if found.equals(data.waves(number)):
            return number
    raise AssertionError("the store holds what was never written there")


class Compress(Command):
    """Without a store before."""

    name = "compress"

    def run(self, number: int, tell: Tell) -> None:
        romzarr.compress(data.waves(number), self.store, tolerance=0, overwrite=self.store.exists())

    def state(self, number: int) -> State:
        return source_in(self.store, number)


class Overwrite(Compress):
    name = "overwrite"

    def set_up(self) -> None:
        super().set_up()
        self.run(-1, lambda value: None)


class Lossy(Command):
    """Over a store, with modes and models."""

    name = "overwrite, lossy"

    def set_up(self) -> None:
        super().set_up()
        self.run(-1, lambda value: None)

    def run(self, number: int, tell: Tell) -> None:
        romzarr.compress(
            data.waves(number), self.store, tolerance=data.TOLERANCE, overwrite=self.store.exists()
        )

    def state(self, number: int) -> State:
        open_store(self.store).check_files()
        found = data.load(self.store)
        # Depth is carried over unchanged and tells which source it is.
        seed = round(float(found["depth"][0]))
        assert_within(data.waves(seed), found)
        return seed


def assert_within(source: xr.Dataset, found: xr.Dataset) -> None:
    """The bound holds, and what is carried over is as it was."""
    errors = decoded_errors(source, found)
    assert all(error <= data.TOLERANCE * (1 + 1e-6) for error in errors.values()), errors
    for name in set(source.variables) - set(errors):
        np.testing.assert_array_equal(found[name], source[name])


class Append(Command):
    """State is the number of snapshots; commits come every few."""

    name = "append"

    def set_up(self) -> None:
        super().set_up()
        romzarr.compress(data.waves(0, 30), self.store, tolerance=data.TOLERANCE)

    def _snapshots(self, number: int) -> int:
        return 50 + 20 * number

    def run(self, number: int, tell: Tell) -> None:
        romzarr.append(self.store, data.waves(0, self._snapshots(number)), commit_steps=7)

    def state(self, number: int) -> State:
        return snapshots_in(self.store)

    def allows(self, number: int, before: State, told: list[Any], after: State) -> bool:
        return bool(before <= after <= self._snapshots(number))

    def is_done(self, number: int, after: State) -> bool:
        return bool(after == self._snapshots(number))


def snapshots_in(store: Path) -> int:
    """How many snapshots of the waves a store holds within the bound."""
    if not store.exists():
        return 0
    open_store(store).check_files()
    found = data.load(store)
    count = found.sizes["time"]
    assert_within(data.waves(0, count), found)
    return count


class Stream(Append):
    """Blocks of any length; some rounds close the stream. It tells what it has committed."""

    name = "stream"

    def set_up(self) -> None:
        self.store.parent.mkdir(parents=True)

    def _snapshots(self, number: int) -> int:
        return 24 * (number + 2)

    def run(self, number: int, tell: Tell) -> None:
        rng = np.random.default_rng(number)
        source = data.waves(0, self._snapshots(number))
        tolerance = None if self.store.exists() else data.TOLERANCE
        steps = int(rng.integers(2, 7))
        stream = StreamCompressor(self.store, tolerance=tolerance, commit_steps=steps)
        while stream.snapshots < source.sizes["time"]:
            length = int(rng.integers(1, 8))
            stream.update(source.isel(time=slice(stream.snapshots, stream.snapshots + length)))
            tell(stream.committed)
        # Parts become so many in the end that they are joined.
        (stream.close if rng.random() < 0.5 else stream.commit)()
        tell(stream.committed)

    def allows(self, number: int, before: State, told: list[Any], after: State) -> bool:
        return bool(max([before, *told]) <= after <= self._snapshots(number))


class Reconstruct(Command):
    """Over the last one; the stores it reads stay as they are."""

    name = "reconstruct"
    suffix = ".zarr"

    @property
    def target(self) -> Path:
        return self.folder / "out" / f"archive{self.suffix}"

    def _source(self, number: int) -> Path:
        return self.folder / "stores" / str(number)

    def make_ready(self, number: int) -> None:
        romzarr.compress(data.waves(number), self._source(number), tolerance=0)

    def run(self, number: int, tell: Tell) -> None:
        overwrite = self.target.exists()
        romzarr.reconstruct(self._source(number), self.target, overwrite=overwrite)

    def state(self, number: int) -> State:
        if not self.target.exists():
            return None
        with xr.open_dataset(self.target, chunks=None) as opened:
            found = opened.load()
        for each in range(number, -1, -1):
            if found.equals(data.waves(each)):
                return each
        raise AssertionError("the archive holds what was never written there")

    def stores(self) -> list[Path]:
        return [path for path in (self.folder / "stores").iterdir() if path.is_dir()]


class ReconstructFile(Reconstruct):
    """As NetCDF."""

    name = "reconstruct, NetCDF"
    suffix = ".nc"


class Nightly(Command):
    """Two datasets that are written anew before each night."""

    name = "nightly"
    datasets = ("a", "b")

    def set_up(self) -> None:
        super().set_up()
        (self.folder / "archive").mkdir()

    def make_ready(self, number: int) -> None:
        nightly = {"archive": str(self.folder / "archive"), "stores": str(self.folder / "out")}
        settings = {"compression": {"tolerance": 0.0}, "nightly": nightly}
        self._config.write_text(json.dumps(settings))
        for name in self.datasets:
            place = self.folder / "archive" / f"{name}.zarr"
            data.waves(number).to_zarr(place, consolidated=False, mode="w")

    @property
    def _config(self) -> Path:
        return self.folder / "config.yaml"

    def run(self, number: int, tell: Tell) -> None:
        if status := main(["nightly", "--config", str(self._config)]):
            raise AssertionError(f"the night ended with status {status}")

    def state(self, number: int) -> State:
        return [source_in(store, number) for store in self.stores()]

    def stores(self) -> list[Path]:
        return [self.folder / "out" / f"{name}.romzarr" for name in self.datasets]

    def allows(self, number: int, before: State, told: list[Any], after: State) -> bool:
        return all(new in (old, number) for old, new in zip(before, after, strict=True))

    def is_done(self, number: int, after: State) -> bool:
        return set(after) == {number}


COMMANDS: dict[str, type[Command]] = {
    command.name: command
    for command in (
        Compress, Overwrite, Lossy, Append, Stream, Reconstruct, ReconstructFile, Nightly,
    )
}  # fmt: skip
