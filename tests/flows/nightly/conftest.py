"""An archive of small datasets with its stores, and the command that is under test."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from romzarr_flows.cli import main
from tests.flows.nightly.processes import Run, start


def dataset(seed: int, snapshots: int = 24) -> xr.Dataset:
    t, x = 0.1 * np.arange(snapshots)[:, None], np.linspace(0, 1, 30)[None, :]
    values = np.sin(3 * t - 5 * x + seed) + np.random.default_rng(seed).normal(size=(1, 30))
    return xr.Dataset({"u": (("time", "x"), values.astype(np.float32))}, {"time": t[:, 0]})


@dataclass
class Place:
    """A folder with ``archive`` and ``stores``; lossless, since that takes the least time."""

    folder: Path
    settings: dict = field(default_factory=dict)
    started: int = 0

    def __post_init__(self) -> None:
        self.archive, self.stores = self.folder / "archive", self.folder / "stores"
        self.catalogue = self.stores / "catalogue"
        self.archive.mkdir(parents=True)
        self.set()

    def set(self, **settings) -> None:
        """Write the file of settings: dotted keys with __ for the dot."""
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        nightly = {"archive": str(self.archive), "stores": str(self.stores)}
        sections: dict = {"compression": {"tolerance": 0.0}, "nightly": nightly}
        for key, value in self.settings.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        (self.folder / "config.yaml").write_text(json.dumps(sections))

    def add(self, name: str, seed: int = 0, snapshots: int = 24) -> Path:
        """Write, or write over, a dataset."""
        path = self.archive / name
        # One that is not compressed: another of the same shape has files of the same sizes.
        encoding = {"u": {"chunks": (8, 30), "compressors": None}}
        dataset(seed, snapshots).to_zarr(path, encoding=encoding, consolidated=False, mode="w")
        return path

    def arguments(self, command: str, *flags: str) -> list[str]:
        return [command, "--config", str(self.folder / "config.yaml"), *flags]

    def nightly(self, *flags: str) -> int:
        return main(self.arguments("nightly", *flags))

    def start(self, *flags: str) -> Run:
        """A run in a process of its own."""
        self.started += 1
        return start(self.arguments("nightly", *flags), self.folder / f"log-{self.started}")

    def entry(self, name: str) -> dict:
        return json.loads((self.catalogue / f"{name}.json").read_text())

    def records(self) -> list[dict]:
        """Records of runs, in the order in which these ended."""
        paths = sorted((self.catalogue / "runs").glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
        found = [json.loads(path.read_text()) for path in paths]
        return [each for each in found if "began" in each]

    def generation(self, name: str) -> str:
        """Which attempt at a store counts: changes whenever it is compressed again."""
        root = json.loads((self.stores / f"{name}.romzarr" / "zarr.json").read_text())
        return root["attributes"]["romzarr"]["parts"][-1][0]

    def holds(self, name: str, seed: int = 0, snapshots: int = 24) -> bool:
        """Whether the store decodes to the dataset, and nothing unfinished is beside it."""
        decoded = xr.open_dataset(self.stores / f"{name}.romzarr", engine="romzarr")
        return decoded.load().identical(dataset(seed, snapshots)) and not self.unfinished()

    def unfinished(self) -> list[str]:
        return [str(path) for path in self.stores.rglob(".*")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
