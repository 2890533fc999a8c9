"""What training leaves behind: operators, learning curves and a verdict on each network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.networks import Operator

FALLEN = 0.02  # of the output's standard deviation: an error below it has fallen


@dataclass(frozen=True)
class Verdict:
    """What became of one network; errors are RMS in units of the output's standard deviation.

    ``overfitted`` and ``grokked`` are the epochs at which training and validation error first
    fell below `FALLEN` (None: never). ``error`` is that of the whole range on a grid that
    neither training nor the choice of the seed has seen; ``outside`` that between once and one
    and a half times the reach. ``unfinished`` is ``error`` before the Gauss-Newton steps.
    """

    operation: str
    seed: int
    overfitted: int | None
    grokked: int | None
    training_error: float
    validation_error: float
    unfinished: float
    error: float
    outside: float


@dataclass(frozen=True)
class Trained:
    """Networks of all operations and seeds.

    ``epochs`` (c,) are those at which the curves were sampled; ``training`` and ``validation``
    hold for each operation the errors (seeds, c). ``operators`` are the networks that
    validated best, ``verdicts[name]`` one a seed.
    """

    operators: tuple[Operator, ...]
    verdicts: dict[str, tuple[Verdict, ...]]
    epochs: NDArray[np.int64]
    training: dict[str, Matrix]
    validation: dict[str, Matrix]
    cpu_seconds: float

    def best(self, name: str) -> Verdict:
        return min(self.verdicts[name], key=lambda verdict: verdict.error)
