"""What the model saves of a(t), beside predictors that know no dynamics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.allocate import allocate_fields
from pipeline.archive import Archive
from pipeline.choose import choose_coding
from pipeline.coding.latent import code_latent
from pipeline.coding.tiles import encode_rows, tile_rows
from pipeline.config import CompressionConfig, Config
from pipeline.factor import factor_archive
from pipeline.identify import CODE_BLOCK, TERM_BYTES, identify
from pipeline.numerics.sampling import Tolerances
from tests.benchmarks.measure import Record

# Orders of the differences: what polynomials of one degree less, through the values before,
# leave to be coded.
ORDERS = range(1, 6)
# Ratio of one quantisation step tried to the next.
STEP_RATIO = 2**0.125


def dynamics_record(archive: Archive, tolerance: float) -> Record:
    """Bytes of a(t) with the model, with wavelets alone and with the best polynomials."""
    config = Config(compression=CompressionConfig(tolerance=tolerance))
    with threadpool_limits(1, user_api="blas"):
        pod = factor_archive(archive, config)
        coded = allocate_fields(archive, choose_coding(archive, pod, tolerance)[0])
        if not coded.rank:
            return {"failed": "no variable is coded by POD"}
        a, times, limits = coded.a, archive.time.values, coded.tolerances
        model = identify(a, times, limits, config, step=coded.step, coded_bytes=coded.bits / 8)
        plain = code_latent(a, times, (), (), limits, coded.step, block_steps=CODE_BLOCK)
        by_degree = polynomial_bytes(a, limits, coded.step)
    terms = TERM_BYTES * sum(each.nonzero_terms for each in model.models)
    degree = min(by_degree, key=lambda each: by_degree[each])
    return {
        "model": model.latent.nbytes + terms,
        "terms": terms,
        "wavelets": plain.nbytes if plain else None,
        "polynomial": by_degree[degree],
        "degree": degree,
        "modelled": float((model.latent.coded.code.block_model >= 0).mean()),
    }


def polynomial_bytes(a: NDArray[np.float64], limits: Tolerances, step: float) -> dict[int, int]:
    """Bytes of a(t) by the degree of the polynomial that extrapolates it, one snapshot on.

    Values are rounded to the largest step within the limits, so the integers that are left,
    finite differences, are exact and errors do not add up; they go through the range coder
    that corrections go through.
    """
    while limits.met_by(step * np.round(a / step) - a):
        step *= STEP_RATIO
    while not limits.met_by(step * np.round(a / step) - a):
        step /= STEP_RATIO
    rounded = np.round(a / step)
    found = {}
    for order in ORDERS:
        left = np.diff(rounded, n=order, axis=0, prepend=np.zeros((order, a.shape[1])))
        contents = encode_rows(left, tile_rows(*a.shape), 1.0, smooth=False)
        found[order - 1] = sum(map(len, contents))
    return found
