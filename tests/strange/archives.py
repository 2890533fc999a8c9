"""Archives as strangers give them: CSV, NetCDF and Zarr, cut, flipped, and with other metadata.

What comes of such an archive is an error of ours, or a store that holds what is read of it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

import romzarr
from romzarr.config import load_config
from romzarr.store.reading.reader import open_store
from tests.forged import EXTREMES, mutate
from tests.strange.guard import called, commanded, names_below, within_limits

SNAPSHOTS, POINTS = 16, 6
# The formats of `original`, and text, which is made anew for each case.
FORMATS = ("zarr2", "zarr2-consolidated", "zarr3", "zarr3-consolidated", "zarr3-shards", "nc4",
           "nc4-chunks", "nc3")  # fmt: skip
CELLS = (
    "", " ", "0", "1", "-1", "1e-300", "1e308", "1e999", "nan", "inf", "-inf", "NaN", "1_0", "0x10",
    "1,5", "٣", "\x00", "\ufeff", '"', '""', '"a', '"a\nb"', "'", "#", "# time", "time", "t", "u",
    "time [s]", "name", "2020-01-01", "2020-13-45", "9999-12-31T23:59:59Z", "0000-01-01", "\u202e",
    "..", "a/b", "x" * 300, "9" * 400, "zarr.json", "\x1b[2J", "=1+1", "u;v", "\x0c", "\x1c",
    "\u2028", "\r",
)  # fmt: skip
ATTRIBUTES = ("units", "calendar", "_FillValue", "missing_value", "scale_factor", "add_offset",
              "coordinates", "dtype", "bounds", "_Unsigned", "axis", "standard_name", "positive",
              "ancillary_variables", "grid_mapping", "valid_range", "_Encoding", "char_dim_name",
              "CLASS", "NAME", "_Netcdf4Dimid", "DIMENSION_LABELS")  # fmt: skip
# What attributes say that has a meaning for somebody.
TELLING = (
    "days since 2000-01-01", "days since -9999-99-99", "seconds since 1e9", "since", "days",
    "months since 2000-01-01", "nanoseconds since 1677-01-01", "days since 9999999-01-01",
    "noleap", "360_day", "julian", "x", "time", "u v", "u", "(", "bool", "timedelta64[ns]",
    "datetime64[ns]", "T", "true", "utf-8", "days since 2000-01-01T00:00:00+99:99",
    1e300, 1e-300, -1, 0, 32767, float("nan"), float("inf"), [1, 2], [],
)  # fmt: skip


def dataset() -> xr.Dataset:
    """A little of everything that archives hold."""
    t, x = np.arange(SNAPSHOTS)[:, None], np.linspace(-80, 80, POINTS)
    wave = np.sin(x / 20 - 0.4 * t) + 0.2 * np.cos(x / 9 + 0.1 * t)
    return xr.Dataset(
        {
            "u": (("time", "lat"), wave.astype("f4"), {"units": "m/s"}),
            "v": (("time", "lat"), np.where(x < -60, np.nan, 2 * wave)),
            "p": (("time", "lat"), wave.round(2)),
            "flag": (("time", "lat"), (wave > 0).astype("i1")),
            "name": ("lat", np.array([f"station {i}" for i in range(POINTS)], dtype=object)),
        },
        coords={
            "time": np.datetime64("2000-01-01", "ns")
            + np.arange(SNAPSHOTS) * np.timedelta64(6, "h"),
            "lat": ("lat", x, {"units": "degrees_north", "bounds": "lat_bounds"}),
            "lat_bounds": (("lat", "side"), np.stack([x - 5, x + 5], axis=1)),
            "lag": ("time", np.arange(SNAPSHOTS) * np.timedelta64(1, "s")),
        },
    )


@cache
def original(kind: str) -> Path:
    """An archive of a format as it should be, made once in a process."""
    folder = Path(tempfile.mkdtemp())
    packed = {"p": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 0.5, "_FillValue": -32768}}
    if kind.startswith("zarr"):
        path, version = folder / "a.zarr", 2 if kind.startswith("zarr2") else 3
        chunks = {"chunks": (4, 3)} | ({"shards": (8, 6)} if kind.endswith("shards") else {})
        encoding: Any = {"u": chunks, "v": {"chunks": (5, POINTS)}, **packed}
        consolidated = kind.endswith("consolidated")
        dataset().to_zarr(path, zarr_format=version, consolidated=consolidated, encoding=encoding)
        return path
    path = folder / "a.nc"
    if kind == "nc3":
        dataset().to_netcdf(path, engine="scipy", format="NETCDF3_64BIT", encoding=packed)
    else:
        chunked = {"u": {"chunksizes": (4, 3), "zlib": True, "fletcher32": True}}
        encoding = packed | (chunked if kind == "nc4-chunks" else {})
        unlimited = ["time"] if kind == "nc4-chunks" else []
        dataset().to_netcdf(path, engine="h5netcdf", encoding=encoding, unlimited_dims=unlimited)
    return path


@cache
def store_of_original() -> Path:
    """A store of what the archives hold, to compare others with and to append to."""
    path = Path(tempfile.mkdtemp()) / "s"
    romzarr.compress(original("zarr3"), path)
    return path


# --- changes ------------------------------------------------------------------------------


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut, taken out, doubled, zeroed, or taken from another place."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if not changed:
            break
        place = chance.randrange(chance.choice((len(changed), min(len(changed), 512))))
        stop = min(len(changed), place + chance.choice((1, 2, 4, 8, 64, 1024)))
        choice = chance.random()
        if choice < 0.5:
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif choice < 0.6:
            del changed[place:]
        elif choice < 0.7:
            del changed[place:stop]
        elif choice < 0.8:
            changed[place:place] = changed[place:stop]
        elif choice < 0.9:
            changed[place:stop] = bytes(stop - place)
        else:
            other = chance.randrange(len(changed))
            changed[place:stop] = changed[other : other + stop - place]
    return bytes(changed)


def change_file(path: Path, chance: random.Random) -> None:
    path.write_bytes(changed_bytes(path.read_bytes(), chance))


def change_document(path: Path, chance: random.Random) -> None:
    """Change the metadata of a group or of an array, or what it is written in."""
    if chance.random() < 0.1:
        change_file(path, chance)
        return
    document = json.loads(path.read_text())
    inside = [document]
    if path.name == "zarr.json":
        inside += [document["attributes"]]
        inside += (document.get("consolidated_metadata") or {}).get("metadata", {}).values()
    elif path.name == ".zmetadata":
        inside += document["metadata"].values()
    chosen = chance.choice([each for each in inside if each])
    if chance.random() < 0.3:
        attributes = chosen.get("attributes", chosen) if path.name == "zarr.json" else chosen
        if isinstance(attributes, dict):
            attributes[chance.choice(ATTRIBUTES)] = chance.choice((*TELLING, *EXTREMES))
    elif chance.random() < 0.3 and chosen.get("shape"):
        sizes = chosen[chance.choice([key for key in ("shape", "chunks") if key in chosen])]
        sizes[chance.randrange(len(sizes))] = chance.choice((0, 1, -1, 17, 10**6, 10**12, 2**62))
    else:
        mutate(chosen, chance)
    path.write_text(json.dumps(document))


def change_tree(path: Path, chance: random.Random) -> None:
    """Files removed, moved, or in the place of folders, and folders in that of files."""
    path = chance.choice([path, *path.rglob("*")])
    choice = chance.random()
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if choice < 0.3:
        path.mkdir()
    elif choice < 0.5:
        path.write_bytes(b"" if choice < 0.4 else chance.randbytes(40))
    elif choice < 0.6:
        path.symlink_to(path if choice < 0.55 else "nothing")
    elif choice < 0.7:
        path.symlink_to(path.parent)
    elif choice < 0.73:
        os.mkfifo(path)


def change_size(documents: list[Path], chance: random.Random) -> None:
    """Another size of a dim, wherever it has one, so that nothing contradicts it."""
    old, new = chance.choice((SNAPSHOTS, POINTS)), chance.choice((5, 17, 10**4, 10**12, 2**62))
    for path in documents:
        document = json.loads(path.read_text())
        inside = [document, *(document.get("metadata") or {}).values()]
        inside += ((document.get("consolidated_metadata") or {}).get("metadata") or {}).values()
        for each in inside:
            if isinstance(each, dict) and isinstance(each.get("shape"), list):
                each["shape"] = [new if size == old else size for size in each["shape"]]
        path.write_text(json.dumps(document))


def change_zarr(path: Path, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 3))):
        files = [each for each in sorted(path.rglob("*")) if each.is_file()]
        documents = [each for each in files if each.name.startswith(".z") or each.suffix == ".json"]
        # numcodecs believes how many texts a chunk says it has, however much memory that takes.
        chunks = sorted(each for each in set(files) - set(documents) if "name" not in each.parts)
        choice = chance.random()
        try:
            if choice < 0.05:
                change_size(documents, chance)
            elif choice < 0.65:
                change_document(chance.choice(documents), chance)
            elif choice < 0.8:
                change_file(chance.choice(chunks), chance)
            elif choice < 0.85:
                shutil.copyfile(chance.choice(chunks), chance.choice(chunks))
            elif choice < 0.9:
                chance.choice(chunks).unlink()
            else:
                change_tree(path, chance)
        # What was changed before may be beyond another change.
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            return


def change_netcdf4(path: Path, chance: random.Random) -> None:
    """Change attributes as anybody can, or bytes."""
    if chance.random() < 0.5:
        change_file(path, chance)
        return
    with h5py.File(path, "a") as file:
        for _ in range(chance.choice((1, 1, 2, 3))):
            holder = chance.choice([file, *(file[name] for name in sorted(file))])
            value = chance.choice((*TELLING, *EXTREMES))
            with contextlib.suppress(Exception):  # what HDF5 does not take
                if chance.random() < 0.2:
                    names = sorted(holder.attrs)
                    del holder.attrs[chance.choice(names)]
                else:
                    holder.attrs[
                        chance.choice((*ATTRIBUTES, "_NCProperties", "DIMENSION_LIST"))
                    ] = np.array(value, chance.choice("bifS")) if chance.random() < 0.3 else value


# Everything that is in a file, without any code of ours.
WALK = """
import contextlib, sys, h5netcdf
with contextlib.suppress(Exception), open(sys.argv[1], "rb") as raw:
    with h5netcdf.File(raw, "r") as file:
        for variable in file.variables.values():
            with contextlib.suppress(Exception):
                dict(variable.attrs), variable.chunks, variable.filters(), variable[...]
