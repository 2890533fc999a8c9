"""Plain answers in NumPy and xarray that share no code with romzarr."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def snapshots_by_rows(values: NDArray[np.floating], time_axis: int = 0) -> Matrix:
    """(m, n) float64 with masked points as zeros."""
    rows = np.moveaxis(np.asarray(values), time_axis, 0)
    return np.nan_to_num(rows.reshape(len(rows), -1).astype(np.float64), posinf=np.inf)


def fluctuation(rows: Matrix) -> Matrix:
    """Anomalies about the temporal mean; exactly zero where nothing changes."""
    shifted = rows - rows[0]
    return shifted - shifted.mean(axis=0)


def weighted_norm(rows: Matrix, weights: Matrix | None = None) -> float:
    return float(np.sqrt(np.sum(rows**2 if weights is None else rows**2 * weights)))


def relative_error(
    original: NDArray[np.floating],
    decoded: NDArray[np.floating],
    time_axis: int = 0,
    weights: Matrix | None = None,
) -> float:
    """Fluctuation-relative L2 error; of a constant variable 0 if exact, else infinite."""
    x, y = (snapshots_by_rows(values, time_axis) for values in (original, decoded))
    # Norms of 1e-200 and of 1e+200 are fine, their squares are not.
    scale = np.abs(fluctuation(x)).max(initial=0.0)
    if scale == 0:
        return 0.0 if np.array_equal(original, decoded, equal_nan=True) else np.inf
    error = weighted_norm((x - y) / scale, weights)
    return error / weighted_norm(fluctuation(x) / scale, weights)


def singular_values(rows: Matrix, weights: Matrix | None = None) -> Matrix:
    """Of the anomalies, by an SVD of the whole matrix."""
    root = 1.0 if weights is None else np.sqrt(weights)
    return np.asarray(np.linalg.svd(fluctuation(rows) * root, compute_uv=False))


def best_error(rows: Matrix, rank: int, weights: Matrix | None = None) -> float:
    """Smallest error that any `rank` modes leave (Eckart, Young, Mirsky)."""
    return float(np.linalg.norm(singular_values(rows, weights)[rank:]))


def decaying_matrix(
    rng: np.random.Generator, m: int, n: int, decades: float, rank: int | None = None
) -> Matrix:
    """(m, n) of zero temporal mean whose singular values fall evenly over `decades`."""
    rank = min(m - 1, n, *([] if rank is None else [rank]))
    a = rng.standard_normal((m, rank))
    left = np.linalg.qr(a - a.mean(axis=0))[0]
    right = np.linalg.qr(rng.standard_normal((n, rank)))[0]
    return (left * np.logspace(0, -decades, rank)) @ right.T


def decoded_errors(
    source: xr.Dataset, decoded: xr.Dataset, weights: Mapping[str, xr.DataArray] | None = None
) -> dict[str, float]:
    """Error of every floating-point variable with time; the NaN patterns must agree."""
    errors = {}
    for name in compressed_names(source):
        x, y = source[name], decoded[name]
        assert np.array_equal(np.isnan(x.values), np.isnan(y.values)), f"NaN of {name} moved"
        w = None
        if weights is not None:
            space = x.isel(time=0, drop=True)
            w = np.broadcast_to(weights[name].broadcast_like(space), space.shape).ravel()
        errors[name] = relative_error(x.values, y.values, x.dims.index("time"), w)
    return errors


def chunks_read(source: xr.Dataset, codings: Mapping[str, str]) -> int:
    """What compression has to read: each chunk once, and once more where values are coded."""
    times = {name: 1 + (codings[name] in ("direct", "hybrid")) for name in compressed_names(source)}
    return sum(n * int(np.prod(source[name].data.numblocks)) for name, n in times.items())


def compressed_names(source: xr.Dataset) -> list[str]:
    return [
        str(name)
        for name, variable in source.data_vars.items()
        if "time" in variable.dims and variable.dtype.kind == "f"
    ]


def assert_same_but_values(source: xr.Dataset, decoded: xr.Dataset) -> None:
    """Names, dims, dtypes, coordinates, attributes; values only of what is not compressed."""
    assert list(source.data_vars) == list(decoded.data_vars)
    assert set(source.coords) == set(decoded.coords)
    xr.testing.assert_identical(source.coords.to_dataset(), decoded.coords.to_dataset())
    lossy = compressed_names(source)
    xr.testing.assert_identical(source.drop_vars(lossy), decoded.drop_vars(lossy))
    for name in lossy:
        assert decoded[name].dims == source[name].dims
        assert decoded[name].dtype == source[name].dtype
        assert without_loss(decoded[name].attrs) == source[name].attrs


def without_loss(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those that say what compression has lost."""
    return {name: value for name, value in attrs.items() if not name.startswith("romzarr_")}


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    for where, _, names in os.walk(folder):
        yield from (os.path.join(where, name) for name in names)


# JPEG 2000 Part 1 (ISO/IEC 15444-1), Table F.2, low-pass: from the middle outwards, of sum 1.
_LOW = [0.6029490182363579, 0.2668641184428723, -0.07822326652898785, -0.01686411844287495,
        0.02674875741080976]  # fmt: skip


def coarsened(
    values: NDArray[np.floating], axis: int, halvings: int, piece: int | None = None
) -> Matrix:
    """Every second point, so often, of what the low-pass filter of CDF 9/7 makes of an axis.

    Each `piece` is mirrored at its ends; the last one first repeats its last value.
    """
    rows = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    length = rows.shape[-1]
    kernel, found = np.array(_LOW[:0:-1] + _LOW), []
    for start in range(0, length, piece or length):
        part = rows[..., start : start + (piece or length)]
        kept = -(-part.shape[-1] // 2**halvings)
        missing = (piece or length) - part.shape[-1]
        part = np.concatenate([part, np.repeat(part[..., -1:], missing, -1)], -1)
        for _ in range(halvings):
            wide = np.pad(part, [(0, 0)] * (part.ndim - 1) + [(4, 4)], mode="reflect")
            windows = np.lib.stride_tricks.sliding_window_view(wide, 9, axis=-1)
            part = (windows @ kernel)[..., ::2]
        found.append(part[..., :kept])
    return np.moveaxis(np.concatenate(found, -1), -1, axis)
