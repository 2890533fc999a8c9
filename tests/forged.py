"""Forged stores: metadata changed at random, all checksums set right, as one does who means harm.

`run_case` is one case, from a seed alone; `python -m tests.forged 1000 20` runs twenty of them.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import romzarr
from romzarr.errors import ResourceError, StoreError
from romzarr.store.reading.reader import open_store
from tests.forgery import metadata_of, put_metadata, sign_metadata

# What reading a forged store may take, and the values that are asked for at most.
SECONDS, MOST_VALUES = 10.0, 1 << 20
KINDS = ("pod", "lossless", "bounded")
EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 2**31, 2**40, 2**62, 10**400, -(2**63), 0.5, 1e308,
    -1e-300,
    "", "u", "..", "a/b", "zarr.json", "\x1b[2J", "\u202e", "\ud800", "x" * 5000, "<f8", "nan",
    "days since 1e400", "time", [], [0], [[]], [None], [2**40], [[0, 1]] * 50, ["u", "u"], {},
    {"romzarr": "float", "value": "nan"}, {"romzarr": "dtype", "value": "O"}, {"": 0}, {"u": {}},
    {"romzarr": "array", "value": {"dtype": "str", "shape": [9], "data": ["x" * 9000] + [""] * 8}},
    {"kind": "polynomial", "states": 100, "degree": 16},
    {"kind": "symbolic", "states": 1, "expressions": ["(((a1**8)**8)**8)**8"]},
    {"romzarr": "codec", "value": {"zarr_format": 2, "codec": {"id": "pickle"}}},
)  # fmt: skip


@cache
def original(kind: str) -> Path:
    """A small store of a kind, made once in a process."""
    folder = Path(tempfile.mkdtemp()) / kind
    time_, x = np.arange(48), np.linspace(0, 6, 12)
    wave = np.sin(x - 0.3 * time_[:, None]) + 0.2 * np.cos(3 * x + 0.1 * time_[:, None])
    data = xr.Dataset(
        {
            "u": (("time", "x"), wave.astype("f4"), {"units": "m/s", "list": np.array([1, 2])}),
            "v": (("time", "x"), np.where(x < 1, np.nan, 2 * wave)),
            "c": (("time", "x"), np.ones_like(wave) * x),
            "name": ("x", np.array([f"station {i}" for i in range(12)], dtype=object)),
            "flag": (("time", "x"), (wave > 0).astype("i1")),
        },
        coords={
            "time": ("time", np.datetime64("2000-01-01", "ns") + time_ * np.timedelta64(1, "h")),
            "x": x,
            "when": ("x", np.datetime64("2001-01-01", "ns") + np.arange(12)),
        },
    )
    bounds = {"max_error": {"u": 1e-3}} if kind == "bounded" else {}
    romzarr.compress(data, folder, tolerance=0.0 if kind == "lossless" else 1e-2, **bounds)
    return folder


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value of a JSON document."""
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutate(document: Any, chance: random.Random) -> None:
    """Change a value somewhere in a document: another, none, twice, or one of another place."""
    paths = list(places(document))
    *parents, last = chance.choice(paths)
    holder = document
    for key in parents:
        holder = holder[key]
    choice = chance.random()
    if choice < 0.15:
        del holder[last]
    elif choice < 0.25 and isinstance(holder, dict):
        holder[chance.choice(("x", "..", "u", "\x1b]0;", "9" * 300))] = holder[last]
    elif choice < 0.4:
        *others, other = chance.choice(paths)
        found = document
        for key in (*others, other):
            found = found[key] if key != last or found is not holder else None
            if found is None:
                break
        holder[last] = json.loads(json.dumps(found))
    elif choice < 0.5 and type(holder[last]) in (int, float):
        holder[last] = holder[last] * chance.choice((2, -1, 1000, 2**20, 0)) + chance.choice((0, 1))
    else:
        holder[last] = chance.choice(EXTREMES)


def forge(store: Path, chance: random.Random) -> None:
    """Change the metadata of a store in one to three places, and sign them."""
    (generation,) = store.glob("2*")
    document = metadata_of(generation)
    for _ in range(chance.choice((1, 1, 2, 3))):
        # Attributes that were forged before may be anything.
        attributes = document.get("attributes")
        facts = attributes.get("romzarr") if isinstance(attributes, dict) else None
        facts = facts if isinstance(facts, dict) else document
        arrays = document.get("arrays")
        nodes = list(arrays.values()) if isinstance(arrays, dict) else []
        node = chance.choice([facts] * 6 + nodes)
        mutate(node if isinstance(node, dict) and node else document, chance)
    put_metadata(generation, document)
    sign_metadata(store)


def read_all(store: Path) -> None:
    """Read all that a store says, and of every variable as much as may be asked for."""
    with xr.open_dataset(store, engine="romzarr") as dataset:
        for variable in dataset.variables.values():
            few = dict.fromkeys(variable.dims, 0) if variable.size > MOST_VALUES else {}
            _ = variable.isel(few).values


ACTIONS: tuple[Callable[[Path], Any], ...] = (
    read_all,
    lambda store: romzarr.info(store).to_dict(),
    lambda store: romzarr.equations(store).text() + romzarr.equations(store).latex(),
    lambda store: open_store(store).check_files(),
)


def run_case(seed: int) -> str:
    """ "refused" or "ok" of a store forged from `seed`; whatever else happens is raised."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = Path(folder) / "s"
        shutil.copytree(original(chance.choice(KINDS)), store)
        forge(store, chance)
        refused, began = False, time.process_time()
        for action in ACTIONS:
            try:
                action(store)
            except (StoreError, ResourceError):
                refused = True
        took = time.process_time() - began
        if took > SECONDS:
            raise AssertionError(f"seed {seed}: reading took {took:.1f} s of CPU")
    return "refused" if refused else "ok"


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    found: dict[str, int] = {}
    for number in range(first, first + count):
        try:
            outcome = run_case(number)
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:100]}"
            print(number, outcome, flush=True)
        found[outcome] = found.get(outcome, 0) + 1
    print(found)