"""


def kills_hdf5(path: Path) -> bool:
    """Whether HDF5 itself ends the process over a file, or never ends: no error can be had then."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", WALK, path], capture_output=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode < 0


def csv_text(chance: random.Random) -> bytes:
    """A table that is nearly one, in some encoding."""
    rows = [["time", *(str(k) for k in range(8))]]
    rows += [[name, *(f"{chance.gauss(0, 1):.4f}" for _ in range(8))] for name in "uvw"]
    if chance.random() < 0.3:
        rows = [row[1:] for row in rows]
    if chance.random() < 0.2:
        rows = rows[1:]
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        row = chance.choice(rows)
        choice = chance.random()
        if choice < 0.7 and row:
            row[chance.choice((0, chance.randrange(len(row))))] = chance.choice(CELLS)
        elif choice < 0.8:
            row.append(chance.choice(CELLS))
        elif choice < 0.9:
            rows.insert(chance.randrange(len(rows) + 1), list(chance.choice(rows)))
        else:
            row[:] = []
    mark = chance.choice((",", ",", ";", "\t", "|", " ", "  ", ":"))
    if chance.random() < 0.5:
        text = chance.choice(("\n", "\r\n", "\r")).join(mark.join(row) for row in rows)
    else:
        made = io.StringIO()
        quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
        with contextlib.suppress(csv.Error):
            csv.writer(made, delimiter=mark[0], quoting=quoting).writerows(rows)
        text = made.getvalue()
    encodings = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")
    content = text.encode(chance.choice(encodings), "replace")
    if chance.random() < 0.05:
        return chance.choice((b"", b"\n\n", b"\xff" * 99, chance.randbytes(200)))
    return changed_bytes(content, chance) if chance.random() < 0.3 else content


