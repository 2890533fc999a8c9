"""CPU time of the model search on long records, and what is stored of them.

``python -m tests.benchmarks.bench_model`` prints a table. Time is of CPU of one process with one
BLAS thread, as what else runs on a machine does not enter it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import dask
import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from threadpoolctl import threadpool_limits

from romzarr.chunked.latent import LatentRecord
from romzarr.compression.model import LatentModel, identify
from romzarr.config import Config
from tests.benchmarks.measure import table
from tests.systems_of_odes import whole_within

Matrix = NDArray[np.float64]

SNAPSHOTS, MODES, STEP = 40_000, 12, 0.05
SMALLEST = ("--snapshots", "600", "--modes", "4", "--tolerance", "1e-2")
# Ratio of the amplitude of one mode, or one pair of modes, to the next.
DECAY = 0.7
# Exponent of the amplitude of fluctuations over frequency in a turbulent flow: the energy falls
# with the power of 5/3.
INERTIAL_RANGE = -5 / 6


def coupled_oscillators(snapshots: int, modes: int) -> Matrix:
    """A chain of van der Pol oscillators of different frequencies, each a pair of modes."""
    pairs = modes // 2
    frequencies = 1 + 0.37 * np.arange(pairs)

    def right_hand_side(_: float, state: Matrix) -> Matrix:
        x, v = state[:pairs], state[pairs:]
        neighbours = 0.05 * (np.roll(x, 1) + np.roll(x, -1) - 2 * x)
        return np.concatenate([v, 0.2 * (1 - x**2) * v - frequencies**2 * x + neighbours])

    times = STEP * np.arange(snapshots)
    start = np.tile([1.0, 0.5], pairs)
    found = solve_ivp(
        right_hand_side, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-10
    ).y
    ordered: Matrix = found.reshape(2, pairs, -1).swapaxes(0, 1).reshape(2 * pairs, -1).T
    return ordered * np.repeat(DECAY ** np.arange(pairs), 2)


def quasi_periodic(snapshots: int, modes: int) -> Matrix:
    """Slow tones of frequencies without a common period, some in every mode."""
    rng, times = np.random.default_rng(0), STEP * np.arange(snapshots)
    frequencies = 0.2 * np.sqrt(np.array([1.0, 2.0, 3.0, 5.0, 7.0]))
    phases = rng.uniform(0, 2 * np.pi, (len(frequencies), modes))
    sizes = rng.uniform(0, 1, (len(frequencies), modes))
    waves = np.sin(frequencies[:, None] * times)[:, :, None] * np.cos(phases)[:, None]
    waves += np.cos(frequencies[:, None] * times)[:, :, None] * np.sin(phases)[:, None]
    total: Matrix = np.einsum("ftm,fm->tm", waves, sizes)
    return total * DECAY ** np.arange(modes)


def broadband(snapshots: int, modes: int) -> Matrix:
    """Random phases with the spectrum of turbulence, as of modes without simple dynamics."""
    rng, frequencies = np.random.default_rng(1), np.fft.rfftfreq(snapshots, STEP)
    size = np.maximum(frequencies, 0.1) ** INERTIAL_RANGE * np.exp(-((frequencies / 4) ** 2))
    noise = rng.standard_normal((2, modes, len(frequencies)))
    waves = np.fft.irfft(size * (noise[0] + 1j * noise[1]), snapshots, axis=1).T
    found: Matrix = waves / waves.std() * DECAY ** np.arange(modes)
    return found


RECORDS: dict[str, Callable[[int, int], Matrix]] = {
    "coupled oscillators": coupled_oscillators,
    "quasi-periodic": quasi_periodic,
    "broadband": broadband,
}


def searched(a: Matrix, tolerance: float) -> tuple[LatentModel, float]:
    """The model of a(t), and the CPU seconds that the search for it took."""
    a = a - a.mean(axis=0)
    times, tolerances = STEP * np.arange(len(a)), whole_within(a, tolerance)
    # White rounding with this step alone would fill the bound.
    step = float(np.sqrt(12 / a.size) * tolerances.allowed[0])
    with threadpool_limits(1, user_api="blas"), dask.config.set(scheduler="synchronous"):
        began = time.process_time()
        record = LatentRecord.of_arrays(a, times)
        found = identify(record, times, tolerances, Config(), step=step, coded_bytes=a.nbytes / 50)
        return found, time.process_time() - began


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=SNAPSHOTS)
    parser.add_argument("--modes", type=int, default=MODES)
    parser.add_argument("--tolerance", type=float, nargs="+", default=[1e-2, 1e-3])
    given = parser.parse_args(arguments)
    rows = []
    for name, make in RECORDS.items():
        a = make(given.snapshots, given.modes)
        for tolerance in given.tolerance:
            found, seconds = searched(a, tolerance)
            sizes = [round(found.stored_bytes), found.plain.nbytes, found.nonzero_terms]
            rows.append([name, f"{tolerance:g}", f"{seconds:.2f}", *sizes, len(found.tried)])
    header = ["record", "tolerance", "CPU s", "bytes", "without", "terms", "models tried"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
