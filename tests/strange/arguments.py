"""The functions of `romzarr` with arguments of any type, shape and name.

Allowed are success, errors of ours, and a TypeError or ValueError that our own code raises about
an argument that it names.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import romzarr
from romzarr.config import KNOWN_KEYS
from romzarr.errors import PipelineError
from tests.strange.guard import names_below, within_limits
from tests.strange.settings import archive, source

OURS = Path(romzarr.__file__).parent
THINGS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**63, 10**400, 0.0, 0.5, -0.5, 1e-3, 1.0, float("nan"),
    float("inf"), 1j, "", " ", "u", "x", "nothing", "..", "a\0b", "\ud800", "x" * 5000, "s3",
    "file://", "nothing://a/b", "http://[", b"u", b"", bytearray(b"u"), (), [], {}, set(),
    ("u",), ["u", "u"],
    ["u", 1], [None], {"u": 1e-3}, {"u": "x"}, {"u": float("nan")}, {1: 1}, {"none": 1.0},
    object(), object,
    len, print, range(3), slice(3), iter("u"), Path("nothing"), Path(), np.float64(1e-2),
    np.int64(3),
    np.bool_(True), np.str_("u"), np.arange(3), np.array(1e-2), np.array(None),
    np.datetime64("nat", "ns"), np.ma.masked, pd.Timestamp(0), pd.NaT, Exception("x"),
    NotImplemented, ..., type("T", (), {}),
)  # fmt: skip


def data(chance: random.Random) -> Any:
    """Data of any kind that xarray takes."""
    while True:
        # Not all that is tried can be made at all.
        with contextlib.suppress(ValueError, TypeError):
            return _data(chance)


def _data(chance: random.Random) -> Any:
    """Data of any kind: dtypes, shapes, dims and names that nobody counts on."""
    found = source().copy(deep=True)
    values = found.u.values
    arrays: tuple[Callable[[], Any], ...] = (
        lambda: values.astype(
            chance.choice(("f2", ">f4", "f8", "i4", "c16", "U5", "O", "M8[ns]", "?"))
        ),
        lambda: values * chance.choice((0.0, 1e-320, 1e200, 1e308, np.nan, np.inf)),
        lambda: np.where(np.random.default_rng(0).random(values.shape) < 0.5, values, np.nan),
        lambda: da.from_array(values, chunks=chance.choice((1, 7, (5, 10)))),
        lambda: np.ma.masked_less(values, 0),
        lambda: np.asfortranarray(values),
        lambda: values.view([("a", "f8")]),
        lambda: values.astype(np.longdouble),
    )
    choice = chance.random()
    if choice < 0.5:
        found["u"] = (("time", "x"), chance.choice(arrays)())
    elif choice < 0.6:
        sizes = {"time": chance.choice((0, 1, 2, 4, 5)), "x": chance.choice((0, 1, 10))}
        found = found.isel({dim: slice(size) for dim, size in sizes.items()})
    elif choice < 0.75:
        name = chance.choice(
            (1, None, "", " ", "a/b", ("u", "v"), "time", 2.5, "..", "\0", np.str_("w"))
        )
        what = chance.choice((["u"], ["x"], ["time"]))
        found = found.rename(dict.fromkeys(what, name))
    elif choice < 0.85:
        times = chance.choice((found.time[::-1], found.time * 0, found.time.astype(str),
                               found.time.astype(object), found.time * np.nan, found.time + 1e300,
                               found.time.astype(complex)))  # fmt: skip
        found = found.assign_coords(time=("time", np.asarray(times)))
    elif choice < 0.92:
        found = found.assign_attrs({chance.choice((1, "a", "source")): chance.choice(THINGS)})
        found.u.attrs[chance.choice(("units", "bounds", 3))] = chance.choice(THINGS)
        found.u.encoding["dtype"] = chance.choice(THINGS)
        found.encoding["source"] = chance.choice(THINGS)
    else:
        found = chance.choice((xr.Dataset(), found.drop_vars("u"), found.stack(both=("time",
    "x")),
                               found.expand_dims("time_2"), found.u.rename(None)))  # fmt: skip
    if chance.random() < 0.2 and isinstance(found, xr.Dataset) and "u" in found:
        return chance.choice((found.u, found.u.values, found.u.data, found.to_dataframe, [found]))
    return found


def thing(chance: random.Random) -> Any:
    choice = chance.random()
    if choice < 0.8:
        return chance.choice(THINGS)
    return data(chance)


@cache
def a_store() -> Path:
    path = Path(tempfile.mkdtemp()) / "s"
    romzarr.compress(source().isel(time=slice(30)), path)
    return path


def block(chance: random.Random) -> Any:
    """What a stream may be given: mostly arrays, of any shape."""
    if chance.random() < 0.4:
        return data(chance)
    shape = chance.choices((0, 1, 3, 10), k=chance.choice((0, 1, 2, 2, 3)))
    return (
        np.random.default_rng(0).random(shape).astype(chance.choice(("f4", "f8", "i8", "O", "U3")))
    )


def streamed(folder: Path, chance: random.Random, given: Mapping[str, Any]) -> None:
    """A stream that is given several blocks, and then something else."""
    settings = {key: value for key, value in given.items() if key not in ("block", "times")}
    with romzarr.StreamCompressor(**settings) as stream:
        for start in range(0, 24, 8):
            stream.update(source().u.values[start : start + 8])
        stream.update(given["block"], given["times"])
        stream.update(block(chance))


def calls(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Each function with arguments that are right."""
    unset = dict.fromkeys(("variables", "weights", "config", "tolerance"))
    options: dict[str, Any] = {"overwrite": False, **unset}
    store, new = folder / "s", folder / "new"
    return {
        "compress": (
            romzarr.compress,
            {"source": source(), "store": new, "max_error": None, **options},
        ),
        "append": (
            romzarr.append,
            {"store": store, "source": source(), "config": None, "commit_steps": 512},
        ),
        "verify": (
            romzarr.verify,
            {
                "store": store,
                "source": source().isel(time=slice(30)),
                "config": None,
                "sample": False,
            },
        ),
        "reconstruct": (
            romzarr.reconstruct,
            {"store": store, "out": new, "start": None, "stop": None, "overwrite": False},
        ),
        "info": (romzarr.info, {"store": store}),
        "equations": (romzarr.equations, {"store": store}),
        "load_config": (romzarr.load_config, {"path": None, "overrides": None}),
        "Config": (
            romzarr.Config,
            dict.fromkeys(("archive", "compression", "library", "cluster"), None),
        ),
        "stream": (
            streamed,
            {
                "store": new,
                "block": None,
                "times": None,
                "commit_steps": 8,
                "forgetting": 1.0,
                "source": None,
                **options,
            },
        ),
    }