def strange_archive(folder: Path, chance: random.Random) -> tuple[str, Path]:
    """An archive in a folder of its own, and what kind it is."""
    kind = chance.choice(("csv", "csv", *FORMATS))
    place = folder / "given"
    place.mkdir()
    if chance.random() < 0.02:
        path = place / chance.choice(("a.zarr", "a.nc", "a.csv", "a"))
        ways = (path.mkdir, path.touch, lambda: os.mkfifo(path), lambda: path.symlink_to(path),
                lambda: path.symlink_to("/dev/zero"), lambda: None)  # fmt: skip
        chance.choice(ways)()
        return "no archive", path
    if kind == "csv":
        path = place / chance.choice(("a.csv", "a.tsv", "a.txt"))
        path.write_bytes(csv_text(chance))
        return kind, path
    if kind.startswith("zarr"):
        path = place / "a.zarr"
        shutil.copytree(original(kind), path)
        change_zarr(path, chance)
        return kind, path
    path = place / chance.choice(("a.nc", "a.nc", "a.dat.nc", "a"))
    shutil.copyfile(original(kind), path)
    (change_file if kind == "nc3" else change_netcdf4)(path, chance)
    return kind, path


# --- what is done with them ---------------------------------------------------------------


def settings(chance: random.Random) -> dict[str, Any]:
    """Settings that an archive may be compressed with."""
    chosen: dict[str, Any] = {"compression.tolerance": chance.choice((1e-2, 1e-2, 1e-4, 0.0))}
    if chance.random() < 0.2:
        chosen["compression.max_error"] = {"u": 1e-2}
    if chance.random() < 0.2:
        chosen["archive.weights"] = chance.choice(("cos(latitude)", "lat", "lat_bounds", "u"))
    if chance.random() < 0.2:
        chosen["archive.missing_chunks"] = "fill"
    if chance.random() < 0.1:
        chosen["archive.time"] = chance.choice(("time", "lag", "lat"))
    if chance.random() < 0.1:
        chosen["archive.variables"] = chance.choice((["u"], ["p", "v"], ["flag"]))
    return chosen


