"""What the model saves of a(t), beside predictors that know no dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from romzarr.archive import Archive
from romzarr.chunked.latent import LatentRecord
from romzarr.coding.differences import MOST_ORDER
from romzarr.coding.tiles import coded_rows, encode_rows, tile_rows
from romzarr.compression.allocate_bits import allocate_fields
from romzarr.compression.choose_coding import choose_coding
from romzarr.compression.model import TERM_BYTES, identify
from romzarr.compression.pod import factor_archive
from romzarr.config import CompressionConfig, Config
from romzarr.numerics.dynamics.sampling import Deviation, Tolerances
from tests.benchmarks.measure import Record

# Ratio of one quantisation step tried to the next.
STEP_RATIO = 2**0.125


def dynamics_record(archive: Archive, tolerance: float) -> Record:
    """Bytes of a(t) with the model and without; with wavelets alone, and polynomials alone."""
    config = Config(compression=CompressionConfig(tolerance=tolerance))
    with threadpool_limits(1, user_api="blas"):
        pod = factor_archive(archive, config)
        coded = allocate_fields(archive, choose_coding(archive, pod, tolerance).plan)
        if not coded.rank:
            return {"failed": "no variable is coded by POD"}
        times, limits, nbytes = archive.time.values, coded.tolerances, coded.plan.bits / 8
        record = LatentRecord.of(coded.a, times, coded.plan.pod.right)
        a, rest = coded.a.here(), coded.plan.pod.right.here()
        model = identify(record, times, limits, config, step=coded.step, coded_bytes=nbytes)
        by_degree = polynomial_bytes(a, rest, limits, coded.step)
        wavelets = bytes_alone(a, rest, limits, coded.step, ())
    degree, latent = min(by_degree, key=lambda each: by_degree[each]), model.latent.format
    return {
        "model": model.nbytes,
        "terms": TERM_BYTES * sum(each.nonzero_terms for each in model.models),
        "modelled": float((latent.block_model >= 0).mean()),
        "extrapolated": int(np.count_nonzero(latent.correction_orders)),
        "without": model.plain.nbytes,
        "wavelets": wavelets,
        "polynomial": by_degree[degree],
        "degree": degree,
    }


def polynomial_bytes(
    a: NDArray[np.float64], rest: NDArray[np.float64], limits: Tolerances, step: float
) -> dict[int, int]:
    """Bytes of a(t) by the degree of the polynomials that extrapolate all modes."""
    return {
        order - 1: bytes_alone(a, rest, limits, step, (order,) * a.shape[1])
        for order in range(1, MOST_ORDER + 1)
    }


def bytes_alone(
    a: NDArray[np.float64],
    rest: NDArray[np.float64],
    limits: Tolerances,
    step: float,
    orders: Sequence[int],
) -> int:
    """Bytes of a(t), differenced or else transformed, with the largest step within the limits."""
    rows = tile_rows(*a.shape)

    def fits(step: float) -> bool:
        decoded = coded_rows(a, rows, step, True, orders)
        return limits.met_by(Deviation.of(np.asarray(decoded - a), rest))

    while fits(step):
        step *= STEP_RATIO
    while not fits(step):
        step /= STEP_RATIO
    return sum(map(len, encode_rows(a, rows, step, True, orders)))