def is_ours(error: BaseException, names: Mapping[str, Any]) -> bool:
    """Whether our own code raised an error on purpose about an argument of one of the names."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raised = (frame.line or "").startswith("raise ") or ") from " in (frame.line or "")
    said = any(name in str(error) for name in names)
    return (
        isinstance(error, TypeError | ValueError)
        and OURS in Path(frame.filename).parents
        and (said and raised)
    )


def run_case(seed: int) -> str:
    """ "refused: verify" and the like of arguments made from `seed`."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.chdir(folder)
        shutil.copytree(a_store(), folder / "s")
        archive()
        called = calls(folder)
        what = chance.choice(list(called))
        function, arguments = called[what]
        if what == "Config":
            arguments = {}
        changed = chance.sample(sorted(arguments), k=min(len(arguments), chance.choice((1, 1, 2))))
        for key in changed or ["compression"]:
            if key == "overrides":
                arguments[key] = {chance.choice(KNOWN_KEYS): thing(chance)}
            elif key == "block" or (key == "source" and what != "stream" and chance.random() < 0.6):
                arguments[key] = block(chance) if key == "block" else data(chance)
            elif key == "overwrite" or key == "sample":
                arguments[key] = chance.choice(THINGS)
            else:
                arguments[key] = thing(chance)
        if callable(arguments.get("source")):
            # What it raises is the caller's.
            arguments["source"] = 5
        if what == "stream":
            arguments |= {"folder": folder, "chance": chance}
            arguments = {"folder": folder, "chance": chance, "given": {
                key: value for key, value in arguments.items() if key not in ("folder", "chance")
            }}  # fmt: skip
        before = names_below(folder)
        fine = False
        with within_limits():
            try:
                function(**arguments)
                fine = True
            except PipelineError:
                pass
            except (TypeError, ValueError) as error:
                if not is_ours(error, {**arguments, **arguments.get("given", {})}):
                    raise
        left = {path.partition("/")[0] for path in names_below(folder) - before}
    assert fine or what == "stream" or not left, f"left behind: {left}"
    return f"{'ok' if fine else 'refused'}: {what}"