def compressed(source: Path, store: Path, chance: random.Random) -> bool:
    """Whether an archive is compressed, by the command or by the function."""
    chosen = settings(chance)
    if chance.random() < 0.5:
        file = source.parent / "config.yaml"
        sections: dict[str, dict[str, Any]] = {}
        for key, value in chosen.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        file.write_text(json.dumps(sections))
        try:
            return commanded("compress", source, store, "--config", file) == 0
        finally:
            file.unlink()
    return called(lambda: romzarr.compress(source, store, config=load_config(None, chosen)))[0]


def verified(source: Path, store: Path, _chance: random.Random) -> None:
    config = load_config(None, {"archive.missing_chunks": "fill"})
    fine, report = called(lambda: romzarr.verify(store, source, config=config))
    assert fine, f"a store that was just made cannot be verified: {report}"
    # A chunk with a wrong head may decode to whatever was in memory, each time something else.
    assert report.ok or source.is_dir(), report.problems


def reconstructed(source: Path, store: Path, chance: random.Random) -> None:
    out = store.parent / chance.choice(("out.zarr", "out.nc"))
    if chance.random() < 0.5:
        fine = commanded("reconstruct", store, out) == 0
    else:
        fine, _ = called(lambda: romzarr.reconstruct(store, out))
    assert fine == out.exists()


def looked_at(_source: Path, store: Path, _chance: random.Random) -> None:
    for command in (("info",), ("info", "--json"), ("equations",)):
        assert commanded(*command, store) == 0
    with xr.open_dataset(store, engine="romzarr") as opened:
        opened.load()


AFTERWARDS: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    verified,
    reconstructed,
    looked_at,
)


def beside_another(source: Path, store: Path, chance: random.Random) -> bool:
    """Verify a store of the archive as it was, or append to it."""
    shutil.copytree(store_of_original(), store)
    if chance.random() < 0.5:
        verb = "verify"
        action: Callable[[], Any] = lambda: romzarr.verify(store, source)  # noqa: E731
    else:
        verb = "append"
        action = lambda: romzarr.append(store, source)  # noqa: E731
    if chance.random() < 0.5:
        fine = commanded(verb, store, source) == 0
    else:
        fine, _ = called(action)
    open_store(store).check_files()
    return fine


def run_case(seed: int) -> str:
    """ "refused: csv" and the like of an archive made from `seed`; what is wrong is raised."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kind, source = strange_archive(folder, chance)
        store = folder / "s"
        if kind.startswith("nc4") and kills_hdf5(source):
            return f"kills HDF5: {kind}"
        before = names_below(folder)
        with within_limits():
            if chance.random() < 0.15:
                fine = beside_another(source, store, chance)
            else:
                fine = compressed(source, store, chance)
                assert fine == store.exists()
                if fine:
                    chance.choice(AFTERWARDS)(source, store, chance)
        made = {path.partition("/")[0] for path in names_below(folder) - before}
        assert made <= {"s", "out.zarr", "out.nc"}, f"left behind: {made}"
    return f"{'ok' if fine else 'refused'}: {kind}"
