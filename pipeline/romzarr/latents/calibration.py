"""Calibration: principal directions of samples, and one step for all of them.

With a uniform quantiser and entropy coding, equal steps in orthonormal directions are reverse
water-filling [1]_: directions that vary by less than a step cost next to nothing, each other one
takes log2(deviation / step) bits. So a budget in bits, or a bound on the error, is one number:
the step, found by bisection on what the samples really take.

A metric tells which errors matter. For a cache, the squared gradients of a model's loss by its
keys and values are the diagonal of the Fisher information, to which the divergence of the
model's output is proportional to leading order [2]_.

References
----------
.. [1] T. Cover, J. Thomas, "Elements of Information Theory", Wiley 2006, section 10.3.3.
.. [2] S. Amari, "Natural gradient works efficiently in learning", Neural Computation 10 (1998)
   251-276, doi:10.1162/089976698300017746.
.. [3] G. Sullivan, "Efficient scalar quantization of exponential and Laplacian random
   variables", IEEE Trans. Inf. Theory 42 (1996) 1365-1374, doi:10.1109/18.532878.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import is_number, shown
from romzarr.coding.coordinates import CENTRE, MOST_SHIFT, SYMBOLS, Tables, frequencies_of
from romzarr.errors import ConfigError
from romzarr.latents.arrays import as_values
from romzarr.latents.codec import Codec

Values = NDArray[np.float32]

BITS = 2.0
# Fewer samples say nothing of their directions.
LEAST_SAMPLES = 64
# Samples that rates and errors are measured on: a percent of either is told apart.
MEASURED = 1024
# A uniform quantiser of Laplacian values is best with a dead zone, and decodes to the centroids
# of its intervals [3]_. Chosen on keys and values at 1 to 2 bits.
ROUNDING = 0.38
# Directions whose deviation is below this part of a step are always zero. Those between a quarter
# and a half save two percent of the bits at equal error, and take a quarter of the time.
SILENT = 0.5
# Tables differ by a third of an octave of the ratio of deviation to step.
CLASSES_AN_OCTAVE, MOST_CLASSES = 3, 64
# The mean size of an integer that a table without plain bits is for: it has symbols for sizes
# five times as large.
MEAN_SYMBOL = CENTRE / 5
# What is known of a table before samples: a Laplacian of the size of its class, worth so many.
PRIOR = 64.0
# Part of the mean importance that every feature has at least.
RIDGE = 1e-2
# Halvings of a bracket of 2**40.
TRIALS, RANGE = 14, 20.0


@dataclass(frozen=True, eq=False)
class Directions:
    """Principal directions of samples, and coordinates of these (samples, directions)."""

    mean: Values
    forward: Values
    metric: Values
    coordinates: Values

    def codec(self, step: float, model: str) -> Codec:
        """The codec with this step in all directions that it does not silence."""
        sizes = np.sqrt(np.mean(self.coordinates**2, axis=0))
        alive = np.flatnonzero(sizes > SILENT * step)
        # One direction at least, for arrays of none are a case of their own everywhere.
        alive = alive if len(alive) else np.array([int(sizes.argmax())])
        tables = tables_of(self.coordinates[:, alive], step)
        forward = np.ascontiguousarray(self.forward[alive])
        return Codec(self.mean, forward, self.metric, tables, model)


def calibrate(
    samples: Any,
    bits: float | None = None,
    *,
    error: float | None = None,
    importance: Any = None,
    model: str = "",
) -> Codec:
    """Make a codec from samples of what it will code.

    Parameters
    ----------
    samples : array (tokens, features)
        Of NumPy, JAX or torch; a few thousand tokens, more than there are features.
    bits : float, default 2.0
        Mean bits a value that the samples take.
    error : float, optional
        Instead of `bits`: L2 error of the samples relative to their fluctuation.
    importance : array (features,), optional
        Weight of the squared error of each feature, such as mean squared gradients of a loss by
        it. Equal for all by default.
    model : str, default ""
        Fingerprint of the model, kept with the calibration.

    Returns
    -------
    Codec

    Raises
    ------
    ConfigError
        If there are fewer than 64 samples, both `bits` and `error` are given, or one of them or
        a weight is not positive.
    GapsError
        If a sample is not finite.

    Notes
    -----
    Takes a few seconds and ``4 * features**2`` bytes for a thousand features. Samples that are
    fewer than the features, or of other texts than the codec is used for, cost bits.
    """
    values = as_values(samples, "samples", (None, None))
    found = directions_of(values, importance)
    step = step_for([found], [values], bits=bits, error=error)
    return found.codec(step, model)


def directions_of(values: Values, importance: Any = None) -> Directions:
    """Principal directions in the metric of the importance of features."""
    if len(values) < LEAST_SAMPLES:
        raise ConfigError(
            f"samples: found {len(values)} tokens, allowed are {LEAST_SAMPLES} or more; a few "
            "thousand make a good calibration"
        )
    weights = _weights(importance, values.shape[1])
    mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    scaled = (values - mean) * weights
    moments = scaled.T @ scaled / np.float32(len(scaled))
    axes = np.linalg.eigh(moments)[1].T[::-1]
    axes = axes[: min(values.shape)]
    return Directions(mean, axes * weights, weights**2, scaled @ axes.T)


def step_for(
    found: Sequence[Directions],
    values: Sequence[Values],
    *,
    bits: float | None,
    error: float | None,
) -> float:
    """The step with which all samples together take so many bits a value, or are so far off."""
    if bits is not None and error is not None:
        raise ConfigError("bits, error: found both, allowed is one of them")
    wanted = BITS if bits is None and error is None else bits if error is None else error
    if not is_number(wanted) or not 0 < wanted < 32:
        name = "bits" if error is None else "error"
        raise ConfigError(f"{name}: found {shown(wanted)}, allowed is a positive number below 32")
    some = [_spread(len(each)) for each in values]
    chosen = [each[rows] for each, rows in zip(values, some, strict=True)]
    # Tables of the same tokens: those of all would take ten times as long, for the same step.
    found = [
        replace(each, coordinates=each.coordinates[rows])
        for each, rows in zip(found, some, strict=True)
    ]

    def rate(step: float) -> float:
        codecs = [each.codec(step, "") for each in found]
        nbytes = sum(len(c.encode_values(x).payload) for c, x in zip(codecs, chosen, strict=True))
        return -8 * nbytes / sum(x.size for x in chosen)

    def off(step: float) -> float:
        square = total = 0.0
        for each, x in zip(found, chosen, strict=True):
            codec = each.codec(step, "")
            decoded = codec.decode_values([codec.encode_values(x)])
            square += float(np.sum((decoded - x) ** 2, dtype=np.float64))
            total += float(np.sum((x - codec.mean) ** 2, dtype=np.float64))
        return (square / total) ** 0.5 if total else 0.0

    # Samples that do not vary have no step of their own.
    largest = max(float(np.abs(each.coordinates).max()) for each in found) or 1.0
    if error is None:
        return _bisected(rate, -float(wanted), largest)
    return _bisected(off, float(wanted), largest)


def tables_of(coordinates: Values, step: float) -> Tables:
    """Tables of coordinates (samples, directions) that are rounded with a step."""
    sizes = np.abs(coordinates).mean(axis=0) / step
    shifts = np.ceil(np.log2(np.maximum(sizes / MEAN_SYMBOL, 1))).astype(np.int64)
    shifts = np.minimum(shifts, MOST_SHIFT - 1)
    octaves = np.log2(np.maximum(sizes / 2.0**shifts, 2.0**-10)) + 10
    classes = np.minimum((CLASSES_AN_OCTAVE * octaves).astype(np.int64), MOST_CLASSES - 1)
    # The dead zone is of no use where values are many steps wide, and does no harm for so few.
    rounding = np.where(sizes < 2, ROUNDING, 0.5).astype(np.float32)
    scaled = np.abs(coordinates) / np.float32(step)
    whole = np.trunc(scaled + rounding)
    offsets = _offsets(scaled, whole)
    integers = np.copysign(whole, coordinates).astype(np.int64) >> shifts
    symbols = np.where(np.abs(integers) <= CENTRE, integers + CENTRE, SYMBOLS - 1)
    used, classes = np.unique(classes, return_inverse=True)
    counts = np.bincount((classes * SYMBOLS + symbols).ravel(), minlength=len(used) * SYMBOLS)
    priors = [_prior(2.0 ** ((number + 0.5) / CLASSES_AN_OCTAVE - 10)) for number in used]
    return Tables(
        np.full(len(sizes), step, np.float32),
        rounding,
        offsets,
        classes.astype(np.uint8),
        shifts.astype(np.uint8),
        frequencies_of(counts.reshape(len(used), SYMBOLS) + np.array(priors)),
    )


def _prior(size: float) -> NDArray[np.float64]:
    """Laplacian of a mean size, worth `PRIOR` samples."""
    chances = np.exp(-np.abs(np.arange(-CENTRE, CENTRE + 1)) / max(size, 0.05))
    return PRIOR * np.append(chances / chances.sum(), 0.0)


def _offsets(sizes: NDArray[Any], integers: NDArray[Any]) -> Values:
    """How far the centroids of all intervals but that of zero are from their integers."""
    some = integers > 0
    beyond = np.sum((sizes - integers) * some, axis=0)
    # Worth 8 samples of none, as a few tell little.
    return (beyond / (some.sum(axis=0) + 8)).astype(np.float32)


def _weights(importance: Any, features: int) -> Values:
    """Square roots of the importance, of which each feature has a least part."""
    if importance is None:
        return np.ones(features, np.float32)
    given = as_values(importance, "importance", (features,))
    if given.min() < 0 or not given.any():
        raise ConfigError(
            f"importance: found a least weight of {given.min():.3g}, allowed are weights of zero "
            "or more, of which one is positive"
        )
    return np.sqrt(given + RIDGE * given.mean())


def _spread(count: int) -> NDArray[np.int64]:
    """Up to `MEASURED` rows, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, MEASURED)).astype(np.int64))


def _bisected(function: Callable[[float], float], wanted: float, largest: float) -> float:
    """Largest step at which an increasing function is at most `wanted`, about."""
    low, high = -RANGE, 1.0
    for _ in range(TRIALS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(largest * 2**middle) <= wanted else (low, middle)
    return float(largest * 2**low)
