"""General error-bounded compressors at a measured error: each in its best mode and layout.

Every peer takes one variable as it lies in memory and knows nothing of time or space. It is
given both orders of the axes (time first, space first) and all of its modes that bound a mean
error, and of all that meet the target the fewest bytes count.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks import tucker

Array = NDArray[Any]

# An error this far below the target is no longer worth another trial.
CLOSE = 0.01
# Trials of one mode and layout; of a record as large as LARGE a trial takes a minute.
TRIALS, TRIALS_LARGE, TRIALS_SLOW = 12, 6, 4
LARGE = 50_000_000
# A codec that broke this often at the start is taken for broken on these values.
BROKEN = 3
# Given up after one trial: what would need this many times the bytes of the best so far.
HOPELESS = 1.25


@dataclass(frozen=True)
class Peer:
    """A compressor. `encode(values, mode, scale)` makes an error that grows with `scale`.

    `guess(rms, values)` is a first scale for an error of `rms` in the units of the values.
    """

    package: str | None  # what `pip install` calls it; None: needs nothing
    module: str | None
    modes: tuple[str, ...]
    encode: Callable[[Array, str, float], bytes]
    decode: Callable[[bytes], Array]
    guess: Callable[[float, Array], float] = lambda rms, values: rms
    # Axes are alike to it and its scale is the error: one trial says all.
    exact: bool = False
    # A megabyte takes it a second.
    slow: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot run here."""
        if self.module is not None and find_spec(self.module) is None:
            return f"skipped: {self.package} is not installed (pip install 'romzarr[bench]')"
        return None

    @property
    def version(self) -> str:
        """Of the package, or of numpy for what is written with it."""
        return version(self.package or "numpy")


# --- the codecs ---------------------------------------------------------------------------

# Shape, type and parameters go in front, as a file of that codec would hold them; 8 bytes a
# number at most, which a real header needs as well.


def _packed(array: Array, stream: bytes) -> bytes:
    head = struct.pack("<BB", array.ndim, array.itemsize)
    return head + struct.pack(f"<{array.ndim}I", *array.shape) + stream


def _unpacked(data: bytes) -> tuple[tuple[int, ...], Any, memoryview]:
    axes, width = struct.unpack_from("<BB", data)
    shape = struct.unpack_from(f"<{axes}I", data, 2)
    return shape, np.dtype(f"f{width}"), memoryview(data)[2 + 4 * axes :]


def _encode_sperr(array: Array, mode: str, scale: float) -> bytes:
    import hdf5plugin

    # `swap` gives the axes as SPERR counts them: without it the coder sees a scrambled array.
    if mode == "rate":
        # In bits a value, as bytes for which the error is about `scale`.
        setting = hdf5plugin.Sperr(rate=1 / scale, swap=True)
    else:
        decibels = 20 * math.log10(float(np.ptp(array)) / scale)
        setting = hdf5plugin.Sperr(peak_signal_to_noise_ratio=max(decibels, 1e-3), swap=True)
    with _memory() as file:
        dataset = file.create_dataset("x", data=array, chunks=array.shape, **setting)
        file.flush()
        stream = dataset.id.read_direct_chunk((0,) * array.ndim)[1]
    return _packed(array, bytes(stream))


def _decode_sperr(data: bytes) -> Array:
    import hdf5plugin

    shape, dtype, rest = _unpacked(data)
    # The stream knows its own quality.
    setting = hdf5plugin.Sperr(rate=1, swap=True)
    with _memory() as file:
        dataset = file.create_dataset("x", shape, dtype, chunks=shape, **setting)
        dataset.id.write_direct_chunk((0,) * len(shape), rest)
        values: Array = dataset[...]
    return values


def _memory() -> Any:
    """An HDF5 file that never touches a disk; the way to the native coder in hdf5plugin."""
    import h5py

    return h5py.File("in-memory.h5", "w", driver="core", backing_store=False)


def _encode_sz3(array: Array, mode: str, scale: float) -> bytes:
    from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

    config = szConfig(array.shape)
    config.errorBoundMode = szErrorBoundMode.ABS
    config.absErrorBound = scale
    config.cmprAlgo = getattr(szAlgorithm, mode)
    return _packed(array, sz.compress(array, config)[0].tobytes())


def _decode_sz3(data: bytes) -> Array:
    from pysz import sz

    shape, dtype, rest = _unpacked(data)
    values: Array = sz.decompress(np.frombuffer(rest, np.uint8), dtype, shape)[0]
    return values


