"""Checks that the arrays of a generation are consistent, before any is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from romzarr.encoding import MAX_SNAPSHOTS
from romzarr.errors import StoreError
from romzarr.store import limits
from romzarr.store.layout import ArrayLayout, JsonObject


def check_latent(
    facts: JsonObject, arrays: Mapping[str, ArrayLayout], earlier: int
) -> tuple[int, int]:
    """Check everything that depends on modes and snapshots of a generation.

    Returns the number of modes that it adds to the `earlier` ones it extends, and of snapshots.
    """
    latent = facts.object("latent")
    snapshots = latent.integer("snapshots", 1, MAX_SNAPSHOTS)
    if facts.text("arithmetic") not in ("float32", "float64"):
        raise StoreError(f"{facts.where}: 'arithmetic' must be 'float32' or 'float64'")
    own = 0
    if "basis/singular_values" in arrays:
        (own,) = shape_of(arrays, "basis/singular_values", "float64", 1, facts.where)
    rank = earlier + own
    if not rank:
        return 0, snapshots
    if rank > limits.MAX_RANK:
        raise StoreError(f"{facts.where}: {rank} modes, at most {limits.MAX_RANK} are allowed")
    if "latent/corrections" in arrays:
        agree(arrays, "latent/corrections", "float64", (snapshots, rank), facts.where)
    elif "latent/steps" not in arrays:
        raise StoreError(f"{facts.where}: both latent/steps and latent/corrections are missing")
    if "latent/steps" in arrays:
        _check_samples(latent, arrays, snapshots, rank)
    _check_time(facts.object("time"), arrays, snapshots)
    return own, snapshots


def _check_samples(
    latent: JsonObject, arrays: Mapping[str, ArrayLayout], snapshots: int, rank: int
) -> None:
    """Check the samples, and the models of the blocks."""
    block_steps = latent.integer("block_steps", 1, limits.MAX_BLOCK_STEPS)
    latent.integer("substeps", 1, limits.MAX_SUBSTEPS)
    (kept,) = shape_of(arrays, "latent/steps", "uint", 1, latent.where)
    most = min(snapshots, limits.MAX_KEPT)
    if not 1 <= kept <= most:
        raise StoreError(
            f"{latent.where}: latent/steps keeps {kept} of {snapshots} snapshots, at most {most} "
            "are allowed"
        )
    agree(arrays, "latent/samples", "float64", (kept, rank), latent.where)
    if "latent/block_model" in arrays:
        blocks = -(-snapshots // block_steps)
        agree(arrays, "latent/block_model", "int", (blocks,), latent.where)


def _check_time(time: JsonObject, arrays: Mapping[str, ArrayLayout], snapshots: int) -> None:
    dim = time.text("dim")
    given = [key for key in ("step", "scale") if time.document.get(key) is not None]
    if not given:
        agree(arrays, "latent/times", "float64", (snapshots,), time.where)
    elif time.number(given[0]) <= 0:
        raise StoreError(f"{time.where}: {given[0]!r} must be positive")
    if given == ["scale"]:
        path = f"coordinates/{dim}"
        if path not in arrays or not re.match("u?int|float", arrays[path].dtype):
            raise StoreError(f"{time.where}: array {path} is missing or not numeric")
        agree(arrays, path, arrays[path].dtype, (snapshots,), time.where)


def shape_of(
    arrays: Mapping[str, ArrayLayout], path: str, dtype: str, ndim: int, where: str
) -> tuple[int, ...]:
    """Check the dtype and number of dims of an array, and return its shape."""
    if path not in arrays:
        raise StoreError(f"{where}: array {path} is missing")
    array = arrays[path]
    if not array.dtype.startswith(dtype) or len(array.shape) != ndim:
        raise StoreError(
            f"{where}: array {path} must have {ndim} dims of {dtype}, "
            f"found {array.dtype} {array.shape}"
        )
    return array.shape


def agree(
    arrays: Mapping[str, ArrayLayout], path: str, dtype: str, shape: tuple[int, ...], where: str
) -> None:
    """Check dtype and shape of an array, and that chunks contain all modes."""
    found = shape_of(arrays, path, dtype, len(shape), where)
    if found != shape:
        raise StoreError(f"{where}: array {path} has shape {found}, but {shape} is needed")
    # One chunk has all fields of a place, or all coefficients of a snapshot.
    chunk, whole = arrays[path].chunk, -1 if path.startswith("latent/") else 0
    whole_needed = arrays[path].coded and not path.endswith(("/episodes", "/residuals", "/values"))
    if whole_needed and chunk[whole] != max(1, shape[whole]):
        raise StoreError(f"{where}: array {path} of shape {shape} must not have chunks {chunk}")
