"""The demonstration: simulates, compresses, verifies, draws and summarises."""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

import romzarr
from romzarr.config import Config
from romzarr.contracts import BlockSpan
from romzarr.operations.field_model import field_model
from romzarr.operations.identified import equations_text
from romzarr.reports import CompressionReport
from romzarr.store.reading.reader import open_store
from romzarr_flows.background import repeating
from romzarr_flows.demo.cylinder import CylinderFlow, write_archive
from romzarr_flows.demo.picture import Wake, draw, singular_values, vorticity_error
from romzarr_flows.tables import compression_table, ratio, size, verify_table

log = logging.getLogger(__name__)

# Something is logged at least every two seconds, with a margin for a busy machine.
SILENCE_SECONDS = 1.5


def run(
    directory: Path, config: Config, *, flow: CylinderFlow | None = None, snapshots: int = 240
) -> int:
    """Run the demonstration in `directory`; return 0 if the bound holds, else 1."""
    archive, store = directory / "cylinder.zarr", directory / "cylinder.romzarr"
    picture = directory / "cylinder.png"
    solve(archive, flow or CylinderFlow(), snapshots)
    with announced("compressing"):
        report = romzarr.compress(str(archive), str(store), config=config, overwrite=True)
    with announced("verifying"):
        check = romzarr.verify(str(store), str(archive), config=config)
    with announced("finding equations in the store"):
        model = field_model(store)
    with announced("drawing"):
        draw(wake(archive, store, report, model), picture)
    print(compression_table(report.to_dict(), str(archive), str(store)), end="\n\n")
    print(verify_table(check.to_dict(), str(archive), str(store)), end="\n\n")
    print(summary(report, store, picture))
    return 0 if check.ok else 1


def solve(archive: Path, flow: CylinderFlow, snapshots: int) -> None:
    """Simulate the flow, unless an earlier run has done so."""
    if archive.exists():
        log.info("using the flow of an earlier run: %s", archive)
        return
    log.info("simulating the flow past a cylinder, less than a minute: %s", archive)
    began = logged = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal logged
        now = time.monotonic()
        if now - logged >= SILENCE_SECONDS:
            logged = now
            log.info("simulating the flow: %.0f %%, %.0f s", 100 * done / total, now - began)

    write_archive(archive, flow, snapshots=snapshots, progress=progress)
    log.info("the flow took %.0f s", time.monotonic() - began)


class _LastRecord(logging.Handler):
    """Notes when something was last logged."""

    def __init__(self) -> None:
        super().__init__()
        self.at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self.at = time.monotonic()


@contextmanager
def announced(stage: str) -> Iterator[None]:
    """Log the stage and, whenever nothing was logged for a while, how long it has taken."""
    began, last = time.monotonic(), _LastRecord()

    def remind() -> None:
        now = time.monotonic()
        if now - last.at >= SILENCE_SECONDS:
            log.info("%s, %.0f s so far", stage, now - began)

    logging.getLogger().addHandler(last)
    log.info("%s", stage)
    try:
        with repeating(f"romzarr demo: {stage}", SILENCE_SECONDS / 4, remind):
            yield
    finally:
        logging.getLogger().removeHandler(last)


def wake(archive: Path, store: Path, report: CompressionReport, model: xr.Dataset | None) -> Wake:
    """Collect the content of the picture from the archive, the store and its equations."""
    original = xr.open_zarr(archive, consolidated=False)
    decoded = xr.open_dataset(store, engine="romzarr", chunks=None)
    error = vorticity_error(original, decoded)
    coded = open_store(store).last.latent
    shown = original.sizes["time"] // 2
    sparse = model is not None and model.attrs["sparse"]
    return Wake(
        original=original.isel(time=shown).load(),
        decoded=decoded.isel(time=shown).load(),
        error=error,
        singular_values=singular_values(original),
        rank=report.rank,
        tolerance=report.tolerance,
        times=coded.times,
        coefficients=coded.span(BlockSpan(0, coded.snapshots)),
        kept=coded.index,
        states="rotated coefficients" if sparse else "the leading coefficients",
        equations=[] if model is None else equations_text(model, trust=False).splitlines(),
        title=f"{original.attrs['title']}: {size(report.raw_bytes)} in "
        f"{size(report.stored_bytes)}, {ratio(report.compression_ratio)} times smaller\n"
        f"relative error of u and v {report.largest_relative_l2_error:.2g}, of the vorticity "
        f"(shown) {error:.2g}",
    )


def summary(report: CompressionReport, store: Path, picture: Path) -> str:
    """Describe the result in words."""
    became = f"{report.snapshots} snapshots of a vortex street became {report.rank} POD modes and "
    if report.kept_samples:
        rest = report.snapshots - report.kept_samples
        became += (
            f"{report.kept_samples} samples of their coefficients; a model of "
            f"{report.nonzero_terms} terms predicts the other {rest}, and its error is coded. "
        )
    else:
        became += (
            f"their coefficients. A model of {report.nonzero_terms} terms describes them. In a "
            "record this short it takes more bytes than it saves, so it is kept for reading only. "
        )
    became += (
        f"The store takes {size(report.stored_bytes)} instead of {size(report.raw_bytes)}. "
        "A longer record adds coefficients, but hardly any modes."
    )
    return f"""\
{textwrap.fill(became, 90)}

picture:    {picture}
equations:  romzarr equations {store}
in Python:  xarray.open_dataset("{store}", engine="romzarr", chunks={{}})"""
