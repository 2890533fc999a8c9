"""Every dataset of a folder at several tolerances: rank, terms, samples, ratio, error, cost.

``python -m tests.benchmarks.bench_datasets [FOLDER]`` prints a Markdown table. Errors are
measured by xarray and NumPy from outside: source and store are opened, and subtracted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tests.benchmarks.measure import MB, ROOT, Record, in_child, machine, measured, table

DATA = ROOT.parent / "shared" / "data"
TOLERANCES = (1e-1, 1e-2, 1e-3)


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def compare(source: xr.Dataset, decoded: xr.Dataset) -> tuple[float, int]:
    """Largest fluctuation-relative error of the variables, and their uncompressed bytes."""
    largest, raw = 0.0, 0
    for name, variable in source.data_vars.items():
        if "time" not in variable.dims or variable.dtype.kind != "f":
            continue
        x, y = (
            dataset[name].transpose("time", ...).values.astype(np.float64)
            for dataset in (source, decoded)
        )
        if (np.isnan(x) != np.isnan(y)).any():
            raise ValueError(f"variable {name!r}: NaN is not where it was")
        raw += variable.nbytes
        x, y = np.nan_to_num(x), np.nan_to_num(y)
        fluctuation = np.linalg.norm(x - x.mean(axis=0))
        error = np.linalg.norm(x - y)
        largest = max(largest, error / fluctuation if fluctuation else float(error > 0))
    return float(largest), raw


def child(source: Path, tolerance: float) -> Record:
    """Compress one dataset in this process, then measure the error from outside."""
    from romzarr.operations.compress import compress

    folder = Path(tempfile.mkdtemp(prefix="romzarr-bench-"))
    store = folder / "store.romzarr"
    try:
        report, cost = measured(lambda: compress(str(source), store, tolerance=tolerance))
        with (
            xr.open_dataset(source, engine="zarr", consolidated=False) as original,
            xr.open_dataset(store, engine="romzarr") as decoded,
        ):
            error, raw = compare(original, decoded)
        return cost.record() | {
            "rank": report.rank,
            "terms": report.nonzero_terms,
            "kept": report.kept_samples,
            "snapshots": report.snapshots,
            "ratio": raw / folder_bytes(store),
            "error": error,
            "raw_mb": raw / MB,
            "advice": bool(report.advice),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(sources: Sequence[Path], tolerances: Sequence[float]) -> str:
    header = (
        "dataset", "MB", "tolerance", "rank", "terms", "kept samples", "ratio", "error",
        "error / tolerance", "wall s", "CPU s", "peak MB", "advised against",
    )  # fmt: skip
    rows = []
    for source in sources:
        for tolerance in tolerances:
            arguments = ["--child", "--tolerances", str(tolerance), "--", str(source)]
            rows.append(_row(source, tolerance, in_child(__spec__.name, arguments)))
    return "\n\n".join(
        ["## Real data", f"{machine()}; default settings, one run.", table(header, rows)]
    )


def _row(source: Path, tolerance: float, found: Record) -> tuple[Any, ...]:
    if "failed" in found:
        return (source.stem, None, f"{tolerance:g}", found["failed"], *[None] * 9)
    return (
        source.stem, found["raw_mb"], f"{tolerance:g}", found["rank"], found["terms"],
        f"{found['kept']} of {found['snapshots']}", found["ratio"], f"{found['error']:.4e}",
        f"{found['error'] / tolerance:.4f}", found["seconds"], found["cpu_seconds"],
        round(found["peak_bytes"] / MB), "yes" if found["advice"] else "",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", default=DATA, help="folder of archives")
    parser.add_argument("--child", action="store_true", help="compress the one archive `source`")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(child(given.source, given.tolerances[0])))
        return
    sources = sorted(given.source.glob("*.zarr"))
    if not sources:
        print(f"## Real data\n\nskipped: no *.zarr in {given.source}")
        return
    print(report(sources, given.tolerances))


if __name__ == "__main__":
    main()
