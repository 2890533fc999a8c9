"""One point's history of a large store on object storage, as far as it can be simulated here.

``python -m tests.benchmarks.bench_remote`` writes the store of a synthetic field of 10^4 snapshots
of 721 x 1440 points (41 GB of float32): a seasonal cycle and red noise in 40 modes of decreasing
energy, coded by the writer of stores at a tolerance of 1e-2, without a pass over snapshots that
would take hours here. An S3 server on loopback answers after 50 ms. Printed are requests, bytes
fetched, seconds and CPU seconds of opening the store and of the histories of two points, each in a
process that has opened another store before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import romzarr
from romzarr.coding import tiles
from romzarr.contracts import CodedLatent, LatentFormat, TimeAxis
from romzarr.store.writing.writer import StoreWriter
from tests.benchmarks.measure import Record, in_child, machine, table
from tests.s3_server import make_bucket, proxied, serving

MODULE = "tests.benchmarks.bench_remote"
SNAPSHOTS, SHAPE, RANK = 10_000, (721, 1440), 40
TOLERANCE, SECONDS_A_REQUEST = 1e-2, 0.05
BUCKET = "archive"
COLUMNS = ("", "requests", "bytes", "seconds", "CPU seconds")


def coefficients(rng: np.random.Generator) -> NDArray[np.float64]:
    """A seasonal cycle and red noise, (snapshots, modes), with the energies of turbulence."""
    noise = rng.standard_normal((SNAPSHOTS, RANK))
    for row in range(1, SNAPSHOTS):
        noise[row] += 0.98 * noise[row - 1]
    season = 2 * np.pi * np.arange(SNAPSHOTS) / 1460
    noise[:, :2] = np.stack([np.cos(season), np.sin(season)], axis=1)
    unit, _ = np.linalg.qr(noise - noise.mean(axis=0))
    return np.asarray(unit * 1e4 * (1.0 + np.arange(RANK)) ** (-5 / 6))


def smooth_field(rng: np.random.Generator) -> NDArray[np.float64]:
    """A red field of unit norm on the grid."""
    spectrum = np.fft.rfft2(rng.standard_normal(SHAPE))
    waves = np.hypot(*np.meshgrid(np.fft.rfftfreq(SHAPE[1]), np.fft.fftfreq(SHAPE[0])))
    field = np.fft.irfft2(spectrum / (1.0 / SHAPE[1] + waves) ** 2, SHAPE)
    return np.asarray(field / np.linalg.norm(field))


def write_store(place: Path) -> None:
    """Write the store of the synthetic field."""
    rng = np.random.default_rng(0)
    latent = coefficients(rng)
    sigma = np.linalg.norm(latent, axis=0)
    mean = 10 * np.sqrt(SNAPSHOTS) * smooth_field(rng)
    fields = np.stack([mean, *(s * smooth_field(rng) for s in sigma)]).astype(np.float32)
    # Half of what may be lost for fields, whose rounding has a variance of step^2 / 12 each.
    allowed = TOLERANCE * float(np.linalg.norm(sigma)) / 2**0.5
    step = allowed * (12 / fields.size) ** 0.5
    latent_step = allowed * (12 / latent.size) ** 0.5
    rows = tiles.tile_rows(SNAPSHOTS, RANK)
    contents = tiles.encode_rows(latent, rows, latent_step, True, (0,) * RANK)
    kept = np.zeros(0, np.int64)
    form = LatentFormat(kept, 256, np.zeros(0, np.int16), 1, RANK, 1.0, latent_step, rows, rows,
                        (0,) * RANK)  # fmt: skip
    tile = tiles.tile_shape(SHAPE, RANK)
    with StoreWriter(place) as writer:
        writer.create_fields("t", ("lat", "lon"), SHAPE, tile, RANK, step, np.float32, None)
        for index, region in tiles.tiles(SHAPE, tile):
            part = fields[(slice(None), *region)]
            writer.fields.write_tile("t", index, tiles.encode_tile(part, tile, step))
        writer.write_singular_values(sigma)
        writer.write_coordinates(
            xr.Dataset(
                coords={
                    "time": np.datetime64("2000-01-01", "ns")
                    + np.arange(SNAPSHOTS) * np.timedelta64(6, "h"),
                    "lat": np.linspace(90, -90, SHAPE[0]),
                    "lon": np.arange(SHAPE[1]) * 0.25,
                }
            )
        )
        writer.write_time(TimeAxis("time", np.arange(SNAPSHOTS) * 6.0, "h"))
        writer.write_latent(CodedLatent(form, (), contents), "time")
        writer.commit(
            {
                "variables": {
                    "t": {
                        "dims": ["time", "lat", "lon"], "shape": [SNAPSHOTS, *SHAPE],
                        "dtype": "<f4", "time_axis": 0, "coding": "pod", "chunks": [100, *SHAPE],
                        "attrs": {}, "encoding": {},
                    }
                },
                "order": ["t"], "attrs": {}, "encoding": {}, "model": {}, "rank": RANK,
                "arithmetic": "float32", "tolerance": TOLERANCE,
                "relative_l2_error": {"t": TOLERANCE}, "max_error": {}, "nonzero_terms": 0,
                "raw_bytes": 4 * SNAPSHOTS * SHAPE[0] * SHAPE[1], "config": {},
                "source": {"name": "synthetic"}, "versions": {},
            }
        )  # fmt: skip


def child(url: str) -> Record:
    """Open the store at a URL, and read the histories of two points."""
    with tempfile.TemporaryDirectory() as folder:
        waves = np.sin(np.arange(40.0)[:, None] * [0.1, 0.2] + [0.0, 1.0])
        archive = xr.Dataset({"u": (("time", "x"), waves)}, {"time": np.arange(40.0)})
        romzarr.compress(archive, f"{folder}/s")
        xr.open_dataset(f"{folder}/s", engine="romzarr").load()
    found: Record = {"start": time.time()}
    opened: list[xr.Dataset] = []
    steps = {
        "open": lambda: opened.append(xr.open_dataset(url, engine="romzarr")),
        "a point": lambda: opened[0].t.sel(lat=47.5, lon=8.5).values,
        "a point nearby": lambda: opened[0].t.sel(lat=46.25, lon=7.5).values,
        "a point far away": lambda: opened[0].t.sel(lat=-33.75, lon=151.25).values,
    }
    for name, step in steps.items():
        start, cpu = time.perf_counter(), time.process_time()
        step()
        found[name] = [time.perf_counter() - start, time.process_time() - cpu, time.time()]
    return found


def _upload(folder: Path, server: tuple[str, int]) -> None:
    make_bucket(server, BUCKET)
    for file in folder.rglob("*"):
        if file.is_file():
            with closing(http.client.HTTPConnection(*server)) as connection:
                connection.request(
                    "PUT", f"/{BUCKET}/{file.relative_to(folder)}", file.read_bytes()
                )
                connection.getresponse().read()


def _rows(
    steps: Record, start: float, seen: Sequence[tuple[float, int]]
) -> Iterator[tuple[object, ...]]:
    """For each step its requests and bytes, of those seen until its end, and its seconds."""
    for name, (wall, cpu, end) in steps.items():
        sizes = [size for moment, size in seen if start < moment <= end]
        yield name, len(sizes), sum(sizes), wall, cpu
        start = end


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(child(given.child)))
        return
    print(f"{machine()}.\n")
    seen: list[tuple[float, int]] = []

    def answer_late(method: str, path: str) -> None:
        size = Path(folder, *Path(path).parts[2:])
        seen.append((time.time(), size.stat().st_size if size.is_file() else 0))
        time.sleep(SECONDS_A_REQUEST)

    with tempfile.TemporaryDirectory() as folder, serving() as server, proxied(server) as proxy:
        write_store(Path(folder) / "s")
        _upload(Path(folder), server)
        proxy.fault = answer_late
        os.environ |= {"AWS_ENDPOINT_URL": proxy.url, "AWS_SKIP_SIGNATURE": "true"}
        steps = in_child(MODULE, ["--child", f"s3://{BUCKET}/s"])
        if "failed" in steps:
            raise RuntimeError(steps["failed"])
        nbytes = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        print(f"A store of {nbytes} bytes.\n")
        print(table(COLUMNS, _rows(steps, steps.pop("start"), seen)))


if __name__ == "__main__":
    main()