def _encode_zfp(array: Array, mode: str, scale: float) -> bytes:
    import zfpy

    # ZFP rounds a tolerance down to a power of two; values scaled so that it is one lose nothing.
    power = 2.0 ** math.ceil(math.log2(scale))
    factor = array.dtype.type(power / scale)
    stream = zfpy.compress_numpy(array * factor, tolerance=power, write_header=True)
    return struct.pack("<d", float(factor)) + bytes(stream)


def _decode_zfp(data: bytes) -> Array:
    import zfpy

    values: Array = zfpy.decompress_numpy(data[8:])
    values /= values.dtype.type(struct.unpack_from("<d", data)[0])
    return values


def _encode_tthresh(array: Array, mode: str, scale: float) -> bytes:
    return _packed(array, bytes(_tthresh(scale).encode(_three_axes(array))))


def _decode_tthresh(data: bytes) -> Array:
    shape, dtype, rest = _unpacked(data)
    values = _tthresh(1.0).decode(np.frombuffer(rest, np.uint8))
    return np.asarray(values, dtype).reshape(shape)


def _tthresh(scale: float) -> Any:
    from numcodecs_wasm_tthresh import Tthresh

    return Tthresh(eb_mode="eps", eb_eps=scale)


def _three_axes(array: Array) -> Array:
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


def _relative(rms: float, values: Array) -> float:
    """An error relative to the norm of the values."""
    return rms * math.sqrt(values.size) / float(np.linalg.norm(values.astype(np.float64)))


PEERS: dict[str, Peer] = {
    "ZFP": Peer("zfpy", "zfpy", ("accuracy",), _encode_zfp, _decode_zfp, lambda rms, _: 8 * rms),
    "SZ3": Peer(
        "pysz", "pysz", ("INTERP", "INTERP_LORENZO", "LORENZO_REG"), _encode_sz3, _decode_sz3,
        lambda rms, _: 2.5 * rms,
    ),
    "SPERR": Peer("hdf5plugin", "hdf5plugin", ("psnr", "rate"), _encode_sperr, _decode_sperr),
    "TTHRESH": Peer(
        "numcodecs-wasm-tthresh", "numcodecs_wasm_tthresh", ("eps",),
        _encode_tthresh, _decode_tthresh, _relative, slow=True,
    ),
    "Tucker": Peer(
        None, None, ("float32",), lambda array, _, scale: tucker.encode(array, scale),
        tucker.decode, exact=True,
    ),
}  # fmt: skip


# --- one variable at one error -------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A variable, time first, as a codec gets it, and what its error is relative to.

    `values` have no NaN; `missing` says where they were, and the error does not count them.
    """

    values: Array
    missing: Array | None
    original: Array
    fluctuation: float

    @classmethod
    def of(cls, original: Array, target: float) -> Field:
        """In float32 where its rounding is no tenth of the error, else as it is."""
        where = np.isnan(original)
        missing = where if where.any() else None
        values = original
        if missing is not None:
            # The mean of all: a codec spends nothing on a constant, and knows no NaN.
            values = np.where(where, np.nanmean(original, dtype=np.float64), original)
        fluctuation = float(np.linalg.norm(values - values.mean(axis=0, dtype=np.float64)))
        field = cls(np.ascontiguousarray(values), missing, original, fluctuation)
        single = np.ascontiguousarray(values, np.float32)
        if field.error(single) <= target / 10:
            return cls(single, missing, original, fluctuation)
        return field

    def error(self, decoded: Array) -> float:
        """Relative to the fluctuation in time, in float64, slab by slab to spare memory."""
        square = 0.0
        for start in range(0, len(decoded), 100):
            steps = slice(start, start + 100)
            apart = decoded[steps].astype(np.float64) - self.original[steps]
            square += float(np.vdot(apart, apart) if self.missing is None else np.nansum(apart**2))
        if self.fluctuation == 0:
            return 0.0 if square == 0 else math.inf
        return math.sqrt(square) / self.fluctuation

    @property
    def rms(self) -> float:
        return self.fluctuation / math.sqrt(self.values.size)


@dataclass(frozen=True)
class Trial:
    """What one setting of a codec gave; no error is met by one that `failed`."""

    scale: float
    size: float
    error: float
    failed: str = ""


@dataclass(frozen=True)
class Choice:
    """Mode, order of axes and setting with the fewest bytes."""

    mode: str
    space_first: bool
    scale: float
    size: float

    def encode(self, peer: Peer, values: Array) -> bytes:
        return peer.encode(laid_out(values, self.space_first), self.mode, self.scale)

    def decode(self, peer: Peer, data: bytes) -> Array:
        """Time first again, as a view."""
        decoded = peer.decode(data)
        return np.moveaxis(decoded, -1, 0) if self.space_first else decoded


def laid_out(values: Array, space_first: bool) -> Array:
    return np.ascontiguousarray(np.moveaxis(values, 0, -1)) if space_first else values


def best(peer: Peer, field: Field, target: float, hint: Choice | None = None) -> Choice:
    """The fewest bytes of all modes and layouts at an error of at most `target`.

    With a `hint` its mode and layout alone are tried, from its scale on.

    Raises
    ------
    ValueError
        If no setting meets the target.
    """
    trials = TRIALS_LARGE if field.values.nbytes >= LARGE else TRIALS
    if peer.slow:
        trials = TRIALS_SLOW
    found: Choice | None = None
    failed = "no setting meets the error"
    for mode, space_first in [(hint.mode, hint.space_first)] if hint else _ways(peer):
        values = laid_out(field.values, space_first)
        trial = partial(_trial, peer, field, values, mode, space_first)
        first = trial(hint.scale if hint else _guess(peer, field, values, mode, target, found))
        if found is not None and _hopeless(first, found.size, target):
            continue
        if peer.exact and first.error <= target:
            return Choice(mode, space_first, first.scale, first.size)
        tried = search(trial, first, target, trials)
        failed = next((t.failed for t in tried if t.failed), failed)
        least = smallest(tried, target)
        if least is not None and (found is None or least.size < found.size):
            found = Choice(mode, space_first, least.scale, least.size)
    if found is None:
        raise ValueError(failed)
    return found


def _ways(peer: Peer) -> Iterator[tuple[str, bool]]:
    for mode in peer.modes:
        for space_first in (False,) if peer.exact else (False, True):
            yield mode, space_first


def _guess(
    peer: Peer, field: Field, values: Array, mode: str, target: float, found: Choice | None
) -> float:
    if mode == "rate":
        # As many bits as the other mode took, less the few that this one saves.
        return values.size / (8 * found.size) if found else 1.0
    return found.scale if found else peer.guess(target * field.rms, values)


def _hopeless(first: Trial, least: float, target: float) -> bool:
    """Bytes grow about as 1 / error at most, and as its root at least, for any of the codecs."""
    power = 0.5 if first.error > target else 1.0
    return first.size * (first.error / target) ** power > HOPELESS * least


def _trial(
    peer: Peer, field: Field, values: Array, mode: str, space_first: bool, scale: float
) -> Trial:
    try:
        data = peer.encode(values, mode, scale)
        decoded = peer.decode(data)
    except Exception as error:  # whatever a codec raises, another setting may work
        return Trial(scale, math.inf, math.inf, f"{type(error).__name__}: {error}")
    return Trial(
        scale, len(data), field.error(np.moveaxis(decoded, -1, 0) if space_first else decoded)
    )


def search(
    trial: Callable[[float], Trial], first: Trial, target: float, trials: int
) -> list[Trial]:
    """Trials up to one with an error of at most `target` and close to it, or to the last.

    Secants through logarithms of scale and error, kept inside a bracket, and halving where
    they fail.
    """
    aim = math.log(target * (1 - CLOSE / 2))
    tried: list[Trial] = [first]
    while len(tried) < trials and not _close(tried[-1], target):
        if len(tried) >= BROKEN and all(t.failed for t in tried):
            break
        inside = [(math.log(t.scale), _log(t.error)) for t in tried if t.error <= target]
        outside = [(math.log(t.scale), _log(t.error)) for t in tried if t.error > target]
        if inside and outside:
            (low, low_error), (high, high_error) = max(inside), min(outside)
            # Steps of the error that no setting divides.
            if high - low < 1e-3:
                break
            straight = len(tried) % 4 and high_error < math.inf
            share = (aim - low_error) / (high_error - low_error) if straight else 0.5
            step = low + (high - low) * min(max(share, 0.03), 0.97)
        else:
            scale, error = max(inside) if inside else min(outside)
            # Error and scale in proportion, as they nearly are; further each time.
            step = scale + max(min((aim - error) * (1 + 0.3 * (len(tried) - 1)), 5.0), -5.0)
            if error == math.inf:
                step = scale - 1
        tried.append(trial(math.exp(step)))
    return tried


def smallest(tried: Sequence[Trial], target: float) -> Trial | None:
    """The fewest bytes of the trials that meet the target."""
    return min((t for t in tried if t.error <= target), key=lambda t: t.size, default=None)


def _close(trial: Trial, target: float) -> bool:
    return (1 - CLOSE) * target <= trial.error <= target


def _log(error: float) -> float:
    return math.log(max(error, 1e-300))
